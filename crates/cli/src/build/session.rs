//! One build over one connection.

use std::time::Duration;

use berth_api::build::frame::Kind;
use berth_api::build::{BuildRequest, BuildResult, PROTOCOL, Status, ToClient, ToEngine};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;

use super::progress::Display;
use super::serve::{Goods, Server};
use super::wire::{Reading, Wire};
use super::{failed, report};
use crate::context::Context;
use crate::failure::Failure;
use crate::transport::Request;

/// Time between two pictures.
const FRAME: Duration = Duration::from_millis(100);
/// Statuses that wait to be shown.
const WAITING: usize = 1024;
/// How long the engine may take to give up a build.
const GIVING_UP: Duration = Duration::from_secs(10);
/// buildx's exit status for a build that was cancelled.
const CANCELLED: i32 = 130;

/// What comes from the reading thread.
enum Event {
    Status(Box<Status>),
    Done(Box<BuildResult>),
    Failed {
        message: String,
        excerpt: String,
    },
    /// The connection ended; why, if that is known.
    Ended(String),
}

pub(super) async fn run(
    context: &Context,
    request: BuildRequest,
    goods: Goods,
    display: &mut Display,
) -> Result<BuildResult, Failure> {
    // Caught from here on: what is half done must be given up in order.
    let caught =
        |kind| signal(kind).map_err(|error| failed(format!("cannot catch signals: {error}")));
    let mut interrupted = caught(SignalKind::interrupt())?;
    let mut terminated = caught(SignalKind::terminate())?;
    let mut resized = caught(SignalKind::window_change())?;
    let connecting = context.hijack_for(Request::post("/build/session"), PROTOCOL);
    let connection = tokio::select! {
        connection = connecting => connection.map_err(explain)?,
        _ = interrupted.recv() => return Err(cancelled()),
        _ = terminated.recv() => return Err(cancelled()),
    };
    let (wire, reading) = Wire::new(connection)?;
    wire.tell(&ToEngine::Start {
        request: Box::new(request),
    })
    .map_err(|error| failed(format!("error during connect: {error}")))?;
    let server = Server::new(wire.clone(), goods);
    let (sender, mut events) = mpsc::channel(WAITING);
    let reader = wire.clone();
    std::thread::spawn(move || read(reading, &reader, &server, &sender));
    let mut frames = tokio::time::interval(FRAME);
    frames.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut giving_up = None;
    let end = loop {
        let signalled = tokio::select! {
            event = events.recv() => match event {
                Some(Event::Status(status)) => {
                    display.update(&status);
                    continue;
                }
                other => break other,
            },
            _ = frames.tick() => {
                display.tick();
                continue;
            }
            _ = resized.recv() => {
                display.tick();
                continue;
            }
            () = until(giving_up) => break None,
            _ = interrupted.recv() => SignalKind::interrupt(),
            _ = terminated.recv() => SignalKind::terminate(),
        };
        if giving_up.is_some() {
            // Asked twice: at once, whatever the engine does.
            display.finish(true);
            return Err(Failure::silent(128 + signalled.as_raw_value()));
        }
        giving_up = Some(tokio::time::Instant::now() + GIVING_UP);
        wire.hang_up();
    };
    // What was told before the end is shown before it.
    while let Ok(Event::Status(status)) = events.try_recv() {
        display.update(&status);
    }
    wire.break_off();
    display.finish(!matches!(end, Some(Event::Done(_))));
    match end {
        Some(Event::Done(result)) => Ok(*result),
        _ if giving_up.is_some() => Err(cancelled()),
        Some(Event::Failed { message, excerpt }) => Err(report::failure(&message, &excerpt)),
        Some(Event::Ended(why)) if !why.is_empty() => Err(failed(why)),
        _ => Err(failed(
            "the engine ended the connection before the build was done",
        )),
    }
}

fn cancelled() -> Failure {
    Failure::with_status(
        "ERROR: failed to build: failed to solve: Canceled: context canceled",
        CANCELLED,
    )
}

/// Another engine's answer.
fn explain(failure: Failure) -> Failure {
    if failure.is_not_found() {
        failed("this engine is none of berth's, or an older one, and cannot build for this client")
    } else {
        failure
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => tokio::time::sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

/// Takes frames until there are none: requests are served, the rest is shown.
fn read(mut reading: Reading, wire: &Wire, server: &Server, events: &mpsc::Sender<Event>) {
    let why = loop {
        let frame = match reading.next() {
            Ok(Some(frame)) => frame,
            Ok(None) => break String::new(),
            Err(why) => break why,
        };
        if frame.kind != Kind::Message {
            wire.arrived(frame);
            continue;
        }
        let event = match frame.message::<ToClient>() {
            Ok(ToClient::Status(status)) => Event::Status(status),
            Ok(ToClient::Done { result }) => Event::Done(result),
            Ok(ToClient::Failed {
                message, excerpt, ..
            }) => Event::Failed { message, excerpt },
            Ok(request) => {
                server.serve(request);
                continue;
            }
            Err(error) => break error.to_string(),
        };
        if events.blocking_send(event).is_err() {
            break String::new();
        }
    };
    // Whoever still waits for bytes learns that none will come.
    wire.break_off();
    let _ = events.blocking_send(Event::Ended(why));
}
