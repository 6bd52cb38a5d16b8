//! Servers on free ports, with data folders of their own.

#[path = "rabbit.rs"]
pub(crate) mod rabbit;

use bellwire_queue::Broker;
use rabbit::{Surroundings, Wire};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Messages of AMQP are known by ids that are given to them.
static PUBLISHED: AtomicUsize = AtomicUsize::new(0);

pub(crate) struct Real {
    pub(crate) broker: Broker,
    pub(crate) port: u16,
    folder: TempDir,
    arguments: Vec<String>,
    process: Child,
    /// Of RabbitMQ.
    surroundings: Option<Surroundings>,
}

impl Real {
    /// With a password, if there is one; the user of NATS and AMQP is `bell`. RabbitMQ has a queue `events`, and some others.
    pub(crate) fn start(broker: Broker, password: &[&str]) -> Self {
        let arguments = match (broker, password) {
            (Broker::Sqs | Broker::Kafka, _) => panic!("not one of these"),
            (Broker::Amqp, _) => {
                let user = password.first().map_or(["guest", "guest"], |password| ["bell", password]);
                return Self::run_rabbit(tempfile::tempdir().unwrap(), user, None);
            }
            (_, []) => Vec::new(),
            (Broker::Nats, [password, ..]) => vec!["--user", "bell", "--pass", password],
            (Broker::Redis, [password, ..]) => vec!["--requirepass", password],
        };
        Self::run(broker, tempfile::tempdir().unwrap(), arguments.into_iter().map(str::to_owned).collect())
    }

    #[allow(dead_code, reason = "not every test speaks TLS")]
    pub(crate) fn start_with_tls(broker: Broker, certificate: &str, key: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (certificate_file, key_file) = (folder.path().join("certificate.pem"), folder.path().join("key.pem"));
        std::fs::write(&certificate_file, certificate).unwrap();
        std::fs::write(&key_file, key).unwrap();
        if broker == Broker::Amqp {
            return Self::run_rabbit(folder, ["guest", "guest"], Some([&certificate_file, &key_file]));
        }
        let path = |path: &std::path::Path| path.to_str().unwrap().to_owned();
        let mut arguments = vec!["--tls".to_owned(), "--tlscert".to_owned(), path(&certificate_file)];
        arguments.extend(["--tlskey".to_owned(), path(&key_file)]);
        Self::run(broker, folder, arguments)
    }

    fn run(broker: Broker, folder: TempDir, arguments: Vec<String>) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let process = spawn(broker, port, &folder, &arguments);
        Real { broker, port, folder, arguments, process, surroundings: None }
    }

    fn run_rabbit(folder: TempDir, user: [&str; 2], tls: Option<[&std::path::Path; 2]>) -> Self {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
        let surroundings = Surroundings::prepare(folder.path(), port, user, tls);
        let process = surroundings.spawn(folder.path());
        wait_for(Broker::Amqp, port, tls.is_some());
        let (arguments, surroundings) = (Vec::new(), Some(surroundings));
        Real { broker: Broker::Amqp, port, folder, arguments, process, surroundings }
    }

    /// Like a power cut for the process, not for the machine.
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self) {
        self.process = match &self.surroundings {
            Some(surroundings) => {
                let process = surroundings.spawn(self.folder.path());
                wait_for(self.broker, self.port, false);
                process
            }
            None => spawn(self.broker, self.port, &self.folder, &self.arguments),
        };
    }

    /// The stream `events`. Redis makes it with the first entry.
    pub(crate) fn make_stream(&self) {
        if self.broker == Broker::Nats {
            let made = self.ask_nats("STREAM.CREATE.events", r#"{"name":"events","subjects":["events"]}"#);
            assert!(!made.contains("error"), "{made}");
        }
    }

    /// How many messages the stream holds.
    #[allow(dead_code, reason = "not every test counts")]
    pub(crate) fn count(&self) -> usize {
        let (answer, before) = match self.broker {
            Broker::Amqp => return Wire::connect(self.port).count(),
            Broker::Nats => (self.ask_nats("STREAM.INFO.events", ""), "\"messages\":"),
            _ => {
                let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
                tcp.write_all(b"XLEN events\r\n").unwrap();
                let mut answer = String::new();
                BufReader::new(tcp).read_line(&mut answer).unwrap();
                (answer, ":")
            }
        };
        number_behind(&answer, before)
    }

    /// How many messages the group `bellwire` was given and has not acknowledged, and how many it has not been given yet.
    #[allow(dead_code, reason = "not every test counts")]
    pub(crate) fn unsettled(&self, group: &str) -> (usize, usize) {
        match self.broker {
            Broker::Amqp => self.surroundings.as_ref().unwrap().unsettled(self.folder.path()),
            Broker::Nats => {
                let info = self.ask_nats(&format!("CONSUMER.INFO.events.{group}"), "");
                (number_behind(&info, "\"num_ack_pending\":"), number_behind(&info, "\"num_pending\":"))
            }
            _ => {
                let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
                tcp.write_all(b"XINFO GROUPS events\r\nPING\r\n").unwrap();
                let lines = BufReader::new(tcp).lines().map(Result::unwrap).take_while(|line| line != "+PONG");
                let all: String = lines.map(|line| format!("{line}\n")).collect();
                let of = all.split_once(&format!("\n{group}\n")).unwrap_or_else(|| panic!("{all}")).1;
                (number_behind(of, "pending\n:"), number_behind(of, "lag\n:"))
            }
        }
    }

    /// Publishes to the stream, in this order: headers or fields, and a payload.
    #[allow(dead_code, reason = "not every test publishes by itself")]
    pub(crate) fn publish<'a>(&self, all: impl IntoIterator<Item = (&'a [(&'a str, &'a str)], Vec<u8>)>) {
        if self.broker == Broker::Amqp {
            let mut wire = Wire::connect(self.port);
            wire.confirm();
            for (headers, payload) in all {
                let id = PUBLISHED.fetch_add(1, Ordering::Relaxed).to_string();
                wire.publish(&id, headers, &payload);
            }
            return;
        }
        let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        let mut lines = BufReader::new(tcp.try_clone().unwrap()).lines().map(Result::unwrap);
        if self.broker == Broker::Nats {
            let hello = r#"CONNECT {"verbose":false,"pedantic":false,"headers":true}"#;
            tcp.write_all(format!("{hello}\r\nSUB answer 1\r\n").as_bytes()).unwrap();
        }
        for (headers, payload) in all {
            let mut command = Vec::new();
            if self.broker == Broker::Nats {
                let mut head = "NATS/1.0\r\n".to_owned();
                headers.iter().for_each(|(name, value)| head += &format!("{name}: {value}\r\n"));
                head += "\r\n";
                let (of_head, of_all) = (head.len(), head.len() + payload.len());
                command.extend(format!("HPUB events answer {of_head} {of_all}\r\n{head}").bytes());
                command.extend(payload);
                command.extend(b"\r\n");
            } else {
                let fields = headers.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]);
                let words: [&[u8]; 5] = [b"XADD", b"events", b"*", b"payload", &payload];
                let words: Vec<&[u8]> = words.into_iter().chain(fields).collect();
                command.extend(format!("*{}\r\n", words.len()).bytes());
                for word in words {
                    command.extend(format!("${}\r\n", word.len()).bytes());
                    command.extend(word);
                    command.extend(b"\r\n");
                }
            }
            tcp.write_all(&command).unwrap();
            let kept = |line: &String| line.starts_with(if self.broker == Broker::Nats { "MSG answer" } else { "$" });
            lines.find(kept).unwrap();
            let answer = lines.next().unwrap();
            assert!(!answer.contains("error"), "{answer}");
        }
    }

    /// One request of JetStream's API, in the few words of NATS' protocol that it takes.
    fn ask_nats(&self, what: &str, question: &str) -> String {
        let mut tcp = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).unwrap();
        let mut lines = BufReader::new(tcp.try_clone().unwrap()).lines().map(Result::unwrap);
        let hello = r#"CONNECT {"verbose":false,"pedantic":false}"#;
        let publish = format!("PUB $JS.API.{what} answer {}", question.len());
        tcp.write_all(format!("{hello}\r\nSUB answer 1\r\n{publish}\r\n{question}\r\n").as_bytes()).unwrap();
        lines.find(|line| line.starts_with("MSG answer")).unwrap();
        lines.next().unwrap()
    }
}

fn number_behind(text: &str, before: &str) -> usize {
    let digits = text.split_once(before).unwrap_or_else(|| panic!("{text}")).1;
    digits.chars().take_while(char::is_ascii_digit).collect::<String>().parse().unwrap()
}

impl Drop for Real {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(broker: Broker, port: u16, folder: &TempDir, arguments: &[String]) -> Child {
    let (program, own): (_, &[&str]) = match broker {
        Broker::Nats => ("nats-server", &["--jetstream", "--addr", "127.0.0.1", "--store_dir"]),
        _ => (
            "redis-server",
            &["--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--appendfsync", "always", "--dir"],
        ),
    };
    let process = Command::new(program)
        .args(own)
        .arg(folder.path())
        .args(["--port", &port.to_string()])
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap_or_else(|error| panic!("{program} cannot be started: {error}"));
    wait_for(broker, port, false);
    process
}

fn wait_for(broker: Broker, port: u16, tls: bool) {
    let patience = Instant::now() + Duration::from_secs(60);
    while !answers(broker, port, tls) {
        assert!(Instant::now() < patience, "{} does not answer at port {port}", broker.name());
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// NATS speaks first; Redis may still be reading what it has kept. RabbitMQ has its queues before it listens.
fn answers(broker: Broker, port: u16, tls: bool) -> bool {
    let Ok(mut tcp) = TcpStream::connect((Ipv4Addr::LOCALHOST, port)) else { return false };
    if tls {
        return true;
    }
    if broker == Broker::Amqp {
        let mut first = [0];
        return tcp.write_all(b"AMQP\0\0\x09\x01").is_ok() && tcp.read_exact(&mut first).is_ok() && first == [1];
    }
    if broker == Broker::Redis && tcp.write_all(b"PING\r\n").is_err() {
        return false;
    }
    let mut answer = [0; 7];
    tcp.set_read_timeout(Some(Duration::from_secs(5))).is_ok()
        && tcp.read_exact(&mut answer).is_ok()
        && [&b"INFO {\""[..], b"+PONG\r\n", b"-NOAUTH"].contains(&&answer[..])
}
