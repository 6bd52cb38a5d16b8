//! A small process beside the server that outlives it for a moment: it knows the groups of all running programs, and ends them
//! when the server is gone, however it went.
//!
//! It is this program itself, started with the argument [`ARGUMENT`], with a pipe as its standard input: `+123` a group begins,
//! `-123` it has ended. The pipe ends when the server does, and then whatever has not ended gets SIGTERM, and SIGKILL
//! a moment later.

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeSet;
use std::io::{BufRead, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// What makes this program a warden.
pub const ARGUMENT: &str = "warden";
/// Between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_secs(2);

/// The server's end of the pipe. The process is started with the first program.
#[derive(Clone, Debug, Default)]
pub struct Warden(Option<Arc<Mutex<Started>>>);

#[derive(Debug)]
struct Started {
    program: PathBuf,
    pipe: Option<ChildStdin>,
    running: BTreeSet<u32>,
}

impl Warden {
    /// `program` is started with [`ARGUMENT`] and must then call [`watch`].
    pub fn new(program: PathBuf) -> Warden {
        Warden(Some(Arc::new(Mutex::new(Started { program, pipe: None, running: BTreeSet::new() }))))
    }

    pub(super) fn begin(&self, group: u32) {
        self.tell('+', group);
    }

    pub(super) fn end(&self, group: u32) {
        self.tell('-', group);
    }

    fn tell(&self, what: char, group: u32) {
        let Some(started) = &self.0 else { return };
        let mut started = started.lock();
        match what {
            '+' => started.running.insert(group),
            _ => started.running.remove(&group),
        };
        let line = format!("{what}{group}\n");
        if started.pipe.as_mut().is_some_and(|pipe| pipe.write_all(line.as_bytes()).is_ok()) {
            return;
        }
        // The first time, or somebody has ended it: a new one is told everything.
        started.pipe = None;
        match started.start() {
            Ok(pipe) => started.pipe = Some(pipe),
            Err(error) => tracing::error!(%error, "no process watches over running programs; they outlive a crash"),
        }
    }
}

impl Started {
    fn start(&self) -> std::io::Result<ChildStdin> {
        let mut child = Command::new(&self.program)
            .arg(ARGUMENT)
            .env_clear()
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()?;
        let mut pipe = child.stdin.take().ok_or_else(|| std::io::Error::other("a pipe is missing"))?;
        // It ends with the pipe; nobody else waits for it.
        std::thread::Builder::new().name("warden".to_owned()).stack_size(64 * 1024).spawn(move || child.wait())?;
        for group in &self.running {
            writeln!(pipe, "+{group}")?;
        }
        Ok(pipe)
    }
}

/// A warden's life.
pub fn watch(told: impl BufRead) {
    let mut running = BTreeSet::new();
    for line in told.lines() {
        let Ok(line) = line else { break };
        let Some((what, group)) = line.split_at_checked(1) else { continue };
        let Ok(group) = group.parse::<i32>() else { continue };
        match what {
            "+" => running.insert(group),
            _ => running.remove(&group),
        };
    }
    let all = |signal: Signal| {
        let ended =
            running.iter().filter_map(|group| Pid::from_raw(*group)).map(|group| kill_process_group(group, signal));
        ended.filter(Result::is_ok).count()
    };
    if all(Signal::TERM) > 0 {
        std::thread::sleep(GRACE);
        all(Signal::KILL);
    }
}
