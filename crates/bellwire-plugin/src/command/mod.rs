//! Command: a program is run for each message, without a shell.
//!
//! Its arguments, its environment and its files are templates, each argument stays one argument whatever the event holds; the payload is on
//! its standard input, or in a file. It runs in a process group of its own, which is ended as a whole when the program has
//! exited, at the deadline, and when the server stops or dies ([`warden`]). What it writes is kept with the attempt.
//!
//! Its exit status decides, as `sysexits.h` has it: 0 done, 75 (`EX_TEMPFAIL`) try again, 65 and 78 (`EX_DATAERR`, `EX_CONFIG`)
//! end now, anything else try again. With `respond`, a sender that waits is told what it wrote.

mod group;
pub mod warden;

use crate::answer::{Answer, Console, Ran, Response};
use crate::event::{Event, Root};
use crate::settings::{Fault, Millis};
use crate::template::{Beside, Template};
use base64::prelude::{BASE64_STANDARD, Engine as _};
use bellwire_model::FailureClass;
use bytes::Bytes;
use futures_util::FutureExt;
use futures_util::future::FusedFuture;
use group::Group;
use http::{HeaderName, HeaderValue};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::future::Future;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::unix::pipe;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::timeout;
use warden::Warden;

const ARGUMENTS_MAX: usize = 256;
const FILES_MAX: usize = 32;
const ERROR_BODY_MAX: usize = 4_096;
/// Beyond this the system refuses an argument.
const ARGUMENT_BYTES_MAX: usize = 128 * 1024;
/// What the program wrote before it exited, or before its group was ended, is read for this long at most.
const DRAIN: Duration = Duration::from_millis(500);
/// Where programs look for others, unless the settings say something else.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// What the operator allows.
#[derive(Clone, Debug, Default)]
pub struct Allowed {
    /// Programs, and folders with programs. Empty: none.
    pub programs: Vec<PathBuf>,
    /// Variables of the server's environment that may be handed on, with their values.
    pub environment: BTreeMap<String, String>,
}

/// Settings of the kind `command`.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Command {
    /// An absolute path.
    program: PathBuf,
    #[serde(default)]
    args: Vec<Template>,
    #[serde(default)]
    env: BTreeMap<String, Template>,
    /// Variables of the server's own that are handed on; the operator must allow each.
    #[serde(default)]
    inherit: Vec<String>,
    /// Files that are there while it runs: by the variable that names them.
    #[serde(default)]
    files: BTreeMap<String, Content>,
    #[serde(default)]
    stdin: Stdin,
    /// What a sender that waits is told; nothing if absent.
    respond: Option<Respond>,
    /// Where it runs; the root folder if absent.
    working_directory: Option<PathBuf>,
    uid: Option<u32>,
    gid: Option<u32>,
    #[serde(default = "timeout_default")]
    timeout_ms: Millis<10, 3_600_000>,
    /// Between SIGTERM and SIGKILL.
    #[serde(default = "grace_default")]
    grace_ms: Millis<0, 60_000>,
    #[serde(default = "output_default")]
    output_bytes_max: usize,
}

/// What stands in a file.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    content: Template,
    /// The content is base64, and the file has what it stands for.
    #[serde(default)]
    base64: bool,
}

/// What a program's run is for a sender that waits: its output.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Respond {
    /// If it exits with 0,
    status: u16,
    /// and if it fails in whatever way.
    error_status: u16,
    /// Told instead of the output if it fails.
    error_body: Option<String>,
    headers: BTreeMap<String, String>,
}

impl Default for Respond {
    fn default() -> Self {
        Respond { status: 200, error_status: 500, error_body: None, headers: BTreeMap::new() }
    }
}

impl Respond {
    fn check(&self, faults: &mut Vec<Fault>) {
        for (name, status) in [("status", self.status), ("error_status", self.error_status)] {
            if !(200..=599).contains(&status) {
                faults.push(Fault::new(&["respond", name], "expected a status from 200 to 599"));
            }
        }
        if self.error_body.as_ref().is_some_and(|body| body.len() > ERROR_BODY_MAX) {
            faults.push(Fault::new(&["respond", "error_body"], format!("at most {ERROR_BODY_MAX} bytes")));
        }
        let sendable =
            |name: &str, value: &str| HeaderName::try_from(name).is_ok() && HeaderValue::try_from(value).is_ok();
        for (name, _) in self.headers.iter().filter(|(name, value)| !sendable(name, value)) {
            faults.push(Fault::new(&["respond", "headers", name], "it cannot be sent as a header"));
        }
    }

    /// What is told of a run. The output of one that is done becomes the answer, and is not kept twice.
    fn tell(&self, ran: Ran) -> Ran {
        let headers = || self.headers.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
        if ran.answer == Answer::Ack {
            let answer = Answer::Respond(Response { status: self.status, headers: headers(), body: ran.output });
            return Ran { answer, output: Bytes::new(), ..ran };
        }
        let body = self.error_body.clone().map_or_else(|| ran.output.clone(), Bytes::from);
        Ran { told: Some(Response { status: self.error_status, headers: headers(), body }), ..ran }
    }
}

fn timeout_default() -> Millis<10, 3_600_000> {
    Millis::new(15_000)
}

fn grace_default() -> Millis<0, 60_000> {
    Millis::new(2_000)
}

fn output_default() -> usize {
    bellwire_model::RESPONSE_BODY_MAX
}

#[derive(Clone, PartialEq, Debug, Default)]
enum Stdin {
    #[default]
    Payload,
    Nothing,
    Text(Template),
}

impl<'de> Deserialize<'de> for Stdin {
    /// `"payload"`, `"none"`, or a template.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            "payload" => Ok(Stdin::Payload),
            "none" => Ok(Stdin::Nothing),
            text => Template::parse(text).map(Stdin::Text).map_err(serde::de::Error::custom),
        }
    }
}

impl Command {
    /// What is wrong beyond the shape of the settings. With `trusted`, the settings are the operator's own.
    pub(crate) fn check(&self, allowed: &Allowed, trusted: bool, faults: &mut Vec<Fault>) {
        if let Err(text) = self.resolve(allowed, trusted) {
            faults.push(Fault::new(&["program"], text));
        }
        if self.args.len() > ARGUMENTS_MAX {
            faults.push(Fault::new(&["args"], format!("at most {ARGUMENTS_MAX} arguments")));
        }
        let digest = |template: &Template| template.names(Root::Count) || template.names(Root::List);
        for (place, _) in self.args.iter().enumerate().filter(|(_, template)| digest(template)) {
            faults.push(Fault::new(&["args", &place.to_string()], "count and list are for notifications"));
        }
        for (name, template) in &self.env {
            if name.is_empty() || name.contains(['=', '\0']) {
                faults.push(Fault::new(&["env", name], "a variable's name is not empty and has no ="));
            }
            if digest(template) {
                faults.push(Fault::new(&["env", name], "count and list are for notifications"));
            }
        }
        if self.files.len() > FILES_MAX {
            faults.push(Fault::new(&["files"], format!("at most {FILES_MAX} files")));
        }
        for (name, file) in &self.files {
            if name.is_empty() || name.contains(['=', '\0']) {
                faults.push(Fault::new(&["files", name], "a variable's name is not empty and has no ="));
            }
            if self.env.contains_key(name) {
                faults.push(Fault::new(&["files", name], "the variable stands in `env`, too"));
            }
            if digest(&file.content) || file.content.names(Root::File) {
                faults.push(Fault::new(&["files", name, "content"], "file, count and list are not to be had here"));
            }
        }
        if let Some(respond) = &self.respond {
            respond.check(faults);
        }
        for name in self.inherit.iter().filter(|name| !allowed.environment.contains_key(*name)) {
            let text =
                format!("{name} is not among plugins.command_environment of the server's settings, or not set there");
            faults.push(Fault::new(&["inherit"], text));
        }
        if self.working_directory.as_ref().is_some_and(|folder| !folder.is_absolute()) {
            faults.push(Fault::new(&["working_directory"], "expected an absolute path"));
        }
        let unprivileged = !rustix::process::geteuid().is_root();
        for (name, id, own) in [
            ("uid", self.uid, rustix::process::geteuid().as_raw()),
            ("gid", self.gid, rustix::process::getegid().as_raw()),
        ] {
            match id {
                Some(0) if !trusted => faults.push(Fault::new(&[name], "programs of plugins do not run as root")),
                Some(id) if unprivileged && id != own => {
                    faults.push(Fault::new(&[name], "the server is not root and cannot change it; leave it out"));
                }
                _ => {}
            }
        }
        if self.output_bytes_max > 1024 * 1024 {
            faults.push(Fault::new(&["output_bytes_max"], "expected bytes from 0 to 1048576"));
        }
    }

    /// The group it runs in. Whom a server that is root makes another user of does not stay in root's group.
    fn group(&self) -> Option<u32> {
        self.gid.or_else(|| self.uid.filter(|_| rustix::process::geteuid().is_root()))
    }

    /// The program itself, links followed, if it may be run.
    fn resolve(&self, allowed: &Allowed, trusted: bool) -> Result<PathBuf, String> {
        if !self.program.is_absolute() {
            return Err("expected an absolute path".to_owned());
        }
        let program = &self.program;
        // The same words whether it is missing or not allowed: who may not run it learns nothing about the machine.
        let refused = || {
            format!(
                "{} is not among plugins.commands of the server's settings, or is no program; the operator allows programs there",
                program.display()
            )
        };
        let real = program.canonicalize().map_err(|error| match trusted {
            true => format!("{} cannot be run: {error}", program.display()),
            false => refused(),
        })?;
        let is_allowed =
            || allowed.programs.iter().any(|allowed| allowed.canonicalize().is_ok_and(|a| real.starts_with(a)));
        if !trusted && !is_allowed() {
            return Err(refused());
        }
        if !real.is_file() {
            return Err(format!("{} is not a file", program.display()));
        }
        Ok(real)
    }

    /// Runs it for one event.
    pub(crate) async fn run(&self, event: &Event<'_>, allowed: &Allowed, trusted: bool, warden: &Warden) -> Ran {
        if let Err(text) = self.resolve(allowed, trusted) {
            return Ran::broken(FailureClass::Plugin, text);
        }
        let ran = match self.start(event, allowed, warden) {
            Ok(started) => started.end(self).await,
            Err(Refused::Event(text)) => Ran::quiet(Answer::Fail(text)),
            Err(Refused::Here(error)) => {
                Ran::broken(FailureClass::Plugin, format!("{} could not be started: {error}", self.program.display()))
            }
        };
        match &self.respond {
            Some(respond) => respond.tell(ran),
            None => ran,
        }
    }

    fn start(&self, event: &Event<'_>, allowed: &Allowed, warden: &Warden) -> Result<Started, Refused> {
        let names_file = |template: &Template| template.names(Root::File);
        let mut files = Vec::with_capacity(self.files.len() + 1);
        if self.args.iter().chain(self.env.values()).any(names_file) {
            files.push(self.file_with(event.payload())?);
        }
        let payload_file = files.first().and_then(|file| file.path().to_str().map(str::to_owned));
        let beside = Beside { file: payload_file.as_deref(), ..Beside::default() };
        // `program`, not what it leads to: many programs look at the name that they are called by.
        let (mut command, opens) = warden.gate(&self.program);
        for (place, argument) in self.args.iter().enumerate() {
            command.arg(sendable(argument.render(event, beside), || format!("argument {place}"))?);
        }
        command.env_clear().env("PATH", PATH);
        command
            .env("BELLWIRE_MESSAGE_ID", event.id())
            .env("BELLWIRE_EVENT_TYPE", sendable(event.event_type().to_owned(), || "the event type".to_owned())?)
            .env("BELLWIRE_SOURCE", sendable(event.source(), || "the source".to_owned())?)
            .env("BELLWIRE_ATTEMPT", event.attempt().to_string());
        command.envs(self.inherit.iter().filter_map(|name| allowed.environment.get_key_value(name)));
        for (name, value) in &self.env {
            command.env(name, sendable(value.render(event, beside), || format!("variable {name}"))?);
        }
        for (name, file) in &self.files {
            let content = file.content.render(event, Beside::default()).into_bytes();
            let content = match file.base64 {
                true => BASE64_STANDARD.decode(content.trim_ascii()).map_err(|error| {
                    Refused::Event(format!("what the file {name} is made of is no base64: {error}"))
                })?,
                false => content,
            };
            let file = self.file_with(&content)?;
            command.env(name, file.path());
            files.push(file);
        }
        let folder = self.working_directory.as_deref().unwrap_or(Path::new("/"));
        if !folder.is_dir() {
            return Err(io::Error::other(format!("there is no folder {} to run it in", folder.display())).into());
        }
        command.current_dir(folder);
        let gid = self.group();
        if let Some(gid) = gid {
            command.gid(gid);
        }
        if let Some(uid) = self.uid {
            command.uid(uid);
        }
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn()?;
        let group = Group::of(&child, warden);
        let mut input = opens.to_vec();
        match &self.stdin {
            Stdin::Nothing => {}
            Stdin::Payload => input.extend_from_slice(event.payload()),
            Stdin::Text(template) => input.extend_from_slice(template.render(event, beside).as_bytes()),
        }
        let missing = || io::Error::other("a pipe is missing");
        let stdin = OwnedFd::from(child.stdin.take().ok_or_else(missing)?);
        let stdout = OwnedFd::from(child.stdout.take().ok_or_else(missing)?);
        let stderr = OwnedFd::from(child.stderr.take().ok_or_else(missing)?);
        Ok(Started {
            child,
            group,
            input,
            stdin: pipe::Sender::from_owned_fd(stdin)?,
            stdout: pipe::Receiver::from_owned_fd(stdout)?,
            stderr: pipe::Receiver::from_owned_fd(stderr)?,
            _files: files,
        })
    }

    /// A file with this in it that only its reader can open; it goes when the run ends.
    fn file_with(&self, content: &[u8]) -> io::Result<tempfile::NamedTempFile> {
        let mut file = tempfile::Builder::new().prefix("bellwire-").tempfile()?;
        file.write_all(content)?;
        file.flush()?;
        if self.uid.is_some() || self.group().is_some() {
            std::os::unix::fs::fchown(&file, self.uid, self.group())?;
        }
        Ok(file)
    }
}

/// Why a program was not started.
enum Refused {
    /// What the event holds cannot be handed to a program. It never will be.
    Event(String),
    /// The machine could not.
    Here(io::Error),
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Refused::Here(error)
    }
}

fn sendable(text: String, what: impl FnOnce() -> String) -> Result<String, Refused> {
    if text.contains('\0') {
        return Err(Refused::Event(format!("{} holds a NUL, which no program can be given", what())));
    }
    if text.len() > ARGUMENT_BYTES_MAX {
        return Err(Refused::Event(format!(
            "{} has {} bytes, at most {ARGUMENT_BYTES_MAX}; hand long values on by standard input or {{{{file}}}}",
            what(),
            text.len()
        )));
    }
    Ok(text)
}

/// A program that runs. Dropped, it takes its whole group with it.
struct Started {
    // Ended first.
    group: Group,
    child: std::process::Child,
    input: Vec<u8>,
    stdin: pipe::Sender,
    stdout: pipe::Receiver,
    stderr: pipe::Receiver,
    _files: Vec<tempfile::NamedTempFile>,
}

impl Started {
    /// Waits for its end, or brings it about.
    async fn end(self, settings: &Command) -> Ran {
        let Started { group, mut child, input, mut stdin, mut stdout, mut stderr, _files } = self;
        let console = parking_lot::Mutex::new(Console::new(settings.output_bytes_max));
        let talking = async {
            let writing = async {
                // It need not read it.
                let _ = stdin.write_all(&input).await;
                drop(stdin);
            };
            tokio::join!(writing, copy(&mut stdout, &console), copy(&mut stderr, &console));
        };
        let mut talking = Box::pin(talking.fuse());
        let ended = beside(timeout(settings.timeout_ms.0, exit(&mut child)), &mut talking).await;
        let late = ended.is_err();
        let ended = match ended {
            Ok(ended) => ended,
            Err(_) => {
                group.terminate();
                match beside(timeout(settings.grace_ms.0, exit(&mut child)), &mut talking).await {
                    Ok(ended) => ended,
                    Err(_) => {
                        group.kill();
                        exit(&mut child).await
                    }
                }
            }
        };
        // Whatever it left behind has the pipes too, perhaps for ever.
        group.kill();
        // What is over already would never be heard of again.
        if !talking.is_terminated() {
            let _ = timeout(DRAIN, &mut talking).await;
        }
        drop(talking);
        let answer = match ended {
            _ if late => Answer::Broken(
                FailureClass::Timeout,
                format!("the program took longer than {:?} and was ended", settings.timeout_ms.0),
            ),
            Ok(status) => answer(status),
            Err(error) => Answer::Broken(FailureClass::Plugin, format!("the program's end was not seen: {error}")),
        };
        Ran { answer, emitted: Vec::new(), told: None, output: console.into_inner().into_bytes() }
    }
}

fn answer(status: ExitStatus) -> Answer {
    const TEMPORARY: i32 = 75;
    const DATA: i32 = 65;
    const CONFIGURATION: i32 = 78;
    match (status.code(), status.signal()) {
        (Some(0), _) => Answer::Ack,
        (Some(TEMPORARY), _) => Answer::Retry(None, "the program exited with 75: try again".to_owned()),
        (Some(code @ (DATA | CONFIGURATION)), _) => Answer::Fail(format!("the program exited with {code}: end now")),
        (Some(code), _) => Answer::Broken(FailureClass::Plugin, format!("the program exited with {code}")),
        (None, Some(signal)) => {
            Answer::Broken(FailureClass::Plugin, format!("the program was ended by signal {signal}"))
        }
        (None, None) => Answer::Broken(FailureClass::Plugin, "the program ended in an unknown way".to_owned()),
    }
}

/// Waits for the program, not for its group.
async fn exit(child: &mut std::process::Child) -> io::Result<ExitStatus> {
    // Listening before looking: an end in between is not missed.
    let mut changed = signal(SignalKind::child())?;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        changed.recv().await;
    }
}

/// Waits for `main` with `other` going on.
async fn beside<T>(main: impl Future<Output = T>, other: &mut (impl FusedFuture<Output = ()> + Unpin)) -> T {
    tokio::pin!(main);
    loop {
        tokio::select! {
            ended = &mut main => return ended,
            () = &mut *other, if !other.is_terminated() => {}
        }
    }
}

async fn copy(from: &mut pipe::Receiver, to: &parking_lot::Mutex<Console>) {
    let mut buffer = vec![0; 8 * 1024];
    while let Ok(count @ 1..) = from.read(&mut buffer).await {
        to.lock().write(&buffer[..count]);
    }
}

#[cfg(test)]
mod tests;
