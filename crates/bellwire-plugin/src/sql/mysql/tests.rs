//! What is known without a server, and a real MariaDB: on a free port, with a data folder of its own. `scripts/test queues` runs what needs it.

use super::*;
use crate::answer::Answer;
use crate::event::{Event, tests::received};
use crate::sql::{self, Named, Sql};
use bellwire_egress::{Guard, Settings};
use bellwire_model::FailureClass;
use serde_json::{Value as Json, json};
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;

#[test]
fn a_dsn_says_where_and_nothing_that_would_lead_elsewhere() {
    let dsn = Dsn::parse("mysql://shop:p%40ss@db.example/orders").expect("is right");
    assert_eq!((dsn.host, dsn.port, dsn.tls), (Host::Domain("db.example".into()), 3306, true));
    assert_eq!((dsn.opts.user(), dsn.opts.pass(), dsn.opts.db_name()), (Some("shop"), Some("p@ss"), Some("orders")));
    let dsn = Dsn::parse("mysql://u@[::1]:3307/d?sslmode=disable").expect("is right");
    assert_eq!((dsn.host, dsn.port, dsn.tls), (Host::parse("[::1]").expect("a host"), 3307, false));
    for wrong in [
        "mysql://u:hidden@h",
        "mysql://u:hidden@h/",
        "mysql://:hidden@h/d",
        "mysql:///d",
        "mysql://u:hidden@h/d?sslmode=prefer",
        "mysql://u:hidden@h/d?socket=/run/mysqld/mysqld.sock",
        "mysql://u:hidden@h/d?prefer_socket=true",
        "mysql:h",
    ] {
        assert_eq!(Dsn::parse(wrong).map(drop), Err(EXPECTED.to_owned()), "{wrong}");
    }
}

#[test]
fn what_passes_is_tried_again_and_what_never_will_is_not() {
    let forever = |code, state: &str| is_forever(&ServerError { code, message: String::new(), state: state.into() });
    // Duplicate, wrong syntax, no such table, too long, out of range, no default, wrong value, a check.
    for (code, state) in [
        (1062, "23000"),
        (1064, "42000"),
        (1146, "42S02"),
        (1406, "22001"),
        (1264, "22003"),
        (1364, "HY000"),
        (1366, "HY000"),
        (3819, "HY000"),
    ] {
        assert!(forever(code, state), "{code}");
    }
    // A deadlock, a lock's time, too many connections, of the user too, wrong password, shutdown, read-only, killed, its time is up.
    for (code, state) in [
        (1213, "40001"),
        (1205, "HY000"),
        (1040, "08004"),
        (1203, "42000"),
        (1045, "28000"),
        (1053, "08S01"),
        (1290, "HY000"),
        (1317, "70100"),
        (1969, "70100"),
        (3024, "HY000"),
    ] {
        assert!(!forever(code, state), "{code}");
    }
}

#[test]
fn no_digit_is_lost() {
    let json = |text: &str| cell(&Value::Json(text.into()));
    assert_eq!(json("7"), Cell::Int(7));
    assert_eq!(json("18446744073709551615"), Cell::UInt(u64::MAX));
    assert_eq!(json("12345678901234567890.10"), Cell::Bytes(b"12345678901234567890.10".to_vec()));
    assert_eq!((json("true"), json("[1]")), (Cell::Int(1), Cell::Bytes(b"[1]".to_vec())));
    assert_eq!(cell(&Value::Text("7".into())), Cell::Bytes(b"7".to_vec()));
}

/// A server that is ended with the test.
struct MariaDb {
    folder: TempDir,
    port: u16,
    arguments: Vec<String>,
    process: Child,
}

impl MariaDb {
    /// With a database `orders`, which the user `shop` may use, and with TLS if there is a certificate and its key.
    fn start(tls: Option<(&str, &str)>) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).to_str().expect("a path").to_owned();
        let mut arguments = vec![format!("--datadir={}", path("data")), format!("--socket={}", path("socket"))];
        // In a folder that it shares, a server that starts removes the temporary tables of all others.
        std::fs::create_dir(path("temporary")).expect("a folder");
        arguments.push(format!("--tmpdir={}", path("temporary")));
        if rustix::process::geteuid().is_root() {
            arguments.push("--user=root".into());
        }
        let installed = Command::new("mariadb-install-db")
            .arg("--no-defaults")
            .args(&arguments)
            .args(["--auth-root-authentication-method=normal", "--skip-test-db"])
            .output()
            .expect("mariadb-install-db runs");
        assert!(installed.status.success(), "{installed:?}");
        if let Some((certificate, key)) = tls {
            std::fs::write(path("certificate.pem"), certificate).expect("written");
            std::fs::write(path("key.pem"), key).expect("written");
            arguments.push(format!("--ssl-cert={}", path("certificate.pem")));
            arguments.push(format!("--ssl-key={}", path("key.pem")));
        }
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port").local_addr().expect("bound").port();
        let process = Self::spawn(port, &arguments);
        let server = MariaDb { folder, port, arguments, process };
        server.wait();
        server.sql(
            "CREATE DATABASE orders CHARACTER SET utf8mb4; CREATE USER shop@'127.0.0.1' IDENTIFIED BY 'p@ss'; \
             GRANT ALL ON orders.* TO shop@'127.0.0.1'",
        );
        server
    }

    fn spawn(port: u16, arguments: &[String]) -> Child {
        Command::new("mariadbd")
            .arg("--no-defaults")
            .args(arguments)
            .args([format!("--port={port}"), "--bind-address=127.0.0.1".into(), "--skip-name-resolve".into()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("mariadbd runs")
    }

    fn client(&self, text: &str) -> Command {
        let mut client = Command::new("mariadb");
        let socket = format!("--socket={}", self.folder.path().join("socket").display());
        client.args(["--no-defaults", &socket, "--user=root", "--batch", "--skip-column-names"]);
        client.args(["--default-character-set=utf8mb4", "--execute", text]);
        client
    }

    fn wait(&self) {
        let patience = std::time::Instant::now() + Duration::from_secs(60);
        while !self.client("SELECT 1").output().is_ok_and(|output| output.status.success()) {
            assert!(std::time::Instant::now() < patience, "it does not answer");
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn sql(&self, text: &str) -> String {
        let output = self.client(text).output().expect("the client runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("a text").trim_end().to_owned()
    }

    /// Like a power cut for the process, not for the machine.
    fn kill(&mut self) {
        self.process.kill().expect("killed");
        self.process.wait().expect("ended");
    }

    fn start_again(&mut self) {
        self.process = Self::spawn(self.port, &self.arguments);
        self.wait();
    }

    fn dsn(&self, end: &str) -> String {
        format!("mysql://shop:p%40ss@127.0.0.1:{}/orders{end}", self.port)
    }
}

impl Drop for MariaDb {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// What plugins of one shard share.
struct Shard {
    named: Named,
    pools: sql::Pools,
    client: Egress,
}

impl Shard {
    /// Knows this DSN as `orders`, and trusts this authority.
    fn new(dsn: &str, authority: Option<Vec<u8>>, allowed: &str) -> Self {
        let tls =
            TlsSettings { extra_roots: authority.into_iter().map(Into::into).collect(), ..TlsSettings::default() };
        let guard = Guard { allowed_networks: vec![allowed.parse().expect("a network")], ..Guard::default() };
        let settings = Settings { guard, tls: tls.clone(), ..Settings::default() };
        let client = bellwire_egress::Egress::new(settings).expect("egress").client().expect("a client");
        Shard {
            named: [("orders".into(), dsn.to_owned())].into(),
            pools: sql::Pools::new(sql::tls::Tls::default(), &tls),
            client,
        }
    }

    async fn run(&self, settings: Json, payload: &str) -> Answer {
        let sql: Sql = crate::settings::read(&settings).expect("settings");
        let message = received(payload);
        sql.run(&Event::new(&message, 1), &self.named, &Arc::default(), &self.pools, &self.client).await.answer
    }

    async fn statements(&self, statements: Json, payload: &str) -> Answer {
        self.run(json!({ "connection": "orders", "statements": statements, "timeout_ms": 20_000 }), payload).await
    }
}

/// A certificate for 127.0.0.1, which is its own authority: as PEM, its key, as DER.
fn certificate() -> (String, String, Vec<u8>) {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
    (made.cert.pem(), made.signing_key.serialize_pem(), made.cert.der().to_vec())
}

#[tokio::test]
#[ignore = "needs mariadb-server: scripts/test queues"]
async fn mariadb_keeps_what_a_sender_writes_as_written_and_once() {
    let (certificate, key, authority) = certificate();
    let server = MariaDb::start(Some((&certificate, &key)));
    server.sql(
        "CREATE TABLE orders.t (id VARCHAR(64) PRIMARY KEY, note TEXT, n INT, big DECIMAL(30, 2), none TEXT, yes BOOLEAN, list JSON)",
    );
    let insert = "INSERT INTO t VALUES ({{dedupe}}, {{payload.note}}, {{payload.n}}, {{payload.big}}, {{payload.lost}}, {{payload.yes}}, {{payload.list}})
                  ON DUPLICATE KEY UPDATE note = CONCAT(note, ' again')";
    let payload =
        r#"{"note":"Robert'); DROP TABLE t; -- \\ 🔔","n":7,"big":12345678901234567890.10,"yes":true,"list":[1,"a"]}"#;
    let shard = Shard::new(&server.dsn(""), Some(authority), "127.0.0.0/8");
    let statements = json!([insert, "SELECT * FROM t", "UPDATE t SET n = n + 1 WHERE n = {{payload.n}}"]);
    assert_eq!(shard.statements(statements, payload).await, Answer::Said("1 row, 1 row, 1 row".into()));
    let row = "SELECT CONCAT_WS('|', id, note, n, big, none, yes, list) FROM orders.t";
    assert_eq!(
        server.sql(row).replace(r"\\", r"\"),
        r#"d-1|Robert'); DROP TABLE t; -- \ 🔔|8|12345678901234567890.10|1|[1,"a"]"#
    );
    // MySQL counts a row that was there as two.
    assert_eq!(shard.statements(json!([insert]), payload).await, Answer::Said("2 rows".into()));
    assert_eq!(server.sql("SELECT COUNT(*), SUM(note LIKE '%🔔 again') FROM orders.t"), "1\t1");
    let commented = "-- the sender's\nUPDATE t SET n = 5--2 # it's :new ?\n WHERE /* it's :id */ id = {{dedupe}}";
    assert_eq!(shard.statements(json!([commented]), payload).await, Answer::Said("1 row".into()));
    assert_eq!(server.sql("SELECT n FROM orders.t"), "7");
    let encrypted = json!([
        "INSERT INTO t (id, note) SELECT 'tls', VARIABLE_VALUE FROM information_schema.SESSION_STATUS WHERE VARIABLE_NAME = 'Ssl_cipher'"
    ]);
    assert_eq!(shard.statements(encrypted, "{}").await, Answer::Said("1 row".into()));
    assert!(server.sql("SELECT note FROM orders.t WHERE id = 'tls'").starts_with("TLS_"));
    // Without that authority nobody is spoken to, nor where the guard does not want it.
    let stranger = Shard::new(&server.dsn(""), None, "127.0.0.0/8").statements(json!(["SELECT 1"]), "{}").await;
    assert!(matches!(&stranger, Answer::Broken(_, why) if why.contains("certificate")), "{stranger:?}");
    let owned = json!({ "dsn": server.dsn("?sslmode=disable"), "statements": ["SELECT 1"] });
    let guarded = Shard::new("", None, "10.0.0.0/8").run(owned.clone(), "{}").await;
    assert!(
        matches!(&guarded, Answer::Broken(_, why) if why.contains("private") && !why.contains("p@ss")),
        "{guarded:?}"
    );
    assert_eq!(Shard::new("", None, "127.0.0.0/8").run(owned, "{}").await, Answer::Said("1 row".into()));
}

#[tokio::test]
#[ignore = "needs mariadb-server: scripts/test queues"]
async fn mariadb_does_all_or_nothing_and_what_never_works_ends() {
    let server = MariaDb::start(None);
    server.sql("CREATE TABLE orders.t (id INT PRIMARY KEY, x VARCHAR(3) NOT NULL)");
    let shard = Shard::new(&server.dsn("?sslmode=disable"), None, "127.0.0.0/8");
    for (statements, text) in [
        (json!(["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (2, {{payload.lost}})"]), "cannot be null"),
        (json!(["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t VALUES (2, 'long')"]), "too long"),
        (json!(["INSERT INTO t VALUES (1, 'a')", "INSERT INTO t (id) VALUES (2)"]), "default value"),
        (json!(["INSERT INTO t VALUES ({{payload.text}}, 'a')"]), "Incorrect integer value"),
        (json!(["INSERT INTO lost VALUES (1)"]), "doesn't exist"),
        (json!(["INSERT INTO t VALUES (3, 'a'); DELETE FROM t"]), "syntax"),
        (json!(["INSERT INTO t VALUES (?, {{payload.text}})"]), "parameters"),
        (json!([r"INSERT INTO t SELECT 4, '\' {{payload.text}} \''"]), "parameters"),
    ] {
        let answer = shard.statements(statements.clone(), r#"{"text":"x"}"#).await;
        assert!(matches!(&answer, Answer::Fail(why) if why.contains(text)), "{statements}: {answer:?}");
    }
    assert_eq!(server.sql("SELECT COUNT(*) FROM orders.t"), "0");
    // Nothing of them holds a lock any more.
    assert_eq!(shard.statements(json!(["INSERT INTO t VALUES (1, 'a')"]), "{}").await, Answer::Said("1 row".into()));
    let plain = Shard::new(&server.dsn(""), None, "127.0.0.0/8").statements(json!(["SELECT 1"]), "{}").await;
    assert!(matches!(&plain, Answer::Broken(_, why) if why.contains("it has no TLS; ?sslmode=disable")), "{plain:?}");
}

#[tokio::test]
#[ignore = "needs mariadb-server: scripts/test queues"]
async fn mariadb_that_is_busy_or_dies_is_tried_again() {
    let mut server = MariaDb::start(None);
    server.sql("CREATE TABLE orders.t (id INT PRIMARY KEY, runs INT); INSERT INTO orders.t VALUES (0, 0)");
    let shard = Shard::new(&server.dsn("?sslmode=disable"), None, "127.0.0.0/8");
    let short = |statement: &str| json!({ "connection": "orders", "statements": [statement], "timeout_ms": 500 });
    // A row that somebody else holds, a statement that takes too long, an answer without an end.
    let mut holder = server.client("BEGIN; UPDATE orders.t SET runs = 0; SELECT SLEEP(60)").spawn().expect("runs");
    while server.sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE INFO = 'SELECT SLEEP(60)'") == "0" {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let long = "SELECT COUNT(*) FROM seq_1_to_1000000000 AS a, seq_1_to_1000000000 AS b WHERE a.seq + b.seq = 1";
    let endless = "SELECT a.seq FROM seq_1_to_1000000000 AS a, seq_1_to_1000000000 AS b";
    for statement in ["UPDATE t SET runs = runs + 1 WHERE id = 0", long, endless] {
        let answer = shard.run(short(statement), "{}").await;
        let passing = matches!(&answer, Answer::Broken(FailureClass::Timeout | FailureClass::Plugin, _));
        assert!(passing, "{statement}: {answer:?}");
    }
    holder.kill().expect("killed");
    holder.wait().expect("ended");
    // Of all this nothing goes on.
    let gone = std::time::Instant::now() + Duration::from_secs(20);
    while server.sql("SELECT COUNT(*) FROM information_schema.PROCESSLIST WHERE USER = 'shop' AND COMMAND <> 'Sleep'")
        != "0"
    {
        assert!(std::time::Instant::now() < gone, "{}", server.sql("SHOW FULL PROCESSLIST"));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Killed in the midst of transactions, and while nobody looks.
    let upsert = "INSERT INTO t VALUES ({{payload.n}}, 1) ON DUPLICATE KEY UPDATE runs = runs + 1";
    for round in 1..=3 {
        let run = |n: u32| {
            let settings = json!({ "connection": "orders", "statements": [upsert, "SELECT SLEEP(0.3)"] });
            let shard = &shard;
            async move { (n, shard.run(settings, &format!("{{\"n\":{n}}}")).await) }
        };
        let all = (0..20).map(|n| run(round * 100 + n));
        let killed = async {
            tokio::time::sleep(Duration::from_millis(700)).await;
            server.kill();
        };
        let (answers, ()) = tokio::join!(futures_util::future::join_all(all), killed);
        server.start_again();
        let (done, broken): (Vec<_>, Vec<_>) =
            answers.into_iter().partition(|(_, answer)| matches!(answer, Answer::Said(_)));
        assert!(!broken.is_empty(), "the kill came too late");
        for (n, answer) in broken {
            assert!(matches!(&answer, Answer::Broken(..)), "{answer:?}");
            assert!(matches!(run(n).await.1, Answer::Said(_)), "tried again");
        }
        for (n, _) in done {
            assert_eq!(server.sql(&format!("SELECT runs FROM orders.t WHERE id = {n}")), "1");
        }
        assert_eq!(server.sql(&format!("SELECT COUNT(*) FROM orders.t WHERE id DIV 100 = {round}")), "20");
    }
    assert!(
        shard.pools.mysql.connections.pool(&server.dsn("?sslmode=disable"), false).take().is_some(),
        "some are kept"
    );
}
