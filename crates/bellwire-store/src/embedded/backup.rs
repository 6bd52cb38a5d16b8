//! A copy of a store as it is at one instant, made beside a server that goes on writing.
//!
//! One reading transaction fixes the instant; pages are copied in steps inside it, so that no commit waits and none that comes
//! meanwhile makes the copy start over. Until it ends, the write-ahead log of the store cannot start over and grows.

use super::OpenError;
use super::folder::{self, private_file};
use super::opening::{check_version, open_reader};
use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};
use std::fs::{DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Pages copied at a time: 4 MiB.
const STEP_PAGES: i32 = 1_024;
/// What an unfinished copy is called.
const PARTIAL: &str = "bellwire.db.partial";

/// Why a copy could not be made. Nothing of it is left then.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// There is no store to copy, or it cannot be opened.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The target holds something, which is never overwritten.
    #[error("{} is not empty", folder.display())]
    NotEmpty {
        /// Which folder.
        folder: PathBuf,
    },
    /// The target cannot be written.
    #[error("{} cannot be written", folder.display())]
    Folder {
        /// Which folder.
        folder: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// SQLite could not copy.
    #[error("the database cannot be copied")]
    Copy(#[from] rusqlite::Error),
}

/// How far a copy is.
#[derive(Clone, Copy, Debug)]
pub struct Progress {
    /// Pages copied.
    pub pages: u64,
    /// Pages in all.
    pub pages_total: u64,
}

/// Copies the store in the folder `source` into the folder `target`, which is made if it is not there and must be empty. The copy is
/// whole, synced, and one file, or it is not there.
///
/// # Errors
/// [`BackupError`]
pub fn backup(source: &Path, target: &Path, progress: impl FnMut(Progress)) -> Result<(), BackupError> {
    check_version()?;
    let there = folder::database(source).try_exists();
    if !there.map_err(|error| OpenError::Folder { folder: source.to_owned(), source: error })? {
        return Err(OpenError::Missing { folder: source.to_owned() }.into());
    }
    let failed = |error| BackupError::Folder { folder: target.to_owned(), source: error };
    empty(target)?;
    let partial = target.join(PARTIAL);
    let copied = private_file(&partial).map_err(failed).and_then(|file| {
        copy(source, &partial, progress)?;
        file.sync_all().map_err(failed)
    });
    let placed = copied.and_then(|()| {
        std::fs::rename(&partial, folder::database(target)).map_err(failed)?;
        File::open(target).and_then(|folder| folder.sync_all()).map_err(failed)
    });
    if placed.is_err() {
        let _ = std::fs::remove_file(&partial);
    }
    placed
}

/// Makes `target` if it is not there, for its owner alone.
fn empty(target: &Path) -> Result<(), BackupError> {
    let failed = |error| BackupError::Folder { folder: target.to_owned(), source: error };
    DirBuilder::new().recursive(true).mode(0o700).create(target).map_err(failed)?;
    match std::fs::read_dir(target).map_err(failed)?.next() {
        None => Ok(()),
        Some(_) => Err(BackupError::NotEmpty { folder: target.to_owned() }),
    }
}

fn copy(source: &Path, target: &Path, mut progress: impl FnMut(Progress)) -> Result<(), BackupError> {
    let from = open_reader(source)?;
    let instant = from.unchecked_transaction()?;
    // The first reading fixes what the transaction sees.
    instant.query_row("SELECT newest FROM meta", [], |_| Ok(()))?;
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut to = Connection::open_with_flags(target, flags)?;
    // Whether the copy survives a crash before it is synced as a whole does not matter.
    to.execute_batch("PRAGMA synchronous = OFF; PRAGMA temp_store = MEMORY;")?;
    {
        let copy = Backup::new(&from, &mut to)?;
        loop {
            let step = copy.step(STEP_PAGES)?;
            let rusqlite::backup::Progress { remaining, pagecount } = copy.progress();
            let count = |pages: i32| u64::try_from(pages).unwrap_or(0);
            progress(Progress { pages: count(pagecount - remaining), pages_total: count(pagecount) });
            if step == StepResult::Done {
                break;
            }
        }
    }
    drop(instant);
    // One file, which can be read where nothing can be written. A server that opens it goes back to a log beside it.
    to.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(()))?;
    to.close().map_err(|(_, error)| error)?;
    Ok(())
}
