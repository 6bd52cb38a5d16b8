//! By way of the operator's proxy.

use bellwire_egress::{Client, Egress, Guard, Proxy, SendError, Settings, Stage, proxy::ProxyError};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc::{UnboundedReceiver, unbounded_channel},
};

use crate::{
    support::{Script, Server, client_with, impatient, post, read_request, settings},
    tls::Authority,
};

const EMPTY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// A proxy that leads every CONNECT to `target` and answers `answer`; it tells what it was asked.
async fn http_proxy(target: std::net::SocketAddr, answer: &'static str) -> (Server, UnboundedReceiver<String>) {
    let (seen, asked) = unbounded_channel();
    let proxy = Server::start(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            let Some(request) = read_request(&mut stream).await else { return };
            seen.send(request).unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            let mut upstream = TcpStream::connect(target).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
        }
    })
    .await;
    (proxy, asked)
}

/// A SOCKS5 proxy that wants `user` and `secret`, and leads to `target`; it tells what it was asked.
async fn socks5_proxy(target: std::net::SocketAddr, code: u8) -> (Server, UnboundedReceiver<Vec<u8>>) {
    let (seen, asked) = unbounded_channel();
    let proxy = Server::start(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            let mut greeting = [0; 4];
            stream.read_exact(&mut greeting).await.unwrap();
            assert_eq!(greeting, [5, 2, 0, 2]);
            stream.write_all(&[5, 2]).await.unwrap();
            let mut credentials = [0; 13];
            stream.read_exact(&mut credentials).await.unwrap();
            let good = credentials == *b"\x01\x04user\x06secret";
            stream.write_all(&[1, u8::from(!good)]).await.unwrap();
            let mut request = vec![0; 256];
            let Ok(length) = stream.read(&mut request).await else { return };
            request.truncate(length);
            seen.send(request).unwrap();
            stream.write_all(&[5, code, 0, 3, 4, b'h', b'o', b's', b't', 0, 80]).await.unwrap();
            let mut upstream = TcpStream::connect(target).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut upstream).await;
        }
    })
    .await;
    (proxy, asked)
}

/// Nothing is allowed but what is public: the proxy itself is not judged.
fn client_by(proxy: &str, exceptions: &str) -> Client {
    let proxy = Some(Proxy::parse(proxy, exceptions).unwrap());
    client_with(Settings { proxy, ..Settings::default() })
}

#[tokio::test]
async fn plain_requests_are_forwarded_with_the_whole_url() {
    let (seen, mut asked) = unbounded_channel();
    let proxy = Server::start(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                seen.send(request).unwrap();
                stream.write_all(EMPTY.as_bytes()).await.unwrap();
            }
        }
    })
    .await;
    let client = client_by(&format!("http://user:secret@{}", proxy.address), "");
    for reused in [false, true] {
        let response = client.exchange(post("http://hooks.example:8080/a?b")).await.unwrap();
        assert_eq!((response.status, response.reused), (200, reused));
        let request = asked.recv().await.unwrap();
        assert!(request.starts_with("POST http://hooks.example:8080/a?b HTTP/1.1\r\n"), "{request}");
        assert!(request.contains("host: hooks.example:8080\r\n"));
        assert!(request.contains("proxy-authorization: Basic dXNlcjpzZWNyZXQ=\r\n"));
    }
}

#[tokio::test]
async fn https_goes_through_a_tunnel_and_the_proxy_sees_no_request() {
    let authority = Authority::new();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(authority.server_config(|params| {
        params.subject_alt_names =
            rcgen::CertificateParams::new(vec!["hooks.example".into()]).unwrap().subject_alt_names;
    })));
    let (seen, mut requests) = unbounded_channel();
    let target = Server::start(move |stream, _| {
        let (acceptor, seen) = (acceptor.clone(), seen.clone());
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            seen.send(read_request(&mut stream).await.unwrap()).unwrap();
            stream.write_all(EMPTY.as_bytes()).await.unwrap();
        }
    })
    .await;
    let (proxy, mut asked) = http_proxy(target.address, "HTTP/1.1 200 Connection established\r\n\r\n").await;
    let proxy = Some(Proxy::parse(&format!("http://user:secret@{}", proxy.address), "").unwrap());
    let client = client_with(Settings { proxy, guard: Guard::default(), ..authority.settings() });

    assert_eq!(client.exchange(post("https://hooks.example/a")).await.unwrap().status, 200);
    let connect = asked.recv().await.unwrap();
    assert!(connect.starts_with("CONNECT hooks.example:443 HTTP/1.1\r\nhost: hooks.example:443\r\n"), "{connect}");
    assert!(connect.contains("proxy-authorization: Basic dXNlcjpzZWNyZXQ=\r\n"));
    let request = requests.recv().await.unwrap();
    assert!(request.starts_with("POST /a HTTP/1.1\r\n") && !request.contains("proxy-authorization"), "{request}");
}

#[tokio::test]
async fn socks5_gets_the_name_and_not_an_address() {
    let target = Server::answering(EMPTY).await;
    let (proxy, mut asked) = socks5_proxy(target.address, 0).await;
    let client = client_by(&format!("socks5h://user:secret@{}", proxy.address), "");
    assert_eq!(client.exchange(post("http://hooks.example:8080/")).await.unwrap().status, 200);
    assert_eq!(asked.recv().await.unwrap(), b"\x05\x01\x00\x03\x0dhooks.example\x1f\x90");
}

#[tokio::test]
async fn what_the_guard_can_judge_is_refused_before_the_proxy_is_asked() {
    let (proxy, _asked) = http_proxy("127.0.0.1:1".parse().unwrap(), "").await;
    let client = client_by(&format!("http://{}", proxy.address), "");
    for url in [
        "http://127.0.0.1:8080/",
        "https://169.254.169.254/",
        "http://[::1]/",
        "http://localhost/",
        "https://db.internal/",
        "https://a.example:22/",
    ] {
        let error = client.exchange(post(url)).await.unwrap_err();
        assert_eq!(error.class(), "forbidden_address", "{url}");
    }
    assert_eq!(proxy.connections(), 0);
}

#[tokio::test]
async fn exceptions_go_directly_and_are_judged_in_full() {
    let target = Server::answering(EMPTY).await;
    let (proxy, _asked) = http_proxy(target.address, "").await;
    let by_proxy = Some(Proxy::parse(&format!("http://{}", proxy.address), "direct.example, 127.0.0.0/8").unwrap());
    let resolver = Script::new(&[&["127.0.0.1"], &["10.0.0.1"]]);
    let client =
        Egress::new(Settings { proxy: by_proxy, ..settings() }).unwrap().client_with_resolver(resolver.clone());
    let port = target.address.port();
    assert_eq!(client.exchange(post(format!("http://a.direct.example:{port}/"))).await.unwrap().status, 200);
    let error = client.exchange(post(format!("http://b.direct.example:{port}/"))).await.unwrap_err();
    assert_eq!(error.class(), "forbidden_address");
    assert_eq!((resolver.asked(), proxy.connections(), target.connections()), (2, 0, 1));
}

#[tokio::test]
async fn a_proxy_that_refuses_is_told_apart_from_the_endpoint() {
    let nowhere = "127.0.0.1:1".parse().unwrap();
    for (answer, wanted) in [
        ("HTTP/1.1 403 Forbidden\r\n\r\n", "the proxy answered 403 to CONNECT"),
        ("HTTP/1.1 407 Who are you\r\n\r\n", "the proxy refused our credentials"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "the proxy's answer is malformed"),
    ] {
        let (proxy, _asked) = http_proxy(nowhere, answer).await;
        let error =
            client_by(&format!("http://{}", proxy.address), "").exchange(post("https://a.example/")).await.unwrap_err();
        assert_eq!(error.class(), "proxy");
        assert!(error.operator_text().ends_with(wanted), "{}", error.operator_text());
        assert!(!error.customer_text().contains("40"));
    }
    let (proxy, _asked) = socks5_proxy(nowhere, 2).await;
    for (user, code) in [("user:secret", Some(2)), ("user:false!", None)] {
        let error = client_by(&format!("socks5://{user}@{}", proxy.address), "")
            .exchange(post("https://a.example/"))
            .await
            .unwrap_err();
        match (error, code) {
            (SendError::Proxy(ProxyError::Socks(answered)), Some(code)) => assert_eq!(answered, code),
            (SendError::Proxy(ProxyError::Credentials), None) => {}
            (error, _) => panic!("{error:?}"),
        }
    }
}

#[tokio::test]
async fn a_proxy_that_cannot_be_reached_or_hangs_is_the_proxy_s_fault() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client_by(&format!("http://{unused}"), "").exchange(post("https://a.example/")).await.unwrap_err();
    assert!(matches!(error, SendError::Proxy(ProxyError::Unreachable(_))), "{error:?}");
    assert!(!error.customer_text().contains("127.0.0.1"));

    let silent = Server::start(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    for scheme in ["http", "socks5"] {
        let client = client_by(&format!("{scheme}://{}", silent.address), "");
        let error = client.exchange(impatient("https://a.example/")).await.unwrap_err();
        assert!(matches!(error, SendError::Timeout { stage: Stage::Proxy, .. }), "{error:?}");
    }
}
