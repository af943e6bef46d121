//! Creating a container, pulling its image when it is not there.

use std::fs::{File, OpenOptions};
use std::io::Write as _;

use berth_api::container::{CreateRequest, CreateResponse};

use crate::context::Context;
use crate::failure::{Failure, path_error};
use crate::flags::Parsed;
use crate::image::pull;
use crate::output::warn;
use crate::reference::Reference;
use crate::transport::Request;

/// What `create` or `run` itself refuses: status 125, and a hint.
pub(super) fn refused(context: &Context, verb: &str, why: &str) -> Failure {
    let program = &context.program;
    Failure::with_status(
        format!("{program}: {why}\n\nRun '{program} {verb} --help' for more information"),
        125,
    )
}

/// Creates the container and returns its ID.
pub(super) async fn create(
    context: &Context,
    args: &Parsed,
    request: &CreateRequest,
) -> Result<String, Failure> {
    let policy = args.get("pull").unwrap_or("missing");
    if !["always", "missing", "never"].contains(&policy) {
        return Err(Failure::new(format!(
            "invalid pull option: '{policy}': must be one of \"always\", \"missing\" or \"never\""
        )));
    }
    let image = &request.config.image;
    let id_file = IdFile::reserve(&args.text("cidfile"))?;
    let is_id = image.len() == 64 && image.bytes().all(|b| b.is_ascii_hexdigit());
    let reference = if is_id || image.starts_with("sha256:") {
        None
    } else {
        Some(Reference::parse(image).map_err(Failure::new)?.or_latest())
    };
    let platform = pull::platform_of(args);
    let quiet = args.on("quiet");
    if policy == "always"
        && let Some(reference) = &reference
    {
        pull::pull_for_run(context, reference, &platform, quiet).await?;
    }
    let attempt = || {
        Request::post("/containers/create")
            .query_some("name", args.text("name"))
            .query_some("platform", platform.clone())
            .json(request)
    };
    let created = match context.json::<CreateResponse>(attempt()?).await {
        Err(failure)
            if failure.is_not_found()
                && failure.message.contains("No such image")
                && policy == "missing" =>
        {
            let Some(reference) = &reference else {
                return Err(failure);
            };
            if !quiet {
                warn(&format!(
                    "Unable to find image '{}' locally",
                    reference.familiar()
                ));
            }
            pull::pull_for_run(context, reference, &platform, quiet).await?;
            context.json::<CreateResponse>(attempt()?).await?
        }
        other => other?,
    };
    for warning in &created.warnings {
        warn(&format!("WARNING: {warning}"));
    }
    for server in request.host_config.dns.iter().flatten() {
        if server.starts_with("127.") || server == "::1" {
            warn(&format!(
                "WARNING: Localhost DNS ({server}) may fail in containers."
            ));
        }
    }
    if let Some(file) = id_file {
        file.write(&created.id)?;
    }
    Ok(created.id)
}

/// `--cidfile`: made before the container, gone again if there is none.
struct IdFile {
    path: String,
    file: File,
    written: bool,
}

impl IdFile {
    fn reserve(path: &str) -> Result<Option<Self>, Failure> {
        if path.is_empty() {
            return Ok(None);
        }
        match OpenOptions::new().write(true).create_new(true).open(path) {
            Ok(file) => Ok(Some(Self {
                path: path.to_owned(),
                file,
                written: false,
            })),
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                Err(Failure::new(format!(
                    "container ID file found, make sure the other container isn't running or delete {path}"
                )))
            }
            Err(error) => Err(Failure::new(format!(
                "failed to create the container ID file: {}",
                path_error("open", path, &error)
            ))),
        }
    }

    fn write(mut self, id: &str) -> Result<(), Failure> {
        self.file.write_all(id.as_bytes()).map_err(|error| {
            Failure::new(format!(
                "failed to write the container ID ({id}) to file: {}",
                path_error("write", &self.path, &error)
            ))
        })?;
        self.written = true;
        Ok(())
    }
}

impl Drop for IdFile {
    fn drop(&mut self) {
        if !self.written {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}
