//! What a file declares: in force at the start, at a change, at a signal; and the old one when the new one is wrong.

use crate::program::{Program, eventually, run};
use crate::receiver::Receiver;
use serde_json::{Value, json};
use std::path::Path;

fn write(folder: &Path, text: &str) {
    // As editors and configuration managers do it: the file is never half there.
    std::fs::write(folder.join("new"), text).unwrap();
    std::fs::rename(folder.join("new"), folder.join("hooks.toml")).unwrap();
}

fn declared(program: &Program) -> Vec<String> {
    let (_, answer) = program.call("GET", "/app/acme/endpoint", Value::Null);
    let all = answer["data"].as_array().cloned().unwrap_or_default();
    let mut uids: Vec<String> = all.iter().map(|one| one["uid"].as_str().unwrap().to_owned()).collect();
    uids.sort();
    uids
}

#[test]
fn a_file_is_in_force_from_the_start_and_after_a_change_and_the_old_one_when_the_new_one_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::answering(&[200]);
    let endpoint = |name: &str| format!("[endpoints.{name}]\napplication = \"acme\"\nurl = \"{}\"\n", receiver.url());
    write(folder.path(), &format!("{}event_types = [\"invoice.paid\"]\n", endpoint("one")));
    let program = Program::start(folder.path(), &[("BELLWIRE_SERVER_HOOKS", "hooks.toml")]);
    assert_eq!(declared(&program), ["hooks.one"]);
    let message = json!({ "eventType": "invoice.paid", "payload": { "id": 7 } });
    assert_eq!(program.call("POST", "/app/acme/msg", message.clone()).0, 202);
    assert_eq!(receiver.next().body, br#"{"id":7}"#);

    // What somebody else made stays, whatever the file says.
    let by_hand = json!({ "url": receiver.url(), "uid": "by.hand" });
    assert_eq!(program.call("POST", "/app/acme/endpoint", by_hand).0, 201);
    write(folder.path(), &format!("{}\n{}", endpoint("two"), endpoint("three")));
    eventually("the change is in force", || {
        (declared(&program) == ["by.hand", "hooks.three", "hooks.two"]).then_some(())
    });

    write(folder.path(), &format!("{}retry_schedule = \"soon\"\n", endpoint("four")));
    eventually("it is told", || program.has_said("what it said before stays in force").then_some(()));
    assert_eq!(declared(&program), ["by.hand", "hooks.three", "hooks.two"]);
    assert!(program.log().contains("hooks.toml:4: endpoints.four.retry_schedule"), "{}", program.log());

    write(folder.path(), &endpoint("two"));
    program.signal("HUP");
    eventually("the change is in force", || (declared(&program) == ["by.hand", "hooks.two"]).then_some(()));
    assert!(program.stop().success());

    // Nothing is written for what has not changed.
    let program = Program::start(folder.path(), &[("BELLWIRE_SERVER_HOOKS", "hooks.toml")]);
    assert!(program.log().contains("0 created, 0 updated, 1 as they were, 0 removed"), "{}", program.log());
}

#[test]
fn a_file_that_is_wrong_stops_the_start_and_is_told_by_check_with_file_line_and_hint() {
    let folder = tempfile::tempdir().unwrap();
    write(
        folder.path(),
        "[endpoints.a]\napplication = \"x\"\nurl = \"ftp://nowhere\"\n\n[endpoints.b]\nfrom = \"githb\"\n",
    );
    for arguments in [&["check", "hooks.toml"][..], &["serve", "--listen", "127.0.0.1:0", "--hooks", "hooks.toml"]] {
        let output = run(folder.path(), arguments);
        let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(1), "{told}");
        assert!(
            told.contains("hooks.toml:6: endpoints.b.from: there is no source githb\n  hint: there are none"),
            "{told}"
        );
    }
    write(folder.path(), "[endpoints.a]\napplication = \"x\"\nurl = \"ftp://nowhere\"\n");
    let output = run(folder.path(), &["check", "hooks.toml", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!((&told["sound"], &told["faults"][0]["line"]), (&json!(false), &json!(3)), "{told}");
    write(folder.path(), "[endpoints.a]\napplication = \"x\"\nurl = \"https://example.com\"\n");
    let output = run(folder.path(), &["check", "hooks.toml"]);
    assert!(output.status.success(), "{output:?}");
    assert!(!folder.path().join("bellwire-data").exists(), "a check leaves nothing behind");
}
