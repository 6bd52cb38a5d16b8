//! `bellwire serve`: the server, until it is told to stop.

use crate::hooks::file::Faults;
use crate::hooks::keeper::{Handle, keeper};
use anyhow::Context;
use bellwire_config::{Config, Sources};
use bellwire_node::observe;
use bellwire_node::serve::{Server, Stopped};
use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::Duration;

/// How often to look whether a file that may change has changed.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Run the server on a data folder.
#[derive(Default, clap::Args)]
#[command(
    after_help = "Examples:\n  bellwire serve --data ./bellwire-data --listen 127.0.0.1:8071\n  bellwire serve --hooks hooks.toml\n\nIt is ready when GET /api/v1/health/ping answers. SIGTERM or Ctrl-C stops it: what is in flight may end first. SIGHUP reads the TLS files and the hooks file again."
)]
pub(crate) struct Arguments {
    #[command(flatten)]
    sources: Sources,
}

/// Runs it.
pub(crate) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let config = Config::load(arguments.sources)?;
    observe::start_logging(&config.log);
    for note in &config.notes {
        tracing::warn!("{note}");
    }
    let signals = signals().context("cannot wait for signals")?;
    let (resident, hooks) = config.server.hooks.clone().map(keeper).unzip();
    let mut running = Running { server: Server::start(&config, resident)?, hooks };
    if let Err(faults) = running.declare() {
        running.server.stop();
        return Err(anyhow::Error::new(faults).context("the hooks file cannot be used"));
    }
    let Running { server, .. } = &running;
    tracing::info!(address = %server.address(), tls = server.is_secure(), data = %config.server.data.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    let signal = loop {
        match signals.recv_timeout(LOOK_EVERY) {
            Ok(Signal::Stop(name)) => break name,
            Ok(Signal::Reload) => running.reload(false),
            Err(RecvTimeoutError::Timeout) => running.reload(true),
            Err(RecvTimeoutError::Disconnected) => break "a signal",
        }
    };
    tracing::info!(signal, "stopping");
    match running.server.stop() {
        Stopped::Cleanly => tracing::info!("stopped"),
        Stopped::AtDeadline => tracing::warn!("stopped at the deadline"),
    }
    Ok(ExitCode::SUCCESS)
}

/// A server, and what looks after the hooks file that it has.
struct Running {
    server: Server,
    hooks: Option<Handle>,
}

impl Running {
    /// Makes the configuration what the hooks file declares, and has requests taken from the first time on. Nothing happens if there is no
    /// such file, or the server is ending.
    fn declare(&mut self) -> Result<(), Faults> {
        if let Some(outcome) = self.hooks.as_mut().and_then(Handle::apply) {
            let done = outcome?;
            self.server.open();
            tracing::info!(%done, "the hooks file is in force");
        }
        Ok(())
    }

    /// Reads again what can be read again while running: the hooks file, the certificate and its key. With `changed_only`, what has changed.
    fn reload(&mut self, changed_only: bool) {
        self.reload_hooks(changed_only);
        let has_tls = self.server.reload_tls(changed_only);
        if !changed_only && !has_tls && self.hooks.is_none() {
            tracing::info!("there is nothing to read again; a change of settings needs a restart");
        }
    }

    fn reload_hooks(&mut self, changed_only: bool) {
        if !self.hooks.as_mut().is_some_and(|hooks| !changed_only || hooks.has_changed()) {
            return;
        }
        if let Err(faults) = self.declare() {
            tracing::error!(error = %faults, "the hooks file cannot be used; what it said before stays in force");
        }
    }
}

/// What a signal asks for.
pub(crate) enum Signal {
    /// To end; by which signal.
    Stop(&'static str),
    /// To read again what can be read again.
    Reload,
}

/// Hears SIGTERM, SIGINT and SIGHUP from now on, on a thread of its own. SIGHUP means a lost terminal where there is one.
pub(crate) fn signals() -> anyhow::Result<Receiver<Signal>> {
    let in_terminal = std::io::stdin().is_terminal();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let (mut terminate, mut interrupt, mut hang_up) = {
        let _inside = runtime.enter();
        use tokio::signal::unix::{SignalKind, signal};
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?, signal(SignalKind::hangup())?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            loop {
                let signal = tokio::select! {
                    _ = terminate.recv() => Signal::Stop("SIGTERM"),
                    _ = interrupt.recv() => Signal::Stop("SIGINT"),
                    _ = hang_up.recv() => if in_terminal { Signal::Stop("SIGHUP") } else { Signal::Reload },
                };
                if sender.send(signal).is_err() {
                    return;
                }
            }
        });
    })?;
    Ok(receiver)
}
