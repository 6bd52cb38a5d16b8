//! TLS on our own listener: what it demands, and a change of certificate while clients are connected.

use crate::program::{PATIENCE, Program, bellwire, eventually};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned, SupportedProtocolVersion, version};
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Stream = StreamOwned<ClientConnection, TcpStream>;

/// An authority, and what it has made in a folder.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    folder: PathBuf,
}

impl Authority {
    fn new(folder: &Path) -> Authority {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let root = params.self_signed(&key).unwrap();
        std::fs::write(folder.join("root.pem"), root.pem()).unwrap();
        Authority { root: root.der().clone(), issuer: Issuer::new(params, key), folder: folder.to_owned() }
    }

    fn path(&self, name: &str) -> String {
        self.folder.join(name).display().to_string()
    }

    /// Writes a new pair for localhost, and answers the certificate.
    fn issue(&self) -> CertificateDer<'static> {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        let made = params.signed_by(&key, &self.issuer).unwrap();
        std::fs::write(self.path("cert.pem"), made.pem()).unwrap();
        std::fs::write(self.path("key.pem"), key.serialize_pem()).unwrap();
        made.der().clone()
    }

    fn connect(&self, server: &Program, versions: &[&'static SupportedProtocolVersion], alpn: &[&str]) -> Stream {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("localhost").unwrap();
        let socket = TcpStream::connect(server.address).unwrap();
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        StreamOwned::new(ClientConnection::new(Arc::new(config), name).unwrap(), socket)
    }

    fn start(&self, data: &Path) -> Program {
        let files = [
            ("BELLWIRE_SERVER_TLS_CERTIFICATE", self.path("cert.pem")),
            ("BELLWIRE_SERVER_TLS_KEY", self.path("key.pem")),
            ("BELLWIRE_SERVER_HEADER_TIMEOUT", "1s".into()),
        ];
        Program::start(data, &files.each_ref().map(|(name, value)| (*name, value.as_str())))
    }
}

/// Asks for health on an open connection, which stays open; answers the status.
fn ping(stream: &mut Stream) -> std::io::Result<String> {
    stream.write_all(b"GET /api/v1/health/ping HTTP/1.1\r\nhost: localhost\r\n\r\n")?;
    let mut answer = Vec::new();
    let mut byte = [0];
    while !answer.ends_with(b"\r\n\r\n") {
        stream.read_exact(&mut byte)?;
        answer.push(byte[0]);
    }
    Ok(String::from_utf8_lossy(&answer[9..12]).into_owned())
}

fn certificate(stream: &Stream) -> CertificateDer<'static> {
    stream.conn.peer_certificates().unwrap()[0].clone().into_owned()
}

#[test]
fn tls_1_2_and_1_3_are_spoken_and_http_1_1_in_them() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue();
    let server = authority.start(folder.path());
    for version in [&version::TLS12, &version::TLS13] {
        let mut stream = authority.connect(&server, &[version], &["h2", "http/1.1"]);
        assert_eq!(ping(&mut stream).unwrap(), "204", "{version:?}");
        assert_eq!(ping(&mut stream).unwrap(), "204", "{version:?}, once more");
        assert_eq!(stream.conn.alpn_protocol(), Some(b"http/1.1".as_slice()));
    }
    // Nothing that we speak in common, plain HTTP, and a client that never finishes its hello.
    assert!(ping(&mut authority.connect(&server, &[&version::TLS13], &["h2"])).is_err());
    let (status, _) = server.raw("GET /api/v1/health/ping HTTP/1.1\r\nhost: x\r\n\r\n");
    assert_eq!(status, 0);
    let mut slow = TcpStream::connect(server.address).unwrap();
    slow.set_read_timeout(Some(PATIENCE)).unwrap();
    slow.write_all(&[22, 3, 1, 2, 0, 1]).unwrap();
    assert!(matches!(slow.read(&mut [0]), Ok(0) | Err(_)), "closed, and without the patience of this test");
    // What is refused on a plain connection is refused here.
    let mut smuggler = authority.connect(&server, &[&version::TLS13], &[]);
    let both =
        "POST /api/v1/app HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    smuggler.write_all(both.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = smuggler.read_to_end(&mut answer);
    assert!(answer.is_empty() || answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    assert!(server.stop().success());
}

#[test]
fn a_new_certificate_is_taken_up_and_a_bad_one_is_not_while_connections_go_on() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    let first = authority.issue();
    let server = authority.start(folder.path());
    let connect = || {
        let mut stream = authority.connect(&server, &[&version::TLS13], &[]);
        assert_eq!(ping(&mut stream).unwrap(), "204");
        stream
    };
    let mut old = connect();
    assert_eq!(certificate(&old), first);

    let second = authority.issue();
    server.signal("HUP");
    eventually("SIGHUP brings the second certificate", || (certificate(&connect()) == second).then_some(()));

    std::fs::write(authority.path("key.pem"), "not a key").unwrap();
    server.signal("HUP");
    eventually("it says that the new key is bad", || server.has_said("cannot be used").then_some(()));
    assert_eq!(certificate(&connect()), second);

    let third = authority.issue();
    eventually("the third is found without a signal", || (certificate(&connect()) == third).then_some(()));
    assert_eq!(ping(&mut old).unwrap(), "204", "the first connection has seen nothing of it");
    assert!(server.stop().success());
}

#[test]
fn the_commands_speak_it_to_a_server_whose_authority_they_are_given() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue();
    let server = authority.start(folder.path());
    let url = format!("https://localhost:{}", server.address.port());
    let command = |roots: Option<&str>, arguments: &[&str]| {
        let mut command = bellwire(folder.path());
        command.args(arguments).env("BELLWIRE_URL", &url).env("BELLWIRE_TOKEN", &server.token);
        let output = command.envs(roots.map(|name| ("SSL_CERT_FILE", authority.path(name)))).output().unwrap();
        (output.status.success(), String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
    };
    let health = format!("{url}/api/v1/health/");
    let (well, told) = command(Some("root.pem"), &["healthcheck", &health]);
    assert!(well, "{told}");
    let (well, told) = command(None, &["healthcheck", &health]);
    assert!(!well && told.contains("certificate"), "{told}");
    // By the settings alone, whatever name the certificate has.
    let own = bellwire(folder.path())
        .arg("healthcheck")
        .env("BELLWIRE_LISTEN", server.address.to_string())
        .env("BELLWIRE_SERVER_TLS_CERTIFICATE", authority.path("cert.pem"))
        .env("BELLWIRE_SERVER_TLS_KEY", authority.path("key.pem"))
        .output()
        .unwrap();
    assert!(own.status.success(), "{own:?}");

    let mut stream = authority.connect(&server, &[&version::TLS13], &[]);
    let body = json!({"name": "Acme", "uid": "acme"}).to_string();
    let request = format!(
        "POST /api/v1/app HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\ncontent-length: {}\r\n\
         content-type: application/json\r\n\r\n{body}",
        server.token,
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 201"), "{}", String::from_utf8_lossy(&answer));
    let (sent, told) = command(Some("root.pem"), &["send", "--application", "acme", "--event-type", "a"]);
    assert!(sent, "{told}");
    assert!(server.stop().success());
}

#[test]
fn files_that_are_no_pair_stop_the_start_and_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::new(folder.path());
    authority.issue();
    let told_by = |arguments: &[&str], certificate: Option<&str>, key: Option<&str>| {
        let mut command = bellwire(folder.path());
        command.args(arguments);
        command.envs(certificate.map(|name| ("BELLWIRE_SERVER_TLS_CERTIFICATE", authority.path(name))));
        command.envs(key.map(|name| ("BELLWIRE_SERVER_TLS_KEY", authority.path(name))));
        let output = command.output().unwrap();
        assert!(!output.status.success());
        String::from_utf8(output.stderr).unwrap()
    };
    for (certificate, key, says) in [
        (Some("cert.pem"), None, "it needs server.tls_key"),
        (None, Some("key.pem"), "it needs server.tls_certificate"),
        (Some("nothing.pem"), Some("key.pem"), "nothing.pem"),
        (Some("key.pem"), Some("key.pem"), "no certificate in"),
        (Some("cert.pem"), Some("root.pem"), "no private key in"),
        (Some("root.pem"), Some("key.pem"), "is not that of"),
    ] {
        for arguments in [["serve", "--listen=127.0.0.1:0"], ["config", "--check"]] {
            let told = told_by(&arguments, certificate, key);
            assert!(told.contains(says), "{certificate:?} {key:?}: {told}");
        }
    }
}
