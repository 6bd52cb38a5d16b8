//! The server under test: this program as a child process, the ceiling likewise, or one that is given by URL.

use super::http::Client;
use super::measure::Reading;
use anyhow::{Context as _, bail};
use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process};
use std::fs::{self, File};
use std::io::Read as _;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, ToSocketAddrs as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

const READY_WAIT_MAX: Duration = Duration::from_secs(120);
const STOP_WAIT_MAX: Duration = Duration::from_secs(20);
const PING: &str = "/api/v1/health/ping";
/// The environment variable by which the ceiling is told its token.
pub(crate) const CEILING_TOKEN: &str = "BELLWIRE_BENCH_TOKEN";

/// What is measured.
#[derive(Clone, Debug)]
pub(crate) enum Subject {
    /// This program's `serve`.
    Bellwire,
    /// The same libraries with nothing durable.
    Ceiling,
    /// A server that runs already.
    Remote { url: url::Url, token: String, pid: Option<u32> },
}

impl Subject {
    pub(crate) fn name(&self) -> String {
        match self {
            Subject::Bellwire => "bellwire".into(),
            Subject::Ceiling => "ceiling".into(),
            Subject::Remote { url, .. } => url.origin().ascii_serialization(),
        }
    }
}

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) host: String,
    pub(crate) token: String,
    pid: Option<u32>,
    child: Option<StartedChild>,
}

/// What is needed to start the same server on the same data again.
struct StartedChild {
    child: Child,
    command: ChildCommand,
}

struct ChildCommand {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folder: PathBuf,
    log: PathBuf,
}

impl Server {
    /// Starts or finds the server and waits until it is ready. A child keeps its data and its log in `folder`.
    pub(crate) fn start(subject: &Subject, folder: &Path, environment: &[(String, String)]) -> anyhow::Result<Server> {
        let secret = random_hex(32)?;
        match subject {
            Subject::Remote { url, token, pid } => {
                let host = url.host_str().context("the URL names no host")?;
                let port = url.port_or_known_default().context("the URL names no port")?;
                let address = (host.trim_matches(['[', ']']), port)
                    .to_socket_addrs()
                    .with_context(|| format!("cannot find {host}"))?
                    .next()
                    .with_context(|| format!("{host} has no address"))?;
                let server =
                    Server { address, host: format!("{host}:{port}"), token: token.clone(), pid: *pid, child: None };
                if !server.client().answers(PING) {
                    bail!("{url} does not answer GET {PING} with a 2xx");
                }
                Ok(server)
            }
            Subject::Bellwire => {
                let mut environment = environment.to_vec();
                environment.push(("BELLWIRE_JWT_SECRET".into(), secret));
                environment.push(("SVIX_WHITELIST_SUBNETS".into(), "[127.0.0.0/8]".into()));
                let address = free_address()?;
                let data = folder.join("data").display().to_string();
                let arguments = ["serve", "--data", &data, "--listen", &address.to_string()].map(String::from).to_vec();
                make_folder(folder)?;
                let token = mint_token(folder, &environment)?;
                Server::start_child(address, token, folder, arguments, environment)
            }
            Subject::Ceiling => {
                let address = free_address()?;
                let listen = address.to_string();
                let arguments = ["bench", "--ceiling-server", "--listen", &listen].map(String::from).to_vec();
                let environment = vec![(CEILING_TOKEN.into(), secret.clone())];
                Server::start_child(address, secret, folder, arguments, environment)
            }
        }
    }

    fn start_child(
        address: SocketAddr,
        token: String,
        folder: &Path,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
    ) -> anyhow::Result<Server> {
        make_folder(folder)?;
        let command =
            ChildCommand { arguments, environment, folder: folder.to_owned(), log: folder.join("server.log") };
        let child = command.spawn()?;
        let pid = Some(child.id());
        let child = Some(StartedChild { child, command });
        let mut server = Server { address, host: address.to_string(), token, pid, child };
        server.wait_until_ready()?;
        Ok(server)
    }

    fn wait_until_ready(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + READY_WAIT_MAX;
        loop {
            if self.client().answers(PING) {
                return Ok(());
            }
            if let Some(started) = &mut self.child {
                if let Some(status) = started.child.try_wait()? {
                    let log = log_tail(&started.command.log);
                    bail!("`bellwire {}` ended with {status} before it was ready:\n{log}", started.command.name());
                }
                if Instant::now() > deadline {
                    let (name, log) = (started.command.name(), log_tail(&started.command.log));
                    bail!("`bellwire {name}` was not ready within {} s:\n{log}", READY_WAIT_MAX.as_secs());
                }
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.address, &self.host, &self.token)
    }

    pub(crate) fn reading(&self) -> Reading {
        self.pid.map(Reading::of).unwrap_or_default()
    }

    /// Lets the peak of the memory count from now on. Of use where one process serves several runs.
    pub(crate) fn forget_peak(&self) {
        if let Some(pid) = self.pid {
            // Where this is refused, the peak is the one of the process's whole life.
            let _ = fs::write(format!("/proc/{pid}/clear_refs"), "5");
        }
    }

    pub(crate) fn can_be_killed(&self) -> bool {
        self.child.is_some()
    }

    /// Whether the child still runs; a server that is given by URL always does.
    ///
    /// # Errors
    /// When it has ended, with what it said last.
    pub(crate) fn check(&mut self) -> anyhow::Result<()> {
        let Some(started) = &mut self.child else { return Ok(()) };
        match started.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let log = log_tail(&started.command.log);
                bail!("`bellwire {}` ended with {status} while it was measured:\n{log}", started.command.name())
            }
        }
    }

    /// Ends the child without warning, and starts it again on the same data and address; `between` is called while
    /// none runs. Returns how long it took from the start of the process until it was ready.
    pub(crate) fn kill_and_restart(&mut self, between: impl FnOnce()) -> anyhow::Result<Duration> {
        let started = self.child.as_mut().context("only a server that the bench has started can be killed")?;
        started.child.kill()?;
        started.child.wait()?;
        interrupt::forget(started.child.id());
        between();
        let begin = Instant::now();
        started.child = started.command.spawn()?;
        self.pid = Some(started.child.id());
        self.wait_until_ready()?;
        Ok(begin.elapsed())
    }

    /// Asks the child to end, and makes it if it does not.
    pub(crate) fn stop(mut self) -> anyhow::Result<()> {
        let Some(started) = &mut self.child else { return Ok(()) };
        if let Some(pid) = i32::try_from(started.child.id()).ok().and_then(Pid::from_raw) {
            kill_process(pid, Signal::TERM).context("cannot stop the server")?;
        }
        let deadline = Instant::now() + STOP_WAIT_MAX;
        while Instant::now() < deadline {
            if started.child.try_wait()?.is_some() {
                return Ok(());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        eprintln!("warning: `bellwire {}` did not end within {} s", started.command.name(), STOP_WAIT_MAX.as_secs());
        Ok(())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Some(started) = &mut self.child {
            // Both fail when it has ended already.
            let _ = started.child.kill();
            let _ = started.child.wait();
            interrupt::forget(started.child.id());
        }
    }
}

impl ChildCommand {
    fn spawn(&self) -> anyhow::Result<Child> {
        let open = || File::options().create(true).append(true).open(&self.log);
        let output = open().with_context(|| format!("cannot write {}", self.log.display()))?;
        let child = our_own_command(&self.folder, &self.environment)?
            .args(&self.arguments)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start `bellwire {}`", self.name()))?;
        interrupt::remember(child.id());
        Ok(child)
    }

    fn name(&self) -> &str {
        self.arguments.first().map_or("", |argument| argument)
    }
}

fn make_folder(folder: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make the folder {}", folder.display()))
}

/// This program in `folder`, free of the settings that the bench itself was started with: neither its environment nor
/// a settings file beside it.
fn our_own_command(folder: &Path, environment: &[(String, String)]) -> anyhow::Result<Command> {
    let mut command = Command::new(std::env::current_exe().context("this program does not find itself")?);
    for (name, _) in std::env::vars_os() {
        if name.to_str().is_some_and(|name| name.starts_with("SVIX_") || name.starts_with("BELLWIRE_")) {
            command.env_remove(name);
        }
    }
    command.current_dir(folder);
    command.envs(environment.iter().map(|(name, value)| (name, value)));
    Ok(command)
}

fn mint_token(folder: &Path, environment: &[(String, String)]) -> anyhow::Result<String> {
    let output = our_own_command(folder, environment)?
        .arg("token")
        .stdin(Stdio::null())
        .output()
        .context("cannot start `bellwire token`")?;
    let printed = String::from_utf8_lossy(&output.stdout);
    let token = printed.split_whitespace().last().unwrap_or_default();
    if !output.status.success() || token.is_empty() {
        bail!("`bellwire token` printed no token: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(token.to_owned())
}

/// An address that was free a moment ago.
fn free_address() -> anyhow::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port")?;
    Ok(listener.local_addr()?)
}

/// So many random bytes, as hexadecimal digits.
pub(crate) fn random_hex(bytes: usize) -> anyhow::Result<String> {
    let mut random = vec![0; bytes];
    File::open("/dev/urandom").and_then(|mut file| file.read_exact(&mut random)).context("no randomness")?;
    Ok(random.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn log_tail(path: &Path) -> String {
    let text = fs::read(path).map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default();
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(20)..].join("\n")
}

/// Leaves nothing behind when the bench is interrupted: neither processes nor data.
pub(crate) mod interrupt {
    use super::*;
    use tokio::signal::unix::{SignalKind, signal};

    struct Remains {
        children: Vec<u32>,
        folder: Option<PathBuf>,
    }

    static REMAINS: Mutex<Remains> = Mutex::new(Remains { children: Vec::new(), folder: None });

    pub(super) fn remember(child: u32) {
        REMAINS.lock().children.push(child);
    }

    /// To be called once the child was waited for: from then on its number may be another's.
    pub(super) fn forget(child: u32) {
        REMAINS.lock().children.retain(|pid| *pid != child);
    }

    /// Ends the program on an interrupt or a termination signal, after it has killed the children and, if one is
    /// given, removed the folder.
    pub(crate) fn clean_up_on_signal(folder: Option<PathBuf>) -> anyhow::Result<()> {
        REMAINS.lock().folder = folder;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("no runtime")?;
        let wait = move || {
            let waited = runtime.block_on(async {
                let (mut interrupt, mut terminate) =
                    (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
                tokio::select! { _ = interrupt.recv() => {} _ = terminate.recv() => {} }
                std::io::Result::Ok(())
            });
            if waited.is_ok() {
                clean_up();
                std::process::exit(130);
            }
        };
        std::thread::Builder::new().name("bench-signal".into()).spawn(wait).context("no thread")?;
        Ok(())
    }

    fn clean_up() {
        let remains = REMAINS.lock();
        for pid in remains.children.iter().filter_map(|pid| Pid::from_raw(i32::try_from(*pid).ok()?)) {
            let _ = kill_process(pid, Signal::KILL);
        }
        if let Some(folder) = &remains.folder {
            let _ = fs::remove_dir_all(folder);
        }
    }
}
