//! The sandbox of one script: its own heap with a cap, its own stack with a cap, a deadline, and no way out.

use super::ScriptError;
use rquickjs::context::intrinsic;
use rquickjs::{CaughtError, Context, Ctx, Error, Runtime};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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

/// What one script may hold.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Of its heap.
    pub heap_bytes_max: usize,
    /// Of its stack.
    pub stack_bytes_max: usize,
}

/// A runtime of its own with one context in it. It may go from thread to thread between two turns.
pub struct Sandbox {
    // Freed in this order.
    context: Context,
    runtime: Runtime,
    deadline: Arc<Deadline>,
    file: &'static str,
    runs: u32,
}

/// When the turn that runs must end; read by the interpreter again and again.
struct Deadline {
    since: Instant,
    /// Nanoseconds after `since`; 0: none.
    nanos: AtomicU64,
}

impl Deadline {
    fn set(&self, left: Duration) {
        let at = (self.since.elapsed() + left).as_nanos();
        self.nanos.store(u64::try_from(at).unwrap_or(u64::MAX).max(1), Ordering::Relaxed);
    }

    fn clear(&self) {
        self.nanos.store(0, Ordering::Relaxed);
    }

    fn has_passed(&self) -> bool {
        let nanos = self.nanos.load(Ordering::Relaxed);
        nanos != 0 && self.since.elapsed() >= Duration::from_nanos(nanos)
    }
}

impl Sandbox {
    /// An empty one. `file` is what its script is called in stacks.
    ///
    /// # Errors
    /// If the bounds leave no room for it.
    pub fn new(bounds: Bounds, file: &'static str) -> Result<Sandbox, ScriptError> {
        let inside = |error: Error| ScriptError::Failed(format!("no room for a script: {error}"));
        let runtime = Runtime::new().map_err(inside)?;
        runtime.set_memory_limit(bounds.heap_bytes_max);
        runtime.set_max_stack_size(bounds.stack_bytes_max);
        let deadline = Arc::new(Deadline { since: Instant::now(), nanos: AtomicU64::new(0) });
        let asked = Arc::clone(&deadline);
        runtime.set_interrupt_handler(Some(Box::new(move || asked.has_passed())));
        let context = Context::custom::<Intrinsics>(&runtime).map_err(inside)?;
        Ok(Sandbox { context, runtime, deadline, file, runs: 0 })
    }

    /// A turn: `work` inside of it, cut off when `limit` has passed.
    ///
    /// # Errors
    /// Those of `work`, or that it took too long.
    pub fn within<T>(
        &self,
        limit: Duration,
        work: impl FnOnce(&Ctx<'_>) -> Result<T, ScriptError>,
    ) -> Result<T, ScriptError> {
        self.deadline.set(limit);
        let done = self.context.with(|ctx| work(&ctx));
        let late = self.deadline.has_passed();
        self.deadline.clear();
        match done {
            Err(_) if late => Err(ScriptError::Late(format!("the script took longer than {limit:?}"))),
            done => done,
        }
    }

    /// The turn that runs has used its time.
    pub fn is_late(&self) -> bool {
        self.deadline.has_passed()
    }

    /// One more message.
    pub fn count(&mut self) {
        self.runs += 1;
    }

    /// It may be used again: it neither holds much nor has run long.
    pub fn is_tidy(&self, took: Duration) -> bool {
        const RUNS_MAX: u32 = 1_000;
        const HEAP_KEPT_MAX: i64 = 2 * 1024 * 1024;
        if self.runs >= RUNS_MAX {
            return false;
        }
        // Asking costs more than most runs; a heap grows only so fast.
        let ask = took > Duration::from_millis(1) || self.runs.is_multiple_of(32);
        !ask || self.runtime.memory_usage().malloc_size <= HEAP_KEPT_MAX
    }

    /// What was thrown, for the script's owner, with the line of hers that it came from.
    pub fn thrown(&self, error: CaughtError<'_>) -> ScriptError {
        let text = match &error {
            CaughtError::Exception(exception) => {
                let message = exception.message().unwrap_or_default();
                let name: String = exception.as_object().get("name").unwrap_or_default();
                return self.described(&name, &message, &exception.stack().unwrap_or_default());
            }
            CaughtError::Value(value) => match value.as_string().and_then(|text| text.to_string().ok()) {
                Some(text) => format!("thrown: {text}"),
                None => format!("thrown: a value of type {}", value.type_name()),
            },
            CaughtError::Error(error) => error.to_string(),
        };
        capped(text)
    }

    /// An error object's parts as one text, with the line of the script's that it came from.
    pub fn described(&self, name: &str, message: &str, stack: &str) -> ScriptError {
        let what = if name.is_empty() { message.to_owned() } else { format!("{name}: {message}") };
        capped(self.line_of(stack).map_or(what.clone(), |line| format!("line {line}: {what}")))
    }

    /// The first line of the script's in a stack: `at handler (transformation.js:3:5)`.
    fn line_of(&self, stack: &str) -> Option<u32> {
        let (_, place) = stack.split_once(self.file)?;
        place.strip_prefix(':')?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    }
}

fn capped(mut text: String) -> ScriptError {
    const TEXT_MAX: usize = 1_000;
    if text.len() > TEXT_MAX {
        text.truncate(text.floor_char_boundary(TEXT_MAX));
        text.push('…');
    }
    ScriptError::Failed(text)
}
