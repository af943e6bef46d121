//! One connected stream socket, whatever its family, usable from both
//! directions at once and cheap while idle: no buffer is kept between reads.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::BufMut;
use rustix::net::Shutdown;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// Bytes moved at once; the size of a full pipe.
const CHUNK: usize = 64 * 1024;

/// How often, and how far apart, [`Socket::delivered`] looks.
const DELIVERY_CHECKS: u32 = 50;
const DELIVERY_PAUSE: Duration = Duration::from_millis(1);

#[derive(Debug)]
pub(crate) enum Socket {
    Unix(UnixStream),
    Tcp(TcpStream),
}

impl Socket {
    /// Waits for bytes and returns them; empty at the end of the stream.
    pub(crate) async fn read(&self) -> io::Result<Vec<u8>> {
        let mut buffer = Vec::new();
        self.read_into(&mut buffer, |buffer| buffer.reserve(CHUNK))
            .await?;
        Ok(buffer)
    }

    /// Waits for bytes and adds them to a buffer; 0 at the end of the stream.
    /// Room is made only when there are some: thousands of idle streams cost no
    /// memory.
    pub(crate) async fn read_into<B: BufMut>(
        &self,
        buffer: &mut B,
        make_room: impl Fn(&mut B),
    ) -> io::Result<usize> {
        loop {
            match self {
                Self::Unix(stream) => stream.readable().await?,
                Self::Tcp(stream) => stream.readable().await?,
            }
            make_room(buffer);
            let read = match self {
                Self::Unix(stream) => stream.try_read_buf(buffer),
                Self::Tcp(stream) => stream.try_read_buf(buffer),
            };
            match read {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
        }
    }

    pub(crate) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let written = match self {
                Self::Unix(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
                Self::Tcp(stream) => {
                    stream.writable().await?;
                    stream.try_write(bytes)
                }
            };
            match written {
                Ok(count) => bytes = &bytes[count..],
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Waits, for a moment at most, until the other side has read what was
    /// written: some clients (docker-py) lose what they read together with the
    /// headers of a reply that becomes a stream.
    pub(crate) async fn delivered(&self) {
        for _ in 0..DELIVERY_CHECKS {
            match berth_sys::socket::unread_by_peer(self) {
                Ok(0) | Err(_) => return,
                Ok(_) => tokio::time::sleep(DELIVERY_PAUSE).await,
            }
        }
    }

    /// Tells the other side that no more bytes come; reading goes on.
    pub(crate) fn finish(&self) {
        // Fails only when the other side is gone, which the reader notices.
        let _ = rustix::net::shutdown(self, Shutdown::Write);
    }

    /// A future that ends when the other side is gone altogether, which a
    /// half-closed stream is not. It does not borrow the socket, never ends
    /// early, and not at all if the socket cannot be watched.
    pub(crate) fn hung_up(&self) -> impl Future<Output = ()> + Send + use<> {
        // A descriptor of its own: its readiness must not be mixed with that
        // of the reads and writes. Without EPOLLIN and EPOLLOUT in the mask
        // epoll reports only EPOLLHUP and EPOLLERR.
        #[expect(
            deprecated,
            reason = "unsound only for types whose descriptor may change; OwnedFd's cannot"
        )]
        let watch = self
            .as_fd()
            .try_clone_to_owned()
            .and_then(|fd| AsyncFd::with_interest(fd, Interest::PRIORITY));
        async move {
            match watch {
                Ok(watch) => {
                    let _ = watch.ready(Interest::PRIORITY).await;
                }
                Err(_) => std::future::pending().await,
            }
        }
    }

    /// Whether [`Socket::hung_up`] can tell a peer that is gone from one that
    /// has only ended its side. TCP cannot: both are a FIN.
    pub(crate) fn tells_half_close(&self) -> bool {
        matches!(self, Self::Unix(_))
    }
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Unix(stream) => stream.as_fd(),
            Self::Tcp(stream) => stream.as_fd(),
        }
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buffer),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, parts),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
