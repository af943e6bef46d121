//! Raw streams between a client and a container.

use std::pin::Pin;
use std::time::Duration;

use berth_api::Error;
use berth_api::frame::{self, Stream};
use berth_api::version::ApiVersion;
use berth_engine::Attachment;

use crate::escape::Escape;
use crate::socket::Socket;

const RAW: &str = "application/vnd.docker.raw-stream";
const MULTIPLEXED: &str = "application/vnd.docker.multiplexed-stream";

/// How long a client may go on sending after the container's end before the
/// connection is closed on it.
const LINGER: Duration = Duration::from_secs(5);

/// Content type of output that is framed unless the container has a terminal.
pub(crate) fn content_type(version: ApiVersion, tty: bool) -> &'static str {
    if tty || version < ApiVersion(1, 42) {
        RAW
    } else {
        MULTIPLEXED
    }
}

/// A connection about to become a stream.
pub(crate) struct Hijack {
    /// The status line and headers.
    head: Vec<u8>,
    tty: bool,
    /// Whether the client's bytes are the container's input.
    stdin: bool,
    start: Start,
}

/// What brings the container's side, once the client has its headers.
type Start = Pin<Box<dyn Future<Output = Result<Attachment, Error>> + Send>>;

impl Hijack {
    /// `start` runs after the headers are sent. If it fails, the stream says
    /// why: clients that wait for an exec then ask for its exit status.
    pub(crate) fn new(
        upgrade: bool,
        version: ApiVersion,
        tty: bool,
        stdin: bool,
        start: impl Future<Output = Result<Attachment, Error>> + Send + 'static,
    ) -> Self {
        Self {
            head: head(upgrade, version, tty),
            tty,
            stdin,
            start: Box::pin(start),
        }
    }

    /// Runs the stream to its end. `early` is what the client sent before it
    /// had the answer; `hung_up` is the client's [`Socket::hung_up`]. The
    /// container is never harmed by what the client does.
    pub(crate) async fn run(self, client: Socket, early: &[u8], hung_up: impl Future<Output = ()>) {
        if client.write_all(&self.head).await.is_err() {
            return;
        }
        let (started, ()) = tokio::join!(self.start, client.delivered());
        let attachment = match started {
            Ok(attachment) => attachment,
            Err(error) => {
                tracing::error!("cannot start a stream: {error}");
                let _ = client.write_all(&failure(self.tty, &error)).await;
                return linger(&client).await;
            }
        };
        if let Some(mut logs) = attachment.logs {
            while let Some(chunk) = logs.recv().await {
                if client.write_all(&chunk).await.is_err() {
                    return;
                }
            }
        }
        let Some(stream) = attachment.stream else {
            return linger(&client).await;
        };
        let container = Socket::Unix(stream);
        // Docker watches for the keys only with a terminal: piped input may
        // hold any bytes.
        let keys = if attachment.tty {
            attachment.detach_keys
        } else {
            Vec::new()
        };
        let input = async {
            if self.stdin {
                pump_input(&client, &container, early, Escape::new(keys)).await
            } else {
                InputEnd::Closed
            }
        };
        if exchange(&client, &container, input, hung_up).await {
            linger(&client).await;
        }
    }
}

fn head(upgrade: bool, version: ApiVersion, tty: bool) -> Vec<u8> {
    if upgrade {
        let kind = content_type(version, tty);
        format!(
            "HTTP/1.1 101 UPGRADED\r\nContent-Type: {kind}\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n"
        )
    } else {
        format!("HTTP/1.1 200 OK\r\nContent-Type: {RAW}\r\n\r\n")
    }
    .into_bytes()
}

/// An error as output, where Docker's clients look for it.
fn failure(tty: bool, error: &Error) -> Vec<u8> {
    let text = format!("{error}\r\n");
    let mut bytes = Vec::new();
    if !tty {
        let length = u32::try_from(text.len()).unwrap_or(u32::MAX);
        bytes.extend(frame::header(Stream::Stdout, length));
    }
    bytes.extend(text.bytes());
    bytes
}

/// How the client's side of the stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum InputEnd {
    /// End of input; output goes on.
    Closed,
    /// The detach keys.
    Detached,
}

/// Moves both directions. True when the client is still there to be told.
async fn exchange(
    client: &Socket,
    container: &Socket,
    input: impl Future<Output = InputEnd>,
    hung_up: impl Future<Output = ()>,
) -> bool {
    let output = async {
        tokio::select! {
            biased;
            alive = pump_output(container, client) => alive,
            () = hung_up => false,
        }
    };
    tokio::pin!(input, output);
    tokio::select! {
        biased;
        alive = &mut output => {
            if alive {
                return true;
            }
            // The client is gone, but what it sent is still to be delivered.
            // Meanwhile output is read and dropped: a stream that nobody reads
            // would hold up the container.
            tokio::select! {
                _ = input => {}
                () = discard(container) => {}
            }
            false
        }
        end = &mut input => match end {
            InputEnd::Detached => true,
            InputEnd::Closed => output.await,
        }
    }
}

/// Container to client. True when the container's side ended, false when the
/// client's did.
async fn pump_output(container: &Socket, client: &Socket) -> bool {
    loop {
        match container.read().await {
            Ok(bytes) if !bytes.is_empty() => {
                if client.write_all(&bytes).await.is_err() {
                    return false;
                }
            }
            _ => return true,
        }
    }
}

/// Client to container, up to the end of input or the detach keys.
async fn pump_input(
    client: &Socket,
    container: &Socket,
    early: &[u8],
    mut escape: Escape,
) -> InputEnd {
    let mut bytes = early.to_vec();
    let mut pass = Vec::new();
    // Until the container no longer takes input; then the rest is dropped, so
    // that the keys and the client's end are still noticed.
    let mut open = true;
    loop {
        let detach = escape.filter(&bytes, &mut pass);
        if open && !pass.is_empty() {
            open = container.write_all(&pass).await.is_ok();
        }
        // Given back while waiting.
        pass = Vec::new();
        if detach {
            return InputEnd::Detached;
        }
        match client.read().await {
            Ok(read) if !read.is_empty() => bytes = read,
            _ => break,
        }
    }
    if open {
        let _ = container.write_all(escape.rest()).await;
    }
    container.finish();
    InputEnd::Closed
}

/// Reads to the end and keeps nothing.
async fn discard(socket: &Socket) {
    while socket.read().await.is_ok_and(|bytes| !bytes.is_empty()) {}
}

/// Ends our side, then lets the client end its own: a socket closed with bytes
/// unread resets the connection, and the client would miss the last output.
pub(crate) async fn linger(client: &Socket) {
    client.finish();
    let _ = tokio::time::timeout(LINGER, discard(client)).await;
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::Shutdown;
    use std::os::unix::net::UnixStream as Std;
    use std::time::Duration;
    use tokio::net::UnixStream;
    use tokio::task::JoinHandle;

    const V: ApiVersion = ApiVersion::MAX;

    /// A running hijack, the client's end and the container's end.
    fn start(tty: bool, stdin: bool, keys: &[u8]) -> (JoinHandle<()>, Std, Std) {
        let (client, ours) = Std::pair().unwrap();
        let (container, stream) = Std::pair().unwrap();
        for end in [&client, &container] {
            end.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        }
        let tokio = |end: Std| {
            end.set_nonblocking(true).unwrap();
            UnixStream::from_std(end).unwrap()
        };
        let attachment = Attachment {
            tty,
            logs: None,
            stream: Some(tokio(stream)),
            detach_keys: keys.to_vec(),
        };
        let ours = Socket::Unix(tokio(ours));
        let task = tokio::spawn(async move {
            let hung_up = ours.hung_up();
            Hijack::new(true, V, tty, stdin, async { Ok(attachment) })
                .run(ours, b"early ", hung_up)
                .await;
        });
        (task, client, container)
    }

    fn read_head(client: &mut Std) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            client.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        tokio::task::spawn_blocking(work)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn both_directions_half_close() {
        let (task, mut client, mut container) = start(false, true, &[16, 17]);
        blocking(move || {
            assert!(read_head(&mut client).contains(
                "101 UPGRADED\r\nContent-Type: application/vnd.docker.multiplexed-stream"
            ));
            client.write_all(b"in \x10\x11").unwrap();
            client.shutdown(Shutdown::Write).unwrap();
            let mut text = String::new();
            container.read_to_string(&mut text).unwrap();
            assert_eq!(
                text, "early in \x10\x11",
                "keys mean nothing without a terminal"
            );
            container.write_all(b"out").unwrap();
            drop(container);
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, "out");
        })
        .await
        .unwrap();
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn large_output_waits_for_a_slow_client() {
        let (task, mut client, mut container) = start(true, true, b"");
        let size = 8 << 20;
        let writer = blocking(move || {
            container.write_all(&vec![7; size]).unwrap();
        });
        blocking(move || {
            read_head(&mut client);
            let mut bytes = Vec::new();
            client.read_to_end(&mut bytes).unwrap();
            assert_eq!(bytes.len(), size);
        })
        .await
        .unwrap();
        writer.await.unwrap();
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn detach_keys_end_the_stream_only() {
        let (task, mut client, mut container) = start(true, true, &[16, 17]);
        blocking(move || {
            read_head(&mut client);
            client.write_all(b"x\x10").unwrap();
            client.write_all(b"y\x10").unwrap();
            client.write_all(b"\x11lost").unwrap();
            assert_eq!(client.read(&mut [0; 8]).unwrap(), 0);
            drop(client);
            let mut text = String::new();
            container.read_to_string(&mut text).unwrap();
            assert_eq!(text, "early x\x10y");
        })
        .await
        .unwrap();
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_quiet_container_does_not_hide_that_the_client_left() {
        for stdin in [false, true] {
            let (task, mut client, mut container) = start(false, stdin, b"");
            blocking(move || {
                read_head(&mut client);
                client.write_all(b"last words").unwrap();
                drop(client);
                let mut text = String::new();
                container.read_to_string(&mut text).unwrap();
                assert_eq!(text, if stdin { "early last words" } else { "" });
            })
            .await
            .unwrap();
            task.await.unwrap();
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn output_of_an_ended_container_survives_unread_input() {
        let (task, mut client, mut container) = start(false, false, b"");
        blocking(move || {
            client.write_all(&[0; 4096]).unwrap();
            container.write_all(b"bye").unwrap();
            drop(container);
            read_head(&mut client);
            let mut text = String::new();
            client.read_to_string(&mut text).unwrap();
            assert_eq!(text, "bye");
        })
        .await
        .unwrap();
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn output_never_comes_with_the_headers() {
        let (task, mut client, mut container) = start(false, false, b"");
        container.write_all(b"quick").unwrap();
        blocking(move || {
            // One read, as large as a buffered reader's.
            let mut bytes = [0; 8192];
            let count = client.read(&mut bytes).unwrap();
            assert!(bytes[..count].ends_with(b"\r\n\r\n"));
            let count = client.read(&mut bytes).unwrap();
            assert_eq!(&bytes[..count], b"quick");
        })
        .await
        .unwrap();
        task.await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_failed_start_is_told_as_output() {
        let (mut client, ours) = Std::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let ours = Socket::Unix(UnixStream::from_std(ours).unwrap());
        let task = tokio::spawn(async move {
            let hung_up = ours.hung_up();
            Hijack::new(false, V, false, true, async { Err(Error::system("why")) })
                .run(ours, b"", hung_up)
                .await;
        });
        blocking(move || {
            read_head(&mut client);
            let mut text = Vec::new();
            client.read_to_end(&mut text).unwrap();
            assert_eq!(text, b"\x01\0\0\0\0\0\0\x05why\r\n");
        })
        .await
        .unwrap();
        task.await.unwrap();
    }
}
