//! RabbitMQ: how a node of our own is started, and the few words of AMQP 0-9-1 that tests need to look into it, without the client under test.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Where packages of it put its programs; what they put on the path goes on as another user.
const PROGRAMS: &str = "/usr/lib/rabbitmq/bin";
/// As much as a message may have.
const MESSAGE_BYTES_MAX: usize = 1 << 20;

/// What the node needs beside it, and what is said to it: nothing of it is shared with another node.
pub(crate) struct Surroundings {
    name: String,
    /// By which its own tools find it. A node would start one for the whole machine, and leave it behind.
    registry: Child,
    registry_port: u16,
    distribution_port: u16,
}

fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

impl Surroundings {
    /// Writes what it reads when it starts: one user, some queues, and a port in plain text, or by TLS if there are a certificate and a key.
    pub(crate) fn prepare(folder: &Path, port: u16, user: [&str; 2], tls: Option<[&Path; 2]>) -> Self {
        let listener = match tls {
            None => format!("listeners.tcp.1 = 127.0.0.1:{port}\n"),
            Some([certificate, key]) => format!(
                "listeners.tcp = none\nlisteners.ssl.1 = 127.0.0.1:{port}\nssl_options.certfile = {}\nssl_options.keyfile = {}\nssl_options.verify = verify_none\n",
                certificate.display(),
                key.display()
            ),
        };
        let definitions = folder.join("definitions.json");
        let config = format!(
            "{listener}load_definitions = {}\nlog.console = false\nmax_message_size = {MESSAGE_BYTES_MAX}\n",
            definitions.display()
        );
        std::fs::write(folder.join("rabbitmq.conf"), config).unwrap();
        let queue = |name: &str, arguments: &str| {
            format!(r#"{{"name":"{name}","vhost":"/","durable":true,"auto_delete":false,"arguments":{{{arguments}}}}}"#)
        };
        let queues = [
            queue("events", ""),
            queue("full", r#""x-max-length":1,"x-overflow":"reject-publish""#),
            queue("log", r#""x-queue-type":"stream""#),
        ];
        let [name, password] = user;
        let text = format!(
            r#"{{"users":[{{"name":"{name}","password":"{password}","tags":"administrator"}}],"vhosts":[{{"name":"/"}}],
            "permissions":[{{"user":"{name}","vhost":"/","configure":".*","write":".*","read":".*"}}],
            "queues":[{}],
            "exchanges":[{{"name":"orders","vhost":"/","type":"topic","durable":true,"auto_delete":false,"internal":false,"arguments":{{}}}}],
            "bindings":[{{"source":"orders","vhost":"/","destination":"events","destination_type":"queue","routing_key":"placed.#","arguments":{{}}}}]}}"#,
            queues.join(",")
        );
        std::fs::write(definitions, text).unwrap();
        let registry_port = free_port();
        let registry = Command::new("epmd")
            .args(["-address", "127.0.0.1", "-port", &registry_port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let name = format!("bellwire-{port}@localhost");
        Surroundings { name, registry, registry_port, distribution_port: free_port() }
    }

    fn command(&self, program: &str, folder: &Path) -> Command {
        let mut command = Command::new(format!("{PROGRAMS}/{program}"));
        command
            .env("HOME", folder)
            .env("ERL_EPMD_PORT", self.registry_port.to_string())
            .env("ERL_EPMD_ADDRESS", "127.0.0.1")
            .env("RABBITMQ_CONF_ENV_FILE", "/dev/null")
            .env("RABBITMQ_NODENAME", &self.name)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    pub(crate) fn spawn(&self, folder: &Path) -> Child {
        self.command("rabbitmq-server", folder)
            .env("RABBITMQ_CONFIG_FILE", folder.join("rabbitmq.conf"))
            .env("RABBITMQ_MNESIA_BASE", folder.join("mnesia"))
            .env("RABBITMQ_LOG_BASE", folder.join("log"))
            .env("RABBITMQ_ENABLED_PLUGINS_FILE", folder.join("plugins"))
            .env("RABBITMQ_DIST_PORT", self.distribution_port.to_string())
            .env("RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS", "+S 1:1 -kernel inet_dist_use_interface {127,0,0,1}")
            // The process that is started is then the server itself, not a shell beside it.
            .env("RUNNING_UNDER_SYSTEMD", "true")
            .spawn()
            .unwrap_or_else(|error| panic!("rabbitmq-server cannot be started: {error}"))
    }

    /// How many messages of the queue `events` were given and not acknowledged, and how many were not given.
    #[allow(dead_code, reason = "not every test counts")]
    pub(crate) fn unsettled(&self, folder: &Path) -> (usize, usize) {
        let list = ["-q", "list_queues", "name", "messages_unacknowledged", "messages_ready", "--no-table-headers"];
        let output = self.command("rabbitmqctl", folder).args(list).stdout(Stdio::piped()).output().unwrap();
        let output = String::from_utf8(output.stdout).unwrap();
        let line = output.lines().find(|line| line.starts_with("events\t")).unwrap_or_else(|| panic!("{output}"));
        let mut numbers = line.split('\t').skip(1).map(|number| number.parse().unwrap());
        (numbers.next().unwrap(), numbers.next().unwrap())
    }
}

impl Drop for Surroundings {
    fn drop(&mut self) {
        let _ = self.registry.kill();
        let _ = self.registry.wait();
    }
}

/// A channel on a connection of its own, as the user that RabbitMQ has if nobody says anything.
pub(crate) struct Wire(TcpStream);

/// A message that was got: its id, if it has one, and its payload.
#[allow(dead_code, reason = "not every test looks")]
pub(crate) struct Got {
    pub(crate) id: String,
    pub(crate) payload: Vec<u8>,
}

fn short(text: &str) -> Vec<u8> {
    [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat()
}

fn long(bytes: &[u8]) -> Vec<u8> {
    [&u32::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
}

impl Wire {
    pub(crate) fn connect(port: u16) -> Self {
        let mut wire = Wire(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap());
        wire.0.write_all(b"AMQP\0\0\x09\x01").unwrap();
        wire.expect((10, 10));
        let login = [long(b""), short("PLAIN"), long(b"\0guest\0guest"), short("en_US")].concat();
        wire.call(0, (10, 11), &login, (10, 30));
        // Tuned: nine channels, frames of 128 KiB, no heartbeats.
        wire.method(0, (10, 31), &[0, 9, 0, 2, 0, 0, 0, 0]);
        wire.call(0, (10, 40), &[short("/"), short(""), vec![0]].concat(), (10, 41));
        wire.call(1, (20, 10), &[0], (20, 11));
        wire
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let frame = [&[kind], &channel.to_be_bytes()[..], &long(payload), &[0xce]].concat();
        self.0.write_all(&frame).unwrap();
    }

    fn method(&mut self, channel: u16, (class, method): (u16, u16), arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.frame(1, channel, &payload);
    }

    fn read(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).unwrap();
        let mut payload = vec![0; u32::from_be_bytes(head[3..].try_into().unwrap()) as usize + 1];
        self.0.read_exact(&mut payload).unwrap();
        payload.pop();
        (head[0], payload)
    }

    /// The arguments of the next method, and which of these it is.
    fn expect_any(&mut self, all: &[(u16, u16)]) -> ((u16, u16), Vec<u8>) {
        let (kind, payload) = self.read();
        let number = |place: usize| u16::from_be_bytes([payload[place], payload[place + 1]]);
        let method = (number(0), number(2));
        assert!(kind == 1 && all.contains(&method), "{method:?}: {}", String::from_utf8_lossy(&payload));
        (method, payload[4..].to_vec())
    }

    fn expect(&mut self, method: (u16, u16)) -> Vec<u8> {
        self.expect_any(&[method]).1
    }

    fn call(&mut self, channel: u16, method: (u16, u16), arguments: &[u8], answer: (u16, u16)) -> Vec<u8> {
        self.method(channel, method, arguments);
        self.expect(answer)
    }

    /// Publishes to the queue `events`, and waits until it has it. The id may be empty.
    #[allow(dead_code, reason = "not every test publishes by itself")]
    pub(crate) fn publish(&mut self, id: &str, headers: &[(&str, &str)], payload: &[u8]) {
        let to = [vec![0, 0], short(""), short("events"), vec![0]].concat();
        self.method(1, (60, 40), &to);
        let mut table = Vec::new();
        for (name, value) in headers {
            table.extend([short(name), vec![b'S'], long(value.as_bytes())].concat());
        }
        // Headers, a mode, and an id.
        let flags: u16 = 1 << 13 | 1 << 12 | 1 << 7;
        let size = (payload.len() as u64).to_be_bytes();
        let head = [&[0, 60, 0, 0][..], &size, &flags.to_be_bytes(), &long(&table), &[2], &short(id)].concat();
        self.frame(2, 1, &head);
        for part in payload.chunks(100 << 10) {
            self.frame(3, 1, part);
        }
        self.expect((60, 80));
    }

    /// From now on it is said when a message is there.
    #[allow(dead_code, reason = "not every test publishes by itself")]
    pub(crate) fn confirm(&mut self) {
        self.call(1, (85, 10), &[0], (85, 11));
    }

    /// How many messages the queue `events` has that nobody was given.
    #[allow(dead_code, reason = "not every test counts")]
    pub(crate) fn count(&mut self) -> usize {
        let passive = [vec![0, 0], short("events"), vec![1], long(b"")].concat();
        let told = self.call(1, (50, 10), &passive, (50, 11));
        u32::from_be_bytes(told[7..11].try_into().unwrap()) as usize
    }

    /// Takes all that the queue `events` has.
    #[allow(dead_code, reason = "not every test looks")]
    pub(crate) fn drain(&mut self) -> Vec<Got> {
        let mut all = Vec::new();
        loop {
            self.method(1, (60, 70), &[vec![0, 0], short("events"), vec![1]].concat());
            if self.expect_any(&[(60, 71), (60, 72)]).0 == (60, 72) {
                return all;
            }
            let (_, head) = self.read();
            let size = u64::from_be_bytes(head[4..12].try_into().unwrap()) as usize;
            let mut payload = Vec::new();
            while payload.len() < size {
                payload.extend(self.read().1);
            }
            all.push(Got { id: id_in(&head[12..]), payload });
        }
    }
}

/// The id among the properties in a head, behind others.
fn id_in(properties: &[u8]) -> String {
    let flags = u16::from_be_bytes([properties[0], properties[1]]);
    let mut rest = &properties[2..];
    for place in (7..16).rev().filter(|place| flags & (1 << place) != 0) {
        let (from, to) = match place {
            13 => (4, 4 + u32::from_be_bytes(rest[..4].try_into().unwrap()) as usize),
            12 | 11 => (0, 1),
            _ => (1, 1 + usize::from(rest[0])),
        };
        if place == 7 {
            return String::from_utf8(rest[from..to].to_vec()).unwrap();
        }
        rest = &rest[to..];
    }
    String::new()
}
