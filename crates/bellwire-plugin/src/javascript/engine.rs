//! A handler's run, turn by turn: it runs until it waits for an answer from outside, steps aside, and goes on with the answer on
//! whichever thread is free.

use crate::answer::Console;
use bellwire_shape::{Bounds, Engines, Job, Sandbox, ScriptError};
use parking_lot::Mutex;
use rquickjs::context::EvalOptions;
use rquickjs::{CatchResultExt, Ctx, Function, Module, Object, Value};
use serde::Deserialize;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What the script is called in stacks.
const FILE: &str = "handler.js";
/// Where the prelude's functions are kept; a script that looks for them harms itself only.
const DRIVER: &str = "__bellwire";
const PRELUDE: &str = include_str!("prelude.js");

/// One turn of a handler.
pub(super) struct Turn {
    pub(super) lane: u64,
    pub(super) code: Arc<str>,
    pub(super) what: What,
    /// Nobody waits for it any longer.
    pub(super) until: Option<Instant>,
    pub(super) written: Written,
}

/// What a run writes to its console. It lies outside of the sandbox: whoever waits has it, whatever becomes of the run.
pub(super) type Written = Arc<Mutex<Console>>;

fn nowhere() -> Written {
    Arc::new(Mutex::new(Console::new(0)))
}

impl Turn {
    /// One that no run waits for.
    pub(super) fn of_nobody(lane: u64, code: Arc<str>, what: What) -> Turn {
        Turn { lane, code, what, until: None, written: nowhere() }
    }
}

/// What a turn begins with.
pub(super) enum What {
    /// Only see whether it loads and defines `handle`.
    Load,
    /// An event: JSON for the prelude's `begin`.
    Begin(String),
    /// An answer from outside, for a run that waits: JSON for the prelude's `settle`.
    Settle(Suspended, String),
    /// Nobody waits for it any more.
    Discard(Suspended),
}

/// A run that waits. It belongs to no thread.
pub(super) struct Suspended {
    engine: Engine,
    /// Computed so far.
    used: Duration,
}

/// What a turn came to.
pub(super) enum Done {
    /// It loads.
    Loaded,
    /// It waits for these, and perhaps for others from before.
    Waits { suspended: Suspended, calls: Vec<Call> },
    /// It is over.
    Ended(Result<End, ScriptError>),
}

/// Something that a handler wants fetched.
#[derive(Deserialize, Debug)]
pub(super) struct Call {
    pub(super) id: u32,
    pub(super) url: String,
    pub(super) method: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: String,
}

/// What a handler said.
#[derive(Deserialize, Debug)]
pub(super) struct End {
    pub(super) value: Option<String>,
    pub(super) answer: Option<Said>,
    pub(super) emitted: Vec<Emit>,
}

#[derive(Deserialize, Debug)]
#[serde(rename_all = "lowercase")]
pub(super) enum Said {
    Ack,
    Drop(String),
    Retry { seconds: Option<f64>, reason: String },
    Fail(String),
    Respond { status: f64, headers: Vec<(String, String)>, body: String },
}

#[derive(Deserialize, Debug)]
pub(super) struct Emit {
    #[serde(rename = "type")]
    pub(super) event_type: String,
    pub(super) payload: String,
    pub(super) channels: Vec<String>,
}

#[derive(Deserialize)]
struct Taken {
    calls: Vec<Call>,
    waiting: usize,
    done: Option<Over>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Over {
    Failed { error: Thrown },
    Ended(End),
}

#[derive(Deserialize)]
struct Thrown {
    name: String,
    message: String,
    stack: String,
}

/// A sandbox with the prelude and one script in it.
pub(super) struct Engine {
    sandbox: Sandbox,
    /// Where its console goes: to the run that it is on.
    console: Arc<Mutex<Written>>,
}

impl Engine {
    fn load(code: &str, bounds: Bounds, deadline: Duration) -> Result<Engine, ScriptError> {
        let sandbox = Sandbox::new(bounds, FILE)?;
        let console = Arc::new(Mutex::new(nowhere()));
        let writes = Arc::clone(&console);
        sandbox.within(deadline, |ctx| {
            let failed = |error| sandbox.thrown(error);
            let prelude: Function<'_> = evaluate(ctx, PRELUDE, "prelude.js").catch(ctx).map_err(failed)?;
            let out = Function::new(ctx.clone(), move |line: String| writes.lock().lock().write(line.as_bytes()));
            let driver: Object<'_> = out.and_then(|out| prelude.call((out,))).catch(ctx).map_err(failed)?;
            let functions = Object::new(ctx.clone()).catch(ctx).map_err(failed)?;
            let exported = match is_module(code) {
                true => Some(module(ctx, code).catch(ctx).map_err(failed)?),
                false => match evaluate::<Value<'_>>(ctx, code, FILE).catch(ctx) {
                    Ok(_) => None,
                    // All on one line, as bundlers leave it, or indented. Nothing of it has run: it does not parse.
                    Err(_) if code.contains("export") => Some(module(ctx, code).catch(ctx).map_err(failed)?),
                    Err(error) => return Err(failed(error)),
                },
            };
            for name in ["filter", "transform", "handle"] {
                let found: Value<'_> = match &exported {
                    Some(exported) => exported.get(name).catch(ctx).map_err(failed)?,
                    // Also what `const` defines, which is no property of the global object.
                    None => ctx
                        .eval(format!("typeof {name} === 'function' ? {name} : undefined"))
                        .catch(ctx)
                        .map_err(failed)?,
                };
                if found.is_function() {
                    functions.set(name, found).catch(ctx).map_err(failed)?;
                } else if name == "handle" {
                    return Err(ScriptError::Failed("the script must define a function named handle".to_owned()));
                }
            }
            driver.set("functions", functions).catch(ctx).map_err(failed)?;
            ctx.globals().set(DRIVER, driver).catch(ctx).map_err(failed)
        })?;
        Ok(Engine { sandbox, console })
    }

    /// One turn: `function` of the prelude with `input`, and everything that follows from it without waiting.
    fn turn(&mut self, function: &str, input: String, limit: Duration) -> Result<Taken, ScriptError> {
        self.sandbox.within(limit, |ctx| {
            let failed = |error| self.sandbox.thrown(error);
            let driver: Object<'_> = ctx.globals().get(DRIVER).catch(ctx).map_err(failed)?;
            let functions: Value<'_> = driver.get("functions").catch(ctx).map_err(failed)?;
            let call: Function<'_> = driver.get(function).catch(ctx).map_err(failed)?;
            call.call::<_, ()>((input, functions)).catch(ctx).map_err(failed)?;
            // A job that was cut off leaves a run that never ends; so the clock is looked at here as well.
            while ctx.execute_pending_job() {
                if self.sandbox.is_late() {
                    return Err(ScriptError::Failed("late".to_owned()));
                }
            }
            if self.sandbox.is_late() {
                return Err(ScriptError::Failed("late".to_owned()));
            }
            let take: Function<'_> = driver.get("take").catch(ctx).map_err(failed)?;
            let taken: String = take.call(()).catch(ctx).map_err(failed)?;
            serde_json::from_str(&taken)
                .map_err(|error| ScriptError::Failed(format!("what the handler did cannot be read: {error}")))
        })
    }
}

fn evaluate<'js, T: rquickjs::FromJs<'js>>(ctx: &Ctx<'js>, code: &str, file: &str) -> rquickjs::Result<T> {
    let mut options = EvalOptions::default();
    options.strict = false;
    options.filename = Some(file.to_owned());
    ctx.eval_with_options(code, options)
}

/// Whether any line begins with `export`, which only a module may have.
fn is_module(code: &str) -> bool {
    code.lines().any(|line| line.starts_with("export ") || line.starts_with("export{"))
}

fn module<'js>(ctx: &Ctx<'js>, code: &str) -> rquickjs::Result<Object<'js>> {
    let (module, loaded) = Module::declare(ctx.clone(), FILE, code)?.eval()?;
    loaded.finish::<()>()?;
    module.namespace()
}

impl Job for Turn {
    type Engine = Engine;
    type Done = Done;

    fn lane(&self) -> u64 {
        self.lane
    }

    fn code(&self) -> &Arc<str> {
        &self.code
    }

    fn run(self, engines: &mut Engines<Engine>) -> Result<Done, ScriptError> {
        let deadline = engines.limits().deadline;
        let begun = Instant::now();
        let left = self.until.map_or(Duration::MAX, |until| until.saturating_duration_since(begun));
        // Its owner knows what it may compute, not how much of that was left after a `fetch`.
        let whole = |error| match error {
            ScriptError::Late(_) => ScriptError::Late(format!("the handler computed for longer than {deadline:?}")),
            other => other,
        };
        let (mut engine, used, function, input) = match self.what {
            What::Load => {
                let engine = Engine::load(&self.code, engines.bounds(), deadline).map_err(whole)?;
                engines.keep(self.lane, self.code, engine);
                return Ok(Done::Loaded);
            }
            What::Discard(suspended) => {
                drop(suspended);
                return Ok(Done::Loaded);
            }
            What::Begin(input) => {
                let mut engine = match engines.take(self.lane, &self.code) {
                    Some(engine) => engine,
                    None => Engine::load(&self.code, engines.bounds(), deadline.min(left)).map_err(whole)?,
                };
                engine.sandbox.count();
                (engine, Duration::ZERO, "begin", input)
            }
            What::Settle(Suspended { engine, used }, input) => (engine, used, "settle", input),
        };
        *engine.console.lock() = self.written;
        let taken = engine.turn(function, input, deadline.saturating_sub(used).min(left)).map_err(whole)?;
        let used = used + begun.elapsed();
        let Taken { calls, waiting, done } = taken;
        let end = match done {
            Some(Over::Ended(end)) => Ok(end),
            Some(Over::Failed { error: Thrown { name, message, stack } }) => {
                Err(engine.sandbox.described(&name, &message, &stack))
            }
            None if waiting > 0 => {
                return Ok(Done::Waits { suspended: Suspended { engine, used }, calls });
            }
            None => Err(ScriptError::Failed("handle waits for something that never comes".to_owned())),
        };
        // What still waits for an answer that nobody wants any more would meet the next run.
        if end.is_ok() && waiting == 0 && engine.sandbox.is_tidy(used) {
            engines.keep(self.lane, self.code, engine);
        }
        Ok(Done::Ended(end))
    }
}
