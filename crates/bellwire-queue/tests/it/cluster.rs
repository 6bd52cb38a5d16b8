//! Kafka on free ports, with data folders of its own, and Kafka's own client as the other side. What both are made of is in the folder that
//! `BELLWIRE_TEST_KAFKA` names.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{BufRead, BufReader, Seek as _, Write as _};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How we are let in.
#[allow(dead_code, reason = "not every test needs each")]
pub(crate) enum Door {
    Plain,
    /// As `bell`, with the password `right`.
    Sasl,
    /// The certificate and its key.
    Tls(String),
    /// Brokers name themselves by an address where nobody is.
    Elsewhere,
}

/// One at a time, as each takes a core for a while.
static ONE: Mutex<()> = Mutex::new(());

pub(crate) struct Cluster {
    _one: MutexGuard<'static, ()>,
    nodes: Vec<Node>,
    folder: TempDir,
    peer: Child,
    to_peer: ChildStdin,
    from_peer: BufReader<ChildStdout>,
}

struct Node {
    port: u16,
    properties: PathBuf,
    process: Child,
}

/// A record as Kafka's own client reads it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Read {
    pub(crate) partition: usize,
    pub(crate) offset: i64,
    pub(crate) key: Option<String>,
    pub(crate) value: String,
    pub(crate) headers: BTreeMap<String, String>,
}

fn java() -> Command {
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the server")]
    let jars = std::env::var("BELLWIRE_TEST_KAFKA").expect("`scripts/test queues` says where they are");
    let mut java = Command::new("java");
    java.args(["-Xmx256m", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]);
    java.args(["-Dorg.slf4j.simpleLogger.defaultLogLevel=error", "-cp", &format!("{jars}/*")]);
    java.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    java
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Cluster {
    pub(crate) fn start(count: usize, door: &Door) -> Self {
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let folder = tempfile::tempdir().unwrap();
        let controller = free_port();
        let ports: Vec<(u16, u16)> = (0..count).map(|_| (free_port(), free_port())).collect();
        let mut nodes = Vec::new();
        for (id, (outer, inner)) in (1..).zip(&ports) {
            let properties = folder.path().join(format!("{id}.properties"));
            let text = properties_of((id, count), (*outer, *inner, controller), &folder, door);
            std::fs::write(&properties, text).unwrap();
            let format = ["kafka.tools.StorageTool", "format", "-t", "MkU3OEVBNTcwNTJENDM2Qk", "-c"];
            let users = ["SCRAM-SHA-256=[name=bell,password=right]", "SCRAM-SHA-512=[name=bell,password=right]"];
            let users = users.iter().filter(|_| matches!(door, Door::Sasl)).flat_map(|user| ["--add-scram", user]);
            assert!(java().args(format).arg(&properties).args(users).status().unwrap().success());
            let process = java().arg("kafka.Kafka").arg(&properties).spawn().unwrap();
            nodes.push(Node { port: *outer, properties, process });
        }
        let inner: Vec<String> = ports.iter().map(|(_, inner)| format!("127.0.0.1:{inner}")).collect();
        let source = concat!(env!("CARGO_MANIFEST_DIR"), "/../bellwire-queue/tests/kafka/Peer.java");
        let mut peer = java();
        peer.arg(source).arg(inner.join(",")).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut peer = peer.spawn().unwrap();
        let (to_peer, from_peer) = (peer.stdin.take().unwrap(), BufReader::new(peer.stdout.take().unwrap()));
        let cluster = Cluster { _one: one, nodes, folder, peer, to_peer, from_peer };
        (0..count).for_each(|node| cluster.answers(node));
        cluster
    }

    fn answers(&self, node: usize) {
        let patience = Instant::now() + Duration::from_secs(120);
        while TcpStream::connect((Ipv4Addr::LOCALHOST, self.nodes[node].port)).is_err() {
            assert!(Instant::now() < patience, "Kafka does not answer: see {:?}", self.folder.path());
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    /// Where the first is.
    pub(crate) fn port(&self) -> u16 {
        self.nodes[0].port
    }

    /// Like a power cut for the process, not for the machine.
    pub(crate) fn kill(&mut self, node: usize) {
        self.nodes[node].process.kill().unwrap();
        self.nodes[node].process.wait().unwrap();
    }

    pub(crate) fn start_again(&mut self, node: usize) {
        let properties = &self.nodes[node].properties;
        self.nodes[node].process = java().arg("kafka.Kafka").arg(properties).spawn().unwrap();
        self.answers(node);
    }

    /// Stops it as it stands, or lets it go on.
    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) fn signal(&mut self, node: usize, name: &str) {
        let process = self.nodes[node].process.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &process]).status().unwrap().success());
    }

    /// As if the disk had: changes what was written, wherever it is in a partition that this node has.
    #[allow(dead_code, reason = "not every test needs it")]
    pub(crate) fn spoil(&mut self, node: usize, partition: &str, text: &str) {
        let folder = self.folder.path().join(format!("data-{}", node + 1)).join(partition);
        let file = folder.join("00000000000000000000.log");
        let bytes = std::fs::read(&file).unwrap();
        let at = bytes.windows(text.len()).position(|window| window == text.as_bytes()).unwrap();
        let mut file = std::fs::OpenOptions::new().write(true).open(&file).unwrap();
        file.seek(std::io::SeekFrom::Start(at as u64)).unwrap();
        file.write_all(b"~").unwrap();
    }

    /// What Kafka's own client answers, without its last word.
    pub(crate) fn ask(&mut self, line: &str) -> Vec<String> {
        writeln!(self.to_peer, "{line}").unwrap();
        let mut all = Vec::new();
        loop {
            let mut answer = String::new();
            assert!(self.from_peer.read_line(&mut answer).unwrap() > 0, "the peer is gone");
            match answer.trim_end() {
                answer if answer.starts_with("ok") => return all,
                answer if answer.starts_with("error") => panic!("{line}: {answer}"),
                answer => all.push(answer.to_owned()),
            }
        }
    }

    /// These values, as JSON's numbers, to one partition or wherever it likes.
    pub(crate) fn send(&mut self, topic: &str, partition: Option<usize>, values: impl IntoIterator<Item = String>) {
        let place = partition.map_or("-".to_owned(), |place| place.to_string());
        for value in values {
            self.ask(&format!("send {topic} {place} - {}", base64(value.as_bytes())));
        }
        self.ask("flush");
    }

    pub(crate) fn read(&mut self, topic: &str) -> Vec<Read> {
        let text = |word: &str| (word != "-").then(|| String::from_utf8(bytes(word)).unwrap());
        let lines = self.ask(&format!("read {topic}"));
        lines
            .iter()
            .map(|line| line.split(' ').collect::<Vec<_>>())
            .map(|words| Read {
                partition: words[1].parse().unwrap(),
                offset: words[2].parse().unwrap(),
                key: text(words[3]),
                value: text(words[4]).unwrap_or_default(),
                headers: words[5..].chunks(2).map(|two| (text(two[0]).unwrap(), text(two[1]).unwrap())).collect(),
            })
            .collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.nodes.iter_mut().map(|node| &mut node.process).chain([&mut self.peer]) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

fn properties_of((id, count): (usize, usize), ports: (u16, u16, u16), folder: &TempDir, door: &Door) -> String {
    let (outer, inner, controller) = ports;
    let (roles, also) = if id == 1 {
        ("broker,controller", format!(",CONTROLLER://127.0.0.1:{controller}"))
    } else {
        ("broker", String::new())
    };
    let outside = if matches!(door, Door::Elsewhere) { "10.1.2.3" } else { "127.0.0.1" };
    let speaks = match door {
        Door::Plain | Door::Elsewhere => "PLAINTEXT",
        Door::Sasl => "SASL_PLAINTEXT",
        Door::Tls(_) => "SSL",
    };
    let log = folder.path().join(format!("data-{id}"));
    let mut text = format!(
        "process.roles={roles}\nnode.id={id}\ncontroller.quorum.voters=1@127.0.0.1:{controller}\n\
         listeners=OUTER://127.0.0.1:{outer},INNER://127.0.0.1:{inner}{also}\n\
         advertised.listeners=OUTER://{outside}:{outer},INNER://127.0.0.1:{inner}\n\
         inter.broker.listener.name=INNER\ncontroller.listener.names=CONTROLLER\n\
         listener.security.protocol.map=OUTER:{speaks},INNER:PLAINTEXT,CONTROLLER:PLAINTEXT\n\
         log.dirs={}\nauto.create.topics.enable=false\n",
        log.display()
    );
    // Small: it runs beside others.
    text += "log.cleaner.dedupe.buffer.size=2097152\nnum.network.threads=1\nnum.io.threads=2\nbackground.threads=2\n";
    text += "transaction.state.log.replication.factor=1\ntransaction.state.log.min.isr=1\n";
    text += "transaction.state.log.num.partitions=1\noffsets.topic.replication.factor=1\n";
    if count > 1 {
        // A broker that is gone is known to be soon.
        text += "broker.session.timeout.ms=3000\nbroker.heartbeat.interval.ms=500\nreplica.lag.time.max.ms=3000\n";
    }
    match door {
        Door::Plain | Door::Elsewhere => {}
        Door::Sasl => {
            text += "listener.name.outer.sasl.enabled.mechanisms=PLAIN,SCRAM-SHA-256,SCRAM-SHA-512\n";
            for scram in ["256", "512"] {
                let module = "org.apache.kafka.common.security.scram.ScramLoginModule required;";
                let _ = writeln!(text, "listener.name.outer.scram-sha-{scram}.sasl.jaas.config={module}");
            }
            text += "listener.name.outer.plain.sasl.jaas.config=org.apache.kafka.common.security.plain.PlainLoginModule required user_bell=\"right\";\n";
        }
        Door::Tls(pem) => {
            let file = folder.path().join("key.pem");
            std::fs::write(&file, pem).unwrap();
            let _ = write!(text, "ssl.keystore.type=PEM\nssl.keystore.location={}\n", file.display());
        }
    }
    text
}

const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

/// Without a crate, as not every crate that includes this has one.
pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().chain([&0; 2]).take(3).fold(0, |word, byte| (word << 8) | usize::from(*byte));
        for place in 0..4 {
            let letter = char::from(LETTERS[(word >> (18 - 6 * place)) & 63]);
            text.push(if place > three.len() { '=' } else { letter });
        }
    }
    text
}

fn bytes(text: &str) -> Vec<u8> {
    let mut all = Vec::new();
    for four in text.trim_end_matches('=').as_bytes().chunks(4) {
        let value = |letter: &u8| LETTERS.iter().position(|own| own == letter).unwrap();
        let word = four.iter().fold(0, |word, letter| (word << 6) | value(letter)) << (6 * (4 - four.len()));
        all.extend((0..four.len() - 1).map(|place| (word >> (16 - 8 * place)) as u8));
    }
    all
}
