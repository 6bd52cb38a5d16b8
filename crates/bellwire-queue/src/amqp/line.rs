//! A connection to a broker, over a stream that came by the address guard.
//!
//! The client drives each connection on a thread of its own, and waits there for as long as the other end likes: for its greeting, and for
//! its farewell. So the stream can be cut from this side, and is, a moment after nobody wants the connection any more.

use crate::publish::PublishError;
use crate::server::{Credentials, Server};
use async_rs::Runtime;
use async_rs::traits::{Executor, Reactor, RuntimeKit};
use async_rs::util::{DummyIO, Task, TaskImpl, simple_block_on};
use bellwire_egress::{Client, Reached};
use futures_io::{AsyncRead, AsyncWrite};
use futures_util::stream::{self, Stream};
use futures_util::task::AtomicWaker;
use lapin::protocol::{AMQPErrorKind, AMQPHardError};
use lapin::uri::{AMQPAuthority, AMQPQueryString, AMQPScheme, AMQPUri, AMQPUserInfo};
use lapin::{AsyncTcpStream, Connection, ConnectionProperties, ErrorKind};
use parking_lot::Mutex;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, AsRawFd};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

/// Buffers of the client hold so many of these, 32, in each direction. Larger messages take several.
const FRAME_BYTES_MAX: u32 = 32 << 10;
/// Silence for two of these ends a connection.
const HEARTBEAT_SECONDS: u16 = 20;
/// For so long the other end may say its farewell.
const FAREWELL: Duration = Duration::from_secs(3);
/// What RabbitMQ lets in from its own machine, unless it is told otherwise.
const GUEST: &str = "guest";

/// An open connection.
pub(super) struct Line {
    connection: Connection,
    _farewell: Farewell,
}

impl Line {
    pub(super) async fn open(client: &Client, server: &Server, limit: Duration) -> Result<Line, PublishError> {
        let reached = client.reach(&server.host, server.port, server.tls, limit).await;
        let stream = reached.map_err(PublishError::Unreachable)?;
        let cut = Arc::new(Cut::default());
        let farewell = Farewell(Arc::clone(&cut));
        let cable = Mutex::new(Some(Cable { stream, cut }));
        let runtime = Runtime::new(Kit(Handle::current()));
        let once = async move |_: AMQPUri, _: Runtime<Kit>| match cable.lock().take() {
            Some(cable) => Ok(AsyncTcpStream::Plain(cable)),
            None => Err(io::Error::from(io::ErrorKind::ConnectionAborted).into()),
        };
        let properties = ConnectionProperties::default().with_connection_name("bellwire".into());
        let connecting = Connection::connector(uri(server), runtime, once, properties);
        let connected = tokio::time::timeout(limit, connecting).await.map_err(|_| PublishError::Timeout(limit))?;
        let connection = connected.map_err(|error| match error.kind() {
            ErrorKind::ProtocolError(told) if told.kind() != &AMQPErrorKind::Hard(AMQPHardError::CONNECTIONFORCED) => {
                let text = format!("{server} does not let us in: {}", told.get_message());
                PublishError::Refused { text, forever: false }
            }
            _ => PublishError::Unconnected(format!("no connection to {server}: {error}")),
        })?;
        Ok(Line { connection, _farewell: farewell })
    }

    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }
}

fn uri(server: &Server) -> AMQPUri {
    let Credentials { user, password, .. } = &server.credentials;
    let or_guest = |text: &Option<String>| text.clone().unwrap_or_else(|| GUEST.to_owned());
    AMQPUri {
        // TLS is the stream's business.
        scheme: AMQPScheme::AMQP,
        authority: AMQPAuthority {
            userinfo: AMQPUserInfo { username: or_guest(user), password: or_guest(password) },
            host: server.host.to_string(),
            port: server.port,
        },
        vhost: server.virtual_host.clone(),
        query: AMQPQueryString {
            frame_max: Some(FRAME_BYTES_MAX),
            heartbeat: Some(HEARTBEAT_SECONDS),
            ..AMQPQueryString::default()
        },
    }
}

/// When it is dropped, the other end has a moment left. Who drops a connection before it has told the broker so.
struct Farewell(Arc<Cut>);

impl Drop for Farewell {
    fn drop(&mut self) {
        let cut = Arc::clone(&self.0);
        match Handle::try_current() {
            Ok(handle) => drop(handle.spawn(async move {
                tokio::time::sleep(FAREWELL).await;
                cut.now();
            })),
            Err(_) => cut.now(),
        }
    }
}

/// Ends a stream from this side, whoever waits for it.
#[derive(Default)]
struct Cut {
    is_done: AtomicBool,
    reader: AtomicWaker,
    writer: AtomicWaker,
}

impl Cut {
    fn now(&self) {
        self.is_done.store(true, Ordering::SeqCst);
        self.reader.wake();
        self.writer.wake();
    }

    /// An error if it is cut; else who comes is woken when it is.
    fn check(&self, waiting: &AtomicWaker, cx: &Context<'_>) -> io::Result<()> {
        waiting.register(cx.waker());
        match self.is_done.load(Ordering::SeqCst) {
            true => Err(io::ErrorKind::ConnectionAborted.into()),
            false => Ok(()),
        }
    }
}

/// A stream in the form that the client wants.
struct Cable {
    stream: Reached,
    cut: Arc<Cut>,
}

impl AsyncRead for Cable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.cut.check(&self.cut.reader, cx)?;
        let mut buffer = ReadBuf::new(buffer);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut buffer))?;
        Poll::Ready(Ok(buffer.filled().len()))
    }
}

impl AsyncWrite for Cable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &[u8]) -> Poll<io::Result<usize>> {
        self.cut.check(&self.cut.writer, cx)?;
        Pin::new(&mut self.stream).poll_write(cx, buffer)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut.check(&self.cut.writer, cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.cut.check(&self.cut.writer, cx)?;
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// What the client may ask of a runtime: tasks and timers of the one it was opened on, and no connections.
#[derive(Clone, Debug)]
struct Kit(Handle);

impl RuntimeKit for Kit {}

impl Executor for Kit {
    type Task<T: Send + 'static> = Job<T>;

    fn block_on<T, F: Future<Output = T>>(&self, future: F) -> T {
        simple_block_on(future)
    }

    fn spawn<T: Send + 'static, F: Future<Output = T> + Send + 'static>(&self, future: F) -> Task<Job<T>> {
        Job(self.0.spawn(future)).into()
    }

    fn spawn_blocking<T: Send + 'static, F: FnOnce() -> T + Send + 'static>(&self, work: F) -> Task<Job<T>> {
        Job(self.0.spawn_blocking(work)).into()
    }
}

impl Reactor for Kit {
    type TcpStream = Cable;
    type Sleep = tokio::time::Sleep;

    fn register<H: io::Read + io::Write + AsFd + AsRawFd + Send + 'static>(
        &self,
        _socket: H,
    ) -> io::Result<impl AsyncRead + AsyncWrite + Send + Unpin + 'static> {
        Err::<DummyIO, _>(io::ErrorKind::Unsupported.into())
    }

    fn sleep(&self, duration: Duration) -> Self::Sleep {
        let _entered = self.0.enter();
        tokio::time::sleep(duration)
    }

    fn interval(&self, duration: Duration) -> impl Stream<Item = Instant> + Send + 'static {
        let _entered = self.0.enter();
        stream::unfold(tokio::time::interval(duration), async |mut interval| {
            let at = interval.tick().await.into_std();
            Some((at, interval))
        })
    }

    fn tcp_connect_addr(&self, _: SocketAddr) -> impl Future<Output = io::Result<Cable>> + Send + 'static {
        std::future::ready(Err(io::ErrorKind::Unsupported.into()))
    }
}

/// A task. Nobody is told of one that did not come to its end: the runtime is gone.
struct Job<T>(JoinHandle<T>);

impl<T: Send + 'static> TaskImpl for Job<T> {}

impl<T: Send + 'static> Future for Job<T> {
    type Output = T;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        match ready!(Pin::new(&mut self.0).poll(cx)) {
            Ok(output) => Poll::Ready(output),
            Err(_) => Poll::Pending,
        }
    }
}
