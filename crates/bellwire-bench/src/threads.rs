//! Threads with a single-threaded runtime each, for load, sink and ceiling.

use anyhow::Context as _;
use std::thread::JoinHandle;
use tokio::sync::watch;

/// Threads that run until their future ends or the owner lets go.
pub(crate) struct Threads {
    name: &'static str,
    handles: Vec<JoinHandle<()>>,
    stop: watch::Sender<bool>,
}

impl Threads {
    pub(crate) fn new(name: &'static str) -> Threads {
        Threads { name, handles: Vec::new(), stop: watch::Sender::new(false) }
    }

    /// Runs `work` on a thread and runtime of its own; the future that it makes need not be `Send`.
    ///
    /// # Errors
    /// When the system has no thread or no runtime for it. What `work` itself returns is printed.
    pub(crate) fn spawn<Work>(&mut self, work: Work) -> anyhow::Result<()>
    where
        Work: AsyncFnOnce() -> anyhow::Result<()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        let mut stop = self.stop.subscribe();
        let name = self.name;
        let run = move || {
            runtime.block_on(async move {
                tokio::select! {
                    result = work() => if let Err(error) = result {
                        eprintln!("error: {name} ended: {error:#}");
                    },
                    _ = stop.wait_for(|stop| *stop) => {}
                }
            });
        };
        let handle = std::thread::Builder::new().name(name.into()).spawn(run).context("no thread")?;
        self.handles.push(handle);
        Ok(())
    }

    /// Waits until every thread has done its work.
    pub(crate) fn join(mut self) {
        self.join_all();
    }

    fn join_all(&mut self) {
        for handle in self.handles.drain(..) {
            // A thread that panicked has printed why.
            let _ = handle.join();
        }
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        self.stop.send_replace(true);
        self.join_all();
    }
}
