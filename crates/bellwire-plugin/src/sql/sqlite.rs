//! SQLite: one thread for each file, which is its only writer here.

use super::{Bound, Failed, Value};
use parking_lot::Mutex;
use rusqlite::types::Value as Cell;
use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags, TransactionBehavior, params_from_iter};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// Files that are open at a time.
const FILES_MAX: usize = 32;
/// Transactions that wait for one file.
const WAITING_MAX: usize = 1_024;
/// A file that is not used for so long is closed.
const IDLE: Duration = Duration::from_secs(60);

/// The open files, of all shards.
#[derive(Debug, Default)]
pub struct Files(Mutex<HashMap<PathBuf, SyncSender<Job>>>);

/// How far a job is, so that whoever gives it up can stop it.
#[derive(Default)]
struct Running(Mutex<Stage>);

#[derive(Default)]
enum Stage {
    /// It has not begun, or is over.
    #[default]
    Idle,
    Runs(InterruptHandle),
    /// Nobody waits for it any more.
    GivenUp,
}

impl Running {
    /// Whether it may begin: what was given up would run with nobody left to stop it.
    fn begin(&self, handle: InterruptHandle) -> bool {
        let mut stage = self.0.lock();
        let may_begin = !matches!(*stage, Stage::GivenUp);
        if may_begin {
            *stage = Stage::Runs(handle);
        }
        may_begin
    }

    /// What the connection does next is another job's.
    fn end(&self) {
        *self.0.lock() = Stage::Idle;
    }
}

/// Stops a job that nobody waits for any more.
struct Stop(Arc<Running>);

impl Drop for Stop {
    fn drop(&mut self) {
        let mut stage = self.0.0.lock();
        if let Stage::Runs(handle) = std::mem::replace(&mut *stage, Stage::GivenUp) {
            handle.interrupt();
        }
    }
}

struct Job {
    running: Arc<Running>,
    statements: Vec<Bound>,
    deadline: Instant,
    answer: oneshot::Sender<Result<Vec<u64>, Failed>>,
}

impl Files {
    pub(super) async fn carry_out(
        &self,
        path: &str,
        statements: Vec<Bound>,
        within: Duration,
    ) -> Result<Vec<u64>, Failed> {
        let (answer, answered) = oneshot::channel();
        let stop = Stop(Arc::default());
        let job = Job { running: Arc::clone(&stop.0), statements, deadline: Instant::now() + within, answer };
        self.hand_in(Path::new(path), job)?;
        answered.await.unwrap_or_else(|_| Err(Failed::later("the database's thread ended")))
    }

    fn hand_in(&self, path: &Path, mut job: Job) -> Result<(), Failed> {
        let mut open = self.0.lock();
        if let Some(sender) = open.get(path) {
            match sender.try_send(job) {
                Ok(()) => return Ok(()),
                Err(TrySendError::Full(_)) => return Err(Failed::later("too many transactions wait for the database")),
                // It was idle, and has ended.
                Err(TrySendError::Disconnected(back)) => job = back,
            }
            open.remove(path);
        }
        if open.len() >= FILES_MAX {
            return Err(Failed::later(format!("{FILES_MAX} databases are open already")));
        }
        let (sender, jobs) = sync_channel(WAITING_MAX);
        let file = path.to_owned();
        std::thread::Builder::new()
            .name("plugin-sqlite".to_owned())
            .spawn(move || serve(&file, &jobs))
            .map_err(|error| Failed::later(format!("no thread for the database: {error}")))?;
        let handed = sender.try_send(job).map_err(|_| Failed::later("the database's thread ended"));
        open.insert(path.to_owned(), sender);
        // Those whose thread has ended meanwhile give their places back.
        handed
    }
}

fn serve(path: &Path, jobs: &Receiver<Job>) {
    let mut connection = None;
    loop {
        match jobs.recv_timeout(IDLE) {
            Ok(Job { running, statements, deadline, answer }) => {
                if answer.is_closed() {
                    continue;
                }
                let done = carry_out(path, &mut connection, &running, &statements, deadline);
                running.end();
                let _ = answer.send(done);
            }
            // Only forgotten as a connection: the thread is cheap, and the sender is known to others.
            Err(RecvTimeoutError::Timeout) => connection = None,
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

fn carry_out(
    path: &Path,
    kept: &mut Option<Connection>,
    running: &Running,
    statements: &[Bound],
    deadline: Instant,
) -> Result<Vec<u64>, Failed> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Err(Failed::later("the database was busy until the deadline"));
    }
    let connection = match kept {
        Some(connection) => connection,
        None => kept.insert(open(path).map_err(failed)?),
    };
    connection.busy_timeout(left).map_err(failed)?;
    if !running.begin(connection.get_interrupt_handle()) {
        return Err(Failed::later("the database was busy until nobody waited any more"));
    }
    let done = transact(connection, statements);
    if done.is_err() && !connection.is_autocommit() {
        // A transaction that could not be rolled back goes with its connection.
        *kept = None;
    }
    done.map_err(failed)
}

fn transact(connection: &mut Connection, statements: &[Bound]) -> rusqlite::Result<Vec<u64>> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut changed = Vec::with_capacity(statements.len());
    for Bound { text, values } in statements {
        let mut statement = transaction.prepare_cached(text)?;
        let mut rows = statement.query(params_from_iter(values.iter().map(cell)))?;
        let mut read = 0;
        while rows.next()?.is_some() {
            read += 1;
        }
        drop(rows);
        changed.push(if statement.readonly() { read } else { transaction.changes() });
    }
    transaction.commit()?;
    Ok(changed)
}

fn open(path: &Path) -> rusqlite::Result<Connection> {
    // No URI: a `?` in a path is a `?`. And none is made: it would have no tables, and what it does not know ends a delivery.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(path, flags)?;
    connection.pragma_update(None, "foreign_keys", true)?;
    Ok(connection)
}

/// Numbers as numbers if they fit, whatever else as its text: no digit is lost.
fn cell(value: &Value) -> Cell {
    match value {
        Value::Null => Cell::Null,
        Value::Text(text) => Cell::Text(text.clone()),
        Value::Json(json) => match json.as_str() {
            "true" => Cell::Integer(1),
            "false" => Cell::Integer(0),
            json => match (json.parse::<i64>(), json.parse::<f64>()) {
                (Ok(whole), _) => Cell::Integer(whole),
                (_, Ok(real)) if real.to_string() == json => Cell::Real(real),
                _ => Cell::Text(json.to_owned()),
            },
        },
    }
}

fn failed(error: rusqlite::Error) -> Failed {
    let passing = match error.sqlite_error_code() {
        Some(
            ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::OperationInterrupted
            | ErrorCode::SystemIoFailure
            | ErrorCode::DiskFull
            | ErrorCode::CannotOpen
            | ErrorCode::OutOfMemory
            | ErrorCode::ReadOnly
            | ErrorCode::PermissionDenied
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::SchemaChanged
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::NotADatabase,
        ) => true,
        Some(_) => false,
        None => !matches!(error, rusqlite::Error::MultipleStatement | rusqlite::Error::InvalidParameterCount(..)),
    };
    Failed { forever: !passing, late: false, text: format!("the database says: {error}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A deadline can pass while the file is opened. What began then could not be stopped, and its thread was gone for every other
    /// transaction in the file.
    #[test]
    fn what_was_given_up_before_it_began_does_not_run() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("test.db");
        let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
        let running = Arc::<Running>::default();
        drop(Stop(Arc::clone(&running)));
        let (done, is_done) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let statements = [Bound { text: endless.to_owned(), values: Vec::new() }];
            let deadline = Instant::now() + Duration::from_secs(60);
            let _ = done.send(carry_out(&path, &mut None, &running, &statements, deadline));
        });
        let failed = is_done.recv_timeout(Duration::from_secs(10)).expect("it does not run").expect_err("nor answers");
        assert!(!failed.forever, "{failed:?}");
    }
}
