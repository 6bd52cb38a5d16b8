//! Read-only connections, a pool of them: opened as they are needed, and bounded.

use super::OpenError;
use super::fault::Fault;
use super::opening::open_reader;
use parking_lot::{Condvar, Mutex};
use rusqlite::Connection;
use std::ops::Deref;
use std::path::{Path, PathBuf};

/// At most so many connections read at a time; the next reader waits.
const READERS_MAX: usize = 16;
/// Of them, so many may be reading lists or counting: what deliveries and doors wait for takes microseconds, and never waits for those.
const LISTS_MAX: usize = 8;

/// Read-only connections, opened as they are needed.
pub(super) struct Readers {
    folder: PathBuf,
    idle: Mutex<Idle>,
    returned: Condvar,
}

#[derive(Default)]
struct Idle {
    connections: Vec<Connection>,
    out: usize,
    lists: usize,
}

/// A connection that goes back when dropped.
pub(super) struct Reader<'a> {
    readers: &'a Readers,
    connection: Option<Connection>,
    list: bool,
}

impl Readers {
    /// Opens the first one, to see that it can be done.
    pub(super) fn open(folder: &Path) -> Result<Readers, OpenError> {
        let first = open_reader(folder)?;
        let idle = Mutex::new(Idle { connections: vec![first], ..Idle::default() });
        Ok(Readers { folder: folder.to_owned(), idle, returned: Condvar::new() })
    }

    /// For what is found at once.
    pub(super) fn take(&self) -> Result<Reader<'_>, Fault> {
        self.take_for(false)
    }

    /// For what may have to look at much.
    pub(super) fn take_for_list(&self) -> Result<Reader<'_>, Fault> {
        self.take_for(true)
    }

    fn take_for(&self, list: bool) -> Result<Reader<'_>, Fault> {
        let mut idle = self.idle.lock();
        while idle.out == READERS_MAX || (list && idle.lists == LISTS_MAX) {
            self.returned.wait(&mut idle);
        }
        let connection = idle.connections.pop();
        idle.out += 1;
        idle.lists += usize::from(list);
        drop(idle);
        // From here on the place is given back, whatever happens.
        let mut reader = Reader { readers: self, connection, list };
        if reader.connection.is_none() {
            let opened = open_reader(&self.folder);
            reader.connection = Some(opened.map_err(|error| Fault::damaged("a data folder", error.to_string()))?);
        }
        Ok(reader)
    }
}

impl Deref for Reader<'_> {
    type Target = Connection;

    fn deref(&self) -> &Connection {
        self.connection.as_ref().expect("a reader holds its connection until it is dropped")
    }
}

impl Drop for Reader<'_> {
    fn drop(&mut self) {
        let mut idle = self.readers.idle.lock();
        idle.out -= 1;
        idle.lists -= usize::from(self.list);
        idle.connections.extend(self.connection.take());
        drop(idle);
        // Not all who wait may take every place.
        self.readers.returned.notify_all();
    }
}
