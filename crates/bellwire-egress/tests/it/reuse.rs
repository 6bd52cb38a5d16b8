//! When a connection is used again, when it is not, and when a request may be sent a second time.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};
use std::time::Duration;

use bellwire_egress::{PoolSettings, SendError, Settings};
use tokio::{io::AsyncWriteExt, sync::Notify};

use crate::support::{Server, client, client_with, post, read_request, reset, settings};

const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn one_connection_serves_one_request_after_another() {
    let server = Server::answering(EMPTY).await;
    let client = client();
    for n in 0..5 {
        assert_eq!(client.exchange(post(server.url())).await.unwrap().reused, n > 0);
    }
    assert_eq!((server.connections(), client.idle_connections()), (1, 1));
}

#[tokio::test]
async fn a_connection_closed_while_idle_costs_no_failure_and_no_duplicate() {
    let requests = Arc::new(AtomicUsize::new(0));
    let closed = Arc::new(Notify::new());
    let (count, tell) = (Arc::clone(&requests), Arc::clone(&closed));
    let server = Server::start(move |mut stream, n| {
        let (count, tell) = (Arc::clone(&count), Arc::clone(&tell));
        async move {
            while read_request(&mut stream).await.is_some() {
                count.fetch_add(1, SeqCst);
                stream.write_all(EMPTY).await.unwrap();
                if n % 2 == 0 {
                    drop(stream);
                    tell.notify_one();
                    return;
                }
            }
        }
    })
    .await;
    let client = client();
    assert!(!client.exchange(post(server.url())).await.unwrap().reused);
    closed.notified().await;
    let second = client.exchange(post(server.url())).await.unwrap();
    assert_eq!((second.status, second.reused), (200, false));
    assert!(client.exchange(post(server.url())).await.unwrap().reused);
    assert_eq!((requests.load(SeqCst), server.connections()), (3, 2));
}

#[tokio::test]
async fn a_connection_reset_while_idle_costs_no_failure_either() {
    let closed = Arc::new(Notify::new());
    let tell = Arc::clone(&closed);
    let server = Server::start(move |mut stream, _| {
        let tell = Arc::clone(&tell);
        async move {
            read_request(&mut stream).await;
            stream.write_all(EMPTY).await.unwrap();
            // The client has read the answer when it lets the next line go on.
            tell.notified().await;
            reset(stream);
            tell.notify_one();
        }
    })
    .await;
    let client = client();
    client.exchange(post(server.url())).await.unwrap();
    closed.notify_one();
    tokio::task::yield_now().await;
    closed.notified().await;
    let second = client.exchange(post(server.url())).await.unwrap();
    assert_eq!((second.status, server.connections()), (200, 2));
}

#[tokio::test]
async fn a_request_that_was_written_is_never_sent_again() {
    let requests = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&requests);
    let server = Server::start(move |mut stream, _| {
        let count = Arc::clone(&count);
        async move {
            read_request(&mut stream).await;
            count.fetch_add(1, SeqCst);
            stream.write_all(EMPTY).await.unwrap();
            read_request(&mut stream).await;
            count.fetch_add(1, SeqCst);
        }
    })
    .await;
    let client = client();
    client.exchange(post(server.url())).await.unwrap();
    let error = client.exchange(post(server.url())).await.unwrap_err();
    assert!(matches!(error, SendError::ConnectionLost { bytes_written: true, .. }), "{error:?}");
    assert_eq!(error.class(), "response_lost");
    assert_eq!((requests.load(SeqCst), server.connections()), (2, 1));
}

#[tokio::test]
async fn a_second_response_to_one_request_is_not_taken_for_the_answer_to_the_next() {
    let answer = [EMPTY, b"HTTP/1.1 500 Smuggled\r\ncontent-length: 0\r\n\r\n"].concat();
    let server = Server::answering(answer).await;
    let client = client();
    for _ in 0..3 {
        let response = client.exchange(post(server.url())).await.unwrap();
        assert_eq!((response.status, response.reused), (200, false));
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_204_with_a_body_is_a_204_and_its_connection_is_not_used_again() {
    let server = Server::answering("HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc").await;
    let client = client();
    for _ in 0..2 {
        let response = client.exchange(post(server.url())).await.unwrap();
        assert_eq!((response.status, response.body.len(), response.reused), (204, 0, false));
    }
}

#[tokio::test]
async fn connection_close_is_obeyed() {
    let server = Server::answering("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
    let client = client();
    client.exchange(post(server.url())).await.unwrap();
    assert_eq!(client.idle_connections(), 0);
}

#[tokio::test]
async fn the_pool_keeps_within_its_bounds() {
    let pool = PoolSettings { idle_per_origin_max: 2, idle_max: 3, idle_timeout: Duration::from_secs(60) };
    let client = client_with(Settings { pool, ..settings() });
    for expected in [2, 3, 3] {
        let server = Server::answering(EMPTY).await;
        let exchanges = (0..4).map(|_| client.exchange(post(server.url())));
        for response in futures_util::future::join_all(exchanges).await {
            response.unwrap();
        }
        assert_eq!(client.idle_connections(), expected);
    }
}

#[tokio::test]
async fn what_is_idle_for_too_long_is_closed_though_no_request_comes_by() {
    let pool = PoolSettings { idle_timeout: Duration::from_millis(40), ..PoolSettings::default() };
    let ended = Arc::new(Notify::new());
    let tell = Arc::clone(&ended);
    let server = Server::start(move |mut stream, _| {
        let tell = Arc::clone(&tell);
        async move {
            while read_request(&mut stream).await.is_some() {
                stream.write_all(EMPTY).await.unwrap();
            }
            tell.notify_one();
        }
    })
    .await;
    let client = client_with(Settings { pool, ..settings() });
    client.exchange(post(server.url())).await.unwrap();
    assert_eq!(client.idle_connections(), 1);
    ended.notified().await;
    assert_eq!(client.idle_connections(), 0);
}

#[tokio::test]
async fn another_host_at_the_same_address_gets_its_own_connection() {
    let server = Server::answering(EMPTY).await;
    let client = client();
    let port = server.address.port();
    for host in ["a.localhost", "b.localhost", "127.0.0.1"] {
        let response = client.exchange(post(format!("http://{host}:{port}/"))).await.unwrap();
        assert!(!response.reused);
    }
    assert_eq!(server.connections(), 3);
}
