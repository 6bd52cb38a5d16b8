//! What one exchange costs the core that makes it: 1 kB POSTs to a server on loopback, over kept connections.
//!
//! `cargo run --release --example exchanges -- [exchanges] [at a time]`. Prints the processor time of the client's thread
//! for each exchange; beside it, as a yardstick, the same with hyper's connections each driven by a task of its own.
#![allow(clippy::unwrap_used, reason = "it may panic")]

use std::{cell::RefCell, net::SocketAddr, rc::Rc, time::Duration};

use bellwire_egress::{Client, Egress, Guard, Request, Settings, Target};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::LocalSet,
};

fn main() {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<usize>().unwrap());
    let exchanges = arguments.next().unwrap_or(200_000);
    let at_a_time = arguments.next().unwrap_or(64);
    let address = serve();
    for _ in 0..3 {
        report("bellwire", exchanges, || LocalSet::new().block_on(&runtime(), ours(address, exchanges, at_a_time)));
        report("a task per connection", exchanges, || {
            LocalSet::new().block_on(&runtime(), yardstick(address, exchanges, at_a_time));
        });
    }
}

fn report(name: &str, exchanges: usize, run: impl FnOnce()) {
    let (cpu, started) = (thread_cpu(), std::time::Instant::now());
    run();
    let (cpu, wall) = (thread_cpu() - cpu, started.elapsed());
    let micros = cpu.as_secs_f64() * 1e6 / exchanges as f64;
    println!("{name:24} {micros:6.2} µs of processor each, {:7.0}/s", exchanges as f64 / wall.as_secs_f64());
}

/// Linux keeps it in nanoseconds, as the first of three numbers.
fn thread_cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

fn headers() -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("content-type", HeaderValue::from_static("application/json"));
    headers.insert("user-agent", HeaderValue::from_static("bellwire/0.1"));
    headers.insert("webhook-id", HeaderValue::from_static("msg_2wTkCvAbqPyqVcLbKEMxcoQzSJT"));
    headers.insert("webhook-timestamp", HeaderValue::from_static("1795268292"));
    headers.insert("webhook-signature", HeaderValue::from_static("v1,K5oZfzN95Z9UVu1EsfQmfVNQhnkZ2pj9o9NDN/H/pI4="));
    headers
}

fn body() -> Bytes {
    Bytes::from(vec![b'x'; 1024])
}

async fn ours(address: SocketAddr, exchanges: usize, at_a_time: usize) {
    let guard = Guard { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Guard::default() };
    let mut settings = Settings { guard, ..Settings::default() };
    settings.pool.idle_per_origin_max = at_a_time;
    let client: Client = Egress::new(settings).unwrap().client().unwrap();
    let target = Target::parse(&format!("http://{address}/hook")).unwrap();
    let (headers, body) = (headers(), body());
    let workers = (0..at_a_time).map(|_| {
        let (client, target, headers, body) = (client.clone(), target.clone(), headers.clone(), body.clone());
        tokio::task::spawn_local(async move {
            for _ in 0..exchanges / at_a_time {
                let request = Request {
                    method: Method::POST,
                    target: target.clone(),
                    headers: headers.clone(),
                    body: body.clone(),
                    deadline: Duration::from_secs(30),
                    response_body_max: 65_536,
                };
                assert_eq!(client.exchange(request).await.unwrap().status, 200);
            }
        })
    });
    futures_util::future::join_all(workers).await;
}

type Idle = Rc<RefCell<Vec<http1::SendRequest<Full<Bytes>>>>>;

async fn yardstick(address: SocketAddr, exchanges: usize, at_a_time: usize) {
    let idle: Idle = Rc::default();
    let (headers, body) = (headers(), body());
    let workers = (0..at_a_time).map(|_| {
        let (idle, headers, body) = (Rc::clone(&idle), headers.clone(), body.clone());
        tokio::task::spawn_local(async move {
            for _ in 0..exchanges / at_a_time {
                let one = exchange_by_task(&idle, address, &headers, &body);
                tokio::time::timeout(Duration::from_secs(30), one).await.unwrap();
            }
        })
    });
    futures_util::future::join_all(workers).await;
}

async fn exchange_by_task(idle: &Idle, address: SocketAddr, headers: &HeaderMap, body: &Bytes) {
    let taken = idle.borrow_mut().pop();
    let mut sender = match taken {
        Some(sender) => sender,
        None => {
            let tcp = TcpStream::connect(address).await.unwrap();
            tcp.set_nodelay(true).unwrap();
            let (sender, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
            tokio::task::spawn_local(connection);
            sender
        }
    };
    sender.ready().await.unwrap();
    let mut request = http::Request::post("/hook").body(Full::new(body.clone())).unwrap();
    *request.headers_mut() = headers.clone();
    request.headers_mut().insert("host", HeaderValue::from_static("127.0.0.1:8080"));
    let response = sender.try_send_request(request).await.unwrap();
    assert_eq!(response.status(), 200);
    response.into_body().collect().await.unwrap().to_bytes();
    idle.borrow_mut().push(sender);
}

/// On another thread, with as little work as can be: all requests have the same length.
fn serve() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        runtime().block_on(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.set_nodelay(true).unwrap();
                tokio::spawn(async move {
                    let (mut buffer, mut filled) = (vec![0; 16 * 1024], 0);
                    while let Ok(read @ 1..) = stream.read(&mut buffer[filled..]).await {
                        filled += read;
                        if buffer[..filled].ends_with(&[b'x'; 1024]) {
                            filled = 0;
                            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
                        }
                    }
                });
            }
        });
    });
    address
}
