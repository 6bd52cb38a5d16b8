//! The load: messages made over keep-alive connections, as fast as they are answered or at a fixed rate.
//!
//! Requests are prebuilt; for each only the mark is patched. At a fixed rate a message counts from the moment it was
//! meant to leave, however long it had to wait for a connection, so that a slow answer is not left out of the latencies
//! of what it held up.

use super::http::{Response, request_head};
use super::ledger::Ledger;
use super::measure::now_ns;
use super::payload::{self, Mark};
use super::threads::Threads;
use anyhow::Context as _;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc};

/// What a connection waits after it was refused, and between looks at a full window.
const PAUSE: Duration = Duration::from_millis(2);
/// An answer that takes longer counts as failed.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(60);
const RECEIVE_BYTES: usize = 16 << 10;

/// When messages leave.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Pace {
    /// On each connection as soon as the one before is answered, as long as no more than so many deliveries are
    /// outstanding, and until so many messages are made.
    Closed { outstanding_max: i64, messages_max: u64 },
    /// So many per second, evenly, whatever the answers.
    Rate(f64),
}

/// What to send, where and how.
#[derive(Clone, Debug)]
pub(crate) struct LoadPlan {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) token: String,
    /// The ids that the server gave to the applications.
    pub(crate) applications: Vec<String>,
    pub(crate) pace: Pace,
    pub(crate) connections: usize,
    pub(crate) threads: usize,
    pub(crate) payload_bytes: usize,
    pub(crate) idempotency_keys: bool,
    /// Instead of the API, sources take them.
    pub(crate) received: Option<Received>,
}

/// Webhooks as GitHub signs them.
#[derive(Clone, Debug)]
pub(crate) struct Received {
    /// The listener's path of each application's source.
    pub(crate) paths: Vec<String>,
    pub(crate) secret: String,
}

pub(crate) struct Load {
    threads: Threads,
    shared: Arc<Shared>,
}

struct Shared {
    ledger: Arc<Ledger>,
    plan: LoadPlan,
    stop: AtomicBool,
    /// At a fixed rate: when the next messages are meant to leave.
    turns: Mutex<mpsc::UnboundedReceiver<u64>>,
}

impl Load {
    pub(crate) fn start(plan: LoadPlan, ledger: Arc<Ledger>) -> anyhow::Result<Load> {
        let (sender, turns) = mpsc::unbounded_channel();
        let shared = Arc::new(Shared { ledger, plan, stop: AtomicBool::new(false), turns: Mutex::new(turns) });
        if let Pace::Rate(per_second) = shared.plan.pace {
            let shared = Arc::clone(&shared);
            std::thread::Builder::new()
                .name("bench-pace".into())
                .spawn(move || pace(per_second, &shared.stop, &sender))
                .context("no thread")?;
        }
        let mut threads = Threads::new("bench-load");
        let count = shared.plan.threads.clamp(1, shared.plan.connections);
        for thread in 0..count {
            let shared = Arc::clone(&shared);
            threads.spawn(async move || {
                let connections = (thread..shared.plan.connections).step_by(count);
                let tasks: Vec<_> = connections.map(|_| tokio::spawn(connection(Arc::clone(&shared)))).collect();
                for task in tasks {
                    task.await.context("a connection's task panicked")?;
                }
                Ok(())
            })?;
        }
        Ok(Load { threads, shared })
    }

    /// Makes no further messages, waits for the answers that are due.
    pub(crate) fn stop(self) {
        self.shared.stop.store(true, Relaxed);
        self.threads.join();
    }

    /// Waits until all messages of a bounded load are made and answered.
    pub(crate) fn has_ended(&self) -> bool {
        Arc::strong_count(&self.shared) == 1
    }
}

/// Says when messages are meant to leave. A thread of its own, since a runtime's timer counts in milliseconds.
fn pace(per_second: f64, stop: &AtomicBool, turns: &mpsc::UnboundedSender<u64>) {
    let start_ns = now_ns();
    for turn in 0_u64.. {
        let due_ns = start_ns + (turn as f64 * 1e9 / per_second) as u64;
        let wait_ns = due_ns.saturating_sub(now_ns());
        if wait_ns > 0 {
            std::thread::sleep(Duration::from_nanos(wait_ns));
        }
        if stop.load(Relaxed) || turns.send(due_ns).is_err() {
            return;
        }
    }
}

/// Makes one message after the other over one connection.
async fn connection(shared: Arc<Shared>) {
    let mut requests: Vec<_> = match &shared.plan.received {
        None => shared.plan.applications.iter().map(|id| Prepared::new(&shared.plan, id)).collect(),
        Some(received) => received.paths.iter().map(|path| Prepared::received(&shared.plan, received, path)).collect(),
    };
    let mut wire = Wire { address: shared.plan.address, stream: None, received: Vec::with_capacity(RECEIVE_BYTES) };
    while let Some(mark) = next_turn(&shared).await {
        let request = requests[shared.ledger.application_of(mark.sequence)].marked(mark);
        match tokio::time::timeout(ANSWER_WAIT_MAX, wire.exchange(request)).await {
            Ok(Ok(response)) if response.is_success() => shared.ledger.accept(mark, now_ns()),
            Ok(Ok(response)) => {
                shared.ledger.fail(Some(response.status), || wire.describe(response));
                tokio::time::sleep(PAUSE).await;
            }
            Ok(Err(error)) => {
                wire.stream = None;
                shared.ledger.fail(None, || format!("{error:#}"));
                tokio::time::sleep(PAUSE).await;
            }
            Err(_) => {
                wire.stream = None;
                shared.ledger.fail(None, || format!("no answer within {} s", ANSWER_WAIT_MAX.as_secs()));
            }
        }
    }
}

/// The next message to make, or `None` when there is none.
async fn next_turn(shared: &Shared) -> Option<Mark> {
    let ledger = &shared.ledger;
    let stopped = || shared.stop.load(Relaxed);
    let intended_ns = match shared.plan.pace {
        Pace::Rate(_) => {
            let due_ns = shared.turns.lock().await.recv().await?;
            if stopped() {
                return None;
            }
            due_ns
        }
        Pace::Closed { outstanding_max, .. } => {
            while ledger.outstanding() >= outstanding_max && !stopped() {
                tokio::time::sleep(PAUSE).await;
            }
            if stopped() {
                return None;
            }
            now_ns()
        }
    };
    let sequence = ledger.next_sequence();
    match shared.plan.pace {
        Pace::Closed { messages_max, .. } if sequence >= messages_max => None,
        _ => Some(Mark { run: ledger.run, sequence, intended_ns }),
    }
}

/// A request to create a message, whole but for its mark.
struct Prepared {
    bytes: Vec<u8>,
    mark_at: usize,
    idempotency_key_at: Option<usize>,
    signed: Option<Signed>,
}

/// How a webhook is signed anew for its mark.
struct Signed {
    key: Hmac<Sha256>,
    body_at: usize,
    signature_at: usize,
}

impl Prepared {
    fn new(plan: &LoadPlan, application: &str) -> Prepared {
        const BEFORE: &[u8] = b"{\"eventType\":\"bench.sent\",\"payload\":";
        const KEY_HEADER: &str = "idempotency-key: ";
        let (payload, mark_at) = payload::build(plan.payload_bytes);
        let body = [BEFORE, &payload, b"}"].concat();
        let more = if plan.idempotency_keys { format!("{KEY_HEADER}{:024}\r\n", 0) } else { String::new() };
        let path = format!("/api/v1/app/{application}/msg");
        let head = request_head("POST", &path, &plan.host, &plan.token, body.len(), &more);
        Prepared {
            mark_at: head.len() + BEFORE.len() + mark_at,
            idempotency_key_at: plan.idempotency_keys.then(|| head.len() - "\r\n\r\n".len() - 24),
            bytes: [head.as_bytes(), &body].concat(),
            signed: None,
        }
    }

    fn received(plan: &LoadPlan, received: &Received, path: &str) -> Prepared {
        const SIGNATURE: &str = "x-hub-signature-256: sha256=";
        let (body, mark_at) = payload::build(plan.payload_bytes);
        // The signature stands last, the delivery's number before it.
        let head = format!(
            "POST {path} HTTP/1.1\r\nhost: {}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\
             x-github-event: push\r\nx-github-delivery: {:024}\r\n{SIGNATURE}{:064}\r\n\r\n",
            plan.host,
            body.len(),
            0,
            0
        );
        let signature_at = head.len() - "\r\n\r\n".len() - 64;
        let key = Hmac::new_from_slice(received.secret.as_bytes()).expect("a key of any length is a key");
        Prepared {
            mark_at: head.len() + mark_at,
            idempotency_key_at: Some(signature_at - SIGNATURE.len() - "\r\n".len() - 24),
            signed: Some(Signed { key, body_at: head.len(), signature_at }),
            bytes: [head.as_bytes(), &body].concat(),
        }
    }

    fn marked(&mut self, mark: Mark) -> &[u8] {
        payload::write(&mut self.bytes, self.mark_at, mark);
        if let Some(at) = self.idempotency_key_at {
            payload::write_hex(&mut self.bytes[at..at + 8], u64::from(mark.run));
            payload::write_hex(&mut self.bytes[at + 8..at + 24], mark.sequence);
        }
        if let Some(Signed { key, body_at, signature_at }) = &self.signed {
            let signature = key.clone().chain_update(&self.bytes[*body_at..]).finalize().into_bytes();
            for (place, byte) in self.bytes[*signature_at..*signature_at + 64].chunks_exact_mut(2).zip(signature) {
                payload::write_hex(place, u64::from(byte));
            }
        }
        &self.bytes
    }
}

/// A connection to the server, made when it is needed.
struct Wire {
    address: SocketAddr,
    stream: Option<TcpStream>,
    received: Vec<u8>,
}

impl Wire {
    async fn exchange(&mut self, request: &[u8]) -> anyhow::Result<Response> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = TcpStream::connect(self.address).await.context("cannot connect")?;
                stream.set_nodelay(true)?;
                self.stream.insert(stream)
            }
        };
        stream.write_all(request).await.context("the request was not taken")?;
        self.received.clear();
        let response = loop {
            self.received.reserve(RECEIVE_BYTES);
            if stream.read_buf(&mut self.received).await.context("no response")? == 0 {
                anyhow::bail!("the connection was closed before the response");
            }
            if let Some(response) = Response::parse(&self.received)? {
                break response;
            }
        };
        if !response.keep_alive {
            self.stream = None;
        }
        Ok(response)
    }

    /// The response as a person wants to read it.
    fn describe(&self, response: Response) -> String {
        let body = response.body(&self.received);
        let text = String::from_utf8_lossy(&body);
        format!("answered {}: {}", response.status, text.chars().take(200).collect::<String>())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(idempotency_keys: bool) -> LoadPlan {
        LoadPlan {
            address: SocketAddr::from(([127, 0, 0, 1], 1)),
            host: "bench".into(),
            token: "token".into(),
            applications: vec!["app_1".into()],
            pace: Pace::Rate(1.0),
            connections: 1,
            threads: 1,
            payload_bytes: 256,
            idempotency_keys,
            received: None,
        }
    }

    #[test]
    fn a_webhook_is_signed_for_its_mark_and_has_a_number_of_its_own() {
        let received = Received { paths: vec!["/in/t".into()], secret: "It's a Secret to Everybody".into() };
        let mut prepared = Prepared::received(&plan(false), &received, "/in/t");
        let text =
            String::from_utf8(prepared.marked(Mark { run: 1, sequence: 2, intended_ns: 3 }).to_vec()).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("POST /in/t HTTP/1.1\r\n"), "{head}");
        assert!(head.contains("\r\nx-github-delivery: 000000010000000000000002\r\n"), "{head}");
        let supplied = bellwire_signature::source::Supplied {
            secrets: vec![received.secret.clone().into()],
            ..Default::default()
        };
        let github = bellwire_signature::source::preset("github").expect("a preset");
        let verifier = bellwire_signature::source::Verifier::new(&github.recipe, &supplied).expect("a verifier");
        let headers: Vec<(&str, &[u8])> = head
            .lines()
            .filter_map(|line| line.split_once(": "))
            .map(|(name, value)| (name, value.as_bytes()))
            .collect();
        let request = bellwire_signature::source::ReceivedRequest {
            method: "POST",
            scheme: "http",
            host: "bench",
            path_and_query: "/in/t",
            headers: &headers,
            body: body.as_bytes(),
            body_type: None,
        };
        let proof = verifier.verify(&request, 0, &bellwire_signature::source::NoKeys).expect("it is signed");
        assert_eq!(proof.dedupe_key.map(|key| key.text().to_owned()).as_deref(), Some("000000010000000000000002"));
    }

    #[test]
    fn a_request_carries_its_mark_and_nothing_else_changes() {
        let mut prepared = Prepared::new(&plan(false), "app_1");
        let mark = Mark { run: 1, sequence: 2, intended_ns: 3 };
        let before = prepared.bytes.clone();
        let request = prepared.marked(mark).to_vec();
        assert_eq!(payload::read(&request), Some(mark));
        assert_eq!(request.len(), before.len());
        let text = String::from_utf8(request).expect("text");
        let (head, body) = text.split_once("\r\n\r\n").expect("a head");
        assert!(head.starts_with("POST /api/v1/app/app_1/msg HTTP/1.1\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}", body.len())), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(body["payload"].to_string().len(), 256);
    }

    #[test]
    fn every_message_has_an_idempotency_key_of_its_own() {
        let mut prepared = Prepared::new(&plan(true), "app_1");
        let text = String::from_utf8(prepared.marked(Mark { run: 1, sequence: 2, intended_ns: 3 }).to_vec());
        let expected = "\r\nidempotency-key: 000000010000000000000002\r\n\r\n{";
        assert!(text.as_ref().is_ok_and(|text| text.contains(expected)), "{text:?}");
    }
}
