//! Moves what the write-ahead log holds into the database, from a connection and a thread of its own, so that no commit waits for it.
//!
//! A passive checkpoint never blocks the writer, but under constant load it never quite catches up either, and the log can only
//! start over when it has. So when the log has grown beyond a bound, the last and small part is copied while the writer is held.
//!
//! There is one writer and one checkpointer (see the WAL-reset race of SQLite before 3.51.3), and no memory mapping.

use super::OpenError;
use super::fault::Fault;
use super::writer::Writer;
use crate::CommitError;
use parking_lot::{Condvar, Mutex};
use rusqlite::config::DbConfig;
use rusqlite::{CachedStatement, Connection};
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;

/// From how many bytes in the log a checkpoint is worth its sync.
pub(super) const START_BYTES: u64 = 4 << 20;
/// From how many bytes the writer is held for the last part.
const HOLD_BYTES: u64 = 16 << 20;
const PAGE_BYTES: u64 = 4096;

/// Set once, by whoever met a failed sync; from then on nothing is written.
pub(super) type Failure = Arc<OnceLock<String>>;

pub(super) struct Checkpointer {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    wanted: Mutex<Wanted>,
    changed: Condvar,
}

#[derive(Default)]
struct Wanted {
    checkpoint: bool,
    stop: bool,
}

impl Checkpointer {
    pub(super) fn start(
        connection: Connection,
        writer: Arc<Mutex<Writer>>,
        failure: Failure,
    ) -> Result<Checkpointer, OpenError> {
        let shared = Arc::new(Shared::default());
        let theirs = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("checkpoint".to_owned())
            .spawn(move || run(connection, &theirs, &writer, &failure))
            .map_err(|source| OpenError::Thread { source })?;
        Ok(Checkpointer { shared, thread: Some(thread) })
    }

    /// Asks for a checkpoint; returns at once.
    pub(super) fn wake(&self) {
        self.shared.wanted.lock().checkpoint = true;
        self.shared.changed.notify_one();
    }
}

impl Drop for Checkpointer {
    fn drop(&mut self) {
        self.shared.wanted.lock().stop = true;
        self.shared.changed.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn run(connection: Connection, shared: &Shared, writer: &Mutex<Writer>, failure: &Failure) {
    loop {
        {
            let mut wanted = shared.wanted.lock();
            while !wanted.checkpoint && !wanted.stop {
                shared.changed.wait(&mut wanted);
            }
            wanted.checkpoint = false;
            if wanted.stop {
                break;
            }
        }
        if failure.get().is_some() {
            continue;
        }
        if let Err(fault) = checkpoint(&connection, writer) {
            // The log still holds what could not be copied.
            if fault.is_refused_write() && writer.lock().no_room() {
                continue;
            }
            match fault.into_commit() {
                // The log keeps everything; the next commit asks again.
                CommitError::Full | CommitError::Busy(_) | CommitError::LeaseLost { .. } => {}
                CommitError::Unknown(reason) => {
                    tracing::error!(reason, "a checkpoint failed; nothing more is written");
                    let _ = failure.set(reason);
                }
            }
        }
        // Who asked meanwhile asked for what is done by now, or asks again.
        shared.wanted.lock().checkpoint = false;
    }
    if failure.get().is_some() {
        keep_log_on_close(&connection);
    }
}

/// After a failed sync, closing must not copy what may not be there.
pub(super) fn keep_log_on_close(connection: &Connection) {
    let _ = connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true);
}

fn checkpoint(connection: &Connection, writer: &Mutex<Writer>) -> Result<(), Fault> {
    let (log, done) = passive(connection)?;
    {
        let mut writer = writer.lock();
        if log < HOLD_BYTES && !writer.must_start_over() {
            writer.log_left(log - done);
            return Ok(());
        }
    }
    // The writer has gone on meanwhile, so the log is never all copied. A second pass for what came in during the first,
    // and the rest while nothing comes in: the next commit finds the log empty and starts it over.
    passive(connection)?;
    let mut held = writer.lock();
    let (log, done) = passive(connection)?;
    held.log_left(log - done);
    Ok(())
}

/// How many bytes the log has, and how many of them are copied; looks and does nothing.
pub(super) fn extent(connection: &Connection) -> Result<(u64, u64), Fault> {
    bytes_of(connection.prepare_cached("PRAGMA wal_checkpoint(NOOP)")?)
}

/// Copies what can be copied without waiting for anyone. Answers how many bytes the log has, and how many are copied.
fn passive(connection: &Connection) -> Result<(u64, u64), Fault> {
    bytes_of(connection.prepare_cached("PRAGMA wal_checkpoint(PASSIVE)")?)
}

fn bytes_of(mut statement: CachedStatement<'_>) -> Result<(u64, u64), Fault> {
    let pages = |pages: i64| u64::try_from(pages).unwrap_or(0) * PAGE_BYTES;
    Ok(statement.query_one([], |row| Ok((pages(row.get(1)?), pages(row.get(2)?))))?)
}
