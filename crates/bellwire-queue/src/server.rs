//! Where a queue is, and as whom we come.

use percent_encoding::percent_decode_str;
use std::fmt;
use url::{Host, Url};

/// A kind of queue.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Broker {
    /// NATS JetStream.
    Nats,
    /// Redis streams; Valkey's as well.
    Redis,
    /// Amazon SQS.
    Sqs,
    /// AMQP 0-9-1, as RabbitMQ speaks it.
    Amqp,
    /// Apache Kafka.
    Kafka,
}

impl Broker {
    /// All of them.
    pub const ALL: [Broker; 5] = [Broker::Nats, Broker::Redis, Broker::Sqs, Broker::Amqp, Broker::Kafka];

    /// Its name in settings.
    pub fn name(self) -> &'static str {
        match self {
            Broker::Nats => "nats",
            Broker::Redis => "redis",
            Broker::Sqs => "sqs",
            Broker::Amqp => "amqp",
            Broker::Kafka => "kafka",
        }
    }

    /// Whether this program can speak to it.
    pub fn is_built_in(self) -> bool {
        match self {
            Broker::Nats => cfg!(feature = "nats"),
            Broker::Redis => cfg!(feature = "redis"),
            Broker::Sqs => cfg!(feature = "sqs"),
            Broker::Amqp => cfg!(feature = "amqp"),
            Broker::Kafka => cfg!(feature = "kafka"),
        }
    }

    /// The one of this name.
    ///
    /// # Errors
    /// A clause that says which names there are, or that this program was built without it.
    pub fn parse(name: &str) -> Result<Self, String> {
        let names = Broker::ALL.map(Broker::name).join(" or ");
        let broker = Broker::ALL.into_iter().find(|broker| broker.name() == name);
        let broker = broker.ok_or_else(|| format!("expected {names}, not {name:?}"))?;
        match broker.is_built_in() {
            true => Ok(broker),
            false => Err(format!(
                "this server was built without {name}; one built with `cargo build --features {name}` has it"
            )),
        }
    }

    /// Its schemes and their ports, in plain text and with TLS.
    fn schemes(self) -> [(&'static str, u16); 2] {
        match self {
            Broker::Nats => [("nats", 4222), ("tls", 4222)],
            Broker::Redis => [("redis", 6379), ("rediss", 6379)],
            Broker::Sqs => [("http", 80), ("https", 443)],
            Broker::Amqp => [("amqp", 5672), ("amqps", 5671)],
            Broker::Kafka => [("kafka", 9092), ("kafka+ssl", 9092)],
        }
    }
}

/// As whom.
#[derive(Clone, PartialEq, Eq, Hash, Default)]
pub struct Credentials {
    /// A user's name.
    pub user: Option<String>,
    /// A password, with or without a user.
    pub password: Option<String>,
    /// A token, instead of both.
    pub token: Option<String>,
}

/// Of Kafka: how a user proves who it is.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum Mechanism {
    /// By saying the password, which only TLS keeps from others.
    #[default]
    Plain,
    /// By proving to know it.
    ScramSha256,
    /// The same, with the longer hash.
    ScramSha512,
}

impl Mechanism {
    /// All of them.
    pub const ALL: [Mechanism; 3] = [Mechanism::Plain, Mechanism::ScramSha256, Mechanism::ScramSha512];

    /// Its name in settings, and in Kafka's.
    pub fn name(self) -> &'static str {
        match self {
            Mechanism::Plain => "PLAIN",
            Mechanism::ScramSha256 => "SCRAM-SHA-256",
            Mechanism::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}

/// Where a queue is, and as whom we come. Prints without secrets.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Server {
    pub(crate) broker: Broker,
    pub(crate) host: Host<String>,
    pub(crate) port: u16,
    /// Of Kafka: who can be asked if the first one cannot.
    pub(crate) others: Vec<(Host<String>, u16)>,
    pub(crate) tls: bool,
    pub(crate) credentials: Credentials,
    /// Of Kafka.
    pub(crate) mechanism: Mechanism,
    /// Of Redis.
    pub(crate) database: u16,
    /// Of SQS: the path of the queue's URL, `/123456789012/orders`.
    pub(crate) path: String,
    /// Of AMQP: the part of the broker that it is about.
    pub(crate) virtual_host: String,
    /// Of SQS: the region that requests are signed for.
    pub(crate) region: String,
}

/// What is wrong with where and as whom.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ServerFault {
    /// The setting: `url`, `user`, `password`, `token`, `region` or `mechanism`.
    pub field: &'static str,
    /// What is wrong and what would be right.
    pub text: String,
}

impl Server {
    /// The host, if what speaks to it opens its own sockets, which never go by a proxy.
    pub fn not_by_proxy(&self) -> Option<&Host<String>> {
        match self.broker {
            Broker::Nats => Some(&self.host),
            Broker::Redis | Broker::Sqs | Broker::Amqp | Broker::Kafka => None,
        }
    }

    /// Reads a URL: `nats://host:4222`, `tls://host:4222`, `redis://host:6379/0`, `rediss://host:6379/0`, `amqp://host:5672/virtual-host`,
    /// `amqps://host:5671/virtual-host`, `kafka://host:9092,other:9092`, `kafka+ssl://host:9092`, or the URL of a queue of SQS,
    /// `https://sqs.eu-central-1.amazonaws.com/123456789012/orders`, for which user, password and token are the access key's id, the
    /// secret access key and the session's token.
    ///
    /// # Errors
    /// The first fault.
    pub fn parse(broker: Broker, url: &str, credentials: Credentials) -> Result<Self, ServerFault> {
        let fault = |field, text: String| Err(ServerFault { field, text });
        let [(plain, plain_port), (secure, secure_port)] = broker.schemes();
        let like = match broker {
            Broker::Sqs => {
                "expected the queue's URL, like https://sqs.eu-central-1.amazonaws.com/123456789012/orders".to_owned()
            }
            _ => format!("expected a URL like {plain}://host:{plain_port}, or {secure}:// with TLS"),
        };
        // Schemes that the URL standard does not know keep their hosts as they were written; this one does not.
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        if scheme != plain && scheme != secure {
            return fault("url", like);
        }
        let (rest, more) = match rest.split_once(',') {
            Some((first, more)) if broker == Broker::Kafka => (first, Some(more)),
            _ => (rest, None),
        };
        let others = more.into_iter().flat_map(|more| more.split(',')).map(|other| place(other, plain_port)).collect();
        let Some(others) = others else { return fault("url", like) };
        let Ok(parsed) = Url::parse(&format!("http://{rest}")) else { return fault("url", like) };
        let Some(host) = parsed.host() else { return fault("url", like) };
        if !parsed.username().is_empty() || parsed.password().is_some() {
            return fault(
                "url",
                "secrets do not belong into the URL; there are `user` and `password` for them".to_owned(),
            );
        }
        if parsed.query().is_some() || parsed.fragment().is_some() {
            return fault("url", "nothing may stand behind ? or #".to_owned());
        }
        let mut virtual_host = "/".to_owned();
        let database = match (broker, parsed.path().trim_matches('/')) {
            (Broker::Sqs, "") => return fault("url", like),
            (_, "") | (Broker::Sqs, _) => 0,
            (Broker::Redis, number) => match number.parse() {
                Ok(number) => number,
                Err(_) => {
                    return fault("url", "behind the host stands the number of the database, or nothing".to_owned());
                }
            },
            (Broker::Amqp, name) => match percent_decode_str(name).decode_utf8() {
                Ok(decoded) if !name.contains('/') => {
                    virtual_host = decoded.into_owned();
                    0
                }
                _ => {
                    return fault(
                        "url",
                        "behind the host stands the name of one virtual host, in which / is written %2F".to_owned(),
                    );
                }
            },
            (Broker::Nats | Broker::Kafka, _) => {
                return fault("url", "nothing may stand behind the host and its port".to_owned());
            }
        };
        // 80 is what `Url` leaves out, because it is the port of the scheme that was lent.
        let usual = if scheme == plain { plain_port } else { secure_port };
        let port = parsed.port().unwrap_or(if has_port_80(rest) { 80 } else { usual });
        let Credentials { user, password, token } = &credentials;
        match (user, password, token) {
            (None, _, _) if broker == Broker::Sqs => {
                return fault("user", "there is none; it is the id of an access key".to_owned());
            }
            (Some(_), None, _) => return fault("password", "a `user` needs a `password`".to_owned()),
            (Some(_), Some(_), Some(_)) if broker == Broker::Sqs => {}
            (_, _, Some(_)) if broker == Broker::Kafka => {
                return fault("token", "kafka has no tokens here; there are `user` and `password`".to_owned());
            }
            (None, Some(_), _) if matches!(broker, Broker::Nats | Broker::Amqp | Broker::Kafka) => {
                return fault("user", "a `password` needs a `user`".to_owned());
            }
            (_, Some(_), Some(_)) => return fault("token", "either `token` or `password`, not both".to_owned()),
            (_, _, Some(_)) if broker == Broker::Redis => {
                return fault("token", "redis has no tokens; there is `password`".to_owned());
            }
            (_, _, Some(_)) if broker == Broker::Amqp => {
                return fault("token", "amqp has no tokens of its own; one of OAuth 2 is the `password`".to_owned());
            }
            _ => {}
        }
        let (host, path) = (host.to_owned(), parsed.path().to_owned());
        let region = region_of(&host).to_owned();
        let (tls, mechanism) = (scheme == secure, Mechanism::default());
        Ok(Server { broker, host, port, others, tls, credentials, mechanism, database, path, virtual_host, region })
    }

    /// The user proves who it is by the mechanism of this name instead of PLAIN.
    ///
    /// # Errors
    /// If there is none of this name, or no user.
    pub fn by_mechanism(self, name: &str) -> Result<Self, ServerFault> {
        let fault = |text: String| ServerFault { field: "mechanism", text };
        let found = Mechanism::ALL.into_iter().find(|mechanism| mechanism.name().eq_ignore_ascii_case(name));
        let mechanism = found.ok_or_else(|| {
            let names = Mechanism::ALL.map(Mechanism::name).join(" or ");
            fault(format!("expected {names}, not {name:?}"))
        })?;
        match self.credentials.user {
            Some(_) => Ok(Server { mechanism, ..self }),
            None => Err(fault("is how a `user` is let in, and there is none".to_owned())),
        }
    }

    /// Requests to SQS are signed for this region instead of the one that the URL names.
    ///
    /// # Errors
    /// If it cannot be a region's name.
    pub fn in_region(self, region: String) -> Result<Self, ServerFault> {
        let usual = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        if region.is_empty() || region.len() > 64 || !region.chars().all(usual) {
            let text = "expected the name of a region, such as eu-central-1".to_owned();
            return Err(ServerFault { field: "region", text });
        }
        Ok(Server { region, ..self })
    }

    /// Hosts and ports, in the order in which they are asked.
    pub(crate) fn places(&self) -> impl Iterator<Item = (Host<String>, u16)> {
        std::iter::once((self.host.clone(), self.port)).chain(self.others.iter().cloned())
    }

    /// Host and port, the port only if it is not the scheme's own.
    pub(crate) fn authority(&self) -> String {
        match (self.tls, self.port) {
            (true, 443) | (false, 80) => self.host.to_string(),
            (_, port) => format!("{}:{port}", self.host),
        }
    }

    /// Of SQS.
    pub(crate) fn queue_url(&self) -> String {
        format!("{}://{}{}", if self.tls { "https" } else { "http" }, self.authority(), self.path)
    }

    /// Of SQS: the last part of the path.
    pub fn queue_name(&self) -> &str {
        self.path.trim_end_matches('/').rsplit('/').next().unwrap_or_default()
    }

    /// Of SQS: a queue that keeps the order within groups.
    pub(crate) fn is_fifo(&self) -> bool {
        self.queue_name().ends_with(".fifo")
    }

    /// What is spoken there.
    pub fn broker(&self) -> Broker {
        self.broker
    }
}

/// As SQS' hosts name it, `sqs.eu-central-1.amazonaws.com`; what speaks as SQS does elsewhere usually takes any.
fn region_of(host: &Host<String>) -> &str {
    let name = match host {
        Host::Domain(name) => name.as_str(),
        Host::Ipv4(_) | Host::Ipv6(_) => "",
    };
    let words: Vec<&str> = name.split('.').collect();
    match words[..] {
        ["sqs" | "sqs-fips", region, "amazonaws" | "api", ..] | [region, "queue", "amazonaws", ..] => region,
        _ => "us-east-1",
    }
}

/// Another host of a list, and its port.
fn place(text: &str, port: u16) -> Option<(Host<String>, u16)> {
    let parsed = Url::parse(&format!("http://{text}")).ok()?;
    let bare = parsed.path() == "/" && !text.ends_with('/') && !text.contains(['@', '?', '#']);
    let port = parsed.port().unwrap_or(if has_port_80(text) { 80 } else { port });
    Some((parsed.host().filter(|_| bare)?.to_owned(), port))
}

fn has_port_80(rest: &str) -> bool {
    rest.split('/').next().is_some_and(|authority| authority.ends_with(":80"))
}

impl fmt::Display for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [(plain, _), (secure, _)] = self.broker.schemes();
        if self.broker == Broker::Sqs {
            return f.write_str(&self.queue_url());
        }
        write!(f, "{}://{}:{}", if self.tls { secure } else { plain }, self.host, self.port)?;
        match self.virtual_host.as_str() {
            "/" => Ok(()),
            name => write!(f, "/{}", name.replace('/', "%2F")),
        }
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Server({self})")
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(redacted)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(user: Option<&str>, password: Option<&str>, token: Option<&str>) -> Credentials {
        let own = |text: Option<&str>| text.map(str::to_owned);
        Credentials { user: own(user), password: own(password), token: own(token) }
    }

    #[test]
    fn urls_lead_to_servers() {
        for (broker, url, shown, database) in [
            (Broker::Nats, "nats://Queue.example.com", "nats://queue.example.com:4222", 0),
            (Broker::Nats, "tls://10.0.0.1:4443", "tls://10.0.0.1:4443", 0),
            (Broker::Nats, "nats://[::1]:80", "nats://[::1]:80", 0),
            (Broker::Redis, "redis://localhost", "redis://localhost:6379", 0),
            (Broker::Redis, "rediss://r.example.com:6380/3", "rediss://r.example.com:6380", 3),
            (Broker::Amqp, "amqp://Rabbit.example.com", "amqp://rabbit.example.com:5672", 0),
            (Broker::Amqp, "amqp://h:80/%2F", "amqp://h:80", 0),
            (Broker::Amqp, "amqps://h/shop", "amqps://h:5671/shop", 0),
            (Broker::Amqp, "amqps://h/a%2Fb%20c/", "amqps://h:5671/a%2Fb c", 0),
            (Broker::Kafka, "kafka://k1.example.com,k2.example.com:9093", "kafka://k1.example.com:9092", 0),
            (Broker::Kafka, "kafka+ssl://10.0.0.1:80", "kafka+ssl://10.0.0.1:80", 0),
        ] {
            let server = Server::parse(broker, url, Credentials::default()).expect(url);
            assert_eq!((server.to_string().as_str(), server.database), (shown, database));
        }
    }

    #[test]
    fn kafka_can_be_asked_at_several_places() {
        let list = "kafka://K1.example.com,k2.example.com:9093,[::1]:80";
        let server = Server::parse(Broker::Kafka, list, with(Some("u"), Some("p"), None)).expect("parses");
        let places: Vec<String> = server.places().map(|(host, port)| format!("{host} {port}")).collect();
        assert_eq!(places, ["k1.example.com 9092", "k2.example.com 9093", "[::1] 80"]);
    }

    #[test]
    fn a_user_is_let_in_by_a_mechanism_that_is_known() {
        let server =
            |user, password| Server::parse(Broker::Kafka, "kafka://h", with(user, password, None)).expect("parses");
        let bell = || server(Some("u"), Some("p"));
        assert_eq!(bell().mechanism, Mechanism::Plain);
        for (name, mechanism) in [
            ("PLAIN", Mechanism::Plain),
            ("SCRAM-SHA-256", Mechanism::ScramSha256),
            ("scram-sha-512", Mechanism::ScramSha512),
        ] {
            assert_eq!(bell().by_mechanism(name).expect("is known").mechanism, mechanism);
        }
        let fault = bell().by_mechanism("GSSAPI").expect_err("is not spoken");
        assert_eq!(fault.field, "mechanism");
        assert!(fault.text.contains("PLAIN or SCRAM-SHA-256 or SCRAM-SHA-512"), "{}", fault.text);
        assert!(server(None, None).by_mechanism("PLAIN").expect_err("nobody comes").text.contains("`user`"));
    }

    #[test]
    fn a_queue_of_sqs_is_its_url() {
        for (url, region, port, fifo) in [
            ("https://sqs.eu-central-1.amazonaws.com/123456789012/orders", "eu-central-1", 443, false),
            ("https://eu-west-1.queue.amazonaws.com/123456789012/orders.fifo", "eu-west-1", 443, true),
            ("http://localhost:4566/000000000000/orders", "us-east-1", 4566, false),
            ("http://10.0.0.1/queue/orders", "us-east-1", 80, false),
        ] {
            let server = Server::parse(Broker::Sqs, url, with(Some("AK"), Some("s"), Some("t"))).expect(url);
            let read = (server.to_string(), server.region.clone(), server.port, server.is_fifo());
            assert_eq!(read, (url.to_owned(), region.to_owned(), port, fifo));
            assert_eq!(server.in_region("us-gov-west-1".to_owned()).expect("a region").region, "us-gov-west-1");
        }
        let server = Server::parse(Broker::Sqs, "https://h/1/q", with(Some("AK"), Some("s"), None)).expect("parses");
        assert_eq!(server.in_region("EU".to_owned()).expect_err("no region").field, "region");
    }

    #[test]
    fn mistakes_are_told() {
        let none = Credentials::default;
        for (broker, url, credentials, field, text) in [
            (Broker::Nats, "http://h", none(), "url", "nats://host:4222"),
            (Broker::Nats, "h:4222", none(), "url", "nats://host:4222"),
            (Broker::Nats, "nats://", none(), "url", "nats://host:4222"),
            (Broker::Nats, "nats://u:p@h", none(), "url", "`user` and `password`"),
            (Broker::Nats, "nats://h/x", none(), "url", "behind the host"),
            (Broker::Redis, "redis://h/x", none(), "url", "number of the database"),
            (Broker::Redis, "redis://h?a=b", none(), "url", "? or #"),
            (Broker::Redis, "redis://h", with(Some("u"), None, None), "password", "needs a `password`"),
            (Broker::Redis, "redis://h", with(None, None, Some("t")), "token", "no tokens"),
            (Broker::Amqp, "amqp://h/a/b", none(), "url", "%2F"),
            (Broker::Amqp, "amqp://h/%ff", none(), "url", "virtual host"),
            (Broker::Amqp, "http://h", none(), "url", "amqp://host:5672, or amqps://"),
            (Broker::Amqp, "amqp://h", with(Some("u"), None, None), "password", "needs a `password`"),
            (Broker::Amqp, "amqp://h", with(None, Some("p"), None), "user", "needs a `user`"),
            (Broker::Amqp, "amqp://h", with(None, None, Some("t")), "token", "the `password`"),
            (Broker::Kafka, "kafka://h,", none(), "url", "kafka://host:9092"),
            (Broker::Kafka, "kafka://h,u:p@i", none(), "url", "kafka://host:9092"),
            (Broker::Kafka, "kafka://h,i/x", none(), "url", "kafka://host:9092"),
            (Broker::Kafka, "kafka://h/orders", none(), "url", "behind the host"),
            (Broker::Kafka, "kafka://h", with(None, Some("p"), None), "user", "needs a `user`"),
            (Broker::Kafka, "kafka://h", with(None, None, Some("t")), "token", "no tokens"),
            (Broker::Sqs, "https://h", with(Some("u"), Some("p"), None), "url", "the queue's URL"),
            (Broker::Sqs, "sqs://h/1/q", with(Some("u"), Some("p"), None), "url", "the queue's URL"),
            (Broker::Sqs, "https://h/1/q", none(), "user", "access key"),
            (Broker::Sqs, "https://h/1/q", with(Some("u"), None, None), "password", "needs a `password`"),
            (Broker::Nats, "nats://h", with(None, Some("p"), None), "user", "needs a `user`"),
            (Broker::Nats, "nats://h", with(Some("u"), Some("p"), Some("t")), "token", "not both"),
        ] {
            let fault = Server::parse(broker, url, credentials).expect_err(url);
            assert_eq!(fault.field, field, "{url}");
            assert!(fault.text.contains(text), "{url}: {}", fault.text);
        }
    }

    #[test]
    fn what_is_unknown_or_not_built_in_is_refused_by_name() {
        assert!(Broker::parse("rabbit").expect_err("unknown").contains("nats or redis or sqs or amqp or kafka"));
        for broker in Broker::ALL {
            match Broker::parse(broker.name()) {
                Ok(parsed) => assert!(parsed == broker && broker.is_built_in()),
                Err(text) => assert!(!broker.is_built_in() && text.contains(&format!("--features {}", broker.name()))),
            }
        }
    }

    #[test]
    fn secrets_do_not_print() {
        let server = Server::parse(Broker::Nats, "nats://h", with(Some("u"), Some("hidden"), None)).expect("parses");
        assert!(!format!("{server:?} {server} {:?}", server.credentials).contains("hidden"));
    }
}
