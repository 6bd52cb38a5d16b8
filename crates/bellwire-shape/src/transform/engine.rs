//! One endpoint's transformation in a sandbox of its own.
//!
//! A sandbox is made for one version of one script and belongs to it alone, so nothing that a script does to the built-in
//! objects is ever seen by another. It is used again for the same script, because making one costs more than running most
//! scripts; what a script leaves in its own globals may therefore still be there for its next message, or may not.

use super::pool::{Engines, Job};
use super::sandbox::{Bounds, Sandbox};
use super::{Method, Script, ScriptError, Transformed, Webhook};
use rquickjs::context::EvalOptions;
use rquickjs::{CatchResultExt, Ctx, Function, Promise, Value};
use serde::de::{MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the script is called in stacks.
const FILE: &str = "transformation.js";

/// A sandbox with one script in it.
pub struct Engine {
    sandbox: Sandbox,
    deadline: Duration,
    output_bytes_max: usize,
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
    fn load(code: &str, bounds: Bounds, deadline: Duration, output_bytes_max: usize) -> Result<Engine, ScriptError> {
        let sandbox = Sandbox::new(bounds, FILE)?;
        sandbox.within(deadline, |ctx| {
            let mut options = EvalOptions::default();
            // As a page's script: older code is not in strict mode.
            options.strict = false;
            options.filename = Some(FILE.to_owned());
            ctx.eval_with_options::<Value<'_>, _>(code, options).catch(ctx).map_err(|e| sandbox.thrown(e))?;
            handler(ctx).map(drop)
        })?;
        Ok(Engine { sandbox, deadline, output_bytes_max })
    }

    /// Gives it a message.
    fn run(&mut self, webhook: &Webhook) -> Result<Transformed, ScriptError> {
        self.sandbox.count();
        let payload = match serde_json::from_slice(bellwire_body::without_mark(&webhook.payload)) {
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
        let input = serde_json::to_string(&input).map_err(|error| ScriptError::Failed(error.to_string()))?;
        let output = self.sandbox.within(self.deadline, |ctx| {
            let failed = |error| self.sandbox.thrown(error);
            let webhook = ctx.json_parse(input).catch(ctx).map_err(failed)?;
            let returned: Value<'_> = handler(ctx)?.call((webhook,)).catch(ctx).map_err(failed)?;
            let returned = match returned.as_promise() {
                Some(promise) => finish(promise).catch(ctx).map_err(failed)?,
                None => returned,
            };
            if !returned.is_object() {
                return Err(ScriptError::Failed(format!(
                    "handler must return the webhook object, and returned {}",
                    returned.type_name()
                )));
            }
            let text = ctx.json_stringify(returned).catch(ctx).map_err(failed)?;
            let text = text.ok_or_else(|| ScriptError::Failed("handler returned nothing that is JSON".to_owned()))?;
            text.to_string().catch(ctx).map_err(failed)
        })?;
        if output.len() > self.output_bytes_max {
            let (found, most) = (output.len(), self.output_bytes_max);
            return Err(ScriptError::Failed(format!("handler returned {found} bytes as JSON; at most {most}")));
        }
        read(&output, webhook)
    }
}

/// However it was defined.
fn handler<'js>(ctx: &Ctx<'js>) -> Result<Function<'js>, ScriptError> {
    let missing = || ScriptError::Failed("the script must define a function named handler".to_owned());
    let found: Value<'js> = ctx.eval("typeof handler === 'function' ? handler : undefined").map_err(|_| missing())?;
    found.into_function().ok_or_else(missing)
}

fn finish<'js>(promise: &Promise<'js>) -> rquickjs::Result<Value<'js>> {
    promise.finish()
}

fn read(output: &str, webhook: &Webhook) -> Result<Transformed, ScriptError> {
    let out: Out<'_> = serde_json::from_str(output)
        .map_err(|error| ScriptError::Failed(format!("what handler returned cannot be sent: {error}")))?;
    let cancel = out.cancel.unwrap_or(false);
    let payload = match out.payload {
        Some(payload) => payload.get(),
        None if cancel => "null",
        None => return Err(ScriptError::Failed("what handler returned has no payload".to_owned())),
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

impl Job for Script {
    type Engine = Engine;
    type Done = Option<Transformed>;

    fn lane(&self) -> u64 {
        self.lane
    }

    fn owner(&self) -> u64 {
        self.application.0.into()
    }

    fn code(&self) -> &Arc<str> {
        &self.code
    }

    fn run(self, engines: &mut Engines<Engine>) -> Result<Option<Transformed>, ScriptError> {
        let limits = engines.limits();
        let mut engine = match engines.take(self.lane, &self.code) {
            Some(engine) => engine,
            None => Engine::load(&self.code, engines.bounds(), limits.deadline, limits.output_bytes_max)?,
        };
        let begun = Instant::now();
        let done = self.webhook.as_ref().map(|webhook| engine.run(webhook)).transpose()?;
        if self.webhook.is_some() && engine.sandbox.is_tidy(begun.elapsed()) {
            engines.keep(self.lane, self.code, engine);
        }
        Ok(done)
    }
}
