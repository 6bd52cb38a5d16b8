//! The data folder: who may open it, what it is called inside, and the space that is kept free in it.

use super::OpenError;
use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// More than a commit of a few rows takes.
const PROBE_BYTES: u64 = 64 << 10;

/// A data folder that we hold alone.
pub(super) struct Folder {
    path: PathBuf,
    _lock: File,
}

impl Folder {
    /// Makes the folder if it is not there, and locks it until dropped.
    pub(super) fn hold(path: &Path) -> Result<Folder, OpenError> {
        let failed = |source| OpenError::Folder { folder: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(failed)?;
        std::fs::set_permissions(path, PermissionsExt::from_mode(0o700)).map_err(failed)?;
        let lock = private_file(&path.join("lock")).map_err(failed)?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(OpenError::Held { folder: path.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // SQLite gives the files beside the database the database's own mode.
        private_file(&database(path)).map_err(failed)?;
        Ok(Folder { path: path.to_owned(), _lock: lock })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

/// The database in `folder`.
pub(super) fn database(folder: &Path) -> PathBuf {
    folder.join("bellwire.db")
}

fn is_no_room(kind: io::ErrorKind) -> bool {
    matches!(kind, io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// How many bytes the files in `folder` take.
pub(super) fn bytes(folder: &Path) -> Option<u64> {
    let database = std::fs::metadata(database(folder)).ok()?.len();
    let wal = std::fs::metadata(folder.join("bellwire.db-wal")).map_or(0, |wal| wal.len());
    Some(database + wal)
}

pub(super) fn private_file(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
    file.set_permissions(PermissionsExt::from_mode(0o600))?;
    Ok(file)
}

/// The index of the write-ahead log, made large enough beforehand: on a full disk SQLite finds out that it cannot grow only when
/// the batch is on the disk, and whether the batch is kept is not known then.
pub(super) struct IndexRoom {
    /// Held open for as long as any connection: closing a file gives up the process's locks on it, SQLite's own included.
    _index: Option<File>,
}

impl IndexRoom {
    /// Of a log of half a gigabyte: a segment of 32 KiB is for 4,096 pages.
    const BYTES: u64 = 1 << 20;

    /// Takes the room. The index is there: a connection has opened the log.
    pub(super) fn take(folder: &Path) -> IndexRoom {
        let taken = OpenOptions::new().read(true).write(true).open(folder.join("bellwire.db-shm")).and_then(|index| {
            if index.metadata()?.len() < Self::BYTES {
                rustix::fs::fallocate(&index, rustix::fs::FallocateFlags::empty(), 0, Self::BYTES)?;
            }
            Ok(index)
        });
        if let Err(error) = &taken {
            tracing::warn!(%error, "no room could be taken for the log's index; should the disk fill up, the process may end");
        }
        IndexRoom { _index: taken.ok() }
    }
}

/// Space that is kept back on the disk. When the disk is full it is given up, and while it is given up no further message is
/// accepted: what is left is for the attempts of those that were, and for the clean-up.
pub(super) struct Reserve {
    file: PathBuf,
    bytes: u64,
    held: bool,
}

impl Reserve {
    /// Takes up to `bytes_max`, and never more than a sixteenth of the disk.
    pub(super) fn take(folder: &Path, bytes_max: u64) -> Reserve {
        let size = rustix::fs::statvfs(folder).map_or(0, |fs| fs.f_blocks.saturating_mul(fs.f_frsize));
        let mut reserve = Reserve { file: folder.join("reserve"), bytes: bytes_max.min(size / 16), held: false };
        reserve.take_again();
        reserve
    }

    /// Whether the space is there; tries to get it back if it is not.
    pub(super) fn take_again(&mut self) -> bool {
        if !self.held {
            let allocated = if self.bytes == 0 { Ok(()) } else { self.allocate() };
            if let Err(error) = &allocated
                && matches!(error.kind(), io::ErrorKind::Unsupported)
            {
                tracing::warn!("this file system cannot set space aside; a full disk stops records and messages alike");
                self.bytes = 0;
            }
            let taken = self.bytes == 0 || allocated.is_ok();
            if !taken {
                self.give_up();
            }
            self.held = taken;
        }
        self.held
    }

    /// Whether the disk, or our quota of it, has no room for another file.
    pub(super) fn no_room_beside(&self) -> bool {
        let probe = self.file.with_extension("probe");
        let tried = private_file(&probe)
            .and_then(|file| Ok(rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, PROBE_BYTES)?));
        let _ = std::fs::remove_file(&probe);
        tried.is_err_and(|error| is_no_room(error.kind()))
    }

    fn allocate(&self) -> io::Result<()> {
        let file = private_file(&self.file)?;
        if file.metadata()?.len() != self.bytes {
            file.set_len(0)?;
        }
        rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, self.bytes)?;
        Ok(())
    }

    /// Gives the space to whoever writes next. Answers whether there was any.
    pub(super) fn give_up(&mut self) -> bool {
        let had = std::mem::replace(&mut self.held, false) && self.bytes > 0;
        // Nothing else can be done if it fails: the disk is full either way.
        let _ = OpenOptions::new().write(true).open(&self.file).and_then(|file| file.set_len(0));
        had
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_used_up_quota_is_a_full_disk_and_a_broken_one_is_not() {
        let kind = |errno: rustix::io::Errno| io::Error::from(errno).kind();
        assert!(is_no_room(kind(rustix::io::Errno::DQUOT)));
        assert!(is_no_room(kind(rustix::io::Errno::NOSPC)));
        assert!(!is_no_room(kind(rustix::io::Errno::IO)));
        let folder = tempfile::TempDir::new().expect("a folder");
        assert!(!Reserve::take(folder.path(), 0).no_room_beside());
        assert!(!folder.path().join("reserve.probe").exists());
    }
}
