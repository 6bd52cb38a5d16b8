//! The listener's side: accepts connections on one thread, serves them with hyper, and keeps those away that would hold
//! a place without using it.
//!
//! A [`Scanner`] reads along on every connection. Once a second a sweeper looks at what each client is doing and for how long, and
//! closes those that are too slow; that costs a request nothing.

pub(crate) mod clients;
mod scanner;
pub(crate) mod tls;

use self::clients::{Clients, Place};
use self::scanner::{Phase, Scanner};
use crate::receiving::{self, Receiving};
use axum::Router;
use axum::body::Body;
use bellwire_egress::with_causes;
use bellwire_receiver::Peer;
use hyper::service::Service;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, Sleep};
use tokio_rustls::TlsAcceptor;

/// Bounds for clients.
#[derive(Clone, Debug)]
pub(crate) struct ConnectionLimits {
    /// Open at a time on this listener; beyond that the oldest idle one is closed, or the new one if none is idle.
    pub(crate) connections_max: usize,
    /// Bounds each client's connections on all listeners; absent if they are not bounded. One too many is closed.
    pub(crate) clients: Option<Arc<Clients>>,
    /// From the first byte of a head to its end; also from a new connection, its handshake included, to the first byte.
    pub(crate) head_timeout: Duration,
    /// From the end of a head to the end of the body.
    pub(crate) body_timeout: Duration,
    /// Between requests.
    pub(crate) idle_timeout: Duration,
}

/// Who answers requests.
#[derive(Clone)]
pub(crate) struct Routers {
    /// Those at `/in/{token}`, which most requests of a receiver are: by a router they would take a good deal longer.
    pub(crate) sources: Arc<Receiving>,
    /// Those of programs.
    pub(crate) programs: Router,
    /// Those of web pages, which name their origin.
    pub(crate) pages: Router,
}

/// Makes sure that no other program has `address`, which [`bind`] would share with it. Answers it with the port that it gets.
pub(crate) fn vacant(address: SocketAddr) -> io::Result<SocketAddr> {
    address_of(&reserved(address)?)
}

/// It never listens: who connects in this moment is refused, and is not taken only to be dropped with it.
fn reserved(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    Ok(socket)
}

fn address_of(socket: &socket2::Socket) -> io::Result<SocketAddr> {
    socket.local_addr()?.as_socket().ok_or_else(|| io::Error::other("the socket has no address"))
}

/// A socket that accepts on `address` together with the other shards' sockets.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = socket2::Socket::new(socket2::Domain::for_address(address), socket2::Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(4_096)?;
    Ok(socket.into())
}

/// Who is silent for so long while we read the rest of what was answered already has nothing more to say, or never will end.
const REST_SILENCE: Duration = Duration::from_secs(1);

/// One connection, as the sweeper sees it.
struct Watched {
    seen: Mutex<Seen>,
    /// Requests that wait for our answer, or for the rest of it: their connection is not idle.
    answering: AtomicU32,
    /// Answers that have begun. A body that still comes then may come for as long as its client likes, if it does not fall silent.
    answered: AtomicU32,
    /// It speaks something else than HTTP from now on.
    upgraded: AtomicBool,
    /// Its socket is open, whoever has it.
    open: AtomicBool,
    task: Mutex<Option<AbortHandle>>,
}

#[derive(Clone, Copy)]
struct Seen {
    phase: Phase,
    /// Since when it is in this phase.
    since: Instant,
    /// Whether any request has been read whole.
    used: bool,
}

/// Accepts until `stop` ends, with TLS if there is an acceptor for it, then lets requests in progress finish. Runs on a `LocalSet`.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    routers: Routers,
    limits: ConnectionLimits,
    stop: impl Future<Output = ()>,
) {
    let all: Rc<RefCell<Vec<Arc<Watched>>>> = Rc::default();
    let (closing, closed) = tokio::sync::watch::channel(false);
    let sweeper = spawn_local(sweep(Rc::clone(&all), limits.clone()));
    tokio::pin!(stop);
    loop {
        let accepted = tokio::select! {
            biased;
            () = &mut stop => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, peer)) => {
                let place = match &limits.clients {
                    None => None,
                    Some(clients) => match clients.enter(peer.ip()) {
                        None => continue,
                        place => place,
                    },
                };
                if all.borrow().len() >= limits.connections_max {
                    all.borrow_mut().retain(|w| !finished(w));
                    if all.borrow().len() >= limits.connections_max && !close_an_idle_one(&all) {
                        continue;
                    }
                }
                let _ = stream.set_nodelay(true);
                let watched = Arc::new(Watched {
                    seen: Mutex::new(Seen { phase: Phase::Idle, since: Instant::now(), used: false }),
                    answering: AtomicU32::new(0),
                    answered: AtomicU32::new(0),
                    upgraded: AtomicBool::new(false),
                    open: AtomicBool::new(false),
                    task: Mutex::new(None),
                });
                let (routers, closed) = (routers.clone(), closed.clone());
                let task = match tls.clone() {
                    None => spawn_local(connection(stream, peer.ip(), routers, Arc::clone(&watched), closed, place)),
                    Some(tls) => {
                        spawn_local(secured(stream, peer.ip(), tls, routers, Arc::clone(&watched), closed, place))
                    }
                };
                *watched.task.lock() = Some(task.abort_handle());
                all.borrow_mut().push(watched);
            }
            Err(error) => {
                // Out of file descriptors or memory: connections that end make room.
                tracing::warn!(%error, "cannot accept connections at the moment");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    drop(listener);
    let _ = closing.send(true);
    while all.borrow().iter().any(|w| !finished(w)) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    sweeper.abort();
}

impl Watched {
    /// Neither sends nor waits for an answer.
    fn is_idle(&self) -> bool {
        self.seen.lock().phase == Phase::Idle
            && self.answering.load(Ordering::Relaxed) == 0
            && !self.upgraded.load(Ordering::Relaxed)
    }
}

fn finished(watched: &Watched) -> bool {
    !watched.open.load(Ordering::Relaxed) && watched.task.lock().as_ref().is_none_or(AbortHandle::is_finished)
}

fn close_an_idle_one(all: &RefCell<Vec<Arc<Watched>>>) -> bool {
    let all = all.borrow();
    let idle = all.iter().filter(|w| w.is_idle() && !finished(w)).min_by_key(|w| w.seen.lock().since);
    idle.and_then(|w| w.task.lock().as_ref().map(AbortHandle::abort)).is_some()
}

async fn sweep(all: Rc<RefCell<Vec<Arc<Watched>>>>, limits: ConnectionLimits) {
    let mut every = tokio::time::interval(Duration::from_secs(1).min(limits.head_timeout));
    loop {
        every.tick().await;
        all.borrow_mut().retain(|w| {
            if finished(w) {
                return false;
            }
            // Who took it over looks after it.
            if w.upgraded.load(Ordering::Relaxed) {
                return true;
            }
            let seen = *w.seen.lock();
            let limit = match seen.phase {
                Phase::Idle if w.answering.load(Ordering::Relaxed) > 0 => return true,
                Phase::Idle if seen.used => limits.idle_timeout,
                Phase::Idle | Phase::Head => limits.head_timeout,
                Phase::Body if w.answered.load(Ordering::Relaxed) > 0 => limits.idle_timeout,
                Phase::Body => limits.body_timeout,
            };
            if seen.since.elapsed() > limit {
                w.task.lock().as_ref().map(AbortHandle::abort);
                return false;
            }
            true
        });
    }
}

/// A handshake, and then as [`connection`]. The sweeper sees to it that it does not take for ever.
async fn secured(
    stream: TcpStream,
    peer: IpAddr,
    tls: TlsAcceptor,
    routers: Routers,
    watched: Arc<Watched>,
    mut closing: tokio::sync::watch::Receiver<bool>,
    place: Option<Place>,
) {
    let shaken = tokio::select! {
        biased;
        shaken = tls.accept(stream) => shaken,
        _ = closing.wait_for(|c| *c) => return,
    };
    match shaken {
        Ok(stream) => connection(stream, peer, routers, watched, closing, place).await,
        Err(error) => tracing::debug!(%error, "a TLS handshake failed"),
    }
}

async fn connection<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    stream: S,
    peer: IpAddr,
    routers: Routers,
    watched: Arc<Watched>,
    mut closing: tokio::sync::watch::Receiver<bool>,
    place: Option<Place>,
) {
    let counted = Arc::clone(&watched);
    let sources = routers.sources;
    let io = TokioIo::new(Scanned::new(stream, watched, place));
    let programs = hyper_util::service::TowerToHyperService::new(routers.programs);
    let pages = hyper_util::service::TowerToHyperService::new(routers.pages);
    let service = hyper::service::service_fn(move |mut request: hyper::Request<hyper::body::Incoming>| {
        // The API asks for tokens, not for addresses.
        if !request.uri().path().starts_with("/api/") {
            request.extensions_mut().insert(Peer(peer));
        }
        let way = match receiving::token(request.uri().path()).map(str::to_owned) {
            Some(token) => Way::Source(Arc::clone(&sources), token, request),
            None if request.headers().contains_key(http::header::ORIGIN) => Way::Router(pages.call(request)),
            None => Way::Router(programs.call(request)),
        };
        let answering = Answering::new(Arc::clone(&counted));
        async move {
            let answer = match way {
                Way::Source(sources, token, request) => sources.receive(&token, request.map(Body::new)).await,
                Way::Router(answer) => answer.await?,
            };
            if answer.status() == http::StatusCode::SWITCHING_PROTOCOLS {
                answering.0.upgraded.store(true, Ordering::Relaxed);
            }
            let answered = Answered::new(answering);
            Ok::<_, std::convert::Infallible>(answer.map(|body| Answer { body, _answered: answered }))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .header_read_timeout(None)
        .max_headers(100)
        .max_buf_size(64 * 1024)
        .half_close(false)
        .serve_connection(io, service)
        .with_upgrades();
    tokio::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => ended,
        _ = closing.wait_for(|c| *c) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(error = %with_causes(&error), "a connection was closed");
    }
}

/// By whom a request is answered.
#[expect(clippy::large_enum_variant, reason = "a router's future holds the request, too")]
enum Way<A> {
    /// The sources, of which one has this token.
    Source(Arc<Receiving>, String, hyper::Request<hyper::body::Incoming>),
    Router(A),
}

/// Counts an answer from its request to the end of its body, or until its client is gone.
struct Answering(Arc<Watched>);

impl Answering {
    fn new(watched: Arc<Watched>) -> Self {
        watched.answering.fetch_add(1, Ordering::Relaxed);
        Answering(watched)
    }
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.0.answering.fetch_sub(1, Ordering::Relaxed);
        self.0.seen.lock().since = Instant::now();
    }
}

/// Counts an answer that has begun.
struct Answered(Answering);

impl Answered {
    fn new(answering: Answering) -> Self {
        answering.0.answered.fetch_add(1, Ordering::Relaxed);
        Answered(answering)
    }
}

impl Drop for Answered {
    fn drop(&mut self) {
        self.0.0.answered.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A body that may go on for long: its connection is not idle.
struct Answer {
    body: axum::body::Body,
    _answered: Answered,
}

impl hyper::body::Body for Answer {
    type Data = bytes::Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Self::Data>, Self::Error>>> {
        Pin::new(&mut self.get_mut().body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> hyper::body::SizeHint {
        self.body.size_hint()
    }
}

/// A stream whose reader is scanned, for as long as it speaks HTTP.
struct Scanned<S> {
    stream: S,
    scanner: Scanner,
    watched: Arc<Watched>,
    /// We have said all that we say; how long the client may be silent if it is not done yet.
    silence: Option<Pin<Box<Sleep>>>,
    _place: Option<Place>,
}

impl<S> Scanned<S> {
    fn new(stream: S, watched: Arc<Watched>, place: Option<Place>) -> Self {
        watched.open.store(true, Ordering::Relaxed);
        Scanned { stream, scanner: Scanner::new(), watched, silence: None, _place: place }
    }
}

impl<S> Drop for Scanned<S> {
    fn drop(&mut self) {
        self.watched.open.store(false, Ordering::Relaxed);
    }
}

/// Reads the rest of a request that is answered already, and forgets it: a connection that is closed before takes the answer with it. Ends when
/// the client does, or is silent; the sweeper ends it when a request would have to have come.
fn poll_rest<S: AsyncRead + Unpin>(
    stream: &mut S,
    silence: &mut Pin<Box<Sleep>>,
    context: &mut Context<'_>,
) -> Poll<()> {
    let mut bytes = [0; 4096];
    loop {
        let mut buffer = ReadBuf::new(&mut bytes);
        match Pin::new(&mut *stream).poll_read(context, &mut buffer) {
            Poll::Ready(Ok(())) if !buffer.filled().is_empty() => {
                silence.as_mut().reset(Instant::now() + REST_SILENCE);
            }
            Poll::Ready(_) => return Poll::Ready(()),
            Poll::Pending => return silence.as_mut().poll(context),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Scanned<S> {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buffer.filled().len();
        std::task::ready!(Pin::new(&mut this.stream).poll_read(context, buffer))?;
        let bytes = &buffer.filled()[before..];
        if !bytes.is_empty() && !this.watched.upgraded.load(Ordering::Relaxed) {
            this.scanner.scan(bytes).map_err(|refusal| io::Error::new(io::ErrorKind::InvalidData, refusal))?;
            let phase = this.scanner.phase();
            let mut seen = this.watched.seen.lock();
            let goes_on = this.watched.answered.load(Ordering::Relaxed) > 0;
            if phase != seen.phase || phase == Phase::Idle || goes_on {
                *seen = Seen { phase, since: Instant::now(), used: seen.used || phase != Phase::Head };
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Scanned<S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(context)
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let silence = match &mut this.silence {
            Some(silence) => silence,
            None => {
                std::task::ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
                if this.scanner.phase() == Phase::Idle || this.watched.upgraded.load(Ordering::Relaxed) {
                    return Poll::Ready(Ok(()));
                }
                this.silence.insert(Box::pin(tokio::time::sleep(REST_SILENCE)))
            }
        };
        poll_rest(&mut this.stream, silence, context).map(Ok)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, TcpStream};

    #[test]
    fn whoever_connects_while_a_server_starts_is_refused() {
        let socket = reserved((Ipv4Addr::LOCALHOST, 0).into()).expect("a port");
        let address = address_of(&socket).expect("an address");
        let refused = TcpStream::connect(address).map(drop).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::ConnectionRefused));
        drop(socket);
        let listener = bind(vacant(address).expect("it is vacant")).expect("it listens");
        TcpStream::connect(address).expect("it is there");
        drop(listener);
    }

    #[test]
    fn what_another_program_listens_on_is_not_vacant() {
        let taken = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let refused = vacant(taken.local_addr().expect("an address")).map_err(|error| error.kind());
        assert_eq!(refused, Err(io::ErrorKind::AddrInUse));
        let ours = bind(vacant((Ipv4Addr::LOCALHOST, 0).into()).expect("any port")).expect("it listens");
        assert!(vacant(ours.local_addr().expect("an address")).is_err(), "a second server on our port");
    }
}
