//! `bellwire config`: what is in force, where it came from, and never a secret.

use crate::program::bellwire;
use serde_json::{Value, json};

#[test]
fn the_settings_are_printed_with_where_they_came_from_and_without_secrets() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("bellwire.toml"), "[log]\nlevel = \"debug\"\n[delivery]\ntimeout = \"3s\"\n")
        .unwrap();
    let config = |arguments: &[&str]| {
        let output = bellwire(folder.path())
            .arg("config")
            .args(arguments)
            .env("SVIX_WORKER_REQUEST_TIMEOUT", "7")
            .env("SVIX_JWT_SECRET", "hunter2-hunter2-hunter2-hunter2-hunter2")
            .env("BELLWIRE_EGRESS_PROXY", "http://user:hunter2@proxy:3128")
            .env("SVIX_DB_DSN", "postgres://user:hunter2@db")
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        let told = String::from_utf8([output.stdout.clone(), output.stderr].concat()).unwrap();
        assert!(!told.contains("hunter2"), "{told}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all: Value = serde_json::from_str(&config(&["--json", "--listen", "127.0.0.1:1"])).unwrap();
    let setting = |name: &str| all["settings"][name].clone();
    assert_eq!(
        setting("delivery.timeout"),
        json!({"value": "7s", "hidden": false, "from": "variable", "place": "SVIX_WORKER_REQUEST_TIMEOUT", "over": ["bellwire.toml:4"]})
    );
    assert_eq!(setting("log.level")["place"], "bellwire.toml:2");
    assert_eq!(setting("server.listen")["place"], "--listen");
    assert_eq!(setting("server.data")["place"], "BELLWIRE_DATA");
    assert_eq!(
        setting("store.retention"),
        json!({"value": "90d", "hidden": false, "from": "default", "place": null, "over": []})
    );
    assert_eq!(setting("auth.jwt_secret")["hidden"], true);
    assert_eq!(setting("auth.main_secret")["hidden"], false, "there is none, and that may be known");
    assert!(all["notes"][0].as_str().unwrap().starts_with("SVIX_DB_DSN is not used"));

    let changed = config(&["--changed"]);
    assert!(changed.contains("delivery.timeout") && changed.contains("over bellwire.toml:4"), "{changed}");
    assert!(changed.contains("(hidden)") && !changed.contains("store.retention"), "{changed}");
    assert_eq!(config(&["--check"]), "");
}

#[test]
fn a_check_fails_where_the_start_would() {
    let folder = tempfile::tempdir().unwrap();
    for command in ["config", "serve"] {
        let check = if command == "config" { ["config", "--check"].as_slice() } else { &["serve"] };
        let output = bellwire(folder.path()).args(check).env("SVIX_RETRY_SCHEDULE", "soon").output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && told.contains("SVIX_RETRY_SCHEDULE"), "{told}");
    }
}
