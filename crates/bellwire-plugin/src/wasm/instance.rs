//! One instance of a component, for one event: what it may hold and ask for, and how it is called.

use super::bindings::bellwire::handler::{host, types};
use super::components::{Compiled, Way};
use crate::answer::{Console, Emitted};
use crate::event::Event;
use crate::fetch::Wanted;
use bellwire_shape::{ScriptError, ScriptLimits};
use bytes::Bytes;
use parking_lot::Mutex;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::Wake;
use std::time::{Duration, Instant};
use tokio::sync::{Notify, oneshot};
use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, Store, Trap, UpdateDeadline};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamResult};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxView, WasiView};

/// How much of what a component writes is kept.
const CONSOLE_MAX: usize = bellwire_model::RESPONSE_BODY_MAX;
const EMITTED_MAX: usize = 100;
/// Of what WASI hands out: streams, moments to wait for.
const RESOURCES_MAX: usize = 1_000;
const RANDOM_BYTES_MAX: u64 = 64 << 10;
/// What is counted for an element of a table, in bytes.
const ELEMENT_BYTES: usize = 16;
/// What a component may write before it is asked to wait a moment.
const WRITE_BYTES_MAX: usize = 64 << 10;

/// What is seen of a run from outside, while it runs.
pub(super) struct Outside {
    console: Mutex<Console>,
    /// A fetch that the run waits for.
    call: Mutex<Option<Call>>,
    until: Mutex<Option<Instant>>,
    woken: Notify,
}

type Call = (Wanted, oneshot::Sender<Result<host::Incoming, String>>);

impl Default for Outside {
    fn default() -> Self {
        Outside {
            console: Mutex::new(Console::new(CONSOLE_MAX)),
            call: Mutex::default(),
            until: Mutex::default(),
            woken: Notify::new(),
        }
    }
}

impl Outside {
    pub(super) fn take_output(&self) -> Bytes {
        std::mem::replace(&mut *self.console.lock(), Console::new(0)).into_bytes()
    }

    pub(super) fn take_call(&self) -> Option<Call> {
        self.call.lock().take()
    }

    pub(super) fn may_compute_until(&self, until: Instant) {
        *self.until.lock() = Some(until);
    }

    /// Waits until the run can go on.
    pub(super) async fn woken(&self) {
        self.woken.notified().await;
    }

    fn is_late(&self) -> bool {
        self.until.lock().is_some_and(|until| Instant::now() >= until)
    }
}

impl Wake for Outside {
    fn wake(self: Arc<Self>) {
        self.woken.notify_one();
    }
}

/// What belongs to an instance.
pub(super) struct Inside {
    outside: Arc<Outside>,
    limits: ScriptLimits,
    memory: Memory,
    environment: BTreeMap<String, String>,
    variables: Arc<BTreeMap<String, String>>,
    secrets: Arc<BTreeMap<String, String>>,
    emitted: Vec<Emitted>,
    wasi: WasiCtx,
    resources: ResourceTable,
}

/// What an instance holds, in bytes: memories and tables together.
struct Memory {
    held: usize,
    max: usize,
}

/// What came of a run.
pub(super) struct End {
    pub(super) answer: types::Answer,
    pub(super) emitted: Vec<Emitted>,
}

impl Inside {
    pub(super) fn new(
        outside: &Arc<Outside>,
        limits: ScriptLimits,
        environment: BTreeMap<String, String>,
        variables: &Arc<BTreeMap<String, String>>,
        secrets: &Arc<BTreeMap<String, String>>,
    ) -> Self {
        let mut wasi = WasiCtx::builder();
        let output = || Output(Arc::clone(outside));
        wasi.stdout(output()).stderr(output()).allow_tcp(false).allow_udp(false).allow_ip_name_lookup(false);
        wasi.max_random_size(RANDOM_BYTES_MAX);
        for (name, value) in &environment {
            wasi.env(name, value);
        }
        let mut resources = ResourceTable::new();
        resources.set_max_capacity(RESOURCES_MAX);
        Inside {
            outside: Arc::clone(outside),
            limits,
            memory: Memory { held: 0, max: limits.heap_bytes_max },
            environment,
            variables: Arc::clone(variables),
            secrets: Arc::clone(secrets),
            emitted: Vec::new(),
            wasi: wasi.build(),
            resources,
        }
    }
}

/// What a component is given of an event.
pub(super) fn event(event: &Event<'_>) -> types::Event {
    let message = event.message();
    let header = |(name, value): (&str, &str)| types::Header { name: name.to_owned(), value: value.to_owned() };
    let received = message.received.as_deref().map(|received| types::Request {
        source: received.source.to_string(),
        method: received.method.clone(),
        path: received.path.clone(),
        query: received.query.clone().unwrap_or_default(),
        remote: received.remote.map(|remote| remote.to_string()),
        headers: received.headers.iter().map(header).collect(),
    });
    types::Event {
        id: event.id().to_owned(),
        event_id: message.event_id.clone(),
        event_type: message.event_type.clone(),
        time: message.sequence().time().to_string(),
        attempt: event.attempt(),
        channels: message.channels.clone(),
        tags: message.tags.clone(),
        content_type: message.content_type.as_str().to_owned(),
        dedupe: event.dedupe().to_owned(),
        received,
        payload: event.payload().to_vec(),
    }
}

/// Makes an instance and calls it. Nothing of it is left afterwards.
///
/// # Errors
/// What the component's owner is to read.
pub(super) async fn run(compiled: Arc<Compiled>, event: types::Event, inside: Inside) -> Result<End, ScriptError> {
    let limits = inside.limits;
    let mut store = Store::new(compiled.engine(), inside);
    store.limiter(|inside| &mut inside.memory);
    store.set_hostcall_fuel(limits.heap_bytes_max);
    store.set_epoch_deadline(1);
    store.epoch_deadline_callback(move |store| match store.data().outside.is_late() {
        false => Ok(UpdateDeadline::Continue(1)),
        true => Err(Late(limits.deadline).into()),
    });
    let called = call(&compiled.way, &mut store, event).await;
    let answer = called.map_err(|error| described(&error))?;
    let answer = answer.map_err(|why| ScriptError::Failed(format!("the component failed: {why}")))?;
    Ok(End { answer, emitted: std::mem::take(&mut store.data_mut().emitted) })
}

async fn call(
    way: &Way,
    store: &mut Store<Inside>,
    event: types::Event,
) -> wasmtime::Result<Result<types::Answer, String>> {
    let handler = match way {
        Way::Plain(plain) => return plain.instantiate_async(&mut *store).await?.call_handle(store, &event).await,
        Way::Filtering(filtering) => filtering.instantiate_async(&mut *store).await?,
    };
    match handler.call_filter(&mut *store, &event).await? {
        Ok(true) => {}
        Ok(false) => return Ok(Ok(types::Answer::Drop("the filter said no".to_owned()))),
        Err(why) => return Ok(Err(why)),
    }
    match handler.call_transform(&mut *store, &event).await? {
        Ok(event) => handler.call_handle(store, &event).await,
        Err(why) => Ok(Err(why)),
    }
}

#[derive(Debug, thiserror::Error)]
#[error("the component computed for longer than {0:?}")]
struct Late(Duration);

#[derive(Debug, thiserror::Error)]
#[error("the component wanted to hold more than {0} bytes")]
struct Swollen(usize);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Refused(String);

fn described(error: &wasmtime::Error) -> ScriptError {
    if let Some(Late(limit)) = error.downcast_ref() {
        return ScriptError::Late(Late(*limit).to_string());
    }
    if let Some(I32Exit(status)) = error.downcast_ref() {
        return ScriptError::Failed(format!("the component exited with {status}"));
    }
    ScriptError::Failed(match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => "the component used up its stack".to_owned(),
        Some(trap) => format!("the component was ended: {trap}"),
        None if error.is::<Swollen>() || error.is::<Refused>() => error.root_cause().to_string(),
        None => format!("the component was ended: {error:#}"),
    })
}

impl host::Host for Inside {
    fn log(&mut self, level: host::Level, text: String) {
        let prefix = match level {
            host::Level::Debug | host::Level::Info => "",
            host::Level::Warn => "warn: ",
            host::Level::Error => "error: ",
        };
        let mut console = self.outside.console.lock();
        for part in [prefix, &text, "\n"] {
            console.write(part.as_bytes());
        }
    }

    fn variable(&mut self, name: String) -> Option<String> {
        self.variables.get(&name).cloned()
    }

    fn secret(&mut self, name: String) -> Option<String> {
        self.secrets.get(&name).cloned()
    }

    fn environment(&mut self, name: String) -> Option<String> {
        self.environment.get(&name).cloned()
    }

    async fn fetch(&mut self, request: host::Outgoing) -> Result<host::Incoming, String> {
        let host::Outgoing { url, method, headers, body } = request;
        let headers = headers.into_iter().map(|header| (header.name, header.value)).collect();
        let (answer, receiver) = oneshot::channel();
        *self.outside.call.lock() = Some((Wanted { url, method, headers, body: body.into() }, answer));
        receiver.await.unwrap_or_else(|_| Err("fetch failed: nobody waits any more".to_owned()))
    }

    fn emit(&mut self, event_type: String, payload: String, channels: Vec<String>) -> wasmtime::Result<()> {
        let bytes_max = self.limits.output_bytes_max;
        let refused = |why: String| Err(Refused(format!("`emit` was called {why}")).into());
        if self.emitted.len() >= EMITTED_MAX {
            return refused(format!("more than {EMITTED_MAX} times"));
        }
        if payload.len() > bytes_max {
            return refused(format!("with {} bytes, at most {bytes_max}", payload.len()));
        }
        if let Err(error) = serde_json::from_str::<IgnoredAny>(&payload) {
            return refused(format!("with a payload that is not JSON: {error}"));
        }
        self.emitted.push(Emitted { event_type, payload, channels });
        Ok(())
    }
}

impl types::Host for Inside {}

impl WasiView for Inside {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.resources }
    }
}

impl Memory {
    fn grow(&mut self, more: usize) -> wasmtime::Result<bool> {
        self.held = self.held.saturating_add(more);
        // An end that is seen, rather than an allocator that is left with its failure.
        if self.held <= self.max { Ok(true) } else { Err(Swollen(self.max).into()) }
    }
}

impl ResourceLimiter for Memory {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        self.grow(desired.saturating_sub(current).saturating_mul(ELEMENT_BYTES))
    }
}

/// Standard output and standard error: what is written is kept with the attempt, up to a cap.
#[derive(Clone)]
struct Output(Arc<Outside>);

impl IsTerminal for Output {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Output {
    fn async_stream(&self) -> Box<dyn tokio::io::AsyncWrite + Send + Sync> {
        // Only later versions of WASI than the one that is linked use it.
        Box::new(tokio::io::sink())
    }

    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
}

#[wasmtime_wasi::async_trait]
impl Pollable for Output {
    async fn ready(&mut self) {}
}

#[wasmtime_wasi::async_trait]
impl OutputStream for Output {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        self.0.console.lock().write(&bytes);
        Ok(())
    }

    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }

    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}
