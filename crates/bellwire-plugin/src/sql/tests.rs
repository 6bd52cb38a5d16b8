//! Statements, and a real SQLite. PostgreSQL is tried by `tests/trials/plugins.py` on a real server.

use super::*;
use crate::event::tests::received;
use serde_json::{Value as Json, json};
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::sync::atomic::{AtomicUsize, Ordering};

fn client() -> Client {
    bellwire_egress::Egress::new(Default::default()).expect("egress").client().expect("a client")
}

fn faults(settings: Json, trusted: bool) -> Vec<Fault> {
    let named = [("local".to_owned(), "sqlite:/x".to_owned())].into();
    match crate::settings::read::<Sql>(&settings) {
        Ok(sql) => {
            let mut faults = Vec::new();
            sql.check(&named, trusted, &mut faults);
            faults
        }
        Err(fault) => vec![fault],
    }
}

/// On the database of this folder.
fn run(folder: &std::path::Path, statements: Json, payload: &str) -> Answer {
    let named: Named = [("local".to_owned(), format!("sqlite:{}/test.db", folder.display()))].into();
    let settings = json!({ "connection": "local", "statements": statements });
    let sql: Sql = crate::settings::read(&settings).expect("settings");
    let message = received(payload);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (files, pools, client) = (Arc::default(), Pools::new(Tls::default(), &TlsSettings::default()), client());
    runtime.block_on(sql.run(&Event::new(&message, 1), &named, &files, &pools, &client)).answer
}

fn database(folder: &std::path::Path) -> rusqlite::Connection {
    rusqlite::Connection::open(folder.join("test.db")).expect("opens")
}

#[test]
fn what_is_wrong_with_a_statement_is_said() {
    let check = |settings: Json, place: &[&str], text: &str| {
        let found = faults(settings.clone(), false);
        assert!(found.iter().any(|fault| fault.path == place && fault.text.contains(text)), "{settings}: {found:?}");
    };
    let of = |statement: &str| json!({ "connection": "local", "statements": [statement] });
    check(of("ATTACH '/etc/x' AS x"), &["statements", "0"], "begins with one of");
    check(of("PRAGMA x"), &["statements", "0"], "begins with one of");
    check(of("-- insert\nDROP TABLE t"), &["statements", "0"], "begins with one of");
    check(of("INSERT INTO t VALUES ('{{payload.id}}')"), &["statements", "0"], "leave the quotes");
    check(of("INSERT INTO t VALUES ('x)"), &["statements", "0"], "not closed");
    check(of("INSERT INTO t VALUES ({{lost}})"), &["statements", "0"], "no part of an event");
    check(json!({ "connection": "other", "statements": ["SELECT 1"] }), &["connection"], "plugins.databases");
    check(json!({ "statements": ["SELECT 1"] }), &["connection"], "either");
    check(json!({ "dsn": "sqlite:/etc/x", "statements": ["SELECT 1"] }), &["dsn"], "named by the operator");
    check(json!({ "dsn": "mongodb://u:hidden@h", "statements": ["SELECT 1"] }), &["dsn"], "expected postgres");
    for socket in ["postgres:///d?host=/run/postgresql&user=u", "postgres://u:hidden@%2Frun%2Fpostgresql/d"] {
        check(
            json!({ "dsn": socket, "statements": ["SELECT 1"] }),
            &["dsn"],
            "socket of this machine is named by the operator",
        );
    }
    let beside = "postgres://u:hidden@h/d?hostaddr=127.0.0.1";
    check(json!({ "dsn": beside, "statements": ["SELECT 1"] }), &["dsn"], "no address beside it");
    let strict = "postgres://u:hidden@h/d?sslmode=verify-full";
    check(json!({ "dsn": strict, "statements": ["SELECT 1"] }), &["dsn"], "sslmode is disable, prefer or require");
    #[cfg(not(feature = "mysql"))]
    check(json!({ "dsn": "mysql://u:hidden@h/d", "statements": ["SELECT 1"] }), &["dsn"], "--features mysql");
    #[cfg(feature = "mysql")]
    assert_eq!(faults(json!({ "dsn": "mysql://u:hidden@h/d", "statements": ["SELECT 1"] }), false), []);
    check(json!({ "connection": "local", "statements": [] }), &["statements"], "1 to 20");
    assert_eq!(faults(of("INSERT INTO t VALUES ('it''s', {{payload.id}}) ON CONFLICT DO NOTHING"), false), []);
    assert_eq!(faults(json!({ "dsn": "sqlite:/x", "statements": ["SELECT 1"] }), true), []);
}

#[test]
fn what_a_sender_writes_is_stored_as_written_and_once() {
    let folder = tempfile::tempdir().expect("a folder");
    database(folder.path())
        .execute_batch("CREATE TABLE t (id TEXT PRIMARY KEY, note TEXT, n, big, none, yes, list)")
        .expect("made");
    let insert = "INSERT INTO t VALUES ({{dedupe}}, {{payload.note}}, {{payload.n}}, {{payload.big}}, {{payload.lost}}, {{payload.yes}}, {{payload.list}})
                  ON CONFLICT (id) DO UPDATE SET note = excluded.note || ' again'";
    let payload =
        r#"{"note":"Robert'); DROP TABLE t; --","n":7,"big":12345678901234567890.10,"yes":true,"list":[1,"a"]}"#;
    let statements = json!([insert, "SELECT * FROM t", "UPDATE t SET n = n + 1 WHERE n = {{payload.n}}"]);
    assert_eq!(run(folder.path(), statements.clone(), payload), Answer::Said("1 row, 1 row, 1 row".into()));
    type Row = (String, String, i64, String, Option<String>, i64, String);
    let row = || -> Vec<Row> {
        let database = database(folder.path());
        let mut rows = database.prepare("SELECT * FROM t").expect("prepares");
        let read = rows.query_map([], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?, row.get(4)?, row.get(5)?, row.get(6)?))
        });
        read.expect("reads").collect::<Result<_, _>>().expect("rows")
    };
    let expected = (
        "d-1".to_owned(),
        "Robert'); DROP TABLE t; --".to_owned(),
        8,
        "12345678901234567890.10".to_owned(),
        None,
        1,
        r#"[1,"a"]"#.to_owned(),
    );
    assert_eq!(row(), std::slice::from_ref(&expected));
    run(folder.path(), json!([insert]), payload);
    assert_eq!(
        row(),
        [(expected.0, format!("{} again", expected.1), expected.2, expected.3, expected.4, expected.5, expected.6)]
    );
}

#[test]
fn a_statement_may_say_why_it_is_there() {
    let folder = tempfile::tempdir().expect("a folder");
    database(folder.path()).execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY)").expect("made");
    let insert = "-- what's :new\nINSERT INTO t /* it's \"one\" ? */ VALUES ({{payload.id}}) -- the sender's";
    let settings = json!({ "connection": "local", "statements": [insert] });
    assert_eq!(faults(settings, false), []);
    assert_eq!(run(folder.path(), json!([insert]), r#"{"id":7}"#), Answer::Said("1 row".into()));
}

#[test]
fn all_statements_or_none_and_what_never_works_ends() {
    let folder = tempfile::tempdir().expect("a folder");
    database(folder.path()).execute_batch("CREATE TABLE t (id INTEGER PRIMARY KEY, x NOT NULL)").expect("made");
    let fails = |statements: Json, text: &str| {
        let Answer::Fail(why) = run(folder.path(), statements, "{}") else { panic!("it fails") };
        assert!(why.contains(text), "{why}");
    };
    fails(json!(["INSERT INTO t VALUES (1, 1)", "INSERT INTO t VALUES (2, {{payload.lost}})"]), "NOT NULL");
    fails(json!(["INSERT INTO lost VALUES (1)"]), "no such table");
    fails(json!(["INSERT INTO t VALUES (3, 3); DELETE FROM t"]), "Multiple statements");
    let count: i64 = database(folder.path()).query_row("SELECT count(*) FROM t", [], |row| row.get(0)).expect("counts");
    assert_eq!(count, 0);
}

#[test]
fn a_database_that_is_busy_or_missing_is_tried_again() {
    let folder = tempfile::tempdir().expect("a folder");
    let other = database(folder.path());
    other.execute_batch("CREATE TABLE t (id); BEGIN IMMEDIATE").expect("holds it");
    let named: Named = [
        ("local".to_owned(), format!("sqlite:{}/test.db", folder.path().display())),
        ("gone".to_owned(), "sqlite:/nowhere/at/all.db".to_owned()),
        ("mistyped".to_owned(), format!("sqlite:{}/tset.db", folder.path().display())),
    ]
    .into();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (files, pools, client) = (Arc::default(), Pools::new(Tls::default(), &TlsSettings::default()), client());
    let run = |settings: Json| {
        let sql: Sql = crate::settings::read(&settings).expect("settings");
        let message = received("{}");
        runtime.block_on(sql.run(&Event::new(&message, 1), &named, &files, &pools, &client)).answer
    };
    let busy = run(json!({ "connection": "local", "statements": ["INSERT INTO t VALUES (1)"], "timeout_ms": 100 }));
    assert!(matches!(busy, Answer::Broken(FailureClass::Timeout, _)), "{busy:?}");
    let endless = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n) SELECT count(*) FROM n";
    other.execute_batch("ROLLBACK").expect("lets it go");
    let late = run(json!({ "connection": "local", "statements": [endless], "timeout_ms": 100 }));
    assert!(matches!(late, Answer::Broken(..)), "{late:?}");
    let gone = run(json!({ "connection": "gone", "statements": ["SELECT 1"] }));
    assert!(matches!(&gone, Answer::Broken(FailureClass::Plugin, why) if why.contains("unable to open")), "{gone:?}");
    let mistyped = run(json!({ "connection": "mistyped", "statements": ["INSERT INTO t VALUES (1)"] }));
    assert!(matches!(&mistyped, Answer::Broken(_, why) if why.contains("unable to open")), "{mistyped:?}");
    assert!(!folder.path().join("tset.db").exists(), "an empty one is of no use to anybody");
    // And goes on.
    assert_eq!(
        run(json!({ "connection": "local", "statements": ["INSERT INTO t VALUES (1)"] })),
        Answer::Said("1 row".into())
    );
    let guarded = run(json!({ "dsn": "postgres://u:hidden@10.1.2.3/d", "statements": ["SELECT 1"] }));
    assert!(
        matches!(&guarded, Answer::Broken(_, why) if why.contains("private") && !why.contains("hidden")),
        "{guarded:?}"
    );
}

/// Speaks as much of PostgreSQL as it takes to be connected to.
struct StrangePostgres {
    dsn: String,
    /// How many connections there were.
    connections: Arc<AtomicUsize>,
    /// How many zeros somebody took.
    taken: Arc<AtomicUsize>,
}

/// `object_not_in_prerequisite_state`.
const PASSING: &str = "55000";

/// What it says to every statement.
#[derive(Clone, Copy)]
enum Says {
    /// A refusal with this state, and so many bytes with it.
    Refusal(&'static str, usize),
    /// This, and zeros without end.
    Zeros(&'static [u8]),
}

impl Says {
    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).expect("is short").to_be_bytes();
        [&[kind][..], &length, body].concat()
    }

    /// Its side of one connection; counts the zeros that somebody took.
    fn converse(self, mut stream: impl Read + Write, taken: &AtomicUsize) {
        let ready = Says::message(b'Z', b"I");
        let answer = match self {
            Says::Refusal(state, bytes) => {
                let detail = "x".repeat(bytes);
                let refusal = format!("SERROR\0C{state}\0Mrefused here\0D{detail}\0\0");
                [Says::message(b'E', refusal.as_bytes()), ready.clone()].concat()
            }
            Says::Zeros(begin) => begin.to_vec(),
        };
        // One message, which begins with its kind, but for the first of all; and its length.
        let hears = |stream: &mut dyn Read, kind: usize| {
            let mut head = [0; 5];
            stream.read_exact(&mut head[1 - kind..]).ok()?;
            let length = u32::from_be_bytes(head[1..].try_into().ok()?);
            stream.read_exact(&mut vec![0; usize::try_from(length).ok()?.checked_sub(4)?]).ok()
        };
        let welcome = [Says::message(b'R', &[0; 4]), ready].concat();
        if hears(&mut stream, 0).is_none() || stream.write_all(&welcome).is_err() {
            return;
        }
        while hears(&mut stream, 1).is_some() && stream.write_all(&answer).is_ok() {
            while matches!(self, Says::Zeros(_)) && stream.write_all(&[0; 1 << 16]).is_ok() {
                taken.fetch_add(1 << 16, Ordering::SeqCst);
            }
        }
    }
}

fn strange_postgres(says: Says) -> StrangePostgres {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("bound").port();
    let (connections, taken) = (Arc::<AtomicUsize>::default(), Arc::<AtomicUsize>::default());
    let counted = (Arc::clone(&connections), Arc::clone(&taken));
    std::thread::spawn(move || {
        for tcp in listener.incoming().map_while(Result::ok) {
            counted.0.fetch_add(1, Ordering::SeqCst);
            let taken = Arc::clone(&counted.1);
            std::thread::spawn(move || says.converse(tcp, &taken));
        }
    });
    StrangePostgres { dsn: format!("postgres://app@127.0.0.1:{port}/shop?sslmode=disable"), connections, taken }
}

/// One whose owners may name servers on this machine.
fn local_client() -> Client {
    let guard = bellwire_egress::Guard {
        allowed_networks: vec!["127.0.0.0/8".parse().expect("a network")],
        ..Default::default()
    };
    let settings = bellwire_egress::Settings { guard, ..Default::default() };
    bellwire_egress::Egress::new(settings).expect("egress").client().expect("a client")
}

#[tokio::test]
async fn the_operators_connection_is_not_lent_to_who_writes_the_same_dsn() {
    let dsn = strange_postgres(Says::Refusal(PASSING, 0)).dsn;
    let named: Named = [("shop".to_owned(), dsn.clone())].into();
    let (files, pools, client) = (Arc::default(), Pools::new(Tls::default(), &TlsSettings::default()), client());
    let run = async |settings: Json| {
        let sql: Sql = crate::settings::read(&settings).expect("settings");
        let message = received("{}");
        sql.run(&Event::new(&message, 1), &named, &files, &pools, &client).await.answer
    };
    let operators = run(json!({ "connection": "shop", "statements": ["SELECT 1"] })).await;
    assert!(matches!(&operators, Answer::Broken(_, why) if why.contains("refused here")), "{operators:?}");
    let owners = run(json!({ "dsn": dsn, "statements": ["SELECT 1"] })).await;
    assert!(matches!(&owners, Answer::Broken(_, why) if why.contains("private")), "{owners:?}");
}

#[tokio::test]
async fn a_database_that_the_operator_names_may_be_at_a_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(folder.path().join(".s.PGSQL.5432")).expect("a socket");
    std::thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            std::thread::spawn(move || Says::Refusal(PASSING, 0).converse(stream, &AtomicUsize::new(0)));
        }
    });
    let host = folder.path().display().to_string();
    let in_place_of_the_host = format!("postgres://app@{}/shop", host.replace('/', "%2F"));
    let beside = format!("postgres:///shop?host={host}&user=app&sslmode=require");
    // With TLS for those databases that have it: a socket has none.
    let tls = Tls::new(&TlsSettings::default()).expect("TLS");
    let (pools, client) = (Pools::new(tls, &TlsSettings::default()), client());
    for dsn in [in_place_of_the_host, beside] {
        assert_eq!(check_dsn(&dsn), Ok(()));
        let named: Named = [("shop".to_owned(), dsn.clone())].into();
        let settings = json!({ "connection": "shop", "statements": ["SELECT 1"] });
        let sql: Sql = crate::settings::read(&settings).expect("settings");
        let message = received("{}");
        let answer = sql.run(&Event::new(&message, 1), &named, &Arc::default(), &pools, &client).await.answer;
        assert!(matches!(&answer, Answer::Broken(_, why) if why.contains("refused here")), "{dsn}: {answer:?}");
    }
}

#[tokio::test]
async fn what_the_database_ends_at_the_deadline_is_a_timeout() {
    // `query_canceled`.
    let server = strange_postgres(Says::Refusal("57014", 0));
    let (pools, client) = (Pools::new(Tls::default(), &TlsSettings::default()), local_client());
    let settings = json!({ "dsn": server.dsn, "statements": ["SELECT 1"], "timeout_ms": 5_000 });
    let sql: Sql = crate::settings::read(&settings).expect("settings");
    let message = received("{}");
    let answer = sql.run(&Event::new(&message, 1), &Named::new(), &Arc::default(), &pools, &client).await.answer;
    assert!(matches!(answer, Answer::Broken(FailureClass::Timeout, _)), "{answer:?}");
}

#[tokio::test]
async fn a_server_that_says_that_a_gigabyte_comes_is_not_heard_out() {
    let server = strange_postgres(Says::Zeros(b"D\x40\0\0\0"));
    let (pools, client) = (Pools::new(Tls::default(), &TlsSettings::default()), local_client());
    let settings = json!({ "dsn": server.dsn, "statements": ["SELECT 1"], "timeout_ms": 60_000 });
    let sql: Sql = crate::settings::read(&settings).expect("settings");
    let message = received("{}");
    let answer = sql.run(&Event::new(&message, 1), &Named::new(), &Arc::default(), &pools, &client).await.answer;
    assert!(matches!(&answer, Answer::Broken(FailureClass::Plugin, why) if why.contains("32 MiB")), "{answer:?}");
    // What the sockets hold comes on top.
    let taken = server.taken.load(Ordering::SeqCst);
    assert!(taken < 64 << 20, "{taken} bytes");
}

#[tokio::test]
async fn what_a_server_may_answer_is_counted_anew_for_each_event() {
    // A transaction that is not begun is rolled back, so it says this twice to each event.
    let server = strange_postgres(Says::Refusal(PASSING, 8 << 20));
    let (pools, client) = (Pools::new(Tls::default(), &TlsSettings::default()), local_client());
    let settings = json!({ "dsn": server.dsn, "statements": ["SELECT 1"], "timeout_ms": 30_000 });
    let sql: Sql = crate::settings::read(&settings).expect("settings");
    let message = received("{}");
    for n in 1..=6 {
        let answer = sql.run(&Event::new(&message, n), &Named::new(), &Arc::default(), &pools, &client).await.answer;
        assert!(matches!(&answer, Answer::Broken(_, why) if why.contains("refused here")), "event {n}: {answer:?}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1, "it is used again");
}
