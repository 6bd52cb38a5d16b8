//! When a connection is used again, when it is not, and when a request may be sent a second time.

use std::future::Future;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::SeqCst},
};
use std::time::Duration;

use bellwire_egress::{Client, PoolSettings, SendError, Settings};
use tokio::{io::AsyncWriteExt, sync::Notify};

use crate::support::{Server, client, client_with, post, read_request, reset, settings};

/// What is kept of an idle connection makes no difference to anyone.
async fn on_ready_and_on_resting_connections<F: Future<Output = ()>>(test: impl Fn(Client) -> F) {
    test(client()).await;
    let pool = PoolSettings { ready_max: 0, ..PoolSettings::default() };
    test(client_with(Settings { pool, ..settings() })).await;
}

const EMPTY: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn one_connection_serves_one_request_after_another() {
    on_ready_and_on_resting_connections(one_connection_serves_one_request_after_another_on).await;
}

async fn one_connection_serves_one_request_after_another_on(client: Client) {
    let server = Server::answering(EMPTY).await;
    for n in 0..5 {
        assert_eq!(client.exchange(post(server.url())).await.unwrap().reused, n > 0);
    }
    assert_eq!((server.connections(), client.idle_connections()), (1, 1));
}

#[tokio::test]
async fn a_connection_closed_while_idle_costs_no_failure_and_no_duplicate() {
    on_ready_and_on_resting_connections(a_connection_closed_while_idle_costs_no_failure_and_no_duplicate_on).await;
}

async fn a_connection_closed_while_idle_costs_no_failure_and_no_duplicate_on(client: Client) {
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
    assert!(!client.exchange(post(server.url())).await.unwrap().reused);
    closed.notified().await;
    let second = client.exchange(post(server.url())).await.unwrap();
    assert_eq!((second.status, second.reused), (200, false));
    assert!(client.exchange(post(server.url())).await.unwrap().reused);
    assert_eq!((requests.load(SeqCst), server.connections()), (3, 2));
}

#[tokio::test]
async fn a_connection_reset_while_idle_costs_no_failure_either() {
    on_ready_and_on_resting_connections(a_connection_reset_while_idle_costs_no_failure_either_on).await;
}

async fn a_connection_reset_while_idle_costs_no_failure_either_on(client: Client) {
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
    client.exchange(post(server.url())).await.unwrap();
    closed.notify_one();
    tokio::task::yield_now().await;
    closed.notified().await;
    let second = client.exchange(post(server.url())).await.unwrap();
    assert_eq!((second.status, server.connections()), (200, 2));
}

#[tokio::test]
async fn a_request_that_was_written_is_never_sent_again() {
    on_ready_and_on_resting_connections(a_request_that_was_written_is_never_sent_again_on).await;
}

async fn a_request_that_was_written_is_never_sent_again_on(client: Client) {
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
    client.exchange(post(server.url())).await.unwrap();
    let error = client.exchange(post(server.url())).await.unwrap_err();
    assert!(matches!(error, SendError::ConnectionLost { bytes_written: true, .. }), "{error:?}");
    assert_eq!(error.class(), "response_lost");
    assert_eq!((requests.load(SeqCst), server.connections()), (2, 1));
}

#[tokio::test]
async fn a_second_response_to_one_request_is_not_taken_for_the_answer_to_the_next() {
    on_ready_and_on_resting_connections(a_second_response_to_one_request_is_not_taken_for_the_answer_to_the_next_on)
        .await;
}

async fn a_second_response_to_one_request_is_not_taken_for_the_answer_to_the_next_on(client: Client) {
    let answer = [EMPTY, b"HTTP/1.1 500 Smuggled\r\ncontent-length: 0\r\n\r\n"].concat();
    let server = Server::answering(answer).await;
    for _ in 0..3 {
        let response = client.exchange(post(server.url())).await.unwrap();
        assert_eq!((response.status, response.reused), (200, false));
    }
    assert_eq!(server.connections(), 3);
}

#[tokio::test]
async fn a_204_with_a_body_is_a_204_and_its_connection_is_not_used_again() {
    on_ready_and_on_resting_connections(a_204_with_a_body_is_a_204_and_its_connection_is_not_used_again_on).await;
}

async fn a_204_with_a_body_is_a_204_and_its_connection_is_not_used_again_on(client: Client) {
    let server = Server::answering("HTTP/1.1 204 No Content\r\ncontent-length: 3\r\n\r\nabc").await;
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
    let pool =
        PoolSettings { idle_per_origin_max: 2, idle_max: 3, ready_max: 1, idle_timeout: Duration::from_secs(60) };
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
async fn those_used_last_are_ready_and_all_are_used_again() {
    let pool = PoolSettings { ready_max: 2, ..PoolSettings::default() };
    let client = client_with(Settings { pool, ..settings() });
    let mut servers = Vec::new();
    for _ in 0..5 {
        servers.push(Server::answering(EMPTY).await);
    }
    for round in 0..4 {
        let two_each = servers.iter().flat_map(|server| [post(server.url()), post(server.url())]);
        let exchanges = two_each.map(|request| client.exchange(request));
        for response in futures_util::future::join_all(exchanges).await {
            assert_eq!(response.unwrap().reused, round > 0);
        }
        assert_eq!(client.idle_connections(), 10);
    }
    assert!(servers.iter().all(|server| server.connections() == 2));
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
