//! What the embedded layout costs: every message is accepted in one batch and its attempt recorded in the next, each batch one
//! durable commit, upkeep included. Prints CPU time and bytes beside the rate, since only those mean anything on a busy machine.
//!
//! `cargo run --release -p bellwire-store --example layout -- [messages] [folder] [batch]`; with a batch size, that one alone

use bellwire_model::{
    AfterAttempt, ApplicationKey, Attempt, AttemptId, Delivery, EndpointKey, FanOut, Message, MessageId, Outcome,
    Sequence, SequenceSource, Timestamp, Trigger, Waiting,
};
use bellwire_store::{Accepted, Batch, Change, EmbeddedStore, Settings, Store};
use bytes::Bytes;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

const APPLICATIONS: u32 = 10;
const ENDPOINTS: u32 = 50;
const PAYLOAD_BYTES: usize = 1_000;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let messages: usize = arguments.next().map_or(Ok(300_000), |text| text.parse())?;
    let folder = arguments.next().map_or_else(|| std::env::temp_dir().join("bellwire-layout"), PathBuf::from);
    let only: Option<usize> = arguments.next().map(|text| text.parse()).transpose()?;
    println!("batch  messages/s  CPU us/message  bytes/message  commit p50/p99/max ms  file MB");
    for (batch, messages) in [(8, messages / 3), (64, messages), (256, messages)] {
        if only.is_none_or(|only| only == batch) {
            flow(&folder, batch, messages)?;
        }
    }
    if only.is_none() {
        backlog(&folder, 1_000_000)?;
    }
    std::fs::remove_dir_all(&folder)?;
    Ok(())
}

/// Accepts and records, batch after batch.
fn flow(folder: &Path, batch_size: usize, messages: usize) -> Result<(), Box<dyn std::error::Error>> {
    let store = fresh(folder)?;
    let mut load = Load::new();
    let mut commits = Vec::with_capacity(messages / batch_size + 1);
    let (cpu, written, start) = (cpu()?, written()?, Instant::now());
    let mut last: Vec<Arc<Message>> = Vec::new();
    let mut building = Duration::ZERO;
    for _ in 0..messages / batch_size {
        let begun = Instant::now();
        let mut batch = Batch::default();
        for _ in 0..batch_size {
            batch.accepted.push(load.accepted());
        }
        for message in &last {
            batch.attempts.push(load.attempt(message));
        }
        batch.watermark = batch.accepted.first().map(|accepted| accepted.message.sequence());
        last = batch.accepted.iter().map(|accepted| Arc::clone(&accepted.message)).collect();
        building += begun.elapsed();
        let begun = Instant::now();
        // What a commit waits for, upkeep included.
        if store.upkeep_owed() {
            store.upkeep(load.now)?;
        }
        store.commit(&batch)?;
        commits.push(begun.elapsed());
    }
    let (elapsed, done) = (start.elapsed(), (messages / batch_size * batch_size) as f64);
    let cpu = (self::cpu()? - cpu).saturating_sub(building);
    let written = self::written()? - written;
    commits.sort_unstable();
    let at = |share: f64| commits[((commits.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3;
    println!(
        "{batch_size:>5}  {:>10.0}  {:>14.1}  {:>13.0}  {:>6.2} {:>6.2} {:>6.2}  {:>7}",
        done / elapsed.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / done,
        written as f64 / done,
        at(0.5),
        at(0.99),
        at(1.0),
        store.bytes_on_disk().unwrap_or(0) >> 20,
    );
    Ok(())
}

/// How long a start takes that finds a million deliveries waiting.
fn backlog(folder: &Path, waiting: usize) -> Result<(), Box<dyn std::error::Error>> {
    let store = fresh(folder)?;
    let mut load = Load::new();
    for _ in 0..waiting / 1_000 {
        let mut batch = Batch::default();
        for _ in 0..1_000 {
            let accepted = load.accepted();
            let delivery = Delivery { endpoint: accepted.fan_out[0], message: accepted.message.sequence() };
            let due = load.now.plus(Duration::from_micros(load.random() % 3_600_000_000));
            let waiting = Waiting { delivery, due, next: 1, trigger: Trigger::Scheduled };
            batch.changes.push(Change::Wait { waiting, owed: false });
            batch.accepted.push(accepted);
        }
        batch.watermark = Some(load.sequences.last().next());
        store.commit(&batch)?;
        while store.upkeep_owed() {
            store.upkeep(load.now)?;
        }
    }
    let leased = Instant::now();
    let found = store.lease_due(EndpointKey(1), false, Timestamp::FAR_FUTURE, 100)?.len();
    println!("{waiting} waiting: lease of {found} in {:.2} ms", leased.elapsed().as_secs_f64() * 1e3);
    let counted = Instant::now();
    let pending = store.ledger()?.pending;
    println!("ledger counts {pending} pending in {:.0} ms", counted.elapsed().as_secs_f64() * 1e3);
    drop(store);
    let opened = Instant::now();
    let store = EmbeddedStore::open(folder, Settings::default())?;
    let open = opened.elapsed();
    let recovered = store.recover()?;
    println!(
        "open {:.1} ms, recover {:.1} ms: {} unfinished, {} endpoints waiting",
        open.as_secs_f64() * 1e3,
        (opened.elapsed() - open).as_secs_f64() * 1e3,
        recovered.unfinished.len(),
        recovered.waiting.len(),
    );
    Ok(())
}

fn fresh(folder: &Path) -> Result<EmbeddedStore, Box<dyn std::error::Error>> {
    if folder.exists() {
        std::fs::remove_dir_all(folder)?;
    }
    Ok(EmbeddedStore::open(folder, Settings::default())?)
}

struct Load {
    now: Timestamp,
    sequences: SequenceSource,
    state: u64,
    payload: Bytes,
}

impl Load {
    fn new() -> Self {
        let payload = Bytes::from(vec![b'x'; PAYLOAD_BYTES]);
        let now = Timestamp::from_seconds(1_800_000_000);
        Load { now, sequences: SequenceSource::after(Sequence::ZERO), state: 1, payload }
    }

    fn random(&mut self) -> u64 {
        self.state = self.state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        self.state >> 16
    }

    fn tail(&mut self) -> [u8; 12] {
        let mut tail = [0; 12];
        tail[..8].copy_from_slice(&self.random().to_be_bytes());
        tail
    }

    fn accepted(&mut self) -> Accepted {
        self.now = self.now.plus(Duration::from_micros(10));
        let sequence = self.sequences.next(self.now);
        let endpoint = self.random() as u32 % ENDPOINTS;
        let id = MessageId::from_parts(sequence, self.tail());
        let application = ApplicationKey(1 + endpoint % APPLICATIONS);
        let expires_at = self.now.plus(Duration::from_secs(90 * 24 * 3600));
        let message = Message::new(id, application, "invoice.paid", self.payload.clone(), expires_at);
        let fan_out = FanOut::from_slice(&[EndpointKey(1 + endpoint)]);
        Accepted { message: Arc::new(message), fan_out, idempotency: None, event: None }
    }

    fn attempt(&mut self, message: &Message) -> Attempt {
        // The engine keeps an endpoint's lane; here the fan-out is found again by the same rule.
        let endpoint = EndpointKey(message.application.0);
        Attempt {
            id: AttemptId::from_parts(self.sequences.next(self.now), self.tail()),
            delivery: Delivery { endpoint, message: message.sequence() },
            application: message.application,
            number: 1,
            trigger: Trigger::Scheduled,
            url: Arc::from("https://receiver.example/webhooks/bellwire"),
            outcome: Some(Outcome {
                started_at: self.now,
                duration: Duration::from_millis(12),
                result: Ok(200),
                body: Bytes::from_static(b"ok"),
                retry_after: None,
                directive: None,
                url: None,
                phases: Default::default(),
            }),
            after: AfterAttempt::Delivered,
        }
    }
}

/// The CPU time of this process, all threads.
fn cpu() -> Result<Duration, Box<dyn std::error::Error>> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Ok(Duration::from_millis(ticks * 10))
}

/// The bytes that this process has had written.
fn written() -> Result<u64, Box<dyn std::error::Error>> {
    let io = std::fs::read_to_string("/proc/self/io")?;
    let line = io.lines().find_map(|line| line.strip_prefix("write_bytes: "));
    Ok(line.unwrap_or("0").trim().parse()?)
}
