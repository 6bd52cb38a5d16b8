//! From an origin to an open connection: guard, DNS, guard again, TCP, proxy, TLS.
//!
//! This is the only place of the program that opens a socket for an endpoint, and the order of its steps is the defence:
//! every address that DNS answered is judged, one forbidden address refuses the whole answer, and the socket is opened to
//! one of exactly these addresses. What was resolved is used once; the next connection asks and judges again.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use url::Host;

use crate::{
    error::{SendError, Stage, tls_problem},
    exchange::Progress,
    guard::{Guard, is_localhost},
    proxy::{Proxy, ProxyError},
    resolve::{Resolve, ResolveError},
    stream::{Socket, Stream},
    target::{Origin, Scheme},
    tls,
};

/// How many of a name's addresses are tried. All of them are judged.
const ADDRESSES_TRIED_MAX: usize = 8;
/// How long an address has a head start before the next one is tried beside it (RFC 8305 §5).
const HEAD_START: Duration = Duration::from_millis(250);

/// Opens connections under one policy.
pub(crate) struct Connector {
    pub(crate) guard: Arc<Guard>,
    pub(crate) resolver: Arc<dyn Resolve>,
    pub(crate) tls: Arc<tls::Base>,
    pub(crate) proxy: Option<Arc<Proxy>>,
    pub(crate) connect_timeout: Duration,
}

/// An open connection, not yet used.
pub(crate) struct Connected {
    pub(crate) stream: Stream,
    /// A proxy forwards the requests: they name the whole URL.
    pub(crate) forwarded: bool,
}

impl Connector {
    /// Opens a connection to `origin`, noting in `progress` how far it came.
    pub(crate) async fn connect(&self, origin: &Origin, progress: &mut Progress) -> Result<Connected, SendError> {
        self.guard.check_host(&origin.host, origin.port)?;
        let proxy = self.proxy.as_deref().filter(|proxy| proxy.covers(&origin.host));
        let forwarded = origin.scheme == Scheme::Http && proxy.is_some_and(|proxy| proxy.forwards_plain_requests());

        let tcp = match proxy {
            Some(proxy) => self.connect_by_proxy(proxy, origin, forwarded, progress).await?,
            None => self.connect_directly(origin, progress).await?,
        };
        let socket = match origin.scheme {
            Scheme::Http => Socket::Plain(tcp),
            Scheme::Https => {
                let config = origin.tls.as_ref().map_or(&self.tls.config, |profile| &profile.config);
                Socket::Tls(Box::new(self.handshake(tcp, origin, config, progress).await?))
            }
        };
        Ok(Connected { stream: Stream::new(socket), forwarded })
    }

    /// Opens a connection for another protocol than HTTP; see [`crate::reach`].
    pub(crate) async fn connect_bare(&self, origin: &Origin, progress: &mut Progress) -> Result<Stream, SendError> {
        self.guard.check_peer(&origin.host, origin.port)?;
        let tcp = match self.proxy.as_deref().filter(|proxy| proxy.covers(&origin.host)) {
            Some(proxy) => self.connect_by_proxy(proxy, origin, false, progress).await?,
            None => self.connect_directly(origin, progress).await?,
        };
        let socket = match origin.scheme {
            Scheme::Http => Socket::Plain(tcp),
            Scheme::Https => {
                let config = Arc::new(self.tls.bare());
                Socket::Tls(Box::new(self.handshake(tcp, origin, &config, progress).await?))
            }
        };
        Ok(Stream::new(socket))
    }

    /// The addresses of `origin`, all of them allowed, for who opens the socket elsewhere.
    pub(crate) async fn addresses(
        &self,
        origin: &Origin,
        progress: &mut Progress,
    ) -> Result<Vec<SocketAddr>, SendError> {
        self.guard.check_peer(&origin.host, origin.port)?;
        let addresses = self.resolve_and_judge(origin, progress).await?;
        for address in &addresses {
            // Says from where the kernel would connect, without sending anything. No way there: then no connection either.
            let unspecified = if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
            if let Ok(socket) = std::net::UdpSocket::bind(unspecified)
                && socket.connect(address).is_ok()
                && let Ok(local) = socket.local_addr()
            {
                self.guard.check_self_connection(local, *address)?;
            }
        }
        Ok(addresses)
    }

    async fn connect_directly(&self, origin: &Origin, progress: &mut Progress) -> Result<TcpStream, SendError> {
        let addresses = self.resolve_and_judge(origin, progress).await?;
        let tcp = self.dial(&origin.host, &addresses, progress).await?;
        let failed = |source| no_connection(&origin.host, origin.port, source);
        let (local, peer) = local_and_peer(&tcp).map_err(failed)?;
        if !addresses.contains(&peer) {
            // No kernel does this of itself; whoever it was, that address was not judged.
            return Err(failed(io::Error::other("connected to another address than the one asked for")));
        }
        self.guard.check_self_connection(local, peer)?;
        Ok(tcp)
    }

    /// The addresses of the target, all of them allowed.
    pub(crate) async fn resolve_and_judge(
        &self,
        origin: &Origin,
        progress: &mut Progress,
    ) -> Result<Vec<SocketAddr>, SendError> {
        progress.stage = Stage::Dns;
        let started = Instant::now();
        let addresses = match &origin.host {
            // Not by DNS, and only as far as it is allowed: with v4 loopback open and v6 loopback closed, it is v4.
            Host::Domain(name) if is_localhost(name) => self.guard.allowed_loopback(),
            host => self.resolve(host).await?,
        };
        progress.timings.dns = Some(started.elapsed());

        let addresses: Vec<SocketAddr> = addresses.into_iter().map(|ip| SocketAddr::new(ip, origin.port)).collect();
        for address in &addresses {
            self.guard.check_address(*address)?;
        }
        Ok(addresses)
    }

    async fn resolve(&self, host: &Host<String>) -> Result<Vec<IpAddr>, SendError> {
        let name = match host {
            Host::Ipv4(ip) => return Ok(vec![IpAddr::V4(*ip)]),
            Host::Ipv6(ip) => return Ok(vec![IpAddr::V6(*ip)]),
            Host::Domain(name) => name,
        };
        let dns = |source| SendError::Dns { host: name.clone(), source };
        let addresses = self.resolver.resolve(name).await.map_err(dns)?;
        if addresses.is_empty() { Err(dns(ResolveError::NotFound)) } else { Ok(addresses) }
    }

    /// The proxy is the operator's choice: neither its name nor its addresses are judged.
    async fn connect_by_proxy(
        &self,
        proxy: &Proxy,
        origin: &Origin,
        forwarded: bool,
        progress: &mut Progress,
    ) -> Result<TcpStream, SendError> {
        progress.stage = Stage::Proxy;
        let started = Instant::now();
        let unreachable = |error: SendError| match error {
            SendError::Timeout { .. } => error,
            error => SendError::Proxy(ProxyError::Unreachable(Box::new(error))),
        };
        let addresses = match &proxy.host {
            Host::Domain(name) if is_localhost(name) => {
                vec![IpAddr::from([127, 0, 0, 1]), IpAddr::from([0, 0, 0, 0, 0, 0, 0, 1])]
            }
            host => self.resolve(host).await.map_err(unreachable)?,
        };
        let addresses: Vec<SocketAddr> = addresses.into_iter().map(|ip| SocketAddr::new(ip, proxy.port)).collect();
        let mut tcp = self.dial(&proxy.host, &addresses, progress).await.map_err(unreachable)?;
        if !forwarded {
            progress.stage = Stage::Proxy;
            proxy.tunnel(&mut tcp, origin).await?;
        }
        progress.timings.connect = Some(started.elapsed());
        Ok(tcp)
    }

    async fn dial(
        &self,
        host: &Host<String>,
        addresses: &[SocketAddr],
        progress: &mut Progress,
    ) -> Result<TcpStream, SendError> {
        progress.stage = Stage::Connect;
        let started = Instant::now();
        let order = by_turns(addresses);
        let port = order.first().map_or(0, SocketAddr::port);
        let tcp = tokio::time::timeout(self.connect_timeout, first_to_connect(&order))
            .await
            .map_err(|_| SendError::Timeout { stage: Stage::Connect, limit: self.connect_timeout, status: None })?
            .map_err(|source| no_connection(host, port, source))?;
        progress.timings.connect = Some(started.elapsed());
        Ok(tcp)
    }

    async fn handshake(
        &self,
        tcp: TcpStream,
        origin: &Origin,
        config: &Arc<rustls::ClientConfig>,
        progress: &mut Progress,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, SendError> {
        progress.stage = Stage::Tls;
        let started = Instant::now();
        let failed =
            |source: io::Error| SendError::Tls { host: origin.host.to_string(), problem: tls_problem(&source), source };
        let name = server_name(&origin.host).map_err(failed)?;
        let tls = TlsConnector::from(Arc::clone(config)).connect(name, tcp).await.map_err(failed)?;
        progress.timings.tls = Some(started.elapsed());
        Ok(tls)
    }
}

/// The first connection that succeeds, in the order given. A failure starts the next address at once, silence after
/// [`HEAD_START`]. The error is that of the last one to fail.
async fn first_to_connect(order: &[SocketAddr]) -> io::Result<TcpStream> {
    let mut waiting = order.iter();
    let mut attempts = FuturesUnordered::new();
    let mut last_error = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        match waiting.next() {
            Some(address) => attempts.push(TcpStream::connect(*address)),
            None if attempts.is_empty() => return Err(last_error),
            None => {}
        }
        let ended = if waiting.as_slice().is_empty() {
            attempts.next().await
        } else {
            match tokio::time::timeout(HEAD_START, attempts.next()).await {
                Ok(ended) => ended,
                Err(_) => continue,
            }
        };
        match ended {
            Some(Ok(tcp)) => {
                tcp.set_nodelay(true)?;
                return Ok(tcp);
            }
            Some(Err(error)) => last_error = error,
            None => {}
        }
    }
}

/// Both families by turns, beginning with the one that was answered first, so that a broken family costs one head start.
fn by_turns(addresses: &[SocketAddr]) -> Vec<SocketAddr> {
    let first_is_v4 = addresses.first().is_some_and(SocketAddr::is_ipv4);
    let (mut one, mut other): (Vec<_>, Vec<_>) =
        addresses.iter().copied().partition(|address| address.is_ipv4() == first_is_v4);
    one.truncate(ADDRESSES_TRIED_MAX);
    other.truncate(ADDRESSES_TRIED_MAX);
    let mut order = Vec::with_capacity(one.len() + other.len());
    let (mut one, mut other) = (one.into_iter(), other.into_iter());
    loop {
        match (one.next(), other.next()) {
            (None, None) => break,
            (a, b) => order.extend(a.into_iter().chain(b)),
        }
    }
    order.truncate(ADDRESSES_TRIED_MAX);
    order
}

fn local_and_peer(tcp: &TcpStream) -> io::Result<(SocketAddr, SocketAddr)> {
    Ok((tcp.local_addr()?, tcp.peer_addr()?))
}

pub(crate) fn server_name(host: &Host<String>) -> io::Result<ServerName<'static>> {
    match host {
        Host::Ipv4(ip) => Ok(ServerName::from(IpAddr::V4(*ip))),
        Host::Ipv6(ip) => Ok(ServerName::from(IpAddr::V6(*ip))),
        Host::Domain(name) => {
            let name = name.strip_suffix('.').unwrap_or(name).to_owned();
            ServerName::try_from(name).map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))
        }
    }
}

fn no_connection(host: &Host<String>, port: u16, source: io::Error) -> SendError {
    SendError::Connect { host: format!("{host}:{port}"), source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn families_are_tried_by_turns() {
        let addresses: Vec<SocketAddr> =
            ["[2001:db8::1]:1", "[2001:db8::2]:1", "192.0.2.1:1", "192.0.2.2:1", "192.0.2.3:1"]
                .map(|text| text.parse().expect("an address"))
                .into();
        let order: Vec<String> = by_turns(&addresses).iter().map(ToString::to_string).collect();
        assert_eq!(order, ["[2001:db8::1]:1", "192.0.2.1:1", "[2001:db8::2]:1", "192.0.2.2:1", "192.0.2.3:1"]);
    }

    #[test]
    fn of_two_hundred_addresses_a_few_are_tried() {
        let addresses: Vec<SocketAddr> = (0..200).map(|n| SocketAddr::from(([192, 0, 2, n], 80))).collect();
        assert_eq!(by_turns(&addresses).len(), ADDRESSES_TRIED_MAX);
    }
}
