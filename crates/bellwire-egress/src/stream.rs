//! The socket of one connection, plain or TLS, with a meter on it.
//!
//! The meter answers two questions that the HTTP library does not: has any byte of this request been written (if not, the
//! request cannot have been acted upon), and has the other end sent more than a response head may take.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::client::TlsStream;

/// One connection's bytes.
pub(crate) struct Stream {
    socket: Socket,
    meter: Arc<Meter>,
}

pub(crate) enum Socket {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// Counts since the present request began. One task uses a connection at a time, so the order of the counts is no matter.
#[derive(Debug)]
pub(crate) struct Meter {
    written: AtomicU64,
    read: AtomicU64,
    read_max: AtomicU64,
}

impl Meter {
    fn new() -> Self {
        Self { written: AtomicU64::new(0), read: AtomicU64::new(0), read_max: AtomicU64::new(u64::MAX) }
    }

    /// A request begins: no more than `head_bytes_max` may be read until [`Meter::head_is_read`]. That bounds what a
    /// storm of 1xx responses can make us read, each of which is within every other limit.
    pub(crate) fn begin(&self, head_bytes_max: u64) {
        self.written.store(0, Relaxed);
        self.read.store(0, Relaxed);
        self.read_max.store(head_bytes_max, Relaxed);
    }

    /// A response has begun; what follows is bounded by the body's cap.
    pub(crate) fn head_is_read(&self) {
        self.read_max.store(u64::MAX, Relaxed);
    }

    pub(crate) fn any_written(&self) -> bool {
        self.written.load(Relaxed) > 0
    }

    pub(crate) fn is_overrun(&self) -> bool {
        self.read.load(Relaxed) > self.read_max.load(Relaxed)
    }
}

impl Stream {
    pub(crate) fn new(socket: Socket) -> Self {
        Self { socket, meter: Arc::new(Meter::new()) }
    }

    pub(crate) fn meter(&self) -> Arc<Meter> {
        Arc::clone(&self.meter)
    }

    /// The TLS session, if there is one.
    pub(crate) fn tls(&self) -> Option<&rustls::ClientConnection> {
        match &self.socket {
            Socket::Plain(_) => None,
            Socket::Tls(tls) => Some(tls.get_ref().1),
        }
    }

    /// Whether the handshake chose HTTP/2.
    pub(crate) fn is_http2(&self) -> bool {
        match &self.socket {
            Socket::Plain(_) => false,
            Socket::Tls(tls) => tls.get_ref().1.alpn_protocol() == Some(b"h2"),
        }
    }

    fn wrote(&self, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = result {
            self.meter.written.fetch_add(bytes as u64, Relaxed);
        }
        result
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        ready!(match &mut this.socket {
            Socket::Plain(tcp) => Pin::new(tcp).poll_read(cx, buf),
            Socket::Tls(tls) => Pin::new(tls).poll_read(cx, buf),
        })?;
        this.meter.read.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        if this.meter.is_overrun() {
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, "response head too large")));
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = match &mut this.socket {
            Socket::Plain(tcp) => Pin::new(tcp).poll_write(cx, buf),
            Socket::Tls(tls) => Pin::new(tls).poll_write(cx, buf),
        };
        this.wrote(result)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let result = match &mut this.socket {
            Socket::Plain(tcp) => Pin::new(tcp).poll_write_vectored(cx, bufs),
            Socket::Tls(tls) => Pin::new(tls).poll_write_vectored(cx, bufs),
        };
        this.wrote(result)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.socket {
            Socket::Plain(tcp) => tcp.is_write_vectored(),
            Socket::Tls(tls) => tls.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Plain(tcp) => Pin::new(tcp).poll_flush(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().socket {
            Socket::Plain(tcp) => Pin::new(tcp).poll_shutdown(cx),
            Socket::Tls(tls) => Pin::new(tls).poll_shutdown(cx),
        }
    }
}
