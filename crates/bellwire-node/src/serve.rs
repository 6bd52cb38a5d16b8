//! The server as a whole: puts the parts together, starts them in order, and stops them in the opposite one.

use crate::clock::{Clock, wall};
use crate::connections::{self, Routers, clients::Clients, tls::Tls};
use crate::core::Core;
use crate::doors::Doors;
use crate::observe::{self, Metrics};
use crate::receiving::{self, Receiving};
use crate::shard::Shard;
use crate::traces::Tracer;
use crate::wiring;
use anyhow::Context;
use axum::Router;
use axum::response::IntoResponse as _;
use axum::routing::get;
use bellwire_api::backend::Backend;
use bellwire_api::pipe::Pipes;
use bellwire_config::{Config, SecretText};
use bellwire_egress::Egress;
use bellwire_engine::{Catalogue, Engine, Fresh, Input, Intake};
use bellwire_model::{ApplicationKey, Endpoint, Partition};
use bellwire_receiver::Receiver;
use bellwire_store::{EmbeddedStore, Recovered, Store};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use subtle::ConstantTimeEq as _;
use tokio::sync::watch;

/// A running server. Stops when told to, not when dropped.
pub struct Server {
    core: Arc<Core>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    /// Becomes `true` when connections are to be taken.
    open: watch::Sender<bool>,
    shards: Vec<JoinHandle<()>>,
    commit: JoinHandle<()>,
    deadline: Duration,
    tls: Option<Tls>,
}

/// What lives on the thread of one shard beside the server's own tasks, as every door does that changes the configuration. It is given
/// an operator's door and the API's settings, and ends with the server.
pub type Resident = Box<dyn FnOnce(Arc<dyn Backend>, bellwire_api::Settings) -> Residing + Send>;
/// Its life.
pub type Residing = Pin<Box<dyn Future<Output = ()>>>;

/// How a stop went.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stopped {
    /// Everything ended by itself and is recorded.
    Cleanly,
    /// The deadline passed; attempts in flight were cut off and will be made again after the next start.
    AtDeadline,
}

impl Server {
    /// Opens the store, recovers, and serves. When it answers, requests are taken; those of a server with a resident wait for
    /// [`Server::open`].
    ///
    /// # Errors
    /// What could not be opened, read or bound, with its cause.
    pub fn start(config: &Config, mut resident: Option<Resident>) -> anyhow::Result<Server> {
        let started = Instant::now();
        let shards = config.server.shards();
        raise_file_limit();
        let tls = config.server.tls.clone().map(Tls::load).transpose().context("TLS cannot be offered")?;
        let listeners = bind(config.server.listen, shards)?;
        let address = listeners[0].local_addr().context("cannot read the listener's address")?;
        let egress = Arc::new(Egress::new(wiring::egress(config, address)).context("cannot set up outgoing requests")?);

        let store: Arc<dyn Store> = Arc::new(
            EmbeddedStore::open(&config.server.data, wiring::store(config))
                .with_context(|| format!("cannot open the data folder {}", config.server.data.display()))?,
        );
        let partitions: Vec<_> = Partition::all().collect();
        let leases = store
            .lease(&format!("process-{}", std::process::id()), &partitions, wall(), Duration::from_secs(60))
            .context("cannot take the partitions of the store")?;
        let recovered = store.recover().context("cannot read the store")?;
        tracing::info!(
            duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
            applications = recovered.applications.len(),
            endpoints = recovered.endpoints.len(),
            unfinished = recovered.unfinished.len(),
            waiting_endpoints = recovered.waiting.len(),
            "the store is open"
        );

        let mut rng = rand::rng();
        let mut seed = || rand::Rng::random::<[u8; 32]>(&mut rng);
        let mut intake = Intake::new(config.intake_settings(), recovered.newest, seed());
        intake.hold(leases.iter().map(|lease| (lease.partition, lease.fence)).collect());
        let engines: Vec<_> = (0..shards).map(|_| Engine::new(config.engine_settings(), seed())).collect();
        let inputs = share_out(&recovered, shards);
        let mut catalogue = Catalogue::new(recovered.applications, recovered.endpoints, recovered.event_types);
        recovered.sources.into_iter().for_each(|source| catalogue.sources_mut().put(source));
        recovered.ended_subscriptions.into_iter().for_each(|ended| catalogue.ended_subscriptions_mut().put(ended));
        recovered.tokens.into_changes().for_each(|change| catalogue.tokens_mut().apply(&change));
        let core = Arc::new(Core::new(
            Clock::start(recovered.newest.time()),
            store,
            intake,
            catalogue,
            shards,
            recovered.last_key,
            Metrics::new(),
            Arc::clone(egress.guard()),
            Tracer::start(config)?,
            Pipes::new(recovered.newest, rand::Rng::random(&mut rng)),
        ));

        let commit = crate::commit::start(Arc::clone(&core)).context("cannot start the committing thread")?;
        let (stop, stopped) = watch::channel(false);
        let (open, opened) = watch::channel(resident.is_none());
        let scripts = wiring::scripts(config);
        let plugins = wiring::plugins(config)?;
        wiring::hand_out_modules(&plugins, &core.catalogue.read())?;
        let api = wiring::api(config, &scripts)?;
        let clients = config.limits.connections_per_client_max.map(Clients::new);
        let receiver = Arc::new(Receiver::default());
        let mut threads = Vec::with_capacity(shards);
        for (index, ((listener, engine), inputs)) in listeners.into_iter().zip(engines).zip(inputs).enumerate() {
            let doors = Arc::new(Doors {
                core: Arc::clone(&core),
                plugins: Arc::clone(&plugins),
                shard: index,
                payload_bytes_max: config.server.payload_bytes_max,
                operator: false,
            });
            let backend: Arc<dyn Backend> = Arc::clone(&doors) as Arc<dyn Backend>;
            let resident = resident.take().map(|resident| {
                let operators: Arc<dyn Backend> = Arc::new(Doors { operator: true, ..Doors::clone(&doors) });
                (resident, operators, api.clone())
            });
            let api = bellwire_api::Api::new(backend, api.clone());
            let client = Arc::new(OnceLock::new());
            let receiving =
                Receiving { doors: Arc::clone(&doors), receiver: Arc::clone(&receiver), client: Arc::clone(&client) };
            let shard = Shard {
                core: Arc::clone(&core),
                doors,
                index,
                engine,
                inputs,
                listener,
                tls: tls.as_ref().map(Tls::acceptor),
                routers: routers(&core, api.clone(), config.server.metrics_token.as_ref(), receiving),
                client,
                housekeeping: (index == 0).then_some(api),
                resident,
                limits: wiring::connections(config, shards, clients.clone()),
                egress: Arc::clone(&egress),
                push: wiring::push(config, &scripts),
                plugins: Arc::clone(&plugins),
                open: opened.clone(),
                stop: stopped.clone(),
            };
            threads.push(shard.start()?);
        }
        wiring::warm_up(&plugins, &core.catalogue.read());
        Ok(Server {
            core,
            address,
            stop,
            open,
            shards: threads,
            commit,
            deadline: config.server.shutdown_deadline,
            tls,
        })
    }

    /// What its threads share.
    #[cfg(test)]
    pub(crate) fn core(&self) -> &Core {
        &self.core
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether clients must speak TLS.
    pub fn is_secure(&self) -> bool {
        self.tls.is_some()
    }

    /// Takes requests from the first time on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }

    /// Reads the certificate and its key again; with `changed_only`, if they have changed. `false` if there are none.
    pub fn reload_tls(&mut self, changed_only: bool) -> bool {
        let Some(tls) = &mut self.tls else { return false };
        if changed_only && !tls.has_changed() {
            return true;
        }
        match tls.reload() {
            Ok(()) => tracing::info!("a new certificate is in force; open connections keep theirs"),
            Err(error) => {
                let error = format!("{error:#}");
                tracing::error!(error, "the new certificate cannot be used; the one of before stays in force");
            }
        }
        true
    }

    /// Takes no more requests, lets what is in flight end, records it, and ends. Blocks until then, or until the deadline.
    pub fn stop(self) -> Stopped {
        let deadline = Instant::now() + self.deadline;
        let _ = self.stop.send(true);
        self.core.pipes.wakes.close();
        self.core.stop();
        let threads = self.shards.iter().chain(std::iter::once(&self.commit));
        let all_ended = || threads.clone().all(JoinHandle::is_finished);
        while !all_ended() {
            if Instant::now() > deadline {
                self.core.give_up();
                tracing::warn!("the deadline for stopping has passed; attempts in flight will be made again");
                return Stopped::AtDeadline;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if let Some(tracer) = &self.core.tracer {
            tracer.stop(deadline);
        }
        Stopped::Cleanly
    }
}

/// Every connection is an open file, and many systems allow a process few of them unless it asks.
fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum })
    {
        tracing::warn!(%error, limit = current, "the limit of open files could not be raised");
    }
}

/// One socket for each shard, all on one port.
fn bind(address: SocketAddr, shards: usize) -> anyhow::Result<Vec<std::net::TcpListener>> {
    let address = connections::vacant(address).with_context(|| format!("cannot listen on {address}"))?;
    (0..shards).map(|_| connections::bind(address).with_context(|| format!("cannot listen on {address}"))).collect()
}

/// The API, the sources' URLs, and what the operator's machines read.
fn routers(
    core: &Arc<Core>,
    api: bellwire_api::Api,
    metrics_token: Option<&SecretText>,
    receiving: Receiving,
) -> Routers {
    let receiving = Arc::new(receiving);
    let all = |api: Router| receiving::routes(metrics(core, api, metrics_token), Arc::clone(&receiving));
    let api = bellwire_api::router(api);
    Routers { programs: all(api.clone()), pages: all(bellwire_api::for_pages(api)), sources: receiving }
}

/// The metrics beside `router`.
fn metrics(core: &Arc<Core>, router: Router, metrics_token: Option<&SecretText>) -> Router {
    let core = Arc::clone(core);
    let wanted: Option<Arc<[u8]>> = metrics_token.map(|token| format!("Bearer {}", token.reveal()).into_bytes().into());
    let metrics = get(move |headers: http::HeaderMap| {
        let (core, wanted) = (Arc::clone(&core), wanted.clone());
        async move {
            let given = headers.get(http::header::AUTHORIZATION).map_or(&b""[..], |value| value.as_bytes());
            if wanted.is_some_and(|wanted| !bool::from(wanted.ct_eq(given))) {
                let challenge = [(http::header::WWW_AUTHENTICATE, "Bearer")];
                return (http::StatusCode::UNAUTHORIZED, challenge, "the metrics need their token").into_response();
            }
            let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(http::header::CONTENT_TYPE, kind)], observe::metrics_text(core).await).into_response()
        }
    });
    router.route("/metrics", metrics)
}

/// What each engine is told before it starts.
fn share_out(recovered: &Recovered, shards: usize) -> Vec<Vec<Input>> {
    let mut inputs: Vec<Vec<Input>> = (0..shards).map(|_| Vec::new()).collect();
    let shard = |application: ApplicationKey| application.partition().shard(shards);
    let mut owner = std::collections::HashMap::new();
    for event_type in recovered.event_types.iter().filter(|event_type| event_type.retry_schedule.is_some()) {
        inputs.iter_mut().for_each(|inputs| inputs.push(Input::schedule_of(event_type)));
    }
    for application in &recovered.applications {
        inputs[shard(application.key)].push(Input::Application(Arc::clone(application)));
    }
    for endpoint in &recovered.endpoints {
        let Endpoint { key, application, .. } = **endpoint;
        owner.insert(key, shard(application));
        inputs[shard(application)].push(Input::Endpoint(Arc::clone(endpoint)));
    }
    for (index, inputs) in inputs.iter_mut().enumerate() {
        let fresh = recovered.unfinished.iter().filter(|u| shard(u.message.application) == index);
        let waiting = recovered.waiting.iter().filter(|(endpoint, _)| owner.get(endpoint) == Some(&index));
        inputs.push(Input::Recovered {
            fresh: fresh.map(|u| Fresh { message: Arc::clone(&u.message), fan_out: u.fan_out.clone() }).collect(),
            waiting: waiting.map(|(endpoint, head)| (*endpoint, head.due)).collect(),
            through: recovered.newest,
        });
    }
    inputs
}
