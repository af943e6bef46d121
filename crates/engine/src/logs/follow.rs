//! Sending a log to a client, and staying at its end while the container runs.

use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use berth_api::Error;
use bytes::Bytes;
use rustix::fs::inotify;
use tokio::io::unix::AsyncFd;
use tokio::sync::mpsc::Sender;

use super::reader::{self, Lines, Shown, Source};
use crate::LogOptions;
use crate::container::Container;
use crate::error;

const CHUNK: usize = 64 * 1024;

type Sink = Sender<Result<Bytes, Error>>;

/// Why reading stopped.
#[derive(PartialEq, Eq)]
enum End {
    OfFile,
    /// The client is gone, or nothing later is wanted.
    OfAll,
}

/// Sends what was asked for; the channel closes at the end.
pub(super) async fn run(container: Arc<Container>, options: LogOptions, sink: Sink) {
    let path = container.log_path();
    if let Err(error) = send_log(&container, &path, &options, &sink).await {
        let _ = sink.send(Err(error::io("read", &path, &error))).await;
    }
}

async fn send_log(
    container: &Container,
    path: &Path,
    options: &LogOptions,
    sink: &Sink,
) -> io::Result<()> {
    let (tty, running) = {
        let record = container.record();
        (record.config.tty, record.state.running)
    };
    // Watched before it is read, so that nothing is missed between.
    let watch = if options.follow && running {
        Some(Watch::new(&container.dir)?)
    } else {
        None
    };
    // Off the event loop: files are inflated, and searched from their end.
    let (place, tail) = (path.to_owned(), options.tail);
    let opened = tokio::task::spawn_blocking(move || {
        let files = reader::open_all(&place)?;
        match tail {
            Some(count) => reader::tail(files, count),
            None => Ok(files),
        }
    });
    let files = opened.await.map_err(io::Error::other)??;
    let mut reading = Reading {
        options,
        tty,
        sink,
        lines: Lines::default(),
    };
    let mut current = None;
    for mut file in files {
        if reading.drain(&mut file).await? == End::OfAll {
            return Ok(());
        }
        current = Some(file);
    }
    let Some(watch) = watch else { return Ok(()) };
    loop {
        // In this order: what an ended container wrote is read once more.
        let ended = !container.record().state.running;
        if reading.catch_up(path, &mut current).await? == End::OfAll || ended {
            return Ok(());
        }
        tokio::select! {
            changed = watch.changed() => changed?,
            () = container.until(|c| !c.record().state.running) => {}
            () = sink.closed() => return Ok(()),
        }
    }
}

struct Reading<'a> {
    options: &'a LogOptions,
    tty: bool,
    sink: &'a Sink,
    lines: Lines,
}

impl Reading<'_> {
    async fn drain(&mut self, file: &mut Source) -> io::Result<End> {
        let mut buffer = vec![0; CHUNK];
        loop {
            let count = file.read(&mut buffer)?;
            if count == 0 {
                return Ok(End::OfFile);
            }
            let mut out = Vec::new();
            let (options, tty) = (self.options, self.tty);
            let go_on = self.lines.push(&buffer[..count], |line| {
                match reader::show(line, options, tty) {
                    Shown::Bytes(bytes) => out.extend(bytes),
                    Shown::Skipped => {}
                    Shown::Ended => return false,
                }
                true
            });
            if !out.is_empty() && self.sink.send(Ok(out.into())).await.is_err() {
                return Ok(End::OfAll);
            }
            if !go_on {
                return Ok(End::OfAll);
            }
        }
    }

    /// The rest of the file at hand, then of those that a rotation put after it.
    async fn catch_up(&mut self, path: &Path, current: &mut Option<Source>) -> io::Result<End> {
        let newer = match current {
            Some(file) => {
                let newer = match file.inode() {
                    Some(inode) => reader::successors(path, inode)?,
                    None => Vec::new(),
                };
                // Looked for first: the old file gets no line after that.
                if self.drain(file).await? == End::OfAll {
                    return Ok(End::OfAll);
                }
                newer
            }
            None => reader::open_all(path)?,
        };
        for mut file in newer {
            if self.drain(&mut file).await? == End::OfAll {
                return Ok(End::OfAll);
            }
            *current = Some(file);
        }
        Ok(End::OfFile)
    }
}

/// Tells when something in a directory changes.
struct Watch(AsyncFd<OwnedFd>);

impl Watch {
    fn new(dir: &Path) -> io::Result<Self> {
        let fd = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        inotify::add_watch(
            &fd,
            dir,
            inotify::WatchFlags::MODIFY
                | inotify::WatchFlags::CREATE
                | inotify::WatchFlags::MOVED_TO
                | inotify::WatchFlags::DELETE_SELF,
        )?;
        Ok(Self(crate::files::watched(fd)?))
    }

    async fn changed(&self) -> io::Result<()> {
        let mut ready = self.0.readable().await?;
        let mut buffer = [0u8; 4096];
        // What happened does not matter, only that something did.
        while let Ok(Ok(1..)) =
            ready.try_io(|fd| rustix::io::read(fd.get_ref(), &mut buffer).map_err(Into::into))
        {
        }
        Ok(())
    }
}
