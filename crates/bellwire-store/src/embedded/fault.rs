//! What can go wrong inside, and what the caller is told of it.

use crate::{CommitError, ReadError};
use rusqlite::ErrorCode;
use rusqlite::ffi::SQLITE_IOERR_WRITE;

/// A failure of SQLite, or of what it holds.
#[derive(Debug)]
pub(super) enum Fault {
    Sql(rusqlite::Error),
    Damaged {
        what: &'static str,
        detail: String,
    },
    /// The batch breaks its own promises.
    Batch(String),
}

impl Fault {
    pub(super) fn damaged(what: &'static str, detail: String) -> Self {
        Fault::Damaged { what, detail }
    }

    /// Whether a write was refused. SQLite takes only `ENOSPC` for a full disk; a quota that is used up is one, too.
    pub(super) fn is_refused_write(&self) -> bool {
        matches!(self, Fault::Sql(rusqlite::Error::SqliteFailure(code, _)) if code.extended_code == SQLITE_IOERR_WRITE)
    }

    /// What a commit answers that met this fault and was rolled back.
    ///
    /// Only what SQLite reports before the whole batch could have reached the disk is safe to try again: without its last frame the
    /// log holds nothing of it. Everything else is `Unknown`: after a failed sync the kernel may hold the pages for clean, so a
    /// second sync that succeeds proves nothing; and when the log's index cannot grow (`SQLITE_IOERR_SHMSIZE`), the batch is on the
    /// disk already and would come back with the next start. [`super::folder::IndexRoom`] sees to it that it need not grow.
    pub(super) fn into_commit(self) -> CommitError {
        let error = match self {
            Fault::Sql(error) => error,
            Fault::Damaged { what, detail } => return CommitError::Unknown(format!("{what}: {detail}")),
            Fault::Batch(detail) => return CommitError::Unknown(detail),
        };
        let rusqlite::Error::SqliteFailure(code, _) = &error else {
            return CommitError::Unknown(error.to_string());
        };
        match code.code {
            ErrorCode::DiskFull => CommitError::Full,
            ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked => CommitError::Busy(error.to_string()),
            _ => CommitError::Unknown(error.to_string()),
        }
    }
}

impl From<rusqlite::Error> for Fault {
    fn from(error: rusqlite::Error) -> Self {
        Fault::Sql(error)
    }
}

impl From<Fault> for ReadError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Sql(error) => ReadError::Failed(error.to_string()),
            Fault::Damaged { what, detail } => ReadError::Damaged { what, detail },
            Fault::Batch(detail) => ReadError::Failed(detail),
        }
    }
}

impl From<rusqlite::Error> for ReadError {
    fn from(error: rusqlite::Error) -> Self {
        ReadError::Failed(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rusqlite::ffi::{self, Error};

    #[test]
    fn only_what_cannot_have_reached_the_disk_may_be_tried_again() {
        let told = |code| Fault::Sql(rusqlite::Error::SqliteFailure(Error::new(code), None)).into_commit();
        assert!(matches!(told(ffi::SQLITE_FULL), CommitError::Full));
        assert!(matches!(told(ffi::SQLITE_BUSY), CommitError::Busy(_)));
        for code in [
            ffi::SQLITE_IOERR_FSYNC,
            ffi::SQLITE_IOERR_WRITE,
            ffi::SQLITE_IOERR_SHMSIZE,
            ffi::SQLITE_IOERR_SHMMAP,
            ffi::SQLITE_IOERR,
            ffi::SQLITE_NOMEM,
            ffi::SQLITE_CORRUPT,
        ] {
            assert!(matches!(told(code), CommitError::Unknown(_)), "{code}");
        }
    }
}
