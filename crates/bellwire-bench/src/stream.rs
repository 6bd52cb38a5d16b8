//! Readers of live streams: what the sink is to endpoints that are posted to.
//!
//! They run in the bench's own process, as sink and load do, and enter every message of a server-sent event into the [`Ledger`].

use super::ledger::{Group, Ledger};
use super::measure::now_ns;
use super::payload;
use super::threads::Threads;
use anyhow::{Context as _, bail};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

/// One that is not in its place after so long is not going to be.
const OPEN_WAIT_MAX: Duration = Duration::from_secs(60);
/// No event of the bench is longer; so no line is, either.
const LINE_BYTES_MAX: usize = 16 << 20;

/// Streams that are open until this is dropped.
pub(crate) struct Streams {
    _threads: Threads,
}

/// Whose streams to read, and where to enter what they bring.
#[derive(Clone)]
pub(crate) struct StreamPlan {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) token: String,
    /// The path of each stream and the number of its reader among those of its application: each is entered as an endpoint of its own.
    pub(crate) streams: Vec<(String, usize)>,
}

impl Streams {
    /// Opens all of them, shared out among `threads`, and returns when each is in its place: what is accepted from now on reaches it.
    ///
    /// # Errors
    /// When one of them cannot be opened.
    pub(crate) fn open(plan: &StreamPlan, ledger: &Arc<Ledger>, threads: usize) -> anyhow::Result<Streams> {
        let threads = threads.clamp(1, plan.streams.len().max(1));
        let (opened, results) = channel();
        let mut running = Threads::new("bench-stream");
        for thread in 0..threads {
            let (mut plan, ledger, opened) = (plan.clone(), Arc::clone(ledger), opened.clone());
            plan.streams = plan.streams.into_iter().skip(thread).step_by(threads).collect();
            running.spawn(async move || {
                read_all(&plan, &ledger, &opened).await;
                Ok(())
            })?;
        }
        drop(opened);
        for _ in 0..threads {
            results.recv().context("a thread of streams ended")??;
        }
        Ok(Streams { _threads: running })
    }
}

async fn read_all(plan: &StreamPlan, ledger: &Arc<Ledger>, opened: &Sender<anyhow::Result<()>>) {
    let mut reading = JoinSet::new();
    for (path, slot) in &plan.streams {
        let open = tokio::time::timeout(OPEN_WAIT_MAX, open(plan, path)).await;
        match open.context("a stream was not opened in time").flatten() {
            Ok(body) => reading.spawn(read(body, *slot, Arc::clone(ledger))),
            Err(error) => {
                // Nobody waits any longer if another thread's failed before.
                let _ = opened.send(Err(error));
                return;
            }
        };
    }
    let _ = opened.send(Ok(()));
    while reading.join_next().await.is_some() {}
}

async fn open(plan: &StreamPlan, path: &str) -> anyhow::Result<Incoming> {
    let stream = TcpStream::connect(plan.address).await.context("cannot connect for a stream")?;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the stream; why does not matter, as what did not come is missing in the ledger.
    tokio::spawn(connection);
    let request = Request::get(path)
        .header("host", &plan.host)
        .header("authorization", format!("Bearer {}", plan.token))
        .header("accept", "text/event-stream")
        .body(Empty::<Bytes>::new())?;
    let response = sender.send_request(request).await.context("a stream was not answered")?;
    if !response.status().is_success() {
        let status = response.status();
        let body = response.into_body().collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        bail!("GET {path} was answered with {status}: {}", String::from_utf8_lossy(&body));
    }
    Ok(response.into_body())
}

async fn read(mut body: Incoming, slot: usize, ledger: Arc<Ledger>) {
    let mut lines = Lines::default();
    while let Some(Ok(frame)) = body.frame().await {
        let Ok(data) = frame.into_data() else { continue };
        let arrived_ns = now_ns();
        lines.take(&data, |line| {
            if let Some(mark) = line.strip_prefix(b"data:").and_then(payload::read) {
                ledger.deliver(mark, slot, Group::Healthy, arrived_ns);
            }
        });
        if lines.unfinished.len() > LINE_BYTES_MAX {
            return;
        }
    }
}

/// Finds lines in what comes in pieces.
#[derive(Default)]
struct Lines {
    unfinished: Vec<u8>,
}

impl Lines {
    fn take(&mut self, mut piece: &[u8], mut line: impl FnMut(&[u8])) {
        while let Some(end) = piece.iter().position(|byte| *byte == b'\n') {
            if self.unfinished.is_empty() {
                line(&piece[..end]);
            } else {
                self.unfinished.extend_from_slice(&piece[..end]);
                line(&self.unfinished);
                self.unfinished.clear();
            }
            piece = &piece[end + 1..];
        }
        self.unfinished.extend_from_slice(piece);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_found_however_they_are_cut() {
        let text = b"id: 1\ndata: a\n\ndata: bc\nda";
        for size in 1..=text.len() {
            let (mut lines, mut found) = (Lines::default(), Vec::new());
            for piece in text.chunks(size) {
                lines.take(piece, |line| found.push(String::from_utf8_lossy(line).into_owned()));
            }
            assert_eq!(found, ["id: 1", "data: a", "", "data: bc"], "in pieces of {size}");
            assert_eq!(lines.unfinished, b"da");
        }
    }
}
