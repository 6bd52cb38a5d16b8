//! Servers that say what a test wants them to say, and clients that may call them.

use std::{
    future::Future,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use bellwire_egress::{Client, Egress, Guard, Request, Resolve, ResolveError, Settings, Target, resolve::Resolving};
use bytes::Bytes;
use http::{HeaderMap, Method};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

/// Long enough for loopback on a busy machine, short enough for a test to wait for.
pub const SHORT: Duration = Duration::from_millis(250);
pub const AMPLE: Duration = Duration::from_secs(10);

pub fn settings() -> Settings {
    Settings {
        guard: Guard { allowed_networks: vec!["127.0.0.0/8".parse().unwrap()], ..Guard::default() },
        ..Settings::default()
    }
}

pub fn client() -> Client {
    client_with(settings())
}

/// No test may ask the machine's DNS.
pub fn client_with(settings: Settings) -> Client {
    Egress::new(settings).unwrap().client_with_resolver(Script::new(&[]))
}

pub fn post(url: impl AsRef<str>) -> Request {
    Request {
        method: Method::POST,
        target: Target::parse(url.as_ref()).unwrap(),
        headers: HeaderMap::new(),
        body: Bytes::from_static(b"{\"bell\":\"rings\"}"),
        deadline: AMPLE,
        response_body_max: 64 * 1024,
    }
}

pub fn impatient(url: impl AsRef<str>) -> Request {
    Request { deadline: SHORT, ..post(url) }
}

/// A server that treats its `n`th connection, from 0, as `serve` says.
pub struct Server {
    pub address: SocketAddr,
    accepted: Arc<AtomicUsize>,
}

impl Server {
    pub async fn start<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream, usize) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let accepted = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&accepted);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, count.fetch_add(1, SeqCst)));
            }
        });
        Self { address, accepted }
    }

    /// Answers every request of every connection with these bytes and keeps the connection open.
    pub async fn answering(answer: impl Into<Vec<u8>>) -> Self {
        let answer: Arc<[u8]> = answer.into().into();
        Self::start(move |mut stream, _| {
            let answer = Arc::clone(&answer);
            async move {
                while read_request(&mut stream).await.is_some() {
                    if stream.write_all(&answer).await.is_err() {
                        return;
                    }
                }
            }
        })
        .await
    }

    pub fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    pub fn connections(&self) -> usize {
        self.accepted.load(SeqCst)
    }
}

/// One request with its body; `None` when the other end is done.
pub async fn read_request<S: AsyncReadExt + Unpin>(stream: &mut S) -> Option<String> {
    let mut bytes = Vec::new();
    loop {
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .find(|(name, _)| name.eq_ignore_ascii_case("content-length"))
            .map_or(0, |(_, value)| value.parse().unwrap());
        if body.len() >= length {
            return Some(text);
        }
    }
}

/// Closes with a reset instead of a proper end.
pub fn reset(stream: TcpStream) {
    stream.set_zero_linger().unwrap();
}

/// A resolver that gives prepared answers in turn, the last one for ever, and counts the questions.
pub struct Script {
    answers: Mutex<Vec<Vec<IpAddr>>>,
    asked: AtomicUsize,
}

impl Script {
    pub fn new(answers: &[&[&str]]) -> Arc<Self> {
        let parse = |answer: &&[&str]| answer.iter().map(|ip| ip.parse().unwrap()).collect();
        Arc::new(Self { answers: Mutex::new(answers.iter().map(parse).collect()), asked: AtomicUsize::new(0) })
    }

    pub fn asked(&self) -> usize {
        self.asked.load(SeqCst)
    }
}

impl Resolve for Script {
    fn resolve<'a>(&'a self, _name: &'a str) -> Resolving<'a> {
        self.asked.fetch_add(1, SeqCst);
        let mut answers = self.answers.lock().unwrap();
        let answer = if answers.len() > 1 { answers.remove(0) } else { answers.first().cloned().unwrap_or_default() };
        Box::pin(async move { if answer.is_empty() { Err(ResolveError::NotFound) } else { Ok(answer) } })
    }
}
