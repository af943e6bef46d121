//! What a step writes, as events.

use berth_build::graph::Id;
use berth_build::progress::Event;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::super::session::Session;

/// Bytes of one event at most.
const CHUNK: usize = 32 << 10;

/// Reads the monitor's frames (stream, three zeros, length) to their end.
pub(super) async fn forward(
    session: &Session,
    id: Id,
    mut stream: impl AsyncRead + Unpin,
) -> std::io::Result<()> {
    let mut header = [0u8; 8];
    loop {
        match stream.read_exact(&mut header).await {
            Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(()),
            other => other?,
        };
        let [kind, _, _, _, length @ ..] = header;
        let mut left = u32::from_be_bytes(length) as usize;
        while left > 0 {
            let mut data = vec![0; left.min(CHUNK)];
            let count = stream.read(&mut data).await?;
            if count == 0 {
                return Ok(());
            }
            data.truncate(count);
            left -= count;
            session.tell(Event::Log {
                id,
                stderr: kind == 2,
                data,
            });
        }
    }
}
