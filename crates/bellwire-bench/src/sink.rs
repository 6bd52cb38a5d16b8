//! Where the deliveries arrive: an HTTP server with one path per endpoint, which answers, hangs or refuses as told.
//!
//! It runs in the bench's own process, on threads with a runtime and a listener each, and enters what it answers with
//! a 2xx into the [`Ledger`]. An exchange that the sender gives up is dropped unanswered and not entered.

use super::ledger::{Group, Ledger};
use super::measure::now_ns;
use super::payload;
use super::threads::Threads;
use anyhow::Context as _;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

const PAYLOAD_BYTES_MAX: usize = 16 << 20;

/// How an endpoint behaves until it is healed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behaviour {
    Answer,
    /// Answers after so long.
    Hang(Duration),
    /// Answers 503 at once.
    Refuse,
}

/// One endpoint of the sink; its path is its number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SinkEndpoint {
    /// Which of its application's endpoints it is, from 0.
    pub(crate) slot: usize,
    pub(crate) behaviour: Behaviour,
    pub(crate) group: Group,
}

pub(crate) struct Sink {
    pub(crate) port: u16,
    healed: watch::Sender<bool>,
    _threads: Threads,
}

struct Shared {
    endpoints: Vec<SinkEndpoint>,
    ledger: Arc<Ledger>,
    healed: watch::Receiver<bool>,
}

impl Sink {
    /// Listens at a port of the system's choice, on every address: endpoints stand at many loopback addresses, and may
    /// be reached from another machine.
    pub(crate) fn start(endpoints: Vec<SinkEndpoint>, ledger: Arc<Ledger>, threads: usize) -> anyhow::Result<Sink> {
        let (healed, healed_receiver) = watch::channel(false);
        let shared = Arc::new(Shared { endpoints, ledger, healed: healed_receiver });
        let first = listener(SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)))?;
        let address = first.local_addr().context("the sink has no address")?;
        let mut listeners = vec![first];
        for _ in 1..threads {
            listeners.push(listener(address)?);
        }
        let mut running = Threads::new("bench-sink");
        for listener in listeners {
            let shared = Arc::clone(&shared);
            running.spawn(async move || serve(listener, shared).await)?;
        }
        Ok(Sink { port: address.port(), healed, _threads: running })
    }

    /// From now on every endpoint answers at once, those that hang included.
    pub(crate) fn heal(&self) {
        self.healed.send_replace(true);
    }
}

/// A listener that shares its address with those of other threads.
pub(crate) fn listener(address: SocketAddr) -> anyhow::Result<std::net::TcpListener> {
    use socket2::{Domain, Protocol, Socket, Type};
    let open = || -> std::io::Result<std::net::TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(4_096)?;
        Ok(socket.into())
    };
    open().with_context(|| format!("cannot listen on {address}"))
}

async fn serve(listener: std::net::TcpListener, shared: Arc<Shared>) -> anyhow::Result<()> {
    let listener = tokio::net::TcpListener::from_std(listener)?;
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // Out of file handles, most likely: some come back when exchanges end.
            tokio::time::sleep(Duration::from_millis(10)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let shared = Arc::clone(&shared);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, &shared));
            // A sender that breaks off is its own affair: what was not answered is not entered.
            let _ = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(None)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Result<Response<Empty<Bytes>>, Infallible> {
    let status = match receive(request, shared).await {
        Ok(()) => StatusCode::OK,
        Err(status) => status,
    };
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    Ok(response)
}

async fn receive(request: Request<Incoming>, shared: &Shared) -> Result<(), StatusCode> {
    let number = request.uri().path().trim_start_matches('/').parse::<usize>();
    let endpoint = number.ok().and_then(|number| shared.endpoints.get(number)).ok_or(StatusCode::NOT_FOUND)?;
    let body = Limited::new(request.into_body(), PAYLOAD_BYTES_MAX);
    let payload = body.collect().await.map_err(|_| StatusCode::BAD_REQUEST)?.to_bytes();
    let arrived_ns = now_ns();
    let mark = payload::read(&payload).ok_or(StatusCode::BAD_REQUEST)?;
    match endpoint.behaviour {
        Behaviour::Answer => {}
        Behaviour::Refuse if *shared.healed.borrow() => {}
        Behaviour::Refuse => return Err(StatusCode::SERVICE_UNAVAILABLE),
        Behaviour::Hang(wait) => {
            let mut healed = shared.healed.clone();
            let _ = tokio::time::timeout(wait, healed.wait_for(|healed| *healed)).await;
        }
    }
    shared.ledger.deliver(mark, endpoint.slot, endpoint.group, arrived_ns);
    Ok(())
}
