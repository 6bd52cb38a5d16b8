//! A copy beside a running server, looked over, and put in another place: nothing that was acknowledged before is missing, and
//! no secret is added or opened on the way.

use crate::program::{Program, bellwire, eventually, ledger, run};
use crate::receiver::Receiver;
use serde_json::{Value, json};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

fn json_of(folder: &Path, arguments: &[&str]) -> Value {
    let output = run(folder, arguments);
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn what_is_copied_beside_a_server_is_restored_and_goes_on() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let secret = [("BELLWIRE_MAIN_SECRET", "canary-canary-canary-canary")];
    let server = Program::start(&data, &secret);
    let taken = Receiver::answering(&[200]);
    assert_eq!(server.call("POST", "/app", json!({"name": "A", "uid": "a"})).0, 201);
    assert_eq!(server.call("POST", "/app/a/endpoint", json!({"url": taken.url(), "uid": "up"})).0, 201);
    // Nobody listens on a port that was just free.
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let down = json!({"url": format!("http://{nobody}/"), "uid": "down", "retrySchedule": [3600]});
    assert_eq!(server.call("POST", "/app/a/endpoint", down).0, 201);
    for n in 0..5 {
        assert_eq!(server.call("POST", "/app/a/msg", json!({"eventType": "a", "payload": {"n": n}})).0, 202);
        taken.next();
    }
    eventually("five are delivered, five wait", || {
        let ledger = ledger(&data);
        (ledger["delivered"] == 5 && ledger["pending"] == 5).then_some(())
    });

    let copy = folder.path().join("copy");
    let made = json_of(&data, &["backup", copy.to_str().unwrap(), "--json"]);
    assert_eq!(made["check"]["sound"], true, "{made}");
    assert_eq!((&made["check"]["messages"], &made["check"]["ledger"]["pending"]), (&json!(5), &json!(5)), "{made}");
    assert_eq!(made["check"]["sealed"], 2);
    assert_eq!(made["jwtSecret"], true);
    for entry in std::fs::read_dir(&copy).unwrap().flatten() {
        assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
        let bytes = std::fs::read(entry.path()).unwrap();
        assert!(!bytes.windows(6).any(|bytes| bytes == b"canary" || bytes == b"whsec_"), "{entry:?}");
    }
    assert_eq!(json_of(&data, &["check", "--json"])["sound"], true, "the folder in use");
    let again = run(&data, &["backup", copy.to_str().unwrap()]);
    assert!(!again.status.success() && String::from_utf8_lossy(&again.stderr).contains("not empty"), "{again:?}");

    // What comes after the copy is not in it.
    assert_eq!(server.call("POST", "/app/a/msg", json!({"eventType": "a", "payload": {"n": 5}})).0, 202);
    taken.next();
    let token = server.token.clone();
    server.kill();

    let elsewhere = folder.path().join("elsewhere");
    let into_use = run(&data, &["restore", copy.to_str().unwrap()]);
    assert!(!into_use.status.success() && String::from_utf8_lossy(&into_use.stderr).contains("not empty"));
    let output = run(&data, &["restore", copy.to_str().unwrap(), "--data", elsewhere.to_str().unwrap()]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success() && told.contains("5 deliveries were pending"), "{told}");
    assert!(told.contains("2 endpoints' secrets are encrypted"), "{told}");

    let mut server = Program::start(&elsewhere, &secret);
    // The secret of the tokens came along.
    server.token = token;
    let (_, messages) = server.call("GET", "/app/a/msg", Value::Null);
    assert_eq!(messages["data"].as_array().unwrap().len(), 5);
    assert_eq!(server.call("POST", "/app/a/msg", json!({"eventType": "a", "payload": {"n": 6}})).0, 202);
    assert_eq!(taken.next().body, br#"{"n":6}"#);
    assert_eq!(json_of(&elsewhere, &["check", "--json", "--quick"])["sound"], true);
    assert!(server.stop().success());
}

#[test]
fn a_damaged_folder_fails_the_check_and_is_not_restored() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    assert_eq!(server.call("POST", "/app", json!({"name": "A", "uid": "a"})).0, 201);
    assert_eq!(server.call("POST", "/app/a/msg", json!({"eventType": "a", "payload": {}})).0, 202);
    assert!(server.stop().success());
    assert!(run(folder.path(), &["check"]).status.success());
    let store = rusqlite::Connection::open(folder.path().join("bellwire.db")).unwrap();
    store.execute_batch("UPDATE meta SET accepted = 7").unwrap();
    drop(store);
    let output = run(folder.path(), &["check"]);
    let told = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.code() == Some(1) && told.contains("ledger: a counter disagrees"), "{told}");
    let found = run(folder.path(), &["check", "--json"]);
    let found: Value = serde_json::from_slice(&found.stdout).unwrap();
    assert_eq!((&found["sound"], &found["findings"][0]["kind"]), (&json!(false), &json!("ledger")));

    let elsewhere = folder.path().join("elsewhere");
    let from = folder.path().to_str().unwrap();
    let nowhere = tempfile::tempdir().unwrap();
    let named = run(nowhere.path(), &["check", "--quick", from]);
    assert!(
        String::from_utf8_lossy(&named.stdout).contains("a counter disagrees"),
        "a folder may be named alone: {named:?}"
    );
    let hooks = folder.path().join("hooks.toml");
    std::fs::write(&hooks, "").unwrap();
    let quick = run(folder.path(), &["check", "--quick", hooks.to_str().unwrap()]);
    assert!(String::from_utf8_lossy(&quick.stderr).contains("--quick is for data folders"), "{quick:?}");
    let restored = run(folder.path(), &["restore", from, "--data", elsewhere.to_str().unwrap()]);
    assert!(!restored.status.success() && !elsewhere.exists(), "{restored:?}");
    let copied = bellwire(folder.path()).args(["backup", "copy"]).output().unwrap();
    assert!(!copied.status.success() && String::from_utf8_lossy(&copied.stderr).contains("not sound"));
}
