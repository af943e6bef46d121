//! Opening a connection, starting an engine when there is none.

use std::io::ErrorKind;
use std::time::Duration;

use tokio::net::{TcpStream, UnixStream};
use tokio_util::either::Either;

use crate::autostart;
use crate::context::Context;
use crate::failure::{Failure, os_words};
use crate::host::Host;

pub(crate) type Connection = Either<UnixStream, TcpStream>;

/// How long a TCP connection may take, as in Docker's client.
const TCP_TIMEOUT: Duration = Duration::from_secs(30);

pub(super) async fn open(context: &Context) -> Result<Connection, Failure> {
    match &context.host {
        Host::Unix(path) => {
            let first = UnixStream::connect(path).await;
            let error = match first {
                Ok(stream) => return Ok(Either::Left(stream)),
                Err(error) => error,
            };
            let nobody = matches!(
                error.kind(),
                ErrorKind::NotFound | ErrorKind::ConnectionRefused
            );
            if let Some(engine) = &context.on_demand
                && nobody
                && autostart::wanted()
            {
                autostart::start(path, engine)?;
                return UnixStream::connect(path)
                    .await
                    .map(Either::Left)
                    .map_err(|error| describe(context, &error));
            }
            Err(describe(context, &error))
        }
        Host::Tcp { address, .. } => {
            match tokio::time::timeout(TCP_TIMEOUT, TcpStream::connect(address)).await {
                Ok(Ok(stream)) => {
                    // Keystrokes must not wait for more of them.
                    let _ = stream.set_nodelay(true);
                    Ok(Either::Right(stream))
                }
                Ok(Err(error)) => Err(describe(context, &error)),
                Err(_) => Err(Failure::new(format!(
                    "Cannot connect to the Docker daemon at {}: no answer within {} seconds",
                    context.host,
                    TCP_TIMEOUT.as_secs()
                ))),
            }
        }
    }
}

fn describe(context: &Context, error: &std::io::Error) -> Failure {
    let host = &context.host;
    Failure::new(match error.kind() {
        ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
            format!("Cannot connect to the Docker daemon at {host}. Is the docker daemon running?")
        }
        ErrorKind::PermissionDenied => {
            format!("permission denied while trying to connect to the docker API at {host}")
        }
        _ => format!("error during connect: dial {host}: {}", os_words(error)),
    })
}
