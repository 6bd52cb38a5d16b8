//! Components ready to run: compiled on a thread of their own, one after the other, and kept as long as there is room.

use super::bindings::{Filtering, Plain, link};
use super::instance::Inside;
use super::turn::{Done, Run, Turn, What};
use crate::modules::Modules;
use bellwire_model::Permissions;
use bellwire_shape::{Pool, ScriptError, ScriptLimits};
use bytes::Bytes;
use parking_lot::{Condvar, Mutex};
use std::collections::{HashSet, VecDeque};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};
use tokio::sync::oneshot;
use wasmparser::{Parser, Payload};
use wasmtime::component::{Component, Linker};
use wasmtime::{Config, Engine, EngineWeak};

/// Compiled components that are kept.
const KEPT_MAX: usize = 64;
/// What they take together, in bytes.
const KEPT_BYTES_MAX: usize = 256 << 20;
/// What calls within a component may stack up.
const STACK_BYTES_MAX: usize = 512 << 10;
/// The same, with what our own functions below them need.
const FIBRE_BYTES: usize = 1 << 20;
/// So often it is looked at what a component has computed.
const TICK: Duration = Duration::from_millis(5);
/// The custom section in which a component says what it wants.
const PERMISSIONS: &str = "bellwire.permissions";
const PERMISSIONS_BYTES_MAX: usize = 64 << 10;

/// Compiled components, and threads for them. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Components {
    pool: Pool<Turn>,
    /// Made with the first component.
    workshop: Arc<OnceLock<Result<Workshop, String>>>,
}

/// A component that can be called.
pub(super) struct Compiled {
    pub(super) way: Way,
    clock: Arc<Clock>,
    bytes: usize,
}

/// Which world it is of.
pub(super) enum Way {
    Plain(Plain<Inside>),
    Filtering(Filtering<Inside>),
}

#[derive(Debug)]
struct Workshop {
    kept: Arc<Mutex<Kept>>,
    orders: mpsc::Sender<Order>,
}

/// The one used last at the end.
#[derive(Default)]
struct Kept(VecDeque<(Arc<str>, Arc<Compiled>)>);

/// Something to compile.
struct Order {
    digest: Arc<str>,
    from: From,
    answer: Box<dyn FnOnce(Result<Arc<Compiled>, String>) + Send>,
}

enum From {
    Modules(Arc<Modules>),
    Bytes(Bytes),
}

impl Components {
    /// No thread is started yet.
    pub(crate) fn new(limits: ScriptLimits) -> Self {
        Components { pool: Pool::new(limits), workshop: Arc::default() }
    }

    pub(super) fn limits(&self) -> ScriptLimits {
        self.pool.limits()
    }

    /// Whether this is a component that can be run, and what it wants. Waits until it is compiled.
    ///
    /// # Errors
    /// Why it cannot be run.
    pub(crate) fn inspect(&self, digest: &str, component: Bytes) -> Result<Permissions, String> {
        let wants = wants(&component)?;
        self.compile(digest.into(), From::Bytes(component))?;
        Ok(wants)
    }

    /// Has installed components compiled in the background, one after the other, as many as are kept. Each is asked for when the one before
    /// is there: what a message needs meanwhile is compiled in between.
    pub(crate) fn warm_up(&self, mut wanted: Vec<(Arc<str>, Arc<Modules>)>) {
        // Several endpoints may run the same one.
        let mut asked = HashSet::new();
        wanted.retain(|(digest, _)| asked.insert(Arc::clone(digest)));
        if wanted.is_empty() {
            return;
        }
        let components = self.clone();
        let work = move || {
            let begun = Instant::now();
            let mut count = 0;
            for (digest, modules) in wanted {
                if !components.workshop().is_ok_and(|workshop| workshop.kept.lock().has_room()) {
                    break;
                }
                match components.compile(Arc::clone(&digest), From::Modules(modules)) {
                    Ok(()) => count += 1,
                    // Its messages will say so, too.
                    Err(error) => tracing::warn!(%digest, error, "an installed component cannot be compiled"),
                }
            }
            let duration_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
            tracing::info!(count, duration_ms, "the components that enabled endpoints run are compiled");
        };
        if let Err(error) = std::thread::Builder::new().name("component-warm-up".to_owned()).spawn(work) {
            tracing::warn!(%error, "no thread to compile components on; their first messages wait for that");
        }
    }

    /// Waits until it is compiled.
    fn compile(&self, digest: Arc<str>, from: From) -> Result<(), String> {
        let (answer, receiver) = mpsc::sync_channel(1);
        let answer = move |compiled: Result<Arc<Compiled>, String>| drop(answer.send(compiled.map(drop)));
        self.order(Order { digest, from, answer: Box::new(answer) })?;
        receiver.recv().unwrap_or_else(|_| Err("no thread is left for compiling".to_owned()))
    }

    /// The installed component of this digest.
    ///
    /// # Errors
    /// Why it cannot be run.
    pub(super) async fn compiled(&self, digest: &Arc<str>, modules: &Arc<Modules>) -> Result<Arc<Compiled>, String> {
        if let Some(compiled) = self.workshop()?.kept.lock().find(digest) {
            return Ok(compiled);
        }
        let (answer, receiver) = oneshot::channel();
        let answer = move |compiled| drop(answer.send(compiled));
        let from = From::Modules(Arc::clone(modules));
        self.order(Order { digest: Arc::clone(digest), from, answer: Box::new(answer) })?;
        receiver.await.unwrap_or_else(|_| Err("no thread is left for compiling".to_owned()))
    }

    pub(super) async fn turn(&self, turn: Turn) -> Result<Done, ScriptError> {
        let (sender, receiver) = oneshot::channel();
        let (components, lane, digest) = (self.clone(), turn.lane, Arc::clone(&turn.digest));
        self.pool.run(turn, move |done| {
            // Nobody waits any more. Its memory is given back on a thread that may take its time.
            if let Err(Ok(Done::Waits(run))) = sender.send(done) {
                components.discard(lane, digest, run);
            }
        });
        receiver.await.unwrap_or_else(|_| Err(ScriptError::Failed("no thread is left for components".to_owned())))
    }

    pub(super) fn discard(&self, lane: u64, digest: Arc<str>, run: Run) {
        self.pool.run(Turn { lane, digest, what: What::Discard(run), until: Instant::now() }, drop);
    }

    /// How many compiled components are kept, and what they take in bytes.
    #[cfg(test)]
    pub(super) fn kept(&self) -> (usize, usize) {
        let workshop = self.workshop().expect("opened");
        let kept = workshop.kept.lock();
        (kept.0.len(), kept.bytes())
    }

    fn order(&self, order: Order) -> Result<(), String> {
        self.workshop()?.orders.send(order).map_err(|_| "no thread is left for compiling".to_owned())
    }

    fn workshop(&self) -> Result<&Workshop, String> {
        self.workshop.get_or_init(Workshop::open).as_ref().map_err(String::clone)
    }
}

impl Compiled {
    pub(super) fn engine(&self) -> &Engine {
        match &self.way {
            Way::Plain(plain) => plain.engine(),
            Way::Filtering(filtering) => filtering.engine(),
        }
    }

    pub(super) fn clock(&self) -> &Arc<Clock> {
        &self.clock
    }
}

impl Workshop {
    fn open() -> Result<Workshop, String> {
        let failed = |error: wasmtime::Error| format!("this machine cannot run components: {error:#}");
        let mut config = Config::new();
        config.epoch_interruption(true).max_wasm_stack(STACK_BYTES_MAX).async_stack_size(FIBRE_BYTES);
        let engine = Engine::new(&config).map_err(failed)?;
        let mut linker = Linker::new(&engine);
        link(&mut linker).map_err(failed)?;
        let clock = Clock::start(&engine).map_err(|error| format!("no thread can be started: {error}"))?;
        let kept: Arc<Mutex<Kept>> = Arc::default();
        let (orders, receiver) = mpsc::channel::<Order>();
        let shelf = Arc::clone(&kept);
        let work = move || {
            for Order { digest, from, answer } in receiver {
                answer(fetch_or_make(&shelf, &digest, from, &engine, &linker, &clock));
            }
        };
        let thread = std::thread::Builder::new().name("component-compile".to_owned()).spawn(work);
        thread.map_err(|error| format!("no thread can be started: {error}"))?;
        Ok(Workshop { kept, orders })
    }
}

fn fetch_or_make(
    kept: &Mutex<Kept>,
    digest: &Arc<str>,
    from: From,
    engine: &Engine,
    linker: &Linker<Inside>,
    clock: &Arc<Clock>,
) -> Result<Arc<Compiled>, String> {
    // Many may have asked for it before it was there.
    if let Some(compiled) = kept.lock().find(digest) {
        return Ok(compiled);
    }
    let component = match from {
        From::Bytes(component) => component,
        From::Modules(modules) => {
            modules.component(digest).map_err(|error| match std::error::Error::source(&error) {
                Some(source) => format!("{error}: {source}"),
                None => error.to_string(),
            })?
        }
    };
    let compiled = Arc::new(compile(&component, engine, linker, clock)?);
    kept.lock().keep(Arc::clone(digest), Arc::clone(&compiled));
    Ok(compiled)
}

fn compile(component: &[u8], engine: &Engine, linker: &Linker<Inside>, clock: &Arc<Clock>) -> Result<Compiled, String> {
    if Parser::is_core_wasm(component) {
        return Err("this is a module, not a component; docs/plugins.md says how to build one".to_owned());
    }
    let failed = |error: wasmtime::Error| format!("it is no component that can be run: {error:#}");
    let component = Component::from_binary(engine, component).map_err(failed)?;
    let range = component.image_range();
    let bytes = (range.end as usize).saturating_sub(range.start as usize);
    let kind = component.component_type();
    let filters = ["filter", "transform"].into_iter().any(|name| kind.get_export(engine, name).is_some());
    let linked = linker.instantiate_pre(&component).map_err(failed)?;
    let way = match filters {
        true => Way::Filtering(Filtering::new(linked).map_err(failed)?),
        false => Way::Plain(Plain::new(linked).map_err(failed)?),
    };
    Ok(Compiled { way, clock: Arc::clone(clock), bytes })
}

/// What a component says that it wants, in custom sections of its own or of the modules in it.
fn wants(component: &[u8]) -> Result<Permissions, String> {
    let mut text = String::new();
    for payload in Parser::new(0).parse_all(component) {
        let payload = payload.map_err(|error| format!("it is no component: {error}"))?;
        let Payload::CustomSection(section) = payload else { continue };
        if section.name() != PERMISSIONS {
            continue;
        }
        let lines = std::str::from_utf8(section.data());
        text.push_str(lines.map_err(|_| format!("the section {PERMISSIONS} is not UTF-8"))?);
        text.push('\n');
        if text.len() > PERMISSIONS_BYTES_MAX {
            return Err(format!("the section {PERMISSIONS} has more than {PERMISSIONS_BYTES_MAX} bytes"));
        }
    }
    Permissions::listed(&text).map_err(|why| format!("the section {PERMISSIONS}, {why}"))
}

impl Kept {
    fn find(&mut self, digest: &str) -> Option<Arc<Compiled>> {
        let place = self.0.iter().position(|(kept, _)| **kept == *digest)?;
        let found = self.0.remove(place)?;
        let compiled = Arc::clone(&found.1);
        self.0.push_back(found);
        Some(compiled)
    }

    fn keep(&mut self, digest: Arc<str>, compiled: Arc<Compiled>) {
        self.0.push_back((digest, compiled));
        while self.0.len() > KEPT_MAX || (self.0.len() > 1 && self.bytes() > KEPT_BYTES_MAX) {
            self.0.pop_front();
        }
    }

    /// Whether one more pushes none out, unless it is a large one.
    fn has_room(&self) -> bool {
        self.0.len() < KEPT_MAX && self.bytes() < KEPT_BYTES_MAX
    }

    fn bytes(&self) -> usize {
        self.0.iter().map(|(_, compiled)| compiled.bytes).sum()
    }
}

impl std::fmt::Debug for Kept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(digest, _)| digest)).finish()
    }
}

/// Interrupts components now and then, so that it can be looked at what they have computed. Stands still while none runs.
pub(super) struct Clock {
    state: Mutex<ClockState>,
    wake: Condvar,
}

#[derive(Default)]
struct ClockState {
    running: usize,
}

/// A component runs.
pub(super) struct Ticking<'a>(&'a Clock);

impl Clock {
    fn start(engine: &Engine) -> std::io::Result<Arc<Clock>> {
        let clock = Arc::new(Clock { state: Mutex::default(), wake: Condvar::new() });
        let (watched, engine) = (Arc::downgrade(&clock), engine.weak());
        std::thread::Builder::new().name("component-clock".to_owned()).spawn(move || {
            while let (Some(clock), Some(engine)) = (watched.upgrade(), EngineWeak::upgrade(&engine)) {
                engine.increment_epoch();
                drop(engine);
                clock.rest();
            }
        })?;
        Ok(clock)
    }

    /// A moment; longer if there is nothing to interrupt, but not for ever: the engine may be gone.
    fn rest(&self) {
        const LONG: Duration = Duration::from_secs(60);
        let mut state = self.state.lock();
        if state.running == 0 {
            self.wake.wait_for(&mut state, LONG);
        }
        drop(state);
        std::thread::sleep(TICK);
    }

    pub(super) fn tick(&self) -> Ticking<'_> {
        let mut state = self.state.lock();
        state.running += 1;
        if state.running == 1 {
            self.wake.notify_one();
        }
        Ticking(self)
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.state.lock().running -= 1;
    }
}
