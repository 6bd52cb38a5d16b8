//! One HTTP connection: what sends a request on it and reads the response.
//!
//! An HTTP/1.1 connection has no task of its own: the exchange that uses it drives it. That saves the wake-ups between two
//! tasks for every request, and an idle connection costs nothing but its socket. What the other end did while the
//! connection was idle (closing it, most often) is seen when it is next driven, before anything is written.
//! An HTTP/2 connection is shared by many exchanges and therefore does have a task, which ends with its last user.

use std::{
    future::Future,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use http::Version;
use http_body::Body;
use http_body_util::Full;
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::task::AbortHandle;

use crate::{
    connect::Connected,
    error::SendError,
    stream::{Meter, Stream},
};

/// More headers than this are no sensible response. HTTP/1.1's parser has the same limit; HTTP/2's has none.
pub(crate) const HEADERS_MAX: usize = 100;
/// A head that is larger than this is refused while it is read.
pub(crate) const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// What may be read before a response begins, 1xx responses included.
const BEFORE_RESPONSE_BYTES_MAX: u64 = 4 * HEAD_BYTES_MAX as u64;
/// Streams on one HTTP/2 connection at a time; more requests than that open another one.
const STREAMS_MAX: usize = 100;

pub(crate) type Message = http::Request<Full<Bytes>>;

/// An open connection of either version.
pub(crate) enum Connection {
    Http1(Box<Http1>),
    Http2(Arc<Http2>),
}

/// The body as far as it was read.
pub(crate) struct ReadBody {
    pub(crate) bytes: Bytes,
    pub(crate) truncated: bool,
    pub(crate) error: Option<hyper::Error>,
}

/// Why there is no response.
pub(crate) enum NoResponse {
    /// Nothing of the message was written, and here it is again.
    Unsent(Box<Message>, hyper::Error),
    /// Some of it may have been.
    Failed(SendError),
}

impl Connection {
    /// Makes ready what was connected, in the version that the handshake chose.
    pub(crate) async fn open(connected: Connected) -> hyper::Result<Self> {
        if connected.stream.is_http2() {
            Http2::open(connected.stream).await.map(|http2| Self::Http2(Arc::new(http2)))
        } else {
            Http1::open(connected).await.map(|http1| Self::Http1(Box::new(http1)))
        }
    }

    pub(crate) fn version(&self) -> Version {
        match self {
            Self::Http1(_) => Version::HTTP_11,
            Self::Http2(_) => Version::HTTP_2,
        }
    }

    /// Whether requests must name the whole URL because a proxy forwards them.
    pub(crate) fn is_forwarded(&self) -> bool {
        matches!(self, Self::Http1(http1) if http1.forwarded)
    }

    /// Sends the message and waits for the head of the response.
    pub(crate) async fn send(&mut self, message: Message) -> Result<http::Response<Incoming>, NoResponse> {
        match self {
            Self::Http1(http1) => http1.send(message).await,
            Self::Http2(http2) => http2.send(message).await,
        }
    }

    /// Reads the body up to `bytes_max`.
    pub(crate) async fn read_body(&mut self, body: Incoming, bytes_max: usize) -> ReadBody {
        match self {
            Self::Http1(http1) => collect(body, bytes_max, |cx| http1.drive(cx)).await,
            Self::Http2(_) => collect(body, bytes_max, |_| {}).await,
        }
    }
}

/// A connection for one request at a time.
pub(crate) struct Http1 {
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once it has ended.
    connection: Option<http1::Connection<TokioIo<Stream>, Full<Bytes>>>,
    meter: Arc<Meter>,
    forwarded: bool,
}

impl Http1 {
    async fn open(connected: Connected) -> hyper::Result<Self> {
        let meter = connected.stream.meter();
        let io = TokioIo::new(connected.stream);
        let (sender, connection) = http1::Builder::new().max_buf_size(HEAD_BYTES_MAX as usize).handshake(io).await?;
        Ok(Self { sender, connection: Some(connection), meter, forwarded: connected.forwarded })
    }

    async fn send(&mut self, message: Message) -> Result<http::Response<Incoming>, NoResponse> {
        self.meter.begin(BEFORE_RESPONSE_BYTES_MAX);
        let response = self.sender.try_send_request(message);
        let mut response = pin!(response);
        let result = std::future::poll_fn(|cx| {
            drive(&mut self.connection, cx);
            response.as_mut().poll(cx)
        })
        .await;
        match result {
            Ok(response) => {
                self.meter.head_is_read();
                Ok(response)
            }
            Err(error) => Err(self.no_response(error)),
        }
    }

    fn no_response(&self, mut error: TrySendError<Message>) -> NoResponse {
        let bytes_written = self.meter.any_written();
        let message = error.take_message().filter(|_| !bytes_written);
        let error = error.into_error();
        if self.meter.is_overrun() {
            return NoResponse::Failed(SendError::Malformed { source: Box::new(error) });
        }
        match message {
            Some(message) => NoResponse::Unsent(Box::new(message), error),
            None => NoResponse::Failed(before_response(error, bytes_written)),
        }
    }

    /// Keeps the socket, and lets go of what is needed to speak on it: some 26 KiB. `None` if it has ended, or something lies
    /// unread that belongs to no request.
    pub(crate) fn rest(self) -> Option<Connected> {
        let parts = self.connection?.into_parts();
        let connected = Connected { stream: parts.io.into_inner(), forwarded: self.forwarded };
        parts.read_buf.is_empty().then_some(connected)
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        drive(&mut self.connection, cx);
    }

    /// Whether the response was read to its end and the other end kept the connection open for another request.
    pub(crate) async fn is_reusable(&mut self) -> bool {
        if !self.sender.is_ready() {
            std::future::poll_fn(|cx| {
                self.drive(cx);
                Poll::Ready(())
            })
            .await;
        }
        self.connection.is_some() && self.sender.is_ready()
    }
}

/// Lets the connection read and write what it can. When it has ended it is dropped, which completes all that waits for it.
fn drive(connection: &mut Option<http1::Connection<TokioIo<Stream>, Full<Bytes>>>, cx: &mut Context<'_>) {
    if let Some(open) = connection
        && Pin::new(open).poll(cx).is_ready()
    {
        *connection = None;
    }
}

/// A connection for many requests at a time.
pub(crate) struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
    /// What the other end allows, as far as it has told us.
    streams_max: Arc<AtomicUsize>,
    task: AbortHandle,
}

impl Http2 {
    async fn open(stream: Stream) -> hyper::Result<Self> {
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .max_header_list_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await?;
        let streams_max = Arc::new(AtomicUsize::new(STREAMS_MAX));
        let task = tokio::spawn(run(connection, Arc::clone(&streams_max)));
        Ok(Self { sender, streams_max, task: task.abort_handle() })
    }

    async fn send(self: &Arc<Self>, message: Message) -> Result<http::Response<Incoming>, NoResponse> {
        let mut sender = self.sender.clone();
        sender.try_send_request(message).await.map_err(|mut error| match error.take_message() {
            Some(message) => NoResponse::Unsent(Box::new(message), error.into_error()),
            None => NoResponse::Failed(before_response(error.into_error(), true)),
        })
    }

    /// Whether another request can begin on it now. Each user holds one reference, and the pool one.
    pub(crate) fn has_room(self: &Arc<Self>) -> bool {
        let in_use = Arc::strong_count(self) - 1;
        self.sender.is_ready() && in_use < self.streams_max.load(Relaxed).min(STREAMS_MAX)
    }

    pub(crate) fn is_idle(self: &Arc<Self>) -> bool {
        Arc::strong_count(self) == 1
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }
}

async fn run(
    mut connection: http2::Connection<TokioIo<Stream>, Full<Bytes>, TokioExecutor>,
    streams_max: Arc<AtomicUsize>,
) {
    let ended = std::future::poll_fn(|cx| {
        let ended = Pin::new(&mut connection).poll(cx);
        streams_max.store(connection.current_max_send_streams(), Relaxed);
        ended
    });
    if let Err(error) = ended.await {
        tracing::debug!(%error, "an HTTP/2 connection ended");
    }
}

impl Drop for Http2 {
    /// No one can use the connection any more; its task must not outlive that, whatever the other end does.
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The body up to `bytes_max`, driving the connection while there is none to read.
async fn collect(mut body: Incoming, bytes_max: usize, mut drive: impl FnMut(&mut Context<'_>)) -> ReadBody {
    let mut bytes = Vec::new();
    std::future::poll_fn(move |cx| {
        let mut driven = false;
        let (truncated, error) = loop {
            match Pin::new(&mut body).poll_frame(cx) {
                Poll::Ready(Some(Ok(frame))) => {
                    let Some(data) = frame.data_ref() else { continue };
                    let room = bytes_max - bytes.len();
                    bytes.extend_from_slice(&data[..data.len().min(room)]);
                    if data.len() > room {
                        break (true, None);
                    }
                    driven = false;
                }
                Poll::Ready(Some(Err(error))) => break (false, Some(error)),
                Poll::Ready(None) => break (false, None),
                Poll::Pending if driven => return Poll::Pending,
                Poll::Pending => {
                    drive(cx);
                    driven = true;
                }
            }
        };
        Poll::Ready(ReadBody { bytes: Bytes::from(std::mem::take(&mut bytes)), truncated, error })
    })
    .await
}

/// What an error before the response's head means.
fn before_response(error: hyper::Error, bytes_written: bool) -> SendError {
    if is_loss(&error) {
        SendError::ConnectionLost { bytes_written, source: Box::new(error) }
    } else {
        SendError::Malformed { source: Box::new(error) }
    }
}

/// Whether the connection went away, rather than the other end having sent nonsense.
pub(crate) fn is_loss(error: &hyper::Error) -> bool {
    if error.is_canceled() || error.is_closed() || error.is_incomplete_message() {
        return true;
    }
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        if let Some(io) = error.downcast_ref::<std::io::Error>() {
            return !matches!(io.kind(), std::io::ErrorKind::InvalidInput | std::io::ErrorKind::InvalidData);
        }
        if let Some(h2) = error.downcast_ref::<h2::Error>() {
            return h2.is_io() || h2.is_go_away() && h2.is_remote() || h2.is_reset() && h2.is_remote();
        }
        cause = error.source();
    }
    false
}
