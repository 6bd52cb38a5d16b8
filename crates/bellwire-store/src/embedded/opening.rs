//! Opening a store: who may, on which SQLite, and how its schema is brought up to date.

use super::checkpoint::{Checkpointer, Failure};
use super::folder::{self, Folder, IndexRoom, Reserve};
use super::index::Tail;
use super::readers::Readers;
use super::sealed::Sealer;
use super::writer::Writer;
use super::{EmbeddedStore, MIGRATIONS};
use crate::ReadError;
use bellwire_model::{Sequence, Timestamp};
use parking_lot::{Mutex, RwLock};
use refinery_core::{Migration, Runner};
use rusqlite::{Connection, OpenFlags};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicBool;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use std::{fmt, io};

/// The WAL-reset race that could lose commits was fixed in this version.
const SQLITE_MIN: i32 = 3_051_003;

/// What the operator can choose.
#[derive(Clone)]
pub struct Settings {
    /// How long messages and their attempts are kept.
    pub messages: Duration,
    /// From how many bytes on the oldest messages are removed before their time; never if absent.
    pub bytes_max: Option<u64>,
    /// How much space is kept back for a full disk, at most; of a small disk less.
    pub reserve_bytes: u64,
    /// How many records one slice of upkeep takes.
    pub slice: usize,
    /// Seals the secrets of endpoints; without it they are written in clear.
    pub sealer: Option<Arc<dyn Sealer>>,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            messages: Duration::from_secs(90 * 24 * 3600),
            bytes_max: None,
            reserve_bytes: 32 << 20,
            slice: 2_000,
            sealer: None,
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("messages", &self.messages)
            .field("bytes_max", &self.bytes_max)
            .field("reserve_bytes", &self.reserve_bytes)
            .field("slice", &self.slice)
            .field("sealer", &self.sealer.is_some())
            .finish()
    }
}

impl Settings {
    /// When a message goes as a whole. An hour of grace: what expires about then needs no exception of its own.
    pub(super) fn retention_ends(&self, message: Sequence) -> Timestamp {
        let grace = Duration::from_secs(3600).min(self.messages / 24);
        message.time().plus(self.messages - grace)
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the data folder {} is in use by another process", folder.display())]
    Held {
        /// Which folder.
        folder: PathBuf,
    },
    /// The folder or a file in it could not be made or locked.
    #[error("the folder cannot be made, read or locked")]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A folder that is to be read holds no store.
    #[error("the folder {} holds no store", folder.display())]
    Missing {
        /// Which folder.
        folder: PathBuf,
    },
    /// The linked SQLite can lose commits.
    #[error("SQLite {found} has a defect that can lose commits; 3.51.3 or later is needed")]
    OldSqlite {
        /// Its version.
        found: &'static str,
    },
    /// The file system cannot hold a write-ahead log.
    #[error("the file system of {} cannot hold a write-ahead log: SQLite chose the journal mode {mode}", folder.display())]
    NoLog {
        /// Which folder.
        folder: PathBuf,
        /// What SQLite chose instead.
        mode: String,
    },
    /// The schema could not be brought up to date.
    #[error("the schema of {} could not be brought up to date", folder.display())]
    Schema {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: Box<refinery_core::Error>,
    },
    /// A later version of the program has changed its schema, and may keep things where this one does not look.
    #[error(
        "the data folder {} was used by a later version: its schema is at step {found}, and this version knows {known}",
        folder.display()
    )]
    Newer {
        /// Which folder.
        folder: PathBuf,
        /// The last step of its schema.
        found: i32,
        /// The last one that this program knows.
        known: i32,
    },
    /// SQLite refused.
    #[error("the database in {} could not be opened", folder.display())]
    Database {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: rusqlite::Error,
    },
    /// What it holds could not be read.
    #[error("the database in {} could not be read", folder.display())]
    Read {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: ReadError,
    },
    /// No thread for the checkpoints.
    #[error("the checkpoint thread could not be started")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl EmbeddedStore {
    /// Opens the store in the folder `path`, which is made if it is not there, and holds it against any other process.
    ///
    /// # Errors
    /// [`OpenError`]; [`OpenError::Held`] names the folder that another process has. Of one that is [`OpenError::Newer`], nothing is changed.
    pub fn open(path: &Path, settings: Settings) -> Result<Self, OpenError> {
        check_version()?;
        let folder = Folder::hold(path)?;
        let path = folder.path().to_owned();
        let mut connection = open_writer(&path)?;
        migrate(&mut connection, &path)?;
        let index_room = IndexRoom::take(&path);
        let reserve = Reserve::take(&path, settings.reserve_bytes);
        let failure: Failure = Arc::new(OnceLock::new());
        let tail = Arc::new(RwLock::new(Tail::default()));
        let writer = Writer::open(connection, settings.clone(), Arc::clone(&tail), Arc::clone(&failure), reserve)
            .map_err(|fault| OpenError::Read { folder: path.clone(), source: fault.into() })?;
        let has_tasks = AtomicBool::new(writer.has_tasks());
        let writer = Arc::new(Mutex::new(writer));
        let second = open_writer(&path)?;
        let checkpointer = Checkpointer::start(second, Arc::clone(&writer), failure)?;
        Ok(EmbeddedStore {
            checkpointer: Some(checkpointer),
            writer: Some(writer),
            readers: Readers::open(&path)?,
            tail,
            owed_from: settings.slice.saturating_mul(2),
            has_tasks,
            settings,
            path,
            _index_room: Some(index_room),
            _folder: Some(folder),
        })
    }

    /// Opens the store in the folder `path` to read only, also while another process holds it. Every commit is refused as busy.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open_reading(path: &Path) -> Result<Self, OpenError> {
        check_version()?;
        let there = folder::database(path).try_exists();
        if !there.map_err(|source| OpenError::Folder { folder: path.to_owned(), source })? {
            return Err(OpenError::Missing { folder: path.to_owned() });
        }
        refuse_newer(&open_reader(path)?, path)?;
        Ok(EmbeddedStore {
            checkpointer: None,
            writer: None,
            readers: Readers::open(path)?,
            tail: Arc::default(),
            owed_from: usize::MAX,
            has_tasks: AtomicBool::new(false),
            settings: Settings::default(),
            path: path.to_owned(),
            _index_room: None,
            _folder: None,
        })
    }

    /// As [`EmbeddedStore::open_reading`], with what opens the secrets of endpoints.
    ///
    /// # Errors
    /// [`OpenError`]
    pub fn open_reading_with(path: &Path, settings: Settings) -> Result<Self, OpenError> {
        Ok(EmbeddedStore { settings, ..Self::open_reading(path)? })
    }
}

pub(super) fn check_version() -> Result<(), OpenError> {
    if rusqlite::version_number() < SQLITE_MIN {
        return Err(OpenError::OldSqlite { found: rusqlite::version() });
    }
    Ok(())
}

/// A connection that may write: every commit is synced, and no checkpoint falls into a commit.
fn open_writer(folder: &Path) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Database { folder: folder.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(folder::database(folder), flags).map_err(failed)?;
    let mode = write_ahead(&connection).map_err(failed)?;
    // Where it cannot have one, SQLite goes on without, and everything that is promised here rests on it.
    if mode != "wal" {
        return Err(OpenError::NoLog { folder: folder.to_owned(), mode });
    }
    connection.set_prepared_statement_cache_capacity(128);
    Ok(connection)
}

/// Turns the write-ahead log on. Answers the mode that the database is in.
pub(super) fn write_ahead(connection: &Connection) -> rusqlite::Result<String> {
    connection.busy_timeout(Duration::from_millis(250))?;
    let mode = connection.query_row("PRAGMA journal_mode = WAL", [], |row| row.get(0))?;
    connection.query_row("PRAGMA wal_autocheckpoint = 0", [], |_| Ok(()))?;
    connection.query_row("PRAGMA journal_size_limit = 67108864", [], |_| Ok(()))?;
    connection.execute_batch(
        "PRAGMA synchronous = FULL; PRAGMA cache_size = -4096; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY;",
    )?;
    Ok(mode)
}

pub(super) fn open_reader(folder: &Path) -> Result<Connection, OpenError> {
    let failed = |source| OpenError::Database { folder: folder.to_owned(), source };
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(folder::database(folder), flags).map_err(failed)?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(failed)?;
    connection
        .execute_batch(
            "PRAGMA cache_size = -2048; PRAGMA mmap_size = 0; PRAGMA temp_store = MEMORY; PRAGMA query_only = ON;",
        )
        .map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(64);
    Ok(connection)
}

fn migrate(connection: &mut Connection, folder: &Path) -> Result<(), OpenError> {
    refuse_newer(connection, folder)?;
    let failed = |source| OpenError::Schema { folder: folder.to_owned(), source: Box::new(source) };
    Runner::new(&steps(folder)?).set_grouped(true).run(connection).map_err(failed)?;
    Ok(())
}

fn steps(folder: &Path) -> Result<Vec<Migration>, OpenError> {
    let steps = MIGRATIONS.iter().map(|(name, sql)| Migration::unapplied(name, sql)).collect::<Result<_, _>>();
    steps.map_err(|source| OpenError::Schema { folder: folder.to_owned(), source: Box::new(source) })
}

fn refuse_newer(connection: &Connection, folder: &Path) -> Result<(), OpenError> {
    /// Refinery's.
    const APPLIED: &str = "refinery_schema_history";
    let failed = |source| OpenError::Database { folder: folder.to_owned(), source };
    if !connection.table_exists(None, APPLIED).map_err(failed)? {
        return Ok(());
    }
    let newest = connection.query_row(&format!("SELECT max(version) FROM {APPLIED}"), [], |row| row.get(0));
    let found: Option<i32> = newest.map_err(failed)?;
    let known = steps(folder)?.iter().map(Migration::version).max();
    match (found, known) {
        (Some(found), Some(known)) if found > known => {
            Err(OpenError::Newer { folder: folder.to_owned(), found, known })
        }
        _ => Ok(()),
    }
}
