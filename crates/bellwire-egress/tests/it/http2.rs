//! HTTP/2, when the other end chooses it: shared by many exchanges, and hostile in ways of its own.

use std::sync::Arc;

use bellwire_egress::{BodyError, Client, PoolSettings, Request, SendError, Settings, Stage, TlsSettings};
use bytes::Bytes;
use h2::{Reason, server};
use http::{HeaderMap, HeaderValue, StatusCode, Version};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    support::{SHORT, Server, client_with, impatient, post},
    tls::Authority,
};

type Connection = server::Connection<TlsStream<TcpStream>, Bytes>;

/// TLS that offers these protocols, and who vouches for it.
fn offering(protocols: &[&str]) -> (Authority, TlsAcceptor) {
    let authority = Authority::new();
    let mut config = authority.server_config(|_| {});
    config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
    (authority, TlsAcceptor::from(Arc::new(config)))
}

/// A server that speaks HTTP/2, and a client that trusts it. `serve` gets each connection after the preface.
async fn pair<F, Fut>(builder: server::Builder, serve: F) -> (Server, Client)
where
    F: Fn(Connection, usize) -> Fut + Send + Sync + 'static,
    Fut: Future<Output = ()> + Send + 'static,
{
    let (authority, acceptor) = offering(&["h2"]);
    let serve = Arc::new(serve);
    let server = Server::start(move |stream, n| {
        let (acceptor, builder, serve) = (acceptor.clone(), builder.clone(), Arc::clone(&serve));
        async move {
            let Ok(stream) = acceptor.accept(stream).await else { return };
            let Ok(connection) = builder.handshake(stream).await else { return };
            serve(connection, n).await;
        }
    })
    .await;
    (server, client_with(authority.settings()))
}

fn answer(respond: &mut server::SendResponse<Bytes>, status: StatusCode, body: &'static str) {
    let response = http::Response::builder().status(status).body(()).unwrap();
    let mut stream = respond.send_response(response, body.is_empty()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::from_static(body.as_bytes()), true).unwrap();
    }
}

async fn answering(mut connection: Connection) {
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        answer(&mut respond, StatusCode::OK, "thanks");
    }
}

fn url(server: &Server) -> String {
    format!("https://localhost:{}/hook?a=1", server.address.port())
}

#[tokio::test]
async fn requests_share_one_connection() {
    let (server, client) = pair(server::Builder::new(), |connection, _| answering(connection)).await;
    let first = client.exchange(post(url(&server))).await.unwrap();
    assert_eq!(
        (first.status, &first.body[..], first.http_version, first.reused),
        (200, &b"thanks"[..], Version::HTTP_2, false)
    );
    let more = (0..50).map(|_| client.exchange(post(url(&server))));
    for response in futures_util::future::join_all(more).await {
        assert!(response.unwrap().reused);
    }
    assert_eq!((server.connections(), client.idle_connections()), (1, 1));
}

#[tokio::test]
async fn the_request_is_addressed_as_http2_wants_it() {
    let (seen, mut requests) = tokio::sync::mpsc::unbounded_channel();
    let (server, client) = pair(server::Builder::new(), move |mut connection, _| {
        let seen = seen.clone();
        async move {
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                seen.send(request.map(drop)).unwrap();
                answer(&mut respond, StatusCode::OK, "");
            }
        }
    })
    .await;
    let mut headers = HeaderMap::new();
    headers.insert("connection", HeaderValue::from_static("keep-alive"));
    headers.insert("webhook-id", HeaderValue::from_static("msg_1"));
    client.exchange(Request { headers, ..post(url(&server)) }).await.unwrap();
    let request = requests.recv().await.unwrap();
    assert_eq!(request.uri().to_string(), url(&server));
    let mut names: Vec<_> = request.headers().keys().map(|name| name.as_str()).collect();
    names.sort_unstable();
    assert_eq!(names, ["content-length", "webhook-id"]);
}

#[tokio::test]
async fn no_more_requests_at_a_time_than_the_other_end_allows() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(1);
    let (server, client) = pair(builder, |connection, _| answering(connection)).await;
    let exchanges = (0..8).map(|_| client.exchange(post(url(&server))));
    for response in futures_util::future::join_all(exchanges).await {
        assert_eq!(response.unwrap().status, 200);
    }
}

#[tokio::test]
async fn one_that_allows_no_streams_times_out() {
    let mut builder = server::Builder::new();
    builder.max_concurrent_streams(0);
    let (server, client) = pair(builder, |connection, _| answering(connection)).await;
    // The settings may arrive after the first request has begun, but not after the second.
    let _ = client.exchange(impatient(url(&server))).await;
    let error = client.exchange(impatient(url(&server))).await.map(|response| response.status).unwrap_err();
    assert!(matches!(error.class(), "timeout" | "response_lost" | "malformed_response"), "{error:?}");
}

#[tokio::test]
async fn after_a_goaway_the_next_request_opens_another_connection() {
    let (server, client) = pair(server::Builder::new(), |mut connection, _| async move {
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        answer(&mut respond, StatusCode::OK, "");
        connection.graceful_shutdown();
        while connection.accept().await.is_some() {}
    })
    .await;
    for n in 1..=3 {
        assert_eq!(client.exchange(post(url(&server))).await.unwrap().status, 200);
        // The farewell is read by the connection's own task.
        for _ in 0..100 {
            tokio::task::yield_now().await;
        }
        assert_eq!(server.connections(), n);
    }
}

#[tokio::test]
async fn a_goaway_instead_of_a_response_is_a_lost_response() {
    let (server, client) = pair(server::Builder::new(), |mut connection, _| async move {
        let (_request, _respond) = connection.accept().await.unwrap().unwrap();
        connection.abrupt_shutdown(Reason::ENHANCE_YOUR_CALM);
        while connection.accept().await.is_some() {}
    })
    .await;
    let error = client.exchange(post(url(&server))).await.unwrap_err();
    assert!(matches!(error, SendError::ConnectionLost { bytes_written: true, .. }), "{error:?}");
    assert_eq!((server.connections(), client.idle_connections()), (1, 0));
}

#[tokio::test]
async fn a_reset_stream_is_a_lost_response_and_is_not_repeated() {
    for reason in [Reason::REFUSED_STREAM, Reason::INTERNAL_ERROR] {
        let (server, client) = pair(server::Builder::new(), move |mut connection, _| async move {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                respond.send_reset(reason);
            }
        })
        .await;
        let error = client.exchange(post(url(&server))).await.unwrap_err();
        assert!(matches!(error, SendError::ConnectionLost { bytes_written: true, .. }), "{error:?}");
        assert_eq!(server.connections(), 1);
    }
}

#[tokio::test]
async fn one_that_hangs_times_out_and_its_connection_gets_no_more_requests() {
    let (server, client) = pair(server::Builder::new(), |mut connection, _| async move {
        let mut held = Vec::new();
        while let Some(Ok((_, respond))) = connection.accept().await {
            held.push(respond);
        }
    })
    .await;
    for n in 1..=2 {
        let error = client.exchange(impatient(url(&server))).await.unwrap_err();
        assert!(matches!(error, SendError::Timeout { stage: Stage::Response, limit: SHORT, .. }), "{error:?}");
        assert_eq!((server.connections(), client.idle_connections()), (n, 0));
    }
}

#[tokio::test]
async fn a_body_that_never_ends_times_out_with_the_status() {
    let (server, client) = pair(server::Builder::new(), |mut connection, _| async move {
        let mut held = Vec::new();
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            stream.send_data(Bytes::from_static(b"and"), false).unwrap();
            held.push(stream);
        }
    })
    .await;
    let error = client.exchange(impatient(url(&server))).await.unwrap_err();
    assert!(matches!(error, SendError::Timeout { stage: Stage::Body, status: Some(200), .. }), "{error:?}");
}

#[tokio::test]
async fn empty_frames_without_end_are_cut_short() {
    let (server, client) = pair(server::Builder::new(), |mut connection, _| async move {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            tokio::spawn(async move {
                while stream.send_data(Bytes::new(), false).is_ok() {
                    tokio::task::yield_now().await;
                }
            });
        }
    })
    .await;
    match client.exchange(impatient(url(&server))).await {
        Ok(response) => assert_eq!((response.status, response.body_error), (200, Some(BodyError::Malformed))),
        Err(error) => assert!(matches!(error, SendError::Timeout { stage: Stage::Body, .. }), "{error:?}"),
    }
    assert_eq!(client.idle_connections(), 0);
}

#[tokio::test]
async fn a_large_body_is_cut_at_the_cap_and_the_connection_stays() {
    let (server, client) = pair(server::Builder::new(), |mut connection, _| async move {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            let mut stream = respond.send_response(http::Response::new(()), false).unwrap();
            stream.send_data(vec![b'x'; 1 << 20].into(), true).unwrap();
        }
    })
    .await;
    for _ in 0..3 {
        let response = client.exchange(post(url(&server))).await.unwrap();
        assert_eq!((response.status, response.truncated, response.body.len()), (200, true, 64 * 1024));
    }
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn too_large_and_too_many_headers_are_refused() {
    for (size, count) in [(100 * 1024, 1), (1, 101)] {
        let (server, client) = pair(server::Builder::new(), move |mut connection, _| async move {
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let mut response = http::Response::new(());
                for _ in 0..count {
                    response.headers_mut().append("x-many", HeaderValue::try_from("a".repeat(size)).unwrap());
                }
                let _ = respond.send_response(response, true);
            }
        })
        .await;
        let error = client.exchange(impatient(url(&server))).await.unwrap_err();
        assert_eq!(error.class(), "malformed_response", "{error:?}");
        assert_eq!(client.idle_connections(), 0);
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed_in_time() {
    let (authority, acceptor) = offering(&["h2"]);
    let ended = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&ended);
    let server = Server::start(move |stream, _| {
        let (acceptor, tell) = (acceptor.clone(), Arc::clone(&tell));
        async move {
            answering(server::handshake(acceptor.accept(stream).await.unwrap()).await.unwrap()).await;
            tell.notify_one();
        }
    })
    .await;
    let pool = PoolSettings { idle_timeout: std::time::Duration::from_millis(40), ..PoolSettings::default() };
    let client = client_with(Settings { pool, ..authority.settings() });
    client.exchange(post(url(&server))).await.unwrap();
    ended.notified().await;
    assert_eq!(client.idle_connections(), 0);
}

#[tokio::test]
async fn http1_is_spoken_where_http2_is_switched_off() {
    let (authority, acceptor) = offering(&["h2", "http/1.1"]);
    let server = Server::start(move |stream, _| {
        let acceptor = acceptor.clone();
        async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            crate::support::read_request(&mut stream).await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
            tokio::io::AsyncWriteExt::write_all(&mut stream, answer).await.unwrap();
        }
    })
    .await;
    let trusted = authority.settings();
    let tls = TlsSettings { http2: false, ..trusted.tls.clone() };
    let client = client_with(Settings { tls, ..trusted });
    assert_eq!(client.exchange(post(url(&server))).await.unwrap().http_version, Version::HTTP_11);
}

#[tokio::test]
async fn a_flood_of_settings_ends_with_the_exchange() {
    const EMPTY_SETTINGS: [u8; 9] = [0, 0, 0, 4, 0, 0, 0, 0, 0];
    let (authority, acceptor) = offering(&["h2"]);
    let ended = Arc::new(tokio::sync::Notify::new());
    let tell = Arc::clone(&ended);
    let server = Server::start(move |stream, _| {
        let (acceptor, tell) = (acceptor.clone(), Arc::clone(&tell));
        async move {
            let stream = acceptor.accept(stream).await.unwrap();
            let (mut reader, mut writer) = tokio::io::split(stream);
            tokio::spawn(async move { tokio::io::copy(&mut reader, &mut tokio::io::sink()).await });
            while tokio::io::AsyncWriteExt::write_all(&mut writer, &EMPTY_SETTINGS.repeat(100)).await.is_ok() {}
            tell.notify_one();
        }
    })
    .await;
    let client = client_with(authority.settings());
    let error = client.exchange(impatient(url(&server))).await.unwrap_err();
    assert!(matches!(error.class(), "timeout" | "response_lost" | "malformed_response"), "{error:?}");
    ended.notified().await;
    assert_eq!(client.idle_connections(), 0);
}
