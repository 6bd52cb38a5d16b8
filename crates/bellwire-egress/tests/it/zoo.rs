//! Endpoints that hang, break off, dribble, flood or speak nonsense. Each gives a precise reason, within its deadline, and
//! leaves no connection behind that could be used again.

use std::time::{Duration, Instant};

use bellwire_egress::{BodyError, SendError, Stage};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpSocket, TcpStream},
};

use crate::support::{SHORT, Server, client, impatient, post, read_request, reset};

/// Reads the request, says this, then waits for ever.
async fn saying_and_hanging(start: impl Into<Vec<u8>>) -> Server {
    let start = start.into();
    Server::start(move |mut stream, _| {
        let start = start.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(&start).await.unwrap();
            std::future::pending::<()>().await;
        }
    })
    .await
}

/// Reads the request, says this, then closes; with a reset if `abruptly`.
async fn saying_and_closing(start: impl Into<Vec<u8>>, abruptly: bool) -> Server {
    let start = start.into();
    Server::start(move |mut stream, _| {
        let start = start.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(&start).await.unwrap();
            if abruptly {
                // What was written must have left before the reset overtakes it.
                tokio::time::sleep(Duration::from_millis(20)).await;
                reset(stream);
            }
        }
    })
    .await
}

async fn timed_out_at(server: &Server) -> (Stage, Option<u16>) {
    let client = client();
    let started = Instant::now();
    let error = client.exchange(impatient(server.url())).await.unwrap_err();
    let SendError::Timeout { stage, status, limit } = error else { panic!("{error:?}") };
    assert_eq!(limit, SHORT);
    assert!(started.elapsed() < SHORT * 4);
    assert_eq!(client.idle_connections(), 0);
    (stage, status)
}

#[tokio::test]
async fn one_that_does_not_accept_times_out() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let error = client().exchange(impatient(format!("http://{address}/"))).await.unwrap_err();
    assert!(matches!(error, SendError::Timeout { stage: Stage::Response, .. }), "{error:?}");

    // With the queue of the kernel full, not even the connection is made.
    let mut queued = Vec::new();
    while let Ok(stream) = tokio::time::timeout(Duration::from_millis(50), TcpStream::connect(address)).await {
        queued.push(stream);
    }
    let error = client().exchange(impatient(format!("http://{address}/"))).await.unwrap_err();
    assert!(matches!(error, SendError::Timeout { stage: Stage::Connect, .. }), "{error:?}");
}

#[tokio::test]
async fn one_that_hangs_times_out_with_the_stage() {
    let early = saying_and_hanging("").await;
    assert_eq!(timed_out_at(&early).await, (Stage::Response, None));
    let in_the_head = saying_and_hanging("HTTP/1.1 200 OK\r\ncontent-le").await;
    assert_eq!(timed_out_at(&in_the_head).await, (Stage::Response, None));
    let in_the_body = saying_and_hanging("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n123").await;
    assert_eq!(timed_out_at(&in_the_body).await, (Stage::Body, Some(200)));
    let without_length = saying_and_hanging("HTTP/1.1 500 No\r\n\r\n123").await;
    assert_eq!(timed_out_at(&without_length).await, (Stage::Body, Some(500)));
}

#[tokio::test]
async fn one_that_dribbles_times_out() {
    for (head, stage) in [("", Stage::Response), ("HTTP/1.1 200 OK\r\ncontent-length: 10000\r\n\r\n", Stage::Body)] {
        let server = Server::start(move |mut stream, _| async move {
            read_request(&mut stream).await;
            stream.write_all(head.as_bytes()).await.unwrap();
            for byte in b"HTTP/1.1 200 OK\r\nx-slow: ".iter().chain(std::iter::repeat(&b'a')) {
                if stream.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        assert_eq!(timed_out_at(&server).await.0, stage);
    }
}

#[tokio::test]
async fn one_that_does_not_read_times_out() {
    let server = Server::start(|stream, _| async move {
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let large = bellwire_egress::Request { body: vec![b'x'; 32 << 20].into(), ..impatient(server.url()) };
    let error = client().exchange(large).await.unwrap_err();
    assert!(matches!(error, SendError::Timeout { stage: Stage::Response, .. }), "{error:?}");
}

#[tokio::test]
async fn a_refused_connection_is_a_connect_failure() {
    let unused = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = client().exchange(post(format!("http://{unused}/"))).await.unwrap_err();
    assert_eq!((error.class(), &*error.customer_text()), ("connect", "the connection was refused"));
}

#[tokio::test]
async fn one_that_breaks_off_before_a_response_has_lost_it() {
    for abruptly in [false, true] {
        for start in ["", "HTTP/1.1 2", "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n", "HTTP/1.1 100 Continue\r\n\r\n"] {
            let server = saying_and_closing(start, abruptly).await;
            let client = client();
            let error = client.exchange(post(server.url())).await.unwrap_err();
            assert!(matches!(error, SendError::ConnectionLost { bytes_written: true, .. }), "{start}: {error:?}");
            assert_eq!((server.connections(), client.idle_connections()), (1, 0));
        }
    }
}

#[tokio::test]
async fn one_that_resets_at_once_gives_a_reason() {
    let server = Server::start(|stream, _| async move { reset(stream) }).await;
    let error = client().exchange(post(server.url())).await.unwrap_err();
    assert!(matches!(error.class(), "response_lost" | "connection_lost" | "connect"), "{error:?}");
}

#[tokio::test]
async fn one_that_breaks_off_in_the_body_is_judged_by_its_status() {
    for abruptly in [false, true] {
        for start in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n123",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\n123\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n9\r\n123",
        ] {
            let server = saying_and_closing(start, abruptly).await;
            let client = client();
            let response = client.exchange(post(server.url())).await.unwrap();
            assert_eq!((response.status, response.body_error), (200, Some(BodyError::Lost)), "{start}");
            assert_eq!(client.idle_connections(), 0);
        }
    }
}

#[tokio::test]
async fn an_early_200_followed_by_a_reset_is_a_200_or_a_lost_response() {
    let server = Server::start(|mut stream, _| async move {
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        reset(stream);
    })
    .await;
    let client = client();
    let large = bellwire_egress::Request { body: vec![b'x'; 8 << 20].into(), ..post(server.url()) };
    match client.exchange(large).await {
        Ok(response) => assert_eq!(response.status, 200),
        Err(error) => {
            assert!(matches!(error.class(), "response_lost" | "connection_lost" | "malformed_response"), "{error:?}")
        }
    }
    assert_eq!(client.idle_connections(), 0);
}

#[tokio::test]
async fn an_early_answer_to_a_request_that_is_not_read_stands_and_its_connection_is_not_used_again() {
    let server = Server::start(|mut stream, _| async move {
        let mut first = [0; 1];
        tokio::io::AsyncReadExt::read_exact(&mut stream, &mut first).await.unwrap();
        stream.write_all(b"HTTP/1.1 413 Too Large\r\ncontent-length: 0\r\n\r\n").await.unwrap();
        std::future::pending::<()>().await;
    })
    .await;
    let client = client();
    let large = bellwire_egress::Request { body: vec![b'x'; 32 << 20].into(), ..impatient(server.url()) };
    assert_eq!(client.exchange(large).await.unwrap().status, 413);
    assert_eq!(client.idle_connections(), 0);
}

#[tokio::test]
async fn nonsense_is_a_malformed_response() {
    let header_block = format!("HTTP/1.1 200 OK\r\nx-large: {}\r\n\r\n", "a".repeat(1 << 20));
    let many_headers = format!("HTTP/1.1 200 OK\r\n{}\r\n", "x-many: 1\r\n".repeat(10_000));
    let cookies = format!("HTTP/1.1 200 OK\r\n{}content-length: 0\r\n\r\n", "set-cookie: a=b\r\n".repeat(101));
    for answer in [
        b"SSH-2.0-OpenSSH_9.2p1\r\n\r\n".to_vec(),
        b"hello, this is HTTP/0.9\r\n\r\n".to_vec(),
        b"<html>nine</html>\r\n\r\n".to_vec(),
        b"HTTP/2.0 200 OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 20 OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 099 OK\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nx-nul: a\0b\r\ncontent-length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\nbad name: x\r\ncontent-length: 0\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-length: -1\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 99999999999999999999999\r\n\r\n".to_vec(),
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        b"HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n".to_vec(),
        header_block.into_bytes(),
        many_headers.into_bytes(),
        cookies.into_bytes(),
    ] {
        let shown = String::from_utf8_lossy(&answer[..answer.len().min(60)]).into_owned();
        let server = Server::answering(answer).await;
        let client = client();
        let error = client.exchange(post(server.url())).await.expect_err(&shown);
        assert_eq!(error.class(), "malformed_response", "{shown}: {error:?}");
        assert_eq!((client.idle_connections(), server.connections()), (0, 1));
    }
}

#[tokio::test]
async fn a_bad_chunk_leaves_the_status_standing() {
    for chunk in
        ["zz\r\nabc\r\n", "3 garbage\r\nabc\r\n", "3\r\nabcXX0\r\n\r\n", "fffffffffffffffffff\r\nabc", "-1\r\n\r\n"]
    {
        let server = saying_and_hanging(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunk}")).await;
        let client = client();
        let response = client.exchange(impatient(server.url())).await.unwrap();
        assert_eq!((response.status, response.body_error), (200, Some(BodyError::Malformed)), "{chunk}");
        assert_eq!(client.idle_connections(), 0);
    }
}

/// Says `start`, then `flood` for as long as anyone listens; the count of bytes that could be written goes to the test.
async fn flooding(start: &'static str, flood: &'static str) -> (Server, tokio::sync::mpsc::UnboundedReceiver<usize>) {
    let (report, reports) = tokio::sync::mpsc::unbounded_channel();
    let server = Server::start(move |mut stream, _| {
        let report = report.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(start.as_bytes()).await.unwrap();
            let flood = flood.repeat(65_536 / flood.len());
            let mut written = 0;
            while stream.write_all(flood.as_bytes()).await.is_ok() {
                written += flood.len();
            }
            report.send(written).unwrap();
        }
    })
    .await;
    (server, reports)
}

#[tokio::test]
async fn an_endless_body_is_read_to_the_cap_and_judged_by_its_status() {
    for (start, flood) in [
        ("HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n", "0123456789abcdef"),
        ("HTTP/1.1 200 OK\r\n\r\n", "0123456789abcdef"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "10\r\n0123456789abcdef\r\n"),
        ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", "1\r\na\r\n"),
    ] {
        let (server, mut reports) = flooding(start, flood).await;
        let client = client();
        let response = client.exchange(post(server.url())).await.unwrap();
        assert_eq!((response.status, response.truncated, response.body.len()), (200, true, 64 * 1024));
        assert_eq!(client.idle_connections(), 0);
        // What the kernel's buffers hold, and no more.
        assert!(reports.recv().await.unwrap() < 32 << 20);
    }
}

#[tokio::test]
async fn storms_before_the_response_are_cut_short() {
    for flood in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n"] {
        let (server, mut reports) = flooding("", flood).await;
        let error = client().exchange(post(server.url())).await.unwrap_err();
        assert_eq!(error.class(), "malformed_response", "{error:?}");
        assert!(reports.recv().await.unwrap() < 32 << 20);
    }
}

#[tokio::test]
async fn trailers_without_end_are_cut_short() {
    let (server, _reports) =
        flooding("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", "x-trailer: 1\r\n").await;
    let response = client().exchange(post(server.url())).await.unwrap();
    assert_eq!((response.status, response.body_error), (200, Some(BodyError::Malformed)));
}
