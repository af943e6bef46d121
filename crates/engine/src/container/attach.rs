//! Connecting to a container's stdio.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream as StdStream;

use berth_api::Error;
use berth_monitor::protocol::{Attach, ToMonitor};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::net::UnixStream;

use crate::engine::Engine;
use crate::{AttachOptions, Attachment, LogOptions};

impl Engine {
    /// Works before the start too: the stream then waits for it.
    pub async fn container_attach(
        &self,
        name: &str,
        options: AttachOptions,
    ) -> Result<Attachment, Error> {
        let detach_keys = detach_keys(&options.detach_keys)?;
        let container = self.find(name)?;
        let (tty, open_stdin) = {
            let record = container.record();
            if record.state.paused {
                return Err(Error::conflict(format!(
                    "container {} is paused, unpause the container before attach",
                    container.id
                )));
            }
            if record.state.restarting {
                return Err(Error::conflict(format!(
                    "container {} is restarting, wait until the container is running",
                    container.id
                )));
            }
            (record.config.tty, record.config.open_stdin)
        };
        let logs = if options.logs {
            let wanted = LogOptions {
                stdout: options.stdout,
                stderr: options.stderr,
                ..LogOptions::default()
            };
            Some(self.log_bytes(&container, wanted)?)
        } else {
            None
        };
        let stream = if options.stream {
            let attach = Attach {
                stdin: options.stdin && open_stdin,
                stdout: options.stdout,
                stderr: options.stderr,
            };
            let (ours, theirs) = stream_pair()?;
            // A start under way has taken the streams that waited for it.
            container
                .until(|c| c.record().state.running || c.live().channel.is_none())
                .await;
            let channel = {
                let mut live = container.live();
                if live.channel.is_none() {
                    // Clients may come and go long before a start.
                    live.pending.retain(|(stream, _)| !has_hung_up(stream));
                    live.pending.push((
                        theirs.try_clone().map_err(|error| {
                            Error::system(format!("duplicate a stream: {error}"))
                        })?,
                        attach,
                    ));
                }
                live.channel.clone()
            };
            if let Some(channel) = channel {
                channel
                    .ask(vec![theirs], move |request| ToMonitor::Attach {
                        request,
                        attach,
                    })
                    .await?;
            }
            Some(ours)
        } else {
            None
        };
        let record = container.record().clone();
        self.container_event(&record, "attach", &[]);
        Ok(Attachment {
            tty,
            logs,
            stream,
            detach_keys,
        })
    }
}

/// Whether the client's side has been closed.
fn has_hung_up(stream: &OwnedFd) -> bool {
    let mut fds = [PollFd::new(stream, PollFlags::empty())];
    let at_once = Timespec::default();
    poll(&mut fds, Some(&at_once)).is_ok() && fds[0].revents().contains(PollFlags::HUP)
}

/// Our side for the event loop, the other one to be sent away.
pub(crate) fn stream_pair() -> Result<(UnixStream, OwnedFd), Error> {
    let failed = |error: std::io::Error| Error::system(format!("make a stream: {error}"));
    let (ours, theirs) = StdStream::pair().map_err(failed)?;
    ours.set_nonblocking(true).map_err(failed)?;
    Ok((UnixStream::from_std(ours).map_err(failed)?, theirs.into()))
}

/// "ctrl-p,ctrl-q" as bytes; empty = the default, which these are.
pub(crate) fn detach_keys(text: &str) -> Result<Vec<u8>, Error> {
    if text.is_empty() {
        return Ok(vec![16, 17]);
    }
    text.split(',')
        .map(|key| {
            let code = match key.as_bytes() {
                [single] => Some(*single),
                [b'c', b't', b'r', b'l', b'-', key] => match key.to_ascii_lowercase() {
                    letter @ b'a'..=b'z' => Some(letter - b'a' + 1),
                    b'@' => Some(0),
                    sign @ b'['..=b'_' => Some(sign - b'[' + 27),
                    _ => None,
                },
                _ => None,
            };
            code.ok_or_else(|| {
                Error::invalid(format!(
                    "Invalid detach keys ({text}) provided: Unknown character: '{key}'"
                ))
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_client_that_left_is_noticed() {
        let (ours, theirs) = stream_pair().unwrap();
        rustix::net::shutdown(&ours, rustix::net::Shutdown::Write).unwrap();
        assert!(!has_hung_up(&theirs), "it still wants the output");
        drop(ours);
        assert!(has_hung_up(&theirs));
    }

    #[test]
    fn keys() {
        assert_eq!(detach_keys("").unwrap(), [16, 17]);
        assert_eq!(
            detach_keys("ctrl-a,b,ctrl-[,ctrl-_").unwrap(),
            [1, b'b', 27, 31]
        );
        assert!(detach_keys("ctrl-1").is_err());
        assert!(detach_keys("shift-a").is_err());
    }
}
