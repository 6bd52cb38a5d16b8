//! Starts `bellwire serve` on a folder of its own and a free port, and talks to it.

use bellwire_signature::VerifyKey;
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// Nothing here takes longer, however busy the machine is.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// The program with nothing of this machine's environment but what the test gives it.
pub(crate) fn bellwire(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_bellwire"));
    command.env_clear().env("BELLWIRE_DATA", data).current_dir(data);
    command
}

/// Runs a command to its end.
pub(crate) fn run(data: &Path, arguments: &[&str]) -> Output {
    bellwire(data).args(arguments).output().unwrap()
}

/// A running server.
pub(crate) struct Program {
    child: Child,
    pub(crate) address: SocketAddr,
    pub(crate) token: String,
    log: Arc<Mutex<Vec<Value>>>,
}

impl Program {
    /// Starts it with short retries and loopback allowed, and waits until it is ready.
    pub(crate) fn start(data: &Path, environment: &[(&str, &str)]) -> Program {
        let mut command = bellwire(data);
        command
            .args(["serve", "--listen", "127.0.0.1:0"])
            .env("BELLWIRE_EGRESS_ALLOW", "127.0.0.0/8")
            .env("BELLWIRE_DELIVERY_RETRY_SCHEDULE", "50ms,50ms,50ms")
            .env("BELLWIRE_LOG_FORMAT", "json")
            .envs(environment.iter().copied());
        let token = run(data, &["token"]);
        assert!(token.status.success(), "{token:?}");
        Program::launch(command, String::from_utf8(token.stdout).unwrap().trim().to_owned()).0
    }

    /// Starts what `command` says, which must log JSON, and waits until it is ready. Answers it with what it logged until then.
    pub(crate) fn launch(mut command: Command, token: String) -> (Program, Vec<Value>) {
        let mut child = command.stdin(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let mut told = Vec::new();
        let ready = lines.by_ref().find_map(|line| {
            let line: Value = serde_json::from_str(&line).ok()?;
            let ready = (line["message"] == "ready").then(|| line["address"].as_str().unwrap().parse().unwrap());
            told.push(line);
            ready
        });
        let log = Arc::new(Mutex::new(told.clone()));
        let kept = Arc::clone(&log);
        std::thread::spawn(move || {
            let lines = lines.filter_map(|line| serde_json::from_str(&line).ok());
            lines.for_each(|line| kept.lock().unwrap().push(line));
        });
        let address = ready.expect("the server says that it is ready");
        (Program { child, address, token, log }, told)
    }

    /// Whether it has logged a line with this message.
    pub(crate) fn has_said(&self, message: &str) -> bool {
        self.log.lock().unwrap().iter().any(|line| line["message"].as_str().is_some_and(|m| m.contains(message)))
    }

    /// All that it has logged so far.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().iter().map(|line| format!("{line}\n")).collect()
    }

    /// Sends it a signal such as `HUP`.
    pub(crate) fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([&format!("-{name}"), &pid]).status().unwrap().success());
    }

    /// What an endpoint's webhooks are verified with. `endpoint` is its path.
    pub(crate) fn key_of(&self, endpoint: &str) -> VerifyKey {
        let (_, secret) = self.call("GET", &format!("{endpoint}/secret"), Value::Null);
        VerifyKey::parse(secret["key"].as_str().unwrap()).unwrap()
    }

    /// One request to the API; answers status and JSON (null for an empty body).
    pub(crate) fn call(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, text) = self.raw(&format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        ));
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    }

    /// The exact bytes of a request; answers status (0 if there was none) and body.
    pub(crate) fn raw(&self, request: &str) -> (u16, String) {
        let (status, _, body) = self.raw_with_head(request);
        (status, body)
    }

    /// The same with the answer's head.
    pub(crate) fn raw_with_head(&self, request: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = Vec::new();
        // A closed connection is an answer too.
        let _ = stream.read_to_end(&mut answer);
        let answer = String::from_utf8_lossy(&answer);
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        (head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or(0), head.to_owned(), body.to_owned())
    }

    /// What it holds in memory.
    pub(crate) fn resident_bytes(&self) -> u64 {
        self.status_bytes("VmRSS:")
    }

    /// The most that it ever held in memory.
    pub(crate) fn resident_bytes_at_most(&self) -> u64 {
        self.status_bytes("VmHWM:")
    }

    fn status_bytes(&self, name: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
        line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * 1024
    }

    /// SIGKILL.
    pub(crate) fn kill(mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// SIGTERM; answers how it ended.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal("TERM");
        self.child.wait().unwrap()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The ledger of a data folder, as `bellwire ledger --json` prints it.
pub(crate) fn ledger(data: &Path) -> Value {
    let output = run(data, &["ledger", "--json"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

/// Asks until the answer is there.
pub(crate) fn eventually<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "never happened: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
