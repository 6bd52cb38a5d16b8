//! `bellwire serve`: the server, until it is told to stop.

use crate::config::{Config, Sources};
use crate::observe;
use crate::serve::{Server, Stopped};
use anyhow::Context;
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
    let data = config.server.data.clone();
    let mut server = Server::start(config)?;
    match server.declare() {
        Some(Ok(done)) => tracing::info!(%done, "the hooks file is in force"),
        Some(Err(faults)) => {
            server.stop();
            return Err(anyhow::Error::new(faults).context("the hooks file cannot be used"));
        }
        None => {}
    }
    tracing::info!(address = %server.address(), tls = server.is_secure(), data = %data.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    let signal = loop {
        match signals.recv_timeout(LOOK_EVERY) {
            Ok(Signal::Stop(name)) => break name,
            Ok(Signal::Reload) => server.reload(false),
            Err(RecvTimeoutError::Timeout) => server.reload(true),
            Err(RecvTimeoutError::Disconnected) => break "a signal",
        }
    };
    tracing::info!(signal, "stopping");
    match server.stop() {
        Stopped::Cleanly => tracing::info!("stopped"),
        Stopped::AtDeadline => tracing::warn!("stopped at the deadline"),
    }
    Ok(ExitCode::SUCCESS)
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
