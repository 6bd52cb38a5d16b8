//! Keeps a running server's configuration as the file has it, or as it had it when it was last right.

use super::apply::{Caller, Done};
use super::file::{Document, Faults};
use super::rehearsal::rehearse;
use crate::command::token::organisation_default;
use bellwire_api::Settings;
use bellwire_api::backend::Backend;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;
use tokio::sync::mpsc;

/// What became of the file.
pub(crate) type Outcome = Result<Done, Faults>;

/// Asks for the file to be read again, and hears what became of it.
pub(crate) struct Handle {
    path: PathBuf,
    seen: Option<Seen>,
    requests: mpsc::UnboundedSender<std::sync::mpsc::Sender<Outcome>>,
}

/// What tells one state of a file from another without reading it.
#[derive(PartialEq)]
struct Seen {
    modified: Option<SystemTime>,
    length: u64,
}

impl Seen {
    fn of(path: &Path) -> Option<Seen> {
        let found = fs::metadata(path).ok()?;
        Some(Seen { modified: found.modified().ok(), length: found.len() })
    }
}

impl Handle {
    /// Whether the file is another one than when it was last read. One that is not there right now is being replaced.
    pub(crate) fn has_changed(&self) -> bool {
        Seen::of(&self.path).is_some_and(|now| self.seen.as_ref() != Some(&now))
    }

    /// Has the file read and applied, and waits. `None` if the server is ending.
    pub(crate) fn apply(&mut self) -> Option<Outcome> {
        self.seen = Seen::of(&self.path);
        let (answer, outcome) = std::sync::mpsc::channel();
        self.requests.send(answer).ok()?;
        outcome.recv().ok()
    }
}

/// Lives on the thread of a shard, as every door does that changes the configuration.
pub(crate) struct Keeper {
    path: PathBuf,
    backend: Arc<dyn Backend>,
    settings: Settings,
    requests: mpsc::UnboundedReceiver<std::sync::mpsc::Sender<Outcome>>,
}

impl Keeper {
    /// For this file.
    pub(crate) fn new(path: PathBuf, backend: Arc<dyn Backend>, settings: Settings) -> (Keeper, Handle) {
        let (sender, requests) = mpsc::unbounded_channel();
        (Keeper { path: path.clone(), backend, settings, requests }, Handle { path, seen: None, requests: sender })
    }

    /// Serves its handle until that is gone.
    pub(crate) async fn run(mut self) {
        while let Some(answer) = self.requests.recv().await {
            let outcome = self.apply().await;
            // Whoever asked may have gone.
            let _ = answer.send(outcome);
        }
    }

    async fn apply(&self) -> Outcome {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        let document = match read {
            Ok(read) => read?,
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        };
        let (plan, _) = rehearse(&document, Arc::clone(&self.backend), &self.settings).await?;
        Caller::new(Arc::clone(&self.backend), &self.settings, organisation_default()).apply(&document, &plan).await
    }
}

/// Reads a file with the environment of this process.
///
/// # Errors
/// As [`Document::read`].
pub(crate) fn read(path: &Path) -> Result<Document, Faults> {
    Document::read(path, &crate::config::variable)
}
