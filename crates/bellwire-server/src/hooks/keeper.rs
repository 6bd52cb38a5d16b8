//! Keeps a running server's configuration as the file has it, or as it had it when it was last right.

use super::apply::{Caller, Done};
use super::file::{Document, Faults, Seen};
use super::rehearsal::rehearse;
use bellwire_api::Settings;
use bellwire_api::backend::Backend;
use bellwire_config::organisation_default;
use bellwire_node::serve::Resident;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::sync::mpsc;

/// What became of the file.
type Outcome = Result<Done, Faults>;

/// Asks for the file to be read again, and hears what became of it.
pub(crate) struct Handle {
    /// The file, and those that it names, as they were when they were last read.
    file: (PathBuf, Option<Seen>),
    named: Vec<(PathBuf, Option<Seen>)>,
    /// All of them as they were at the last look.
    looked: Vec<Option<Seen>>,
    /// The file is not there any more, and that was told.
    is_gone: bool,
    requests: mpsc::UnboundedSender<std::sync::mpsc::Sender<Told>>,
}

/// What became of it, and the files that it names, if it could be read.
type Told = (Outcome, Option<Vec<(PathBuf, Option<Seen>)>>);

impl Handle {
    /// Whether one of them is another one than when it was last read, and all have come to rest: half of a file would say that the
    /// other half is declared no more. One that is not there right now is being replaced. To be asked now and then.
    pub(crate) fn has_changed(&mut self) -> bool {
        let all = || std::iter::once(&self.file).chain(&self.named);
        let now: Vec<Option<Seen>> = all().map(|(path, _)| Seen::of(path)).collect();
        let has_changed = all().zip(&now).any(|((_, seen), now)| now.is_some() && seen != now);
        let at_rest = now == self.looked;
        let is_gone = at_rest && self.file.1.is_some() && now[0].is_none();
        if is_gone && !self.is_gone {
            tracing::warn!(file = %self.file.0.display(), "the hooks file is not there any more; what it declared stays in force");
        }
        self.is_gone = is_gone;
        self.looked = now;
        at_rest && has_changed
    }

    /// Has the file read and applied, and waits. `None` if the server is ending.
    pub(crate) fn apply(&mut self) -> Option<Outcome> {
        self.file.1 = Seen::of(&self.file.0);
        let (answer, told) = std::sync::mpsc::channel();
        self.requests.send(answer).ok()?;
        let (outcome, named) = told.recv().ok()?;
        if let Some(named) = named {
            self.named = named;
        }
        Some(outcome)
    }
}

/// Lives on the thread of a shard, as every door does that changes the configuration.
struct Keeper {
    path: PathBuf,
    backend: Arc<dyn Backend>,
    settings: Settings,
    requests: mpsc::UnboundedReceiver<std::sync::mpsc::Sender<Told>>,
}

/// Keeps what this file declares, at the server that it moves into.
pub(crate) fn keeper(path: PathBuf) -> (Resident, Handle) {
    let (sender, requests) = mpsc::unbounded_channel();
    let file = (path.clone(), None);
    let handle = Handle { file, named: Vec::new(), looked: Vec::new(), is_gone: false, requests: sender };
    let resident: Resident =
        Box::new(move |backend, settings| Box::pin(Keeper { path, backend, settings, requests }.run()));
    (resident, handle)
}

impl Keeper {
    /// Serves its handle until that is gone.
    async fn run(mut self) {
        while let Some(answer) = self.requests.recv().await {
            let told = self.apply().await;
            // Whoever asked may have gone.
            let _ = answer.send(told);
        }
    }

    async fn apply(&self) -> Told {
        let path = self.path.clone();
        let read = tokio::task::spawn_blocking(move || read(&path)).await;
        match read {
            Ok(Ok(document)) => (self.declare(&document).await, Some(document.files)),
            Ok(Err(faults)) => (Err(faults), None),
            Err(error) => std::panic::resume_unwind(error.into_panic()),
        }
    }

    async fn declare(&self, document: &Document) -> Outcome {
        let (plan, _) = rehearse(document, Arc::clone(&self.backend), &self.settings).await?;
        Caller::new(Arc::clone(&self.backend), &self.settings, organisation_default()).apply(document, &plan).await
    }
}

/// Reads a file with the environment of this process.
///
/// # Errors
/// As [`Document::read`].
pub(crate) fn read(path: &Path) -> Result<Document, Faults> {
    Document::read(path, &bellwire_config::variable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_being_written_is_read_when_it_has_come_to_rest() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("hooks.toml");
        let write = |text: &str| std::fs::write(&path, text).expect("written");
        write("[sources.a]\npreset = \"none\"\n");
        let (_, mut handle) = keeper(path.clone());
        handle.file.1 = Seen::of(&path);
        assert!(!handle.has_changed());
        for half in ["", "[sources.b]\n"] {
            write(half);
            assert!(!handle.has_changed(), "more of it may come");
        }
        assert!(handle.has_changed());
        std::fs::remove_file(&path).expect("removed");
        assert!(!handle.has_changed());
        assert!(!handle.has_changed(), "another one comes in its place");
    }
}
