//! What a delivery sees when all goes well, and when the other end answers oddly but properly.

use bellwire_egress::Request;
use http::{HeaderMap, HeaderValue, Version};
use tokio::{io::AsyncWriteExt, sync::mpsc};

use crate::support::{Server, client, post, read_request};

#[tokio::test]
async fn a_request_arrives_as_it_was_given_and_the_answer_comes_back() {
    let (seen, mut requests) = mpsc::unbounded_channel();
    let server = Server::start(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            while let Some(request) = read_request(&mut stream).await {
                seen.send(request).unwrap();
                let answer = b"HTTP/1.1 202 Accepted\r\nretry-after: 7\r\ncontent-length: 5\r\n\r\nthank";
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;

    let mut headers = HeaderMap::new();
    headers.insert("webhook-id", HeaderValue::from_static("msg_1"));
    headers.insert("host", HeaderValue::from_static("elsewhere.example"));
    headers.insert("content-length", HeaderValue::from_static("1"));
    headers.insert("transfer-encoding", HeaderValue::from_static("chunked"));
    headers.insert("connection", HeaderValue::from_static("close"));
    let url = format!("http://user:secret@{}/hook?a=1", server.address);
    let response = client().exchange(Request { headers, ..post(url) }).await.unwrap();

    assert_eq!(response.status, 202);
    assert_eq!(response.headers["retry-after"], "7");
    assert_eq!(response.body, "thank");
    assert_eq!(response.http_version, Version::HTTP_11);
    assert!(!response.truncated && !response.reused && response.body_error.is_none());
    assert!(Some(response.timings.total) >= response.timings.first_byte);
    assert!(response.timings.first_byte >= response.timings.connect);

    let request = requests.recv().await.unwrap();
    let (head, body) = request.split_once("\r\n\r\n").unwrap();
    let mut lines: Vec<&str> = head.lines().collect();
    assert_eq!(lines.remove(0), "POST /hook?a=1 HTTP/1.1");
    lines.sort_unstable();
    let host = format!("host: {}", server.address);
    assert_eq!(lines, ["authorization: Basic dXNlcjpzZWNyZXQ=", "content-length: 16", &host, "webhook-id: msg_1"]);
    assert_eq!(body, "{\"bell\":\"rings\"}");
}

#[tokio::test]
async fn a_post_without_a_body_says_so() {
    let (seen, mut requests) = mpsc::unbounded_channel();
    let server = Server::start(move |mut stream, _| {
        let seen = seen.clone();
        async move {
            seen.send(read_request(&mut stream).await).unwrap();
            stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let response = client().exchange(Request { body: bytes::Bytes::new(), ..post(server.url()) }).await.unwrap();
    assert_eq!(response.status, 204);
    assert!(requests.recv().await.flatten().unwrap().contains("content-length: 0\r\n"));
}

#[tokio::test]
async fn redirects_are_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        for location in ["/hook", "http://169.254.169.254/latest/meta-data", "file:///etc/passwd"] {
            let answer = format!("HTTP/1.1 {status} Moved\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
            let server = Server::answering(answer).await;
            let response = client().exchange(post(server.url())).await.unwrap();
            assert_eq!((response.status, server.connections()), (status, 1));
        }
    }
}

#[tokio::test]
async fn a_compressed_body_stays_as_it_is() {
    let answer = b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 4\r\n\r\n\x1f\x8b\x08\x00";
    let server = Server::answering(answer).await;
    let response = client().exchange(post(server.url())).await.unwrap();
    assert_eq!(&response.body[..], b"\x1f\x8b\x08\x00");
}

#[tokio::test]
async fn the_status_decides_whatever_stands_around_it() {
    let long_reason = format!("HTTP/1.1 500 {}\r\ncontent-length: 0\r\n\r\n", "a".repeat(50_000));
    for (answer, status) in [
        (b"HTTP/1.1 200 \xff\xfe\r\ncontent-length: 0\r\n\r\n".to_vec(), 200),
        (b"HTTP/1.1 200\r\ncontent-length: 0\r\n\r\n".to_vec(), 200),
        (long_reason.into_bytes(), 500),
        (b"HTTP/1.1 410 Gone\r\ncontent-length: 2, 2\r\n\r\nno".to_vec(), 410),
        (b"HTTP/1.1 429 Slow\r\nretry-after: 10000000000\r\ncontent-length: 0\r\n\r\n".to_vec(), 429),
        (b"HTTP/1.1 503 Later\r\nretry-after: whenever\r\ncontent-length: 0\r\n\r\n".to_vec(), 503),
        (b"HTTP/1.1 999 Odd\r\ncontent-length: 0\r\n\r\n".to_vec(), 999),
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".to_vec(), 200),
        (b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\n\r\n".to_vec(), 101),
    ] {
        let server = Server::answering(answer.clone()).await;
        let response = client().exchange(post(server.url())).await;
        assert_eq!(response.map(|response| response.status).map_err(|error| error.operator_text()), Ok(status));
    }
}

#[tokio::test]
async fn a_body_without_a_length_ends_with_the_connection() {
    let server = Server::start(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nall of it").await.unwrap();
    })
    .await;
    let client = client();
    let response = client.exchange(post(server.url())).await.unwrap();
    assert_eq!((&response.body[..], response.body_error), (&b"all of it"[..], None));
    assert_eq!(response.http_version, Version::HTTP_10);
    assert_eq!(client.idle_connections(), 0);
}

#[tokio::test]
async fn a_chunked_body_is_put_together() {
    let answer =
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\nx-trailer: y\r\n\r\n";
    let server = Server::answering(answer).await;
    let client = client();
    let response = client.exchange(post(server.url())).await.unwrap();
    assert_eq!(response.body, "abcdefg");
    assert_eq!(client.idle_connections(), 1);
}

#[tokio::test]
async fn a_body_as_long_as_the_cap_is_whole() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\n12345678").await;
    for (cap, truncated) in [(9, false), (8, false), (7, true), (0, true)] {
        let client = client();
        let response = client.exchange(Request { response_body_max: cap, ..post(server.url()) }).await.unwrap();
        assert_eq!((response.truncated, response.body.len()), (truncated, cap.min(8)));
        assert_eq!(client.idle_connections(), usize::from(!truncated));
    }
}

#[tokio::test]
async fn an_exchange_can_be_spawned() {
    let server = Server::answering("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    let (client, request) = (client(), post(server.url()));
    let response = tokio::spawn(async move { client.exchange(request).await }).await.unwrap();
    assert_eq!(response.unwrap().status, 200);
}
