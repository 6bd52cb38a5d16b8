//! JavaScript: `handle(event, ctx)` is called for each message, in a sandbox of its own on threads of their own.
//!
//! `filter(event)` and `transform(event)` come before it if the script defines them. The event is what [`crate::event`] says; `ctx`
//! has the endpoint's `variables` and `secrets`, and the answers: `ack()`, `drop(reason)`, `retry(seconds, reason)`,
//! `fail(reason)`, `respond({ status, headers, body })`, and `emit(type, payload)`. What `handle` returns is kept with the
//! attempt; what it throws is a failure that is tried again.
//!
//! `fetch` is the one way out. It leaves the sandbox as text, the exchange is made here by [`bellwire_egress`] and its address
//! guard, and the run steps aside meanwhile: waiting costs no thread and none of the time that it may compute.

mod engine;

use crate::answer::{Answer, Console, Emitted, Ran, Response};
use crate::event::Event;
use crate::fetch::{Asks, Fetches, Wanted, check_hosts, joined};
use crate::modules::Modules;
use crate::settings::{Fault, Millis};
use bellwire_egress::Client;
use bellwire_model::{Code, EndpointKey, FailureClass, Permissions, Runs};
use bellwire_shape::{Pool, ScriptError, ScriptLimits};
use engine::{Call, Done, End, Said, Suspended, Turn, What, Written};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};

/// How much of a handler's console is kept.
const CONSOLE_MAX: usize = bellwire_model::RESPONSE_BODY_MAX;
const EMITTED_MAX: usize = 100;

/// Settings of the kind `javascript`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Javascript {
    /// Defines `handle`.
    script: Option<Arc<str>>,
    /// Instead: an installed module that does.
    module: Option<String>,
    /// From beginning to end, waiting included.
    #[serde(default = "timeout_default")]
    timeout_ms: Millis<1, 60_000>,
    /// Hosts that it may fetch from, `*.example.com` with all names below; every host that the address guard allows if absent.
    fetch_hosts: Option<Vec<String>>,
    #[serde(default)]
    variables: BTreeMap<String, String>,
    #[serde(default)]
    secrets: BTreeMap<String, String>,
}

fn timeout_default() -> Millis<1, 60_000> {
    Millis::new(10_000)
}

/// Threads for handlers. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handlers(Pool<Turn>);

#[derive(Serialize)]
struct Input<'a, E> {
    event: &'a E,
    given: Given<'a>,
}

#[derive(Serialize)]
struct Given<'a> {
    environment: BTreeMap<&'a str, &'a str>,
    variables: &'a BTreeMap<String, String>,
    secrets: &'a BTreeMap<String, String>,
}

impl Handlers {
    /// No thread is started yet.
    pub fn new(limits: ScriptLimits) -> Self {
        Handlers(Pool::new(limits))
    }

    /// Whether a script loads and defines `handle`; waits until it is known.
    pub(crate) fn check(&self, script: &Arc<str>) -> Result<(), ScriptError> {
        /// A lane for scripts that are only tried.
        const TRYING: u64 = 1 << 63;
        let (sender, receiver) = std::sync::mpsc::sync_channel(1);
        let turn = Turn::of_nobody(TRYING, Arc::clone(script), What::Load);
        self.0.run(turn, move |done| drop(sender.send(done.map(drop))));
        receiver.recv().unwrap_or_else(|_| Err(ScriptError::Failed("no thread is left for scripts".to_owned())))
    }

    async fn turn(&self, turn: Turn) -> Result<Done, ScriptError> {
        let (sender, receiver) = oneshot::channel();
        let (lane, code, pool) = (turn.lane, Arc::clone(&turn.code), self.0.clone());
        self.0.run(turn, move |done| {
            // Nobody waits any more. Its heap is given back on a thread that may take its time.
            if let Err(Ok(Done::Waits { suspended, .. })) = sender.send(done) {
                discard(&pool, lane, code, suspended);
            }
        });
        receiver.await.unwrap_or_else(|_| Err(ScriptError::Failed("no thread is left for scripts".to_owned())))
    }
}

fn discard(pool: &Pool<Turn>, lane: u64, code: Arc<str>, suspended: Suspended) {
    pool.run(Turn::of_nobody(lane, code, What::Discard(suspended)), drop);
}

impl Javascript {
    /// What is wrong beyond the shape of the settings.
    pub(crate) fn check(&self, handlers: &Handlers, modules: &Modules, faults: &mut Vec<Fault>) {
        match (&self.script, &self.module) {
            (Some(script), None) => {
                if let Err(error) = handlers.check(script) {
                    faults.push(Fault::new(&["script"], error.to_string()));
                }
            }
            (None, Some(name)) => {
                if let Err(text) = modules.check(name, Runs::Javascript) {
                    faults.push(Fault::new(&["module"], text));
                }
            }
            _ => faults.push(Fault::new(&["script"], "either `script` or `module` says what is run")),
        }
        check_hosts(self.fetch_hosts.as_deref(), faults);
    }

    /// What is run, and what it may reach if it is a module.
    fn code(&self, modules: &Modules) -> Result<(Arc<str>, Option<Permissions>), String> {
        let Some(name) = &self.module else { return Ok((self.script.clone().unwrap_or_default(), None)) };
        // One that runs wants no more than was granted.
        let running = modules.running(name)?;
        match running.code {
            Code::Text(text) => Ok((text, Some(running.wants))),
            Code::Component(_) => Err(format!("the module {name} is a component, which the kind `wasm` runs")),
        }
    }

    /// Runs it for one event, on behalf of the endpoint of this key.
    pub(crate) async fn run(
        &self,
        event: &Event<'_>,
        lane: EndpointKey,
        handlers: &Handlers,
        modules: &Modules,
        environment: &BTreeMap<String, String>,
        client: &Client,
    ) -> Ran {
        let (code, permissions) = match self.code(modules) {
            Ok(found) => found,
            Err(text) => return Ran::broken(FailureClass::Plugin, text),
        };
        let granted = |name: &str| permissions.as_ref().is_some_and(|wants| wants.environment.contains(name));
        let environment = environment.iter().filter(|(name, _)| granted(name)).map(|(n, v)| (n.as_str(), v.as_str()));
        let given = Given { environment: environment.collect(), variables: &self.variables, secrets: &self.secrets };
        let input = match serde_json::to_string(&Input { event, given }) {
            Ok(input) => input,
            Err(error) => return Ran::broken(FailureClass::Plugin, format!("the event cannot be written: {error}")),
        };
        let written: Written = Arc::new(Mutex::new(Console::new(CONSOLE_MAX)));
        let deadline = Instant::now() + self.timeout_ms.0;
        let fetch = permissions.as_ref().map(|wants| wants.fetch.clone());
        let mut fetches = Fetches::new(client, self.fetch_hosts.as_deref(), fetch, Asks::Text, deadline);
        let running = drive(&code, input, u64::from(lane.0), handlers, &written, deadline, &mut fetches);
        let late = |text: String| (Answer::Broken(FailureClass::Timeout, text), Vec::new());
        let mut returned = None;
        let (answer, emitted) = match timeout_at(deadline, running).await {
            Ok(Ok(mut end)) => {
                // Beside an answer that has a text of its own, what it returned stands with what it wrote.
                if !matches!(end.answer, None | Some(Said::Ack)) {
                    returned = end.value.take();
                }
                let said = said(end, handlers.0.limits().output_bytes_max);
                match &permissions {
                    Some(wants) => Asks::Text.permitted(said, wants),
                    // What an endpoint's own script says is its owner's.
                    None => said,
                }
            }
            Ok(Err(ScriptError::Failed(text))) => (Answer::Broken(FailureClass::Plugin, text), Vec::new()),
            Ok(Err(ScriptError::Late(text))) if Instant::now() < deadline => late(text),
            Ok(Err(ScriptError::Late(_))) | Err(_) => {
                late(format!("the handler took longer than {:?}", self.timeout_ms.0))
            }
        };
        // One that could not be stopped may still write.
        let mut written = std::mem::replace(&mut *written.lock(), Console::new(0));
        if let Some(returned) = returned {
            written.write(format!("returned: {returned}\n").as_bytes());
        }
        Ran { answer, emitted, told: None, output: written.into_bytes() }
    }
}

/// A run from turn to turn, with what it fetches in between.
async fn drive(
    code: &Arc<str>,
    input: String,
    lane: u64,
    handlers: &Handlers,
    written: &Written,
    deadline: Instant,
    fetches: &mut Fetches<'_>,
) -> Result<End, ScriptError> {
    let mut under_way = FuturesUnordered::new();
    let mut what = What::Begin(input);
    loop {
        let until = Some(deadline.into_std());
        let turn = Turn { lane, code: Arc::clone(code), what, until, written: Arc::clone(written) };
        let (suspended, calls) = match handlers.turn(turn).await? {
            Done::Waits { suspended, calls } => (suspended, calls),
            Done::Ended(end) => return end,
            Done::Loaded => return Err(ScriptError::Failed("the handler was not run".to_owned())),
        };
        let waiting = Waiting { handlers, lane, code, suspended: Some(suspended) };
        for call in calls {
            let Call { id, url, method, headers, body } = call;
            let answer = fetches.make(Wanted { url, method, headers, body: body.into() });
            under_way.push(async move { settled(id, answer.await) });
        }
        let Some(answer) = under_way.next().await else {
            return Err(ScriptError::Failed("handle waits for something that never comes".to_owned()));
        };
        let Some(suspended) = waiting.go_on() else {
            return Err(ScriptError::Failed("the handler was lost".to_owned()));
        };
        what = What::Settle(suspended, answer);
    }
}

/// What the prelude's `settle` takes.
#[derive(Serialize)]
struct Settled {
    id: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    response: Option<Fetched>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct Fetched {
    status: u16,
    headers: BTreeMap<String, String>,
    body: String,
    truncated: bool,
}

fn settled(id: u32, answer: Result<bellwire_egress::Response, String>) -> String {
    let (response, error) = match answer {
        Ok(response) => {
            let fetched = Fetched {
                status: response.status,
                headers: joined(&response.headers),
                body: String::from_utf8_lossy(&response.body).into_owned(),
                truncated: response.truncated || response.body_error.is_some(),
            };
            (Some(fetched), None)
        }
        Err(error) => (None, Some(error)),
    };
    serde_json::to_string(&Settled { id, response, error }).unwrap_or_default()
}

/// A run that has stepped aside; given back to the threads if nobody takes it up again.
struct Waiting<'a> {
    handlers: &'a Handlers,
    lane: u64,
    code: &'a Arc<str>,
    suspended: Option<Suspended>,
}

impl Waiting<'_> {
    fn go_on(mut self) -> Option<Suspended> {
        self.suspended.take()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(suspended) = self.suspended.take() {
            discard(&self.handlers.0, self.lane, Arc::clone(self.code), suspended);
        }
    }
}

/// What a handler said, checked.
fn said(end: End, payload_bytes_max: usize) -> (Answer, Vec<Emitted>) {
    let End { value, answer, emitted } = end;
    let broken = |text: String| (Answer::Broken(FailureClass::Plugin, text), Vec::new());
    let answer = match answer {
        None | Some(Said::Ack) => value.map_or(Answer::Ack, Answer::Said),
        Some(Said::Drop(reason)) => Answer::Drop(reason),
        Some(Said::Fail(reason)) => Answer::Fail(reason),
        Some(Said::Retry { seconds: None, reason }) => Answer::Retry(None, reason),
        Some(Said::Retry { seconds: Some(seconds), reason }) => match Duration::try_from_secs_f64(seconds) {
            Ok(wait) => Answer::Retry(Some(wait), reason),
            Err(_) => return broken(format!("ctx.retry takes seconds, not {seconds}")),
        },
        Some(Said::Respond { status, headers, body }) => {
            if !(200.0..=599.0).contains(&status) || status.fract() != 0.0 {
                return broken(format!("ctx.respond takes a status from 200 to 599, not {status}"));
            }
            if let Some(name) = Response::unsendable(&headers) {
                return broken(format!("ctx.respond was given the header {name:?}, which cannot be sent"));
            }
            Answer::Respond(Response { status: status as u16, headers, body: body.into() })
        }
    };
    if emitted.len() > EMITTED_MAX {
        return broken(format!("ctx.emit was called {} times, at most {EMITTED_MAX}", emitted.len()));
    }
    if let Some(emit) = emitted.iter().find(|emit| emit.payload.len() > payload_bytes_max) {
        return broken(format!("ctx.emit was given {} bytes, at most {payload_bytes_max}", emit.payload.len()));
    }
    let emitted = emitted.into_iter().map(|emit| Emitted {
        event_type: emit.event_type,
        payload: emit.payload,
        channels: emit.channels,
    });
    (answer, emitted.collect())
}

#[cfg(test)]
mod tests;
