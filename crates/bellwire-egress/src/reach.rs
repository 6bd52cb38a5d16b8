//! Connections for protocols other than HTTP: queues, databases, mail.
//!
//! The rules on addresses are those of every request: all that DNS answers is judged, and the socket is opened to one of exactly
//! these. The list of denied ports does not apply: it keeps HTTP requests away from services that take anything for
//! a command, and here the service is spoken to in its own language, by its owner's wish.
//!
//! A library that takes a stream gets one from [`Client::reach`], which goes by way of the operator's proxy where there is one. A
//! library that insists on a socket of its own gets addresses from [`Client::peers`], to which it must keep, and
//! [`Client::tls_as`] for TLS to them.

use std::{
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use url::Host;

use crate::{
    connect::server_name,
    error::{SendError, Stage},
    exchange::{Client, Progress, Timings},
    proxy::ProxyError,
    stream::Stream,
    target::{Origin, Scheme},
};

/// An open connection: bytes in both directions, in plain text or by TLS.
pub struct Reached(Stream);

impl Client {
    /// Opens a connection to `host`, by TLS if `tls`, within `limit`.
    ///
    /// # Errors
    /// [`SendError`]; nothing has been sent.
    pub async fn reach(
        &self,
        host: &Host<String>,
        port: u16,
        tls: bool,
        limit: Duration,
    ) -> Result<Reached, SendError> {
        let origin = origin(host, port, tls);
        let mut progress = progress();
        let connecting = self.connector().connect_bare(&origin, &mut progress);
        match tokio::time::timeout(limit, connecting).await {
            Ok(connected) => connected.map(Reached),
            Err(_) => Err(SendError::Timeout { stage: progress.stage, limit, status: None }),
        }
    }

    /// The addresses of `host`, every one of them allowed. Only to these may be connected, and not for long: the next connection
    /// asks again.
    ///
    /// # Errors
    /// [`SendError::Forbidden`] if one of them is not, [`SendError::Dns`] without any, [`SendError::Proxy`] if the host is to be reached by
    /// the operator's proxy.
    pub async fn peers(&self, host: &Host<String>, port: u16) -> Result<Vec<SocketAddr>, SendError> {
        if self.connector().proxy.as_deref().is_some_and(|proxy| proxy.covers(host)) {
            return Err(ProxyError::Unusable { host: host.to_string() }.into());
        }
        self.connector().addresses(&origin(host, port, false), &mut progress()).await
    }

    /// TLS for a library that connects to an address and takes it for the name: the other end must be `host`, whatever name the library
    /// asks for. As it asks for an address, no name is told to the other end (SNI).
    ///
    /// # Errors
    /// If `host` cannot be the name in a certificate.
    pub fn tls_as(&self, host: &Host<String>) -> std::io::Result<ClientConfig> {
        let base = &self.connector().tls;
        let mut config = base.bare();
        let verifier = As { name: server_name(host)?, verifier: Arc::clone(base.verifier()) };
        config.dangerous().set_certificate_verifier(Arc::new(verifier));
        Ok(config)
    }
}

fn origin(host: &Host<String>, port: u16, tls: bool) -> Origin {
    let scheme = if tls { Scheme::Https } else { Scheme::Http };
    Origin { scheme, host: host.clone(), port, tls: None }
}

fn progress() -> Progress {
    Progress { started: Instant::now(), stage: Stage::Dns, status: None, timings: Timings::default() }
}

impl AsyncRead for Reached {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Reached {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}

/// Verifies certificates for one name.
#[derive(Debug)]
struct As {
    name: ServerName<'static>,
    verifier: Arc<dyn ServerCertVerifier>,
}

impl ServerCertVerifier for As {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _asked_for: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verifier.verify_server_cert(end_entity, intermediates, &self.name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.verifier.verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Egress, Forbidden, Guard, Settings};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    fn client(allowed: &[&str]) -> Client {
        let allowed_networks = allowed.iter().map(|network| network.parse().expect("a network")).collect();
        let settings = Settings { guard: Guard { allowed_networks, ..Guard::default() }, ..Settings::default() };
        Egress::new(settings).expect("set up").client().expect("a client")
    }

    #[tokio::test]
    async fn bytes_pass_both_ways_at_an_allowed_address() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let echo = tokio::spawn(async move {
            let (mut tcp, _) = listener.accept().await.expect("a connection");
            let mut bytes = [0; 4];
            tcp.read_exact(&mut bytes).await.expect("four bytes");
            tcp.write_all(&bytes).await.expect("taken");
        });
        let host = Host::parse("localhost").expect("a host");
        let limit = Duration::from_secs(10);
        let mut reached = client(&["127.0.0.0/8"]).reach(&host, port, false, limit).await.expect("reached");
        reached.write_all(b"ring").await.expect("sent");
        let mut bytes = [0; 4];
        reached.read_exact(&mut bytes).await.expect("echoed");
        assert_eq!(&bytes, b"ring");
        echo.await.expect("done");
    }

    #[tokio::test]
    async fn neither_a_stream_nor_an_address_leads_inside() {
        let client = client(&[]);
        for host in ["127.0.0.1", "localhost", "10.0.0.1", "[::1]", "169.254.169.254"] {
            let host = Host::parse(host).expect("a host");
            let reached = client.reach(&host, 6379, false, Duration::from_secs(5)).await.map(|_| ());
            let addresses = client.peers(&host, 6379).await.map(|_| ());
            for refused in [reached, addresses] {
                let error = refused.expect_err("is inside");
                assert!(
                    matches!(error, SendError::Forbidden(Forbidden::Address { .. } | Forbidden::Name { .. })),
                    "{error:?}"
                );
            }
        }
    }

    #[tokio::test]
    async fn who_opens_its_own_socket_does_not_get_round_the_proxy() {
        let proxy = crate::Proxy::parse("http://127.0.0.1:9", "direct.example,127.0.0.1").expect("a proxy");
        let allowed_networks = vec!["127.0.0.0/8".parse().expect("a network")];
        let guard = Guard { allowed_networks, ..Guard::default() };
        let settings = Settings { proxy: Some(proxy), guard, ..Settings::default() };
        let client = Egress::new(settings).expect("set up").client().expect("a client");
        let refused =
            client.peers(&Host::parse("nats.example").expect("a host"), 4222).await.expect_err("by the proxy");
        assert!(refused.customer_text().contains("nats.example is reached by the proxy only"), "{refused:?}");
        let direct = Host::parse("127.0.0.1").expect("a host");
        assert_eq!(client.peers(&direct, 4222).await.expect("excepted").len(), 1);
    }

    #[tokio::test]
    async fn a_well_known_port_is_no_obstacle_and_port_0_is() {
        let client = client(&["127.0.0.0/8"]);
        let host = Host::parse("127.0.0.1").expect("a host");
        assert_eq!(client.peers(&host, 25).await.expect("allowed"), ["127.0.0.1:25".parse().expect("an address")]);
        assert!(matches!(client.peers(&host, 0).await, Err(SendError::Forbidden(Forbidden::PortZero))));
    }
}
