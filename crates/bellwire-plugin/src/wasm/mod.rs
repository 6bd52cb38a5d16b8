//! WebAssembly: a component of the world that `handler.wit` describes is called for each message, in an instance of its own.
//!
//! `filter` and `transform` come before `handle` if the component has them. What it is given, what it may ask for and what it can
//! answer is all in `handler.wit`; it is the same as for JavaScript. WASI is there because standard libraries need it, with
//! nothing in it: clocks and random numbers, the granted environment, output that is kept with the attempt, no files, no sockets.
//!
//! A component is compiled on a thread of its own when it is installed, in the background after a start if an enabled endpoint runs it, or
//! with a message that needs it, and runs on threads of the same make as handlers in JavaScript. `fetch` is made by the shard, and the run steps aside meanwhile.

mod bindings;
mod components;
mod instance;
mod turn;

use crate::answer::{Answer, Emitted, Ran, Response};
use crate::event::Event;
use crate::fetch::{Asks, Fetches, check_hosts, joined};
use crate::modules::Modules;
use crate::settings::{Fault, Millis};
use bellwire_egress::Client;
use bellwire_model::{Code, EndpointKey, FailureClass, ModuleVersion, Runs};
use bellwire_shape::ScriptError;
use bindings::bellwire::handler::{host, types};
use components::Compiled;
pub(crate) use components::Components;
use instance::{End, Inside, Outside};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};
use turn::{Done, Run, Turn, What};

/// Settings of the kind `wasm`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wasm {
    /// An installed component.
    module: String,
    /// From beginning to end, waiting included.
    #[serde(default = "timeout_default")]
    timeout_ms: Millis<1, 60_000>,
    /// Of the hosts that the component was granted, those that it may fetch from for this endpoint; all of them if absent.
    fetch_hosts: Option<Vec<String>>,
    #[serde(default)]
    variables: Arc<BTreeMap<String, String>>,
    #[serde(default)]
    secrets: Arc<BTreeMap<String, String>>,
}

fn timeout_default() -> Millis<1, 60_000> {
    Millis::new(10_000)
}

impl Wasm {
    /// What is wrong beyond the shape of the settings.
    pub(crate) fn check(&self, modules: &Modules, faults: &mut Vec<Fault>) {
        if let Err(text) = modules.check(&self.module, Runs::Wasm) {
            faults.push(Fault::new(&["module"], text));
        }
        check_hosts(self.fetch_hosts.as_deref(), faults);
    }

    /// What its next message runs, as [`Components::warm_up`] takes it.
    pub(crate) fn wanted(&self, modules: &Arc<Modules>) -> Option<(Arc<str>, Arc<Modules>)> {
        let version = modules.running(&self.module).ok()?;
        matches!(version.code, Code::Component(_)).then(|| (version.digest.into(), Arc::clone(modules)))
    }

    /// Runs it for one event, on behalf of the endpoint of this key.
    pub(crate) async fn run(
        &self,
        event: &Event<'_>,
        lane: EndpointKey,
        components: &Components,
        modules: &Arc<Modules>,
        environment: &BTreeMap<String, String>,
        client: &Client,
    ) -> Ran {
        let version = match modules.running(&self.module) {
            Ok(ModuleVersion { code: Code::Text(_), .. }) => {
                let text = format!("the module {} is a text, which the kind `javascript` runs", self.module);
                return Ran::broken(FailureClass::Plugin, text);
            }
            Ok(version) => version,
            Err(text) => return Ran::broken(FailureClass::Plugin, text),
        };
        let digest: Arc<str> = version.digest.into();
        let granted = environment.iter().filter(|(name, _)| version.wants.environment.contains(*name));
        let environment = granted.map(|(name, value)| (name.clone(), value.clone())).collect();
        let deadline = Instant::now() + self.timeout_ms.0;
        let outside = Arc::new(Outside::default());
        let running = async {
            let compiled = components.compiled(&digest, modules).await.map_err(ScriptError::Failed)?;
            let limits = components.limits();
            let inside = Inside::new(&outside, limits, environment, &self.variables, &self.secrets);
            let fetch = Some(version.wants.fetch.clone());
            let mut fetches = Fetches::new(client, self.fetch_hosts.as_deref(), fetch, Asks::Section, deadline);
            let lane = u64::from(lane.0);
            drive(&compiled, digest, event, inside, lane, components, &outside, deadline, &mut fetches).await
        };
        let late = |text: String| (Answer::Broken(FailureClass::Timeout, text), Vec::new());
        let (answer, emitted) = match timeout_at(deadline, running).await {
            Ok(Ok(end)) => Asks::Section.permitted(said(end, components.limits().output_bytes_max), &version.wants),
            Ok(Err(ScriptError::Failed(text))) => (Answer::Broken(FailureClass::Plugin, text), Vec::new()),
            Ok(Err(ScriptError::Late(text))) if Instant::now() < deadline => late(text),
            Ok(Err(ScriptError::Late(_))) | Err(_) => {
                late(format!("the component took longer than {:?}", self.timeout_ms.0))
            }
        };
        Ran { answer, emitted, told: None, output: outside.take_output() }
    }
}

/// A run from turn to turn, with what it fetches in between.
#[expect(clippy::too_many_arguments, reason = "all of them are one run's")]
async fn drive(
    compiled: &Arc<Compiled>,
    digest: Arc<str>,
    event: &Event<'_>,
    inside: Inside,
    lane: u64,
    components: &Components,
    outside: &Arc<Outside>,
    deadline: Instant,
    fetches: &mut Fetches<'_>,
) -> Result<End, ScriptError> {
    let running = instance::run(Arc::clone(compiled), instance::event(event), inside);
    let mut run = Run::new(running, Arc::clone(outside), Arc::clone(compiled.clock()));
    loop {
        let turn = Turn { lane, digest: Arc::clone(&digest), what: What::GoOn(run), until: deadline.into_std() };
        let waiting = match components.turn(turn).await? {
            Done::Ended(end) => return end,
            Done::Waits(run) => Waiting { components, lane, digest: &digest, run: Some(run) },
            Done::Discarded => return Err(ScriptError::Failed("the component was not run".to_owned())),
        };
        // What it waits for is an answer from outside, or a moment.
        if let Some((wanted, answer)) = outside.take_call() {
            let fetched = fetches.make(wanted).await.map(incoming);
            let _ = answer.send(fetched);
        }
        outside.woken().await;
        run = waiting.go_on().ok_or_else(|| ScriptError::Failed("the run was lost".to_owned()))?;
    }
}

/// A run that has stepped aside; given back to the threads if nobody takes it up again.
struct Waiting<'a> {
    components: &'a Components,
    lane: u64,
    digest: &'a Arc<str>,
    run: Option<Run>,
}

impl Waiting<'_> {
    fn go_on(mut self) -> Option<Run> {
        self.run.take()
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        if let Some(run) = self.run.take() {
            self.components.discard(self.lane, Arc::clone(self.digest), run);
        }
    }
}

fn incoming(response: bellwire_egress::Response) -> host::Incoming {
    let headers = joined(&response.headers).into_iter().map(|(name, value)| types::Header { name, value });
    host::Incoming {
        status: response.status,
        headers: headers.collect(),
        truncated: response.truncated || response.body_error.is_some(),
        body: response.body.into(),
    }
}

/// What a component said, checked.
fn said(end: End, bytes_max: usize) -> (Answer, Vec<Emitted>) {
    let End { answer, emitted } = end;
    let broken = |text: String| (Answer::Broken(FailureClass::Plugin, text), Vec::new());
    let answer = match answer {
        types::Answer::Ack(text) if text.is_empty() => Answer::Ack,
        types::Answer::Ack(text) => Answer::Said(text),
        types::Answer::Drop(reason) => Answer::Drop(reason),
        types::Answer::Retry(types::Retry { seconds, reason }) => {
            Answer::Retry(seconds.map(|seconds| Duration::from_secs(seconds.into())), reason)
        }
        types::Answer::Fail(reason) => Answer::Fail(reason),
        types::Answer::Respond(types::Response { status, headers, body }) => {
            if !(200..=599).contains(&status) {
                return broken(format!("`respond` takes a status from 200 to 599, not {status}"));
            }
            if body.len() > bytes_max {
                return broken(format!("`respond` was given a body of {} bytes, at most {bytes_max}", body.len()));
            }
            let headers: Vec<_> = headers.into_iter().map(|header| (header.name, header.value)).collect();
            if let Some(name) = Response::unsendable(&headers) {
                return broken(format!("`respond` was given the header {name:?}, which cannot be sent"));
            }
            Answer::Respond(Response { status, headers, body: body.into() })
        }
    };
    (answer, emitted)
}

#[cfg(test)]
mod tests;
