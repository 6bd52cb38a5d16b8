//! One shard: a thread with a runtime, a listener, outgoing connections and an engine of its own.

use crate::clock::wall;
use crate::connections::{self, ConnectionLimits, Routers};
use crate::core::Core;
use crate::doors::Doors;
use crate::pump::Pump;
use crate::serve::Resident;
use anyhow::Context;
use bellwire_api::Api;
use bellwire_api::backend::Backend;
use bellwire_delivery::{Push, PushSettings};
use bellwire_egress::{Client, Egress};
use bellwire_engine::{Engine, Input};
use bellwire_plugin::Plugins;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// Threads of a shard that may block on reading the store. Requests of the API use half of them at most, so that due deliveries
/// never wait for lists.
pub(crate) const READERS: usize = 6;

/// How often the last uses of tokens are written down, and pipes removed that nobody reads: for the first time so long after the start, when
/// their readers are back.
const HOUSEKEEPING_PERIOD: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 30 });

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
    /// On the one shard that keeps house.
    pub(crate) housekeeping: Option<Api>,
    /// On the one shard that has it, with what it is given.
    pub(crate) resident: Option<(Resident, Arc<dyn Backend>, bellwire_api::Settings)>,
    pub(crate) limits: ConnectionLimits,
    pub(crate) egress: Arc<Egress>,
    /// For whoever fetches something on this shard; filled when its thread runs.
    pub(crate) client: Arc<OnceLock<Client>>,
    pub(crate) push: PushSettings,
    pub(crate) plugins: Arc<bellwire_plugin::Shared>,
    /// Becomes `true` when connections are to be taken; until then they wait.
    pub(crate) open: watch::Receiver<bool>,
    /// Becomes `true` when no more connections are to be taken.
    pub(crate) stop: watch::Receiver<bool>,
}

impl Shard {
    /// Starts its thread.
    pub(crate) fn start(self) -> anyhow::Result<std::thread::JoinHandle<()>> {
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
                let index = self.index;
                or_end(index, || tokio::task::LocalSet::new().block_on(&runtime, self.run()));
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
            housekeeping,
            resident,
            doors,
            limits,
            egress,
            client: shared,
            push,
            plugins,
            mut open,
            mut stop,
        } = self;
        let listener = tokio::net::TcpListener::from_std(listener).context("cannot listen")?;
        let client = egress.client().context("cannot set up outgoing connections")?;
        let _ = shared.set(client.clone());
        let mut fetching =
            tokio::task::spawn_local(crate::sources::supervise(Arc::clone(&doors), client.clone(), stop.clone()));
        let plugins = Plugins::new(client.clone(), plugins, || wall().as_seconds());
        let keeping_tokens = Arc::clone(&doors);
        let push = Push::new(client, push).keeping(Rc::new(move |refreshed| {
            let doors = Arc::clone(&keeping_tokens);
            Box::pin(async move { doors.keep_refreshed(refreshed).await })
        }));
        let mut pump = Pump::new(doors, engine, push, plugins);
        inputs.into_iter().for_each(|input| pump.step(input));
        let mut pump = tokio::task::spawn_local(pump.run());
        let serving = async move {
            // The senders live as long as the server.
            tokio::select! {
                _ = open.wait_for(|open| *open) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            let stopped = async move { drop(stop.wait_for(|stop| *stop).await) };
            connections::serve(listener, tls, routers, limits, stopped).await;
        };
        let mut keeping = tokio::task::spawn_local(keep_house(housekeeping.clone()));
        let mut residing = resident.map(|(resident, door, api)| tokio::task::spawn_local(resident(door, api)));
        // None of them ends before the server is told to stop but by a panic. A server that accepts and does not deliver, or says that it
        // fetches and does not, is worse than none.
        tokio::select! {
            () = serving => {}
            ended = &mut pump => {
                ended.context("the engine's task failed")?;
                anyhow::bail!("the engine's task ended before it was told to");
            }
            error = failure(Some(&mut fetching)) => return Err(error).context("the task that runs sources failed"),
            error = failure(Some(&mut keeping)) => return Err(error).context("the housekeeping failed"),
            error = failure(residing.as_mut()) => {
                return Err(error).context("the task that lives beside the server failed");
            }
        }
        keeping.abort();
        // It ends by itself, and with it whatever it runs.
        if !fetching.is_finished() {
            fetching.await.context("the task that runs sources failed")?;
        }
        if let Some(residing) = residing {
            residing.abort();
        }
        if let Some(api) = housekeeping {
            write_down(&api).await;
        }
        // Requests have been answered; what is in flight may end now, and nothing new begins.
        core.mailboxes[index].put(crate::core::Mail::Tell(Input::Stop));
        pump.await.context("the engine's task failed")
    }
}

/// Runs a shard. If that fails or panics the process ends: the other shards could go on, but nobody would look after this one's applications.
fn or_end(index: usize, run: impl FnOnce() -> anyhow::Result<()>) {
    let error = match std::panic::catch_unwind(std::panic::AssertUnwindSafe(run)) {
        Ok(Ok(())) => return,
        Ok(Err(error)) => format!("{error:#}"),
        Err(_) => "its thread panicked".to_owned(),
    };
    tracing::error!(shard.index = index, error, "a shard failed; ending, a restart takes up what it held");
    eprintln!("error: shard {index} failed: {error}");
    eprintln!("hint: this is a fault of the program; nothing acknowledged is lost, the next start recovers");
    std::process::exit(70);
}

/// Why a task ended that should not; never, if it ends by itself, as some may while the server stops.
async fn failure(task: Option<&mut JoinHandle<()>>) -> anyhow::Error {
    let Some(task) = task else { return std::future::pending().await };
    match task.await {
        Ok(()) => std::future::pending().await,
        Err(error) => error.into(),
    }
}

/// Writes down now and then what is known about tokens in memory only, and removes pipes that nobody reads.
async fn keep_house(api: Option<Api>) {
    let Some(api) = api else { return };
    loop {
        tokio::time::sleep(HOUSEKEEPING_PERIOD).await;
        write_down(&api).await;
        if let Err(error) = api.remove_expired().await {
            tracing::debug!(%error, "pipes that nobody reads have to wait for their removal");
        }
    }
}

async fn write_down(api: &Api) {
    if let Err(error) = api.keep_tokens().await {
        tracing::debug!(%error, "the last uses of tokens have to wait");
    }
}

#[cfg(test)]
mod tests {
    use crate::core::Mail;
    use crate::serve::Server;
    use bellwire_config::Config;
    use bellwire_model::{
        Application, ApplicationId, ApplicationKey, ApplicationSettings, Endpoint, EndpointId, EndpointKey, Expiry,
        Kind, Metadata, OrganisationId, Pipe, Sequence, Timestamp,
    };
    use bellwire_store::Change;
    use std::path::Path;
    use std::process::{Command, Output};
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    /// Names what fails, to the process in which it does.
    const FAILING: &str = "BELLWIRE_TEST_FAILING";

    fn config(folder: &Path) -> Config {
        let mut config = Config::defaults();
        folder.clone_into(&mut config.server.data);
        config.server.listen = ([127, 0, 0, 1], 0).into();
        config.server.shards_wanted = 2;
        config
    }

    /// A pipe that expires at `at`.
    fn pipe(key: u32, at: Timestamp) -> Arc<Endpoint> {
        let id = EndpointId::from_parts(Sequence::from_u64(key.into()), [0; 12]);
        let expiry = Some(Expiry { after: Duration::from_secs(60), at });
        let kind = Kind::Pipe(Pipe { expiry, ..Pipe::default() });
        let plain = Endpoint::new(EndpointKey(key), ApplicationKey(1), id, Pipe::ADDRESS, Timestamp::EPOCH);
        Arc::new(Endpoint { kind, ..plain })
    }

    #[test]
    fn a_pipe_that_expired_while_the_server_was_down_is_removed_when_it_is_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let application = Application {
            key: ApplicationKey(1),
            id: ApplicationId::from_parts(Sequence::from_u64(1), [0; 12]),
            organisation: OrganisationId::parse("org_1").expect("an organisation"),
            uid: None,
            name: "Acme".to_owned(),
            throttle_rate: None,
            settings: ApplicationSettings::default(),
            metadata: Metadata::new(),
            created_at: Timestamp::EPOCH,
            updated_at: Timestamp::EPOCH,
        };
        let there = |server: &Server, key| server.core().catalogue.read().endpoint(EndpointKey(key)).is_some();
        let within = |what: &str, is: &dyn Fn() -> bool| {
            let deadline = Instant::now() + Duration::from_secs(30);
            while !is() {
                assert!(Instant::now() < deadline, "{what}");
                std::thread::sleep(Duration::from_millis(20));
            }
        };
        let server = Server::start(&config(folder.path()), None).expect("starts");
        let soon = crate::clock::wall().plus(Duration::from_millis(10));
        let changes = vec![
            Change::PutApplication(Arc::new(application)),
            Change::PutEndpoint(pipe(2, soon)),
            Change::PutEndpoint(pipe(3, soon.plus(Duration::from_secs(3600)))),
        ];
        server.core().intake.lock().change(changes).expect("there is room");
        server.core().bell.ring();
        within("they are made", &|| there(&server, 3));
        server.stop();
        let server = Server::start(&config(folder.path()), None).expect("starts again");
        within("its time is over", &|| !there(&server, 2));
        assert!(there(&server, 3), "that of the other one is not");
        server.stop();
        let server = Server::start(&config(folder.path()), None).expect("starts again");
        assert!(!there(&server, 2) && there(&server, 3), "it is gone for good");
        server.stop();
    }

    #[test]
    fn a_shard_that_fails_ends_the_process_and_says_so() {
        for (failing, says) in [
            ("engine", "error: shard 1 failed: the engine's task failed: task"),
            ("thread", "error: shard 3 failed: its thread panicked"),
            ("start", "error: shard 4 failed: cannot listen"),
        ] {
            let Output { status, stderr, .. } = Command::new(std::env::current_exe().expect("this program"))
                .args(["--exact", "shard::tests::what_fails", "--ignored", "--nocapture"])
                .env(FAILING, failing)
                .output()
                .expect("runs");
            let stderr = String::from_utf8_lossy(&stderr);
            assert_eq!(status.code(), Some(70), "{failing}: {stderr}");
            assert!(stderr.contains(says) && stderr.contains("hint: "), "{failing}: {stderr}");
        }
    }

    #[test]
    #[ignore = "ends its process; run by the test above"]
    #[expect(clippy::disallowed_methods, reason = "it is told by the test that runs it")]
    fn what_fails() {
        match std::env::var(FAILING).as_deref() {
            Ok("engine") => {
                let folder = tempfile::tempdir().expect("a folder");
                let server = Server::start(&config(folder.path()), None).expect("starts");
                server.core().mailboxes[1].put(Mail::Panic);
                std::thread::sleep(Duration::from_secs(30));
            }
            Ok("thread") => super::or_end(3, || panic!("as the test asked")),
            Ok("start") => super::or_end(4, || Err(anyhow::anyhow!("taken").context("cannot listen"))),
            _ => {}
        }
    }
}
