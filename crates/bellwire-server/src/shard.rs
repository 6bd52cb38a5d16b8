//! One shard: a thread with a runtime, a listener, outgoing connections and an engine of its own.

use crate::clock::wall;
use crate::connections::{self, ConnectionLimits, Routers};
use crate::core::Core;
use crate::doors::Doors;
use crate::hooks::keeper::Keeper;
use crate::pump::Pump;
use anyhow::Context;
use bellwire_api::Api;
use bellwire_delivery::{Push, PushSettings};
use bellwire_egress::{Client, Egress};
use bellwire_engine::{Engine, Input};
use bellwire_plugin::Plugins;
use std::net::TcpListener;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// Threads of a shard that may block on reading the store. Requests of the API use half of them at most, so that due deliveries
/// never wait for lists.
pub(crate) const READERS: usize = 6;

/// How often the last uses of tokens are written down.
const TOKENS_PERIOD: Duration = Duration::from_secs(30);

/// What a shard is made of.
pub(crate) struct Shard {
    pub(crate) core: Arc<Core>,
    pub(crate) doors: Arc<Doors>,
    pub(crate) index: usize,
    pub(crate) engine: Engine,
    /// What recovery found for it, in the order in which the engine is told.
    pub(crate) inputs: Vec<Input>,
    pub(crate) listener: TcpListener,
    /// Present if clients must speak TLS.
    pub(crate) tls: Option<tokio_rustls::TlsAcceptor>,
    pub(crate) routers: Routers,
    /// On the one shard that looks after the tokens.
    pub(crate) tokens: Option<Api>,
    /// On the one shard that looks after what the hooks file declares.
    pub(crate) hooks: Option<Keeper>,
    pub(crate) limits: ConnectionLimits,
    pub(crate) egress: Arc<Egress>,
    /// For whoever fetches something on this shard; filled when its thread runs.
    pub(crate) client: Arc<OnceLock<Client>>,
    pub(crate) push: PushSettings,
    pub(crate) plugins: Arc<bellwire_plugin::Shared>,
    /// Becomes `true` when no more connections are to be taken.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Shard {
    /// Starts its thread.
    pub(crate) fn start(self) -> anyhow::Result<JoinHandle<()>> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(READERS)
            .build()
            .context("cannot start a runtime")?;
        let name = format!("shard-{}", self.index);
        std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                let core = Arc::clone(&self.core);
                tokio::task::LocalSet::new().block_on(&runtime, async {
                    if let Err(error) = self.run().await {
                        tracing::error!(error = %format!("{error:#}"), "a shard failed; ending, a restart takes up what it held");
                        std::process::exit(70);
                    }
                });
                core.shard_done();
                runtime.shutdown_background();
            })
            .context("cannot start a thread")
    }

    async fn run(self) -> anyhow::Result<()> {
        let Shard {
            core,
            index,
            engine,
            inputs,
            listener,
            tls,
            routers,
            tokens,
            hooks,
            doors,
            limits,
            egress,
            client: shared,
            push,
            plugins,
            mut stop,
        } = self;
        let listener = tokio::net::TcpListener::from_std(listener).context("cannot listen")?;
        let client = egress.client().context("cannot set up outgoing connections")?;
        let _ = shared.set(client.clone());
        let fetching =
            tokio::task::spawn_local(crate::sources::supervise(Arc::clone(&doors), client.clone(), stop.clone()));
        let plugins = Plugins::new(client.clone(), plugins, || wall().as_seconds());
        let mut pump = Pump::new(doors, engine, Push::new(client, push), plugins);
        inputs.into_iter().for_each(|input| pump.step(input));
        let mut pump = tokio::task::spawn_local(pump.run());
        let serving = connections::serve(listener, tls, routers, limits, async move {
            // The sender lives as long as the server.
            let _ = stop.wait_for(|s| *s).await;
        });
        let keeping = tokio::task::spawn_local(keep_tokens(tokens.clone()));
        let declaring = hooks.map(|keeper| tokio::task::spawn_local(keeper.run()));
        tokio::select! {
            () = serving => {}
            // It ends by itself only by a panic. A server that accepts and does not deliver is worse than none.
            ended = &mut pump => return ended.context("the engine's task failed"),
        }
        keeping.abort();
        // It ends by itself, and with it whatever it runs.
        let _ = fetching.await;
        if let Some(declaring) = declaring {
            declaring.abort();
        }
        if let Some(api) = tokens {
            write_down(&api).await;
        }
        // Requests have been answered; what is in flight may end now, and nothing new begins.
        core.mailboxes[index].put(crate::core::Mail::Tell(Input::Stop));
        pump.await.context("the engine's task failed")
    }
}

/// Writes down now and then what is known about tokens in memory only.
async fn keep_tokens(api: Option<Api>) {
    let Some(api) = api else { return };
    loop {
        tokio::time::sleep(TOKENS_PERIOD).await;
        write_down(&api).await;
    }
}

async fn write_down(api: &Api) {
    if let Err(error) = api.keep_tokens().await {
        tracing::debug!(%error, "the last uses of tokens have to wait");
    }
}
