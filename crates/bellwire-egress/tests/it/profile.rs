//! TLS that is particular to one target: its own authorities, our certificate, no verification; and that connections made
//! under one of them are never used under another.

use std::sync::Arc;

use bellwire_egress::{Client, PemError, Request, Response, SendError, TlsOptions, TlsProblem};
use rcgen::date_time_ymd;
use rustls::{RootCertStore, ServerConfig, server::WebPkiClientVerifier};

use crate::{
    support::{Server, client, client_with, post},
    tls::{Authority, https, tls_server},
};

fn to(client: &Client, url: &str, options: TlsOptions<'_>) -> Request {
    let mut request = post(url);
    request.target = request.target.with_tls(client.tls_profile(&options).unwrap());
    request
}

async fn call(client: &Client, server: &Server, options: TlsOptions<'_>) -> Result<Response, SendError> {
    client.exchange(to(client, &https(server, "localhost"), options)).await
}

fn problem(result: Result<Response, SendError>) -> TlsProblem {
    match result.unwrap_err() {
        SendError::Tls { problem, .. } => problem,
        error => panic!("{error:?}"),
    }
}

#[tokio::test]
async fn own_authorities_take_the_place_of_those_of_the_process() {
    let (process, theirs) = (Authority::new(), Authority::new());
    let client = client_with(process.settings());
    let (process_pem, their_pem) = (process.root_pem(), theirs.root_pem());
    let only_theirs = TlsOptions { authorities: Some(&their_pem), ..TlsOptions::default() };
    let server = tls_server(theirs.server_config(|_| {})).await;
    assert_eq!(problem(client.exchange(post(https(&server, "localhost"))).await), TlsProblem::UnknownIssuer);
    assert_eq!(call(&client, &server, only_theirs).await.unwrap().status, 200);
    // A bundle trusts each of its members, and names and times are looked at as ever.
    let both = format!("{process_pem}{their_pem}");
    let options = TlsOptions { authorities: Some(&both), ..TlsOptions::default() };
    assert_eq!(call(&client, &server, options).await.unwrap().status, 200);
    let expired = tls_server(theirs.server_config(|params| params.not_after = date_time_ymd(2020, 1, 1))).await;
    assert_eq!(problem(call(&client, &expired, only_theirs).await), TlsProblem::Expired);
    let of_the_process = tls_server(process.server_config(|_| {})).await;
    assert_eq!(problem(call(&client, &of_the_process, only_theirs).await), TlsProblem::UnknownIssuer);
}

#[tokio::test]
async fn without_verification_one_target_is_trusted_and_no_other() {
    let config = Authority::new().server_config(|params| params.not_after = date_time_ymd(2020, 1, 1));
    let server = tls_server(config).await;
    let client = client();
    let unverified = TlsOptions { unverified: true, ..TlsOptions::default() };
    assert_eq!(call(&client, &server, unverified).await.unwrap().status, 200);
    assert_eq!(problem(client.exchange(post(https(&server, "localhost"))).await), TlsProblem::Expired);
}

/// A server that lets in whom `clients` vouches for.
async fn demanding(
    server: &Authority,
    clients: &Authority,
    version: &'static rustls::SupportedProtocolVersion,
) -> Server {
    let mut roots = RootCertStore::empty();
    roots.add(clients.root().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
    let (certificate, key) = server.certificate(|_| {});
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .unwrap()
        .with_client_cert_verifier(verifier)
        .with_single_cert(vec![certificate], key)
        .unwrap();
    tls_server(config).await
}

#[tokio::test]
async fn we_identify_ourselves_where_a_certificate_is_set() {
    let (authority, clients) = (Authority::new(), Authority::new());
    let good = clients.identity_pem(|_| {});
    let strange = Authority::new().identity_pem(|_| {});
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        let server = demanding(&authority, &clients, version).await;
        let client = client_with(authority.settings());
        let with = |identity| TlsOptions { identity: Some(identity), ..TlsOptions::default() };
        for reused in [false, true] {
            let response = call(&client, &server, with(&good)).await.unwrap();
            assert_eq!((response.status, response.reused), (200, reused));
        }
        // Neither without one, although there is an open connection that has one, nor with one of somebody else.
        let without = client.exchange(post(https(&server, "localhost"))).await;
        assert_eq!(problem(without), TlsProblem::OurCertificate, "{version:?}");
        assert_eq!(problem(call(&client, &server, with(&strange)).await), TlsProblem::OurCertificate, "{version:?}");
    }
}

#[tokio::test]
async fn connections_of_different_identities_are_never_mixed() {
    let authority = Authority::new();
    let server = tls_server(authority.server_config(|_| {})).await;
    let client = client_with(authority.settings());
    let (root, one, two) = (authority.root_pem(), authority.identity_pem(|_| {}), authority.identity_pem(|_| {}));
    let all = [
        TlsOptions { identity: Some(&one), ..TlsOptions::default() },
        TlsOptions { identity: Some(&two), ..TlsOptions::default() },
        TlsOptions { authorities: Some(&root), ..TlsOptions::default() },
        TlsOptions { unverified: true, ..TlsOptions::default() },
        TlsOptions { identity: Some(&one), authorities: Some(&root), unverified: false },
    ];
    for (n, options) in all.iter().enumerate() {
        let response = call(&client, &server, *options).await.unwrap();
        assert_eq!((response.reused, server.connections()), (false, n + 1), "each has a connection of its own");
    }
    // Equal options share, also when they were made ready twice.
    for options in all {
        assert!(call(&client, &server, options).await.unwrap().reused);
    }
    assert!(!client.exchange(post(https(&server, "localhost"))).await.unwrap().reused);
    assert_eq!(server.connections(), all.len() + 1);
}

#[tokio::test]
async fn in_plain_text_a_profile_means_nothing() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let client = client();
    let unverified = TlsOptions { unverified: true, ..TlsOptions::default() };
    assert!(!client.exchange(post(server.url())).await.unwrap().reused);
    assert!(client.exchange(to(&client, &server.url(), unverified)).await.unwrap().reused);
}

#[test]
fn certificates_are_checked_when_they_are_set() {
    const NOW: i64 = 1_790_000_000;
    let authority = Authority::new();
    let good = authority.identity_pem(|_| {});
    let other = authority.identity_pem(|_| {});
    let old = authority.identity_pem(|params| params.not_after = date_time_ymd(2020, 1, 1));
    let (key, certificate) = good.split_once("-----BEGIN CERTIFICATE").unwrap();
    let certificate = format!("-----BEGIN CERTIFICATE{certificate}");
    let (other_key, _) = other.split_once("-----BEGIN CERTIFICATE").unwrap();
    let identity = |text: &str| TlsOptions { identity: Some(text), ..TlsOptions::default() }.check(NOW);
    assert_eq!(identity(&good), Ok(()));
    assert_eq!(identity(&format!("{certificate}{key}")), Ok(()));
    assert_eq!(identity(&format!("{good}{}", authority.root_pem())), Ok(()));
    assert_eq!(identity(key), Err(PemError::NoCertificate));
    assert_eq!(identity(&certificate), Err(PemError::NoKey));
    assert_eq!(identity(&format!("{other_key}{certificate}")), Err(PemError::Mismatch));
    assert_eq!(identity(&format!("{good}{other_key}")), Err(PemError::Keys));
    let encrypted = format!("{}{certificate}", key.replace("PRIVATE", "ENCRYPTED PRIVATE"));
    assert_eq!(identity(&encrypted), Err(PemError::EncryptedKey));
    assert_eq!(identity(&old), Err(PemError::Expired));
    assert_eq!(identity("nonsense"), Err(PemError::Syntax));
    assert_eq!(identity(""), Err(PemError::Syntax));
    assert_eq!(identity(&"x".repeat(70_000)), Err(PemError::Large));
    assert_eq!(identity(&good.repeat(40)), Err(PemError::Large));
    let spoiled = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    assert_eq!(identity(&format!("{spoiled}{key}")), Err(PemError::Certificate));
    let odd_key = format!("{certificate}{}", spoiled.replace("CERTIFICATE", "PRIVATE KEY"));
    assert_eq!(identity(&odd_key), Err(PemError::UnknownKey));

    let authorities = |text: &str| TlsOptions { authorities: Some(text), ..TlsOptions::default() }.check(NOW);
    assert_eq!(authorities(&authority.root_pem()), Ok(()));
    assert_eq!(authorities(&good), Err(PemError::UnwantedKey));
    assert_eq!(authorities(spoiled), Err(PemError::Certificate));
    assert_eq!(authorities("nonsense"), Err(PemError::Syntax));
}
