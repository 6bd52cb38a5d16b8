//! One script in one runtime: its own heap with a cap, its own stack with a cap, a deadline, and no way out.
//!
//! A runtime is made for one version of one script and belongs to it alone, so nothing that a script does to the built-in
//! objects is ever seen by another. It is used again for the same script, because making one costs more than running most
//! scripts; what a script leaves in its own globals may therefore still be there for its next message, or may not.

use super::{Method, Script, ScriptError, Transformed, Webhook};
use rquickjs::context::{EvalOptions, intrinsic};
use rquickjs::{CatchResultExt, CaughtError, Context, Ctx, Error, Function, Promise, Runtime, Value};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::cell::Cell;
use std::rc::Rc;
use std::time::{Duration, Instant};

/// What scripts find: the language, without anything that reaches out of it.
type Intrinsics = (
    intrinsic::Date,
    intrinsic::Eval,
    intrinsic::RegExpCompiler,
    intrinsic::RegExp,
    intrinsic::Json,
    intrinsic::Proxy,
    intrinsic::MapSet,
    intrinsic::TypedArrays,
    intrinsic::Promise,
);

/// Bounds of one run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) deadline: Duration,
    pub(super) heap_bytes_max: usize,
    pub(super) stack_bytes_max: usize,
    pub(super) output_bytes_max: usize,
}

/// A runtime with one script in it.
pub(super) struct Engine {
    // Freed in this order.
    context: Context,
    runtime: Runtime,
    ends: Rc<Cell<Option<Instant>>>,
    bounds: Bounds,
    runs: u32,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct In<'a> {
    method: &'static str,
    url: &'a str,
    event_type: &'a str,
    channels: &'a [String],
    payload: Payload<'a>,
    headers: Empty,
    variables: &'a bellwire_model::Metadata,
    transformations_params: &'a RawValue,
    cancel: bool,
}

#[derive(Serialize)]
struct Empty {}

#[derive(Serialize)]
#[serde(untagged)]
enum Payload<'a> {
    Json(&'a RawValue),
    Text(std::borrow::Cow<'a, str>),
}

/// What a script returned. `null` is as good as absent.
#[derive(Deserialize)]
struct Out<'a> {
    method: Option<Method>,
    url: Option<String>,
    #[serde(borrow)]
    payload: Option<&'a RawValue>,
    headers: Option<Headers>,
    cancel: Option<bool>,
}

struct Headers(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Headers {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Headers;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("headers as an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Headers, A::Error> {
                let mut headers = Vec::new();
                while let Some(header) = map.next_entry()? {
                    headers.push(header);
                }
                Ok(Headers(headers))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

impl Engine {
    /// Loads a script, which runs it up to the point where `handler` is defined.
    pub(super) fn load(code: &str, bounds: Bounds) -> Result<Engine, ScriptError> {
        let inside = |error: Error| ScriptError(format!("no room for a script: {error}"));
        let runtime = Runtime::new().map_err(inside)?;
        runtime.set_memory_limit(bounds.heap_bytes_max);
        runtime.set_max_stack_size(bounds.stack_bytes_max);
        let ends = Rc::new(Cell::new(None::<Instant>));
        let asked = Rc::clone(&ends);
        runtime.set_interrupt_handler(Some(Box::new(move || asked.get().is_some_and(|at| Instant::now() >= at))));
        let context = Context::custom::<Intrinsics>(&runtime).map_err(inside)?;
        let engine = Engine { context, runtime, ends, bounds, runs: 0 };
        engine.within_deadline(|ctx| {
            let mut options = EvalOptions::default();
            // As a page's script: older code is not in strict mode.
            options.strict = false;
            options.filename = Some("transformation.js".to_owned());
            ctx.eval_with_options::<Value<'_>, _>(code, options).catch(ctx).map_err(|e| engine.thrown(e))?;
            handler(ctx).map(drop)
        })?;
        Ok(engine)
    }

    /// Gives it a message.
    pub(super) fn run(&mut self, webhook: &Webhook) -> Result<Transformed, ScriptError> {
        self.runs += 1;
        let payload = match serde_json::from_slice(&webhook.payload) {
            Ok(json) => Payload::Json(json),
            Err(_) => Payload::Text(String::from_utf8_lossy(&webhook.payload)),
        };
        let params = webhook.params.as_deref().unwrap_or("{}");
        let input = In {
            method: Method::Post.name(),
            url: &webhook.url,
            event_type: &webhook.event_type,
            channels: &webhook.channels,
            payload,
            headers: Empty {},
            variables: &webhook.variables,
            transformations_params: serde_json::from_str(params).unwrap_or(RawValue::NULL),
            cancel: false,
        };
        let input = serde_json::to_string(&input).map_err(|error| ScriptError(error.to_string()))?;
        let output = self.within_deadline(|ctx| {
            let failed = |error| self.thrown(error);
            let webhook = ctx.json_parse(input).catch(ctx).map_err(failed)?;
            let returned: Value<'_> = handler(ctx)?.call((webhook,)).catch(ctx).map_err(failed)?;
            let returned = match returned.as_promise() {
                Some(promise) => finish(promise).catch(ctx).map_err(failed)?,
                None => returned,
            };
            if !returned.is_object() {
                return Err(ScriptError(format!(
                    "handler must return the webhook object, and returned {}",
                    returned.type_name()
                )));
            }
            let text = ctx.json_stringify(returned).catch(ctx).map_err(failed)?;
            let text = text.ok_or_else(|| ScriptError("handler returned nothing that is JSON".to_owned()))?;
            text.to_string().catch(ctx).map_err(failed)
        })?;
        if output.len() > self.bounds.output_bytes_max {
            let (found, most) = (output.len(), self.bounds.output_bytes_max);
            return Err(ScriptError(format!("handler returned {found} bytes as JSON; at most {most}")));
        }
        read(&output, webhook)
    }

    /// It may be used again: it neither holds much nor has run long.
    pub(super) fn is_tidy(&self, took: Duration) -> bool {
        const RUNS_MAX: u32 = 1_000;
        const HEAP_KEPT_MAX: i64 = 2 * 1024 * 1024;
        if self.runs >= RUNS_MAX {
            return false;
        }
        // Asking costs more than most runs; a heap grows only so fast.
        let ask = took > Duration::from_millis(1) || self.runs.is_multiple_of(32);
        !ask || self.runtime.memory_usage().malloc_size <= HEAP_KEPT_MAX
    }

    fn within_deadline<T>(&self, work: impl FnOnce(&Ctx<'_>) -> Result<T, ScriptError>) -> Result<T, ScriptError> {
        self.ends.set(Some(Instant::now() + self.bounds.deadline));
        let done = self.context.with(|ctx| work(&ctx));
        let late = self.ends.replace(None).is_some_and(|at| Instant::now() >= at);
        match done {
            Err(_) if late => Err(ScriptError(format!("the script took longer than {:?}", self.bounds.deadline))),
            done => done,
        }
    }

    fn thrown(&self, error: CaughtError<'_>) -> ScriptError {
        const TEXT_MAX: usize = 1_000;
        let mut text = match &error {
            CaughtError::Exception(exception) => {
                let message = exception.message().unwrap_or_default();
                let name: String = exception.as_object().get("name").unwrap_or_default();
                let line = exception.stack().as_deref().and_then(line_of);
                let what = if name.is_empty() { message } else { format!("{name}: {message}") };
                line.map_or(what.clone(), |line| format!("line {line}: {what}"))
            }
            CaughtError::Value(value) => match value.as_string().and_then(|text| text.to_string().ok()) {
                Some(text) => format!("thrown: {text}"),
                None => format!("thrown: a value of type {}", value.type_name()),
            },
            CaughtError::Error(error) => error.to_string(),
        };
        if text.len() > TEXT_MAX {
            text.truncate(text.floor_char_boundary(TEXT_MAX));
            text.push('…');
        }
        ScriptError(text)
    }
}

/// However it was defined.
fn handler<'js>(ctx: &Ctx<'js>) -> Result<Function<'js>, ScriptError> {
    let missing = || ScriptError("the script must define a function named handler".to_owned());
    let found: Value<'js> = ctx.eval("typeof handler === 'function' ? handler : undefined").map_err(|_| missing())?;
    found.into_function().ok_or_else(missing)
}

fn finish<'js>(promise: &Promise<'js>) -> rquickjs::Result<Value<'js>> {
    promise.finish()
}

/// The first line of ours in a stack: `at handler (transformation.js:3:5)`.
fn line_of(stack: &str) -> Option<u32> {
    let (_, place) = stack.split_once("transformation.js:")?;
    place.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn read(output: &str, webhook: &Webhook) -> Result<Transformed, ScriptError> {
    let out: Out<'_> = serde_json::from_str(output)
        .map_err(|error| ScriptError(format!("what handler returned cannot be sent: {error}")))?;
    let cancel = out.cancel.unwrap_or(false);
    let payload = match out.payload {
        Some(payload) => payload.get(),
        None if cancel => "null",
        None => return Err(ScriptError("what handler returned has no payload".to_owned())),
    };
    let text: Option<String> = payload.starts_with('"').then(|| serde_json::from_str(payload).ok()).flatten();
    let is_json = text.is_none();
    Ok(Transformed {
        cancel,
        method: out.method.unwrap_or_default(),
        url: out.url.unwrap_or_else(|| webhook.url.clone()),
        payload: text.unwrap_or_else(|| payload.to_owned()).into(),
        is_json,
        headers: out.headers.map_or_else(Vec::new, |headers| headers.0),
    })
}

/// What [`super::Scripts`] asks of a script.
pub(super) fn answer(engine: &mut Engine, script: &Script) -> Result<Option<Transformed>, ScriptError> {
    script.webhook.as_ref().map(|webhook| engine.run(webhook)).transpose()
}
