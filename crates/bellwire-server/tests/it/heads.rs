//! Requests that are refused before they are read whole: who sends them learns why, and is not just cut off.

use crate::program::Program;
use serde_json::json;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

#[test]
fn a_head_or_a_body_that_is_too_large_is_answered_before_the_connection_is_closed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let get = |path: &str, header: &str| {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-a: {header}\r\n\r\n")
    };
    let post = |bytes: usize| {
        let head = format!("authorization: Bearer {}\r\ncontent-type: application/json", server.token);
        let body = " ".repeat(bytes);
        format!("POST /api/v1/app HTTP/1.1\r\nhost: x\r\n{head}\r\ncontent-length: {bytes}\r\n\r\n{body}")
    };
    let many = "y\r\nx-b: ".repeat(5_000);
    let long = |bytes: usize| "y".repeat(bytes);
    for (what, request, expected) in [
        ("20 kB of one header", get("/api/v1/health/ping", &long(20_000)), 204),
        ("200 kB of one header", get("/api/v1/health/ping", &long(200_000)), 431),
        ("a megabyte of one header", get("/api/v1/health/ping", &long(1_000_000)), 431),
        ("five thousand headers", get("/api/v1/health/ping", &many), 431),
        ("a megabyte of a path", get(&format!("/{}", long(1_000_000)), "y"), 431),
        ("a body of 20 MB", post(20 << 20), 413),
    ] {
        for _ in 0..5 {
            assert_eq!(server.raw(&request).0, expected, "{what}");
        }
    }
}

#[test]
fn a_request_that_never_ends_does_not_hold_up_a_server_that_stops() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let mut producer = TcpStream::connect(server.address).unwrap();
    let head = format!(
        "POST /api/v1/app/acme/msg/stream HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ntransfer-encoding: chunked\r\n\r\n",
        server.token
    );
    let line = "{\"eventType\": \"a.b\", \"payload\": {}}\n";
    write!(producer, "{head}{:x}\r\n{line}\r\n", line.len()).unwrap();
    assert!(producer.read(&mut [0; 4096]).unwrap() > 0, "it is answered line by line");
    let begun = Instant::now();
    assert!(server.stop().success());
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}
