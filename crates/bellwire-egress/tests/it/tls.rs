//! Certificates that are good, and each way in which they are not.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use bellwire_egress::{SendError, Settings, Stage, TlsProblem, TlsSettings};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::io::AsyncWriteExt;
use tokio_rustls::TlsAcceptor;

use crate::support::{Server, client_with, impatient, post, read_request, reset, settings};

const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// An authority that the client trusts, and certificates signed by it.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
}

impl Authority {
    pub fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        // A name of its own: with equal ones, the fault of a stranger's certificate would be its signature.
        let name = BASE64_STANDARD.encode(key.public_key_raw());
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap().der().clone();
        Self { issuer: Issuer::new(params, key), root }
    }

    pub fn server_config(&self, change: impl FnOnce(&mut CertificateParams)) -> ServerConfig {
        let (certificate, key) = self.certificate(change);
        server_config(certificate, key)
    }

    /// A server's certificate and its key.
    pub fn certificate(
        &self,
        change: impl FnOnce(&mut CertificateParams),
    ) -> (CertificateDer<'static>, PrivateKeyDer<'static>) {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).unwrap().der().clone();
        (certificate, private(&key))
    }

    pub fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The root as a text.
    pub fn root_pem(&self) -> String {
        pem("CERTIFICATE", &self.root)
    }

    /// A client's key and certificate as a text.
    pub fn identity_pem(&self, change: impl FnOnce(&mut CertificateParams)) -> String {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["bellwire".into()]).unwrap();
        change(&mut params);
        format!("{}\n{}", key.serialize_pem(), params.signed_by(&key, &self.issuer).unwrap().pem())
    }

    pub fn settings(&self) -> Settings {
        let tls = TlsSettings { extra_roots: vec![self.root.clone()], ..TlsSettings::default() };
        Settings { tls, ..settings() }
    }
}

fn pem(label: &str, der: &[u8]) -> String {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", BASE64_STANDARD.encode(der))
}

fn private(key: &KeyPair) -> PrivateKeyDer<'static> {
    PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(key.serialize_der()))
}

fn server_config(certificate: CertificateDer<'static>, key: PrivateKeyDer<'static>) -> ServerConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)
        .unwrap()
}

pub async fn tls_server(config: ServerConfig) -> Server {
    let acceptor = TlsAcceptor::from(Arc::new(config));
    Server::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(stream).await else { return };
            while read_request(&mut stream).await.is_some() {
                stream.write_all(EMPTY).await.unwrap();
                stream.flush().await.unwrap();
            }
        }
    })
    .await
}

pub fn https(server: &Server, host: &str) -> String {
    format!("https://{host}:{}/hook", server.address.port())
}

async fn problem(config: ServerConfig, settings: Settings) -> TlsProblem {
    let server = tls_server(config).await;
    let error = client_with(settings).exchange(post(https(&server, "localhost"))).await.unwrap_err();
    assert_eq!(error.class(), "tls");
    assert!(!error.customer_text().contains("127.0.0.1"));
    let SendError::Tls { problem, .. } = error else { panic!("{error:?}") };
    problem
}

#[tokio::test]
async fn a_good_certificate_is_accepted_for_name_and_address_and_its_connection_is_reused() {
    let authority = Authority::new();
    let server = tls_server(authority.server_config(|_| {})).await;
    let client = client_with(authority.settings());
    for host in ["localhost", "127.0.0.1", "localhost."] {
        for reused in [false, true] {
            let response = client.exchange(post(https(&server, host))).await.unwrap();
            assert_eq!((response.status, response.reused), (200, reused), "{host}");
            assert_eq!(response.timings.tls.is_none(), reused);
        }
    }
}

#[tokio::test]
async fn a_self_signed_certificate_is_refused() {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
    let config = server_config(params.self_signed(&key).unwrap().der().clone(), private(&key));
    assert_eq!(problem(config, settings()).await, TlsProblem::UnknownIssuer);
}

#[tokio::test]
async fn an_authority_that_only_they_know_is_refused() {
    let config = Authority::new().server_config(|_| {});
    assert_eq!(problem(config, settings()).await, TlsProblem::UnknownIssuer);
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let authority = Authority::new();
    let config = authority.server_config(|params| {
        params.not_before = date_time_ymd(2019, 1, 1);
        params.not_after = date_time_ymd(2020, 1, 1);
    });
    assert_eq!(problem(config, authority.settings()).await, TlsProblem::Expired);
}

#[tokio::test]
async fn a_certificate_from_the_future_is_refused() {
    let authority = Authority::new();
    let config = authority.server_config(|params| params.not_before = date_time_ymd(3000, 1, 1));
    assert_eq!(problem(config, authority.settings()).await, TlsProblem::NotYetValid);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_refused() {
    let authority = Authority::new();
    let other = CertificateParams::new(vec!["other.example".into()]).unwrap().subject_alt_names;
    let config = authority.server_config(|params| params.subject_alt_names = other);
    assert_eq!(problem(config, authority.settings()).await, TlsProblem::WrongName);
}

#[tokio::test]
async fn without_verification_anything_goes() {
    let config = Authority::new().server_config(|params| params.not_after = date_time_ymd(2020, 1, 1));
    let server = tls_server(config).await;
    let tls = TlsSettings { verify: false, ..TlsSettings::default() };
    let client = client_with(Settings { tls, ..settings() });
    assert_eq!(client.exchange(post(https(&server, "localhost"))).await.unwrap().status, 200);
}

#[tokio::test]
async fn one_that_speaks_no_tls_is_a_protocol_failure() {
    let server = Server::answering("").await;
    let plain = Server::start(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let client = client_with(settings());
    let error = client.exchange(post(https(&plain, "localhost"))).await.unwrap_err();
    assert!(matches!(error, SendError::Tls { problem: TlsProblem::Protocol, .. }), "{error:?}");
    let error = client.exchange(impatient(https(&server, "localhost"))).await.unwrap_err();
    assert!(matches!(error, SendError::Timeout { stage: Stage::Tls, .. }), "{error:?}");
}

#[tokio::test]
async fn one_that_breaks_off_the_handshake_is_a_tls_failure() {
    let server = Server::start(|mut stream, n| async move {
        tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap();
        if n == 1 {
            reset(stream);
        }
    })
    .await;
    let client = client_with(settings());
    for _ in 0..2 {
        let error = client.exchange(post(https(&server, "localhost"))).await.unwrap_err();
        assert!(matches!(error, SendError::Tls { problem: TlsProblem::Closed, .. }), "{error:?}");
    }
}

#[tokio::test]
async fn one_that_hangs_after_the_handshake_times_out_waiting_for_a_response() {
    let authority = Authority::new();
    let acceptor = TlsAcceptor::from(Arc::new(authority.server_config(|_| {})));
    let server = Server::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let _held = acceptor.accept(stream).await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await;
    let error = client_with(authority.settings()).exchange(impatient(https(&server, "localhost"))).await.unwrap_err();
    assert!(matches!(error, SendError::Timeout { stage: Stage::Response, .. }), "{error:?}");
}

#[tokio::test]
async fn a_connection_closed_while_idle_costs_no_failure() {
    let authority = Authority::new();
    let acceptor = TlsAcceptor::from(Arc::new(authority.server_config(|_| {})));
    let closed = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&closed);
    let server = Server::start(move |stream, _| {
        let (acceptor, tell) = (acceptor.clone(), Arc::clone(&tell));
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            read_request(&mut stream).await;
            stream.write_all(EMPTY).await.unwrap();
            stream.shutdown().await.unwrap();
            drop(stream);
            tell.notify_one();
        }
    })
    .await;
    let client = client_with(authority.settings());
    for n in 1..=3 {
        let response = client.exchange(post(https(&server, "localhost"))).await.unwrap();
        assert_eq!((response.status, response.reused, server.connections()), (200, false, n));
        closed.notified().await;
    }
}

#[tokio::test]
async fn one_that_has_no_version_or_cipher_in_common_is_a_protocol_failure() {
    // What an old server says: fatal alerts handshake_failure (40) and protocol_version (70).
    for alert in [40, 70] {
        let server = Server::start(move |mut stream, _| async move {
            tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap();
            stream.write_all(&[21, 3, 1, 0, 2, 2, alert]).await.unwrap();
            std::future::pending::<()>().await;
        })
        .await;
        let error = client_with(settings()).exchange(post(https(&server, "localhost"))).await.unwrap_err();
        assert!(matches!(error, SendError::Tls { problem: TlsProblem::Protocol, .. }), "{error:?}");
        assert_eq!(error.customer_text(), "the TLS handshake failed");
    }
}
