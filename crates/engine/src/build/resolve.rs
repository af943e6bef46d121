//! From a request to the plans that are solved: the Dockerfile, and what base
//! images say.

use std::collections::BTreeMap;

use berth_api::Error;
use berth_api::build::{BuildRequest, ContextSource};
use berth_api::container::Ulimit;
use berth_build::dockerfile::{Dockerfile, Lines, Network};
use berth_build::graph::Plan;
use berth_build::plan::{self, Base, GitAddress, NamedContext, Options, Outcome, Query};
use berth_build::progress::Event;
use berth_store::Platform;
use futures_util::future::join_all;

use super::announce::announced;
use super::session::Session;
use super::{Failure, MAIN_CONTEXT, context, images};
use crate::images::Wanted;

/// Rounds of questions: a stage's base names another only so often.
const MAX_ROUNDS: usize = 100;

/// A Dockerfile as it is written.
#[derive(Debug)]
pub(super) struct Source {
    /// As errors show it.
    pub(super) name: String,
    pub(super) text: String,
}

/// The Dockerfile: the client's, or that of a context which only the engine
/// sees.
pub(super) async fn source(session: &Session) -> Result<Source, Error> {
    let request = &session.request;
    let name = match request.dockerfile_name.as_str() {
        "" => "Dockerfile",
        name => name,
    };
    let title = format!("[internal] load build definition from {name}");
    let text = announced(session, &title, async |id| {
        let text = match &request.dockerfile {
            Some(text) => text.clone(),
            None => of_context(session, id).await?,
        };
        session.tell(Event::Status {
            id,
            name: "transferring dockerfile:".to_owned(),
            current: text.len() as u64,
            total: text.len() as u64,
            done: true,
        });
        Ok(text)
    })
    .await?;
    if text.len() as u64 > context::MAX_TEXT {
        return Err(Error::invalid(format!(
            "{name} is larger than {} bytes",
            context::MAX_TEXT
        )));
    }
    announced(session, "[internal] load .dockerignore", async |_| Ok(())).await?;
    Ok(Source {
        name: name.to_owned(),
        text,
    })
}

async fn of_context(session: &Session, id: usize) -> Result<String, Error> {
    let tree = context::unfiltered(session, id, MAIN_CONTEXT).await?;
    let files = session.files().map_err(super::of_solve)?;
    let path = session.dockerfile_path();
    let mut found = context::text_file(&files, &tree, path)?;
    if found.is_none() && path == "Dockerfile" {
        // As people write it where names have no case.
        found = context::text_file(&files, &tree, "dockerfile")?;
    }
    found.ok_or_else(|| {
        Error::invalid(format!(
            "failed to read dockerfile: open {path}: no such file or directory"
        ))
    })
}

/// One plan per platform. `bases` gets what was looked up for them.
pub(super) async fn plans(
    session: &Session,
    source: &Source,
    file: &Dockerfile,
    bases: &mut BTreeMap<Query, Base>,
) -> Result<Vec<Plan>, Failure> {
    let own = own()?;
    let platforms = platforms(session, &own)?;
    let mut plans = Vec::new();
    for platform in &platforms {
        let options = options(&session.request, &own, platform, platforms.len() > 1)?;
        let plan = ask(session, file, &options, bases).await;
        plans.push(plan.map_err(|(error, lines)| Failure::at(error, source, lines))?);
    }
    Ok(plans)
}

/// What the first platform is planned with.
pub(super) fn first(session: &Session) -> Result<Options, Error> {
    let own = own()?;
    let platforms = platforms(session, &own)?;
    let platform = platforms.first().unwrap_or(&own);
    options(&session.request, &own, platform, platforms.len() > 1)
}

fn own() -> Result<Platform, Error> {
    Ok(Wanted::parse("")?.platform().clone())
}

/// Those that are built for, each once.
fn platforms(session: &Session, own: &Platform) -> Result<Vec<Platform>, Error> {
    let mut platforms = Vec::new();
    for text in &session.request.platforms {
        let platform = Wanted::parse(text)?.platform().clone();
        if !platforms.contains(&platform) {
            platforms.push(platform);
        }
    }
    if platforms.is_empty() {
        platforms.push(own.clone());
    }
    Ok(platforms)
}

/// Asks and plans again until nothing is open.
///
/// # Errors
/// With the place in the Dockerfile.
pub(super) async fn ask(
    session: &Session,
    file: &Dockerfile,
    options: &Options,
    bases: &mut BTreeMap<Query, Base>,
) -> Result<Plan, (Error, Option<Lines>)> {
    for _ in 0..MAX_ROUNDS {
        let outcome = plan::plan(file, options, bases)
            .map_err(|error| (Error::invalid(error.message), error.lines))?;
        let needs = match outcome {
            Outcome::Done(plan) => return Ok(*plan),
            Outcome::Needs(needs) => needs,
        };
        let answers = needs
            .iter()
            .map(|need| images::answer(session, &need.query));
        let answers = join_all(answers).await;
        for (need, answer) in needs.into_iter().zip(answers) {
            let base = answer.map_err(|error| (error, Some(need.lines)))?;
            bases.insert(need.query, base);
        }
    }
    let error = Error::system("the Dockerfile asks for one base image after the other");
    Err((error, None))
}

fn options(
    request: &BuildRequest,
    own: &Platform,
    platform: &Platform,
    multi_platform: bool,
) -> Result<Options, Error> {
    let mut contexts = BTreeMap::new();
    for (name, source) in &request.contexts {
        if name == MAIN_CONTEXT {
            continue;
        }
        let context = match source {
            ContextSource::Empty | ContextSource::Client { .. } | ContextSource::Archive => {
                NamedContext::Local
            }
            ContextSource::Remote { url } => match GitAddress::parse(url, false) {
                Some(_) => NamedContext::Git(url.clone()),
                None => NamedContext::Http(url.clone()),
            },
            ContextSource::Image { reference } => NamedContext::Image(reference.clone()),
            ContextSource::Layout { .. } => {
                return Err(Error::not_implemented(format!(
                    "context {name}: oci-layout:// is not supported yet"
                )));
            }
        };
        contexts.insert(name.clone(), context);
    }
    Ok(Options {
        target: request.target.clone(),
        build_args: request.build_args.clone(),
        labels: request.labels.clone(),
        build_platform: own.clone(),
        platform: platform.clone(),
        multi_platform,
        no_cache: request.no_cache,
        no_cache_filter: request.no_cache_filter.clone(),
        contexts,
        network: match request.network.as_str() {
            "" | "default" | "bridge" => Network::Default,
            "none" => Network::None,
            "host" => Network::Host,
            other => {
                return Err(Error::invalid(format!(
                    "network mode {other:?} not supported by builds; use \"default\", \"none\" or \"host\""
                )));
            }
        },
        extra_hosts: request.extra_hosts.clone(),
        hostname: String::new(),
        ulimits: ulimits(&request.limits.ulimits),
        shm_size: request.limits.shm_size,
    })
}

/// In an order that does not depend on the client.
fn ulimits(limits: &[Ulimit]) -> Vec<String> {
    let mut texts: Vec<_> = (limits.iter())
        .map(|limit| format!("{}={}:{}", limit.name, limit.soft, limit.hard))
        .collect();
    texts.sort();
    texts
}
