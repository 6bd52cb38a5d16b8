//! A small process beside the server that outlives it for a moment: it knows the groups of all running programs, and ends them
//! when the server is gone, however it went.
//!
//! A program is not started before its group is known: what is started is a *gate*, again this program, which becomes the other
//! when it is told on its standard input that it may, and ends if the server is gone before.
//!
//! It is this program itself, started with the argument [`ARGUMENT`], with a pipe as its standard input: `+123` a group begins,
//! `-123` it has ended. The pipe ends when the server does, and then whatever has not ended gets SIGTERM, and SIGKILL
//! a moment later.

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

/// What makes this program a warden.
pub const ARGUMENT: &str = "warden";
/// What makes this program a gate; the other program and its arguments follow.
pub const GATE: &str = "gate";
/// What opens a gate.
const OPEN: &[u8] = b"!";
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

    /// What starts `program`, and what it is told before its own input.
    pub(super) fn gate(&self, program: &Path) -> (Command, &'static [u8]) {
        match &self.0 {
            None => (Command::new(program), b""),
            Some(started) => {
                let mut command = Command::new(&started.lock().program);
                command.arg(GATE).arg(program);
                (command, OPEN)
            }
        }
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

/// A gate's life: becomes the program once it may. Answers only why it did not.
pub fn pass(program: &Path, arguments: &[OsString]) -> std::io::Error {
    // Not by way of a buffer: what follows is the program's.
    let opened = std::io::stdin().as_fd().try_clone_to_owned().map(std::fs::File::from).and_then(|mut input| {
        let mut told = [0; OPEN.len()];
        input.read_exact(&mut told)
    });
    match opened {
        Ok(()) => Command::new(program).args(arguments).exec(),
        Err(error) => error,
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
