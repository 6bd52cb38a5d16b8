//! The environment and the command lines of a Svix container, unchanged, start ours. What it names besides is reported as not used,
//! and never connected to.

use crate::program::{Program, ledger};
use crate::receiver::Receiver;
use serde_json::json;
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

const JWT_SECRET: &str = "x7Sr2PZwVq0aTnEJ8mK3uYbG5cHdL1of";

/// A port where nobody of ours has any business.
struct Forbidden {
    listener: TcpListener,
}

impl Forbidden {
    fn open() -> Forbidden {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        Forbidden { listener }
    }

    fn address(&self) -> String {
        self.listener.local_addr().unwrap().to_string()
    }

    /// A connection waits in the backlog until it is accepted, so asking once at the end is enough.
    fn never_reached(&self, name: &str) {
        assert!(self.listener.accept().is_err(), "{name} was connected to");
    }
}

/// The name that the container's command line uses.
fn svix_server(folder: &Path) -> PathBuf {
    let name = folder.join("svix-server");
    symlink(env!("CARGO_BIN_EXE_bellwire"), &name).unwrap();
    name
}

#[test]
fn the_environment_of_a_svix_container_starts_ours_and_reaches_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let name = svix_server(folder.path());
    let (database, redis, rabbit) = (Forbidden::open(), Forbidden::open(), Forbidden::open());
    let database_dsn = format!("postgresql://postgres:hunter2@{}/postgres", database.address());
    let redis_dsn = format!("redis://:hunter2@{}", redis.address());
    let environment = [
        ("WAIT_FOR", "true".into()),
        ("DATABASE_URL", database_dsn.clone()),
        ("SVIX_DB_DSN", database_dsn),
        ("SVIX_DB_POOL_MAX_SIZE", "100".into()),
        ("SVIX_REDIS_DSN", redis_dsn.clone()),
        ("SVIX_QUEUE_TYPE", "redis".into()),
        ("SVIX_QUEUE_DSN", redis_dsn.clone()),
        ("SVIX_CACHE_TYPE", "redis".into()),
        ("SVIX_CACHE_DSN", redis_dsn),
        ("SVIX_RABBIT_DSN", format!("amqp://guest:guest@{}/%2f", rabbit.address())),
        ("SVIX_JWT_SECRET", JWT_SECRET.into()),
        ("SVIX_JWT_ALGORITHM", "HS256".into()),
        ("SVIX_MAIN_SECRET", "6gvFvVz1qoHzn2ZVCeVS5ogdE0VhU1Kk".into()),
        ("SVIX_LISTEN_ADDRESS", "127.0.0.1:0".into()),
        ("SVIX_WHITELIST_SUBNETS", "[127.0.0.1/32]".into()),
        ("SVIX_RETRY_SCHEDULE", "1,1,2".into()),
        ("SVIX_WORKER_REQUEST_TIMEOUT", "30".into()),
        ("SVIX_WORKER_MAX_TASKS", "500".into()),
        ("SVIX_WORKER_ENABLED", "true".into()),
        ("SVIX_API_ENABLED", "true".into()),
        ("SVIX_WHITELABEL_HEADERS", "true".into()),
        ("SVIX_LOG_LEVEL", "info".into()),
        ("SVIX_LOG_FORMAT", "json".into()),
    ];
    let command = |arguments: &[&str]| {
        let mut command = Command::new(&name);
        let given = environment.iter().map(|(name, value)| (*name, value.as_str()));
        command.env_clear().envs(given).current_dir(folder.path()).args(arguments);
        command
    };

    let made = command(&["jwt", "generate"]).output().unwrap();
    let made = String::from_utf8(made.stdout).unwrap();
    let token = made.trim().strip_prefix("Token (Bearer): ").expect("as Svix prints it").to_owned();

    let (server, told) = Program::launch(command(&["--run-migrations", "--wait-for", "15"]), token);
    let notes: Vec<_> = told.iter().filter_map(|line| line["message"].as_str()).collect();
    for unused in [
        "SVIX_DB_DSN",
        "SVIX_REDIS_DSN",
        "SVIX_QUEUE_TYPE",
        "SVIX_CACHE_DSN",
        "SVIX_RABBIT_DSN",
        "DATABASE_URL",
        "WAIT_FOR",
    ] {
        assert!(notes.iter().any(|note| note.starts_with(&format!("{unused} is not used"))), "{unused}: {notes:#?}");
    }
    assert!(!notes.concat().contains("hunter2"), "{notes:#?}");
    for understood in ["SVIX_JWT", "SVIX_MAIN", "SVIX_LISTEN", "SVIX_WORKER", "SVIX_RETRY", "SVIX_LOG"] {
        assert!(!notes.iter().any(|note| note.contains(understood)), "{understood}: {notes:#?}");
    }

    let receiver = Receiver::answering(&[500, 200]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"url": receiver.url()})).0, 201);
    assert_eq!(server.call("POST", "/app/acme/msg", json!({"eventType": "a", "payload": {"n": 1}})).0, 202);
    for _ in 0..2 {
        let arrival = receiver.next();
        assert!(arrival.headers.contains_key("webhook-id") && !arrival.headers.contains_key("svix-id"));
        assert_eq!(arrival.body, br#"{"n":1}"#);
    }

    let url = |path: &str| format!("http://{}{path}", server.address);
    assert!(command(&["healthcheck", &url("/api/v1/health/")]).output().unwrap().status.success());
    assert!(!command(&["healthcheck", &url("/api/v1/nowhere")]).output().unwrap().status.success());
    assert!(server.stop().success());
    assert_eq!(ledger(&folder.path().join("bellwire-data"))["delivered"], 1);
    database.never_reached("the database");
    redis.never_reached("Redis");
    rabbit.never_reached("RabbitMQ");
}

#[test]
fn the_other_command_lines_are_understood_or_refused_with_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let name = svix_server(folder.path());
    let run = |arguments: &[&str]| {
        let output = Command::new(&name).env_clear().current_dir(folder.path()).args(arguments).output().unwrap();
        let told = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8(told).unwrap())
    };
    assert!(run(&["migrate"]).0);
    let (done, told) = run(&["jwt", "generate", "org_somebody"]);
    assert!(done && told.starts_with("Token (Bearer): "), "{told}");
    let (done, told) = run(&["asymmetric-key", "generate"]);
    assert!(done && told.contains("Secret key: whsk_") && told.contains("Public key: whpk_"), "{told}");
    for (arguments, says) in [
        (["wipe", "org_x", "--yes-i-know-what-im-doing"].as_slice(), "by the API"),
        (["prune", "--older-than", "2026-01-01T00:00:00Z"].as_slice(), "store.retention"),
        (["generate-openapi"].as_slice(), "/api/v1/openapi.json"),
        (["jwt", "generate", "nobody"].as_slice(), "org_"),
        (["serve"].as_slice(), "unrecognized subcommand"),
    ] {
        let (done, told) = run(arguments);
        assert!(!done && told.contains(says), "{arguments:?}: {told}");
    }
}

/// Asking for what we cannot do stops the start: running without it would be wrong.
#[test]
fn what_cannot_be_done_is_refused_by_name() {
    let folder = tempfile::tempdir().unwrap();
    let name = svix_server(folder.path());
    for (variable, value) in
        [("SVIX_JWT_ALGORITHM", "ES256"), ("SVIX_WORKER_ENABLED", "false"), ("SVIX_API_ENABLED", "false")]
    {
        let output = Command::new(&name).env_clear().env(variable, value).current_dir(folder.path()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains(variable) && told.contains("expected"), "{told}");
    }
}
