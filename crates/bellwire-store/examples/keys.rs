//! What a look-up takes among ten million dedupe keys, and what each of them takes in memory and on the disk. Messages that have one are
//! accepted, with all upkeep that is due, then known and unknown keys are looked for: as the server does it, and after a start.
//!
//! `cargo run --release -p bellwire-store --example keys -- [keys] [folder]`; fails if a look-up takes a millisecond or more (p99), or a key
//! more than 64 bytes.

use bellwire_model::{ApplicationKey, DedupeKey, FanOut, Message, MessageId, Sequence, SequenceSource, Timestamp};
use bellwire_store::{Accepted, Batch, EmbeddedStore, Settings, Store};
use sha2::{Digest, Sha256};
use std::error::Error;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A hundred a second, over more than a day.
const EVERY: Duration = Duration::from_millis(10);
const BATCH: u64 = 500;
const LOOK_UPS: u64 = 20_000;
/// The best of so many decides: what else the machine does is not meant.
const ROUNDS: u64 = 5;
const P99_MAX: Duration = Duration::from_millis(1);
const BYTES_MAX: u64 = 64;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let keys: u64 = arguments.next().map_or(Ok(10_000_000), |text| text.parse())?;
    let folder = arguments.next().map_or_else(|| std::env::temp_dir().join("bellwire-keys"), PathBuf::from);
    if folder.exists() {
        std::fs::remove_dir_all(&folder)?;
    }
    let found = measure(&folder, keys);
    std::fs::remove_dir_all(&folder)?;
    match found?.as_slice() {
        [] => Ok(()),
        missed => Err(missed.join("; ").into()),
    }
}

/// Answers what was not as it should be.
fn measure(folder: &Path, keys: u64) -> Result<Vec<String>, Box<dyn Error>> {
    let mut missed = Vec::new();
    let store = EmbeddedStore::open(folder, Settings::default())?;
    let empty = resident_bytes()?;
    let begun = Instant::now();
    let now = fill(&store, keys)?;
    println!("{keys} keys in {:.0} s", begun.elapsed().as_secs_f64());

    let memory = resident_bytes()?.saturating_sub(empty) / keys;
    println!("memory: {memory} bytes a key, caches and all; the process has {} MB", resident_bytes()? >> 20);
    let disk = bytes_on_disk(folder)? / keys;
    println!("disk: {disk} bytes a key");
    if memory > BYTES_MAX || disk > BYTES_MAX {
        missed.push(format!("{memory} bytes a key in memory and {disk} on the disk, and not {BYTES_MAX}"));
    }
    missed.extend(look_ups(&store, keys, "as it is")?);
    drop(store);

    let begun = Instant::now();
    let store = EmbeddedStore::open(folder, Settings::default())?;
    println!("opened in {:.0} ms", begun.elapsed().as_secs_f64() * 1e3);
    missed.extend(look_ups(&store, keys, "right after a start")?);
    let begun = Instant::now();
    while store.upkeep(now)? {}
    println!("all keys gone through in {:.1} s of upkeep", begun.elapsed().as_secs_f64());
    missed.extend(look_ups(&store, keys, "after that")?);
    Ok(missed)
}

fn fill(store: &EmbeddedStore, keys: u64) -> Result<Timestamp, Box<dyn Error>> {
    let mut now = Timestamp::from_seconds(1_800_000_000);
    let mut sequences = SequenceSource::after(Sequence::ZERO);
    for first in (0..keys).step_by(BATCH as usize) {
        let mut batch = Batch::default();
        for n in first..keys.min(first + BATCH) {
            now = now.plus(EVERY);
            batch.accepted.push(accepted(sequences.next(now), n));
        }
        batch.watermark = Some(sequences.last().next());
        store.commit(&batch)?;
        while store.upkeep(now)? {}
    }
    Ok(now)
}

fn accepted(sequence: Sequence, n: u64) -> Accepted {
    let id = MessageId::from_parts(sequence, [1; 12]);
    let message = Message::new(id, ApplicationKey(1), "a", "{}", Timestamp::FAR_FUTURE);
    Accepted { message: Arc::new(message), fan_out: FanOut::default(), idempotency: None, event: Some(key("known", n)) }
}

fn key(kind: &str, n: u64) -> DedupeKey {
    let digest = Sha256::new().chain_update(kind).chain_update(n.to_le_bytes()).finalize();
    let mut key = [0; 16];
    key.copy_from_slice(&digest[..16]);
    DedupeKey(key)
}

/// Looks for keys of all ages, and for some that nobody brought.
fn look_ups(store: &EmbeddedStore, keys: u64, when: &str) -> Result<Option<String>, Box<dyn Error>> {
    let mut missed = None;
    for (kind, is_there) in [("known", true), ("unknown", false)] {
        let mut rounds = Vec::new();
        for round in 0..ROUNDS {
            let mut took = Vec::new();
            for n in 0..LOOK_UPS {
                let number = (n * ROUNDS + round) * keys / (LOOK_UPS * ROUNDS);
                let key = key(kind, number);
                let begun = Instant::now();
                let found = store.find_event(key)?;
                took.push(begun.elapsed());
                if found.is_some() != is_there {
                    return Err(format!("{when}, the {kind} key {number}: {found:?}").into());
                }
            }
            took.sort_unstable();
            let at = |share: f64| took[((took.len() - 1) as f64 * share) as usize];
            rounds.push((at(0.99), at(0.5), at(1.0)));
        }
        let (p99, p50, max) = rounds.into_iter().min().unwrap_or_default();
        println!("{when}, {kind}: p50 {p50:?}, p99 {p99:?}, max {max:?}");
        if p99 >= P99_MAX {
            missed = Some(format!("{when}, {kind}: p99 {p99:?}, and not less than {P99_MAX:?}"));
        }
    }
    Ok(missed)
}

fn resident_bytes() -> Result<u64, Box<dyn Error>> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or("0");
    Ok(line.trim().trim_end_matches(" kB").parse::<u64>()? << 10)
}

fn bytes_on_disk(folder: &Path) -> Result<u64, Box<dyn Error>> {
    let connection = rusqlite::Connection::open(folder.join("bellwire.db"))?;
    let sql = "SELECT sum(pgsize) FROM dbstat WHERE name IN ('key_run', 'event_key')";
    let bytes: i64 = connection.query_row(sql, [], |row| row.get(0))?;
    Ok(bytes.unsigned_abs())
}
