//! `bellwire serve`: the server, until it is told to stop.

use crate::config::{Config, Sources};
use crate::observe;
use crate::serve::{Server, Stopped};
use anyhow::Context;
use std::process::ExitCode;

/// Run the server on a data folder.
#[derive(Default, clap::Args)]
#[command(
    after_help = "Example:\n  bellwire serve --data ./bellwire-data --listen 127.0.0.1:8071\n\nIt is ready when GET /api/v1/health/ping answers. SIGTERM or Ctrl-C stops it: what is in flight may end first."
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
    let server = Server::start(config)?;
    tracing::info!(address = %server.address(), data = %data.display(), version = env!("CARGO_PKG_VERSION"), "ready");
    let signal = signals.recv().unwrap_or("a signal");
    tracing::info!(signal, "stopping");
    match server.stop() {
        Stopped::Cleanly => tracing::info!("stopped"),
        Stopped::AtDeadline => tracing::warn!("stopped at the deadline"),
    }
    Ok(ExitCode::SUCCESS)
}

/// Hears SIGTERM and SIGINT from now on, on a thread of its own.
pub(crate) fn signals() -> anyhow::Result<std::sync::mpsc::Receiver<&'static str>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (sender, receiver) = std::sync::mpsc::channel();
    let (terminate, interrupt) = {
        let _inside = runtime.enter();
        use tokio::signal::unix::{SignalKind, signal};
        (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?)
    };
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        let (mut terminate, mut interrupt) = (terminate, interrupt);
        runtime.block_on(async {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
            };
            let _ = sender.send(name);
        });
    })?;
    Ok(receiver)
}
