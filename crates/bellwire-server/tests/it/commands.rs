//! The small commands, as typed.

use crate::program::{Program, bellwire, run};
use std::io::Write;
use std::process::Stdio;

#[test]
fn a_command_does_not_take_a_version_for_a_question_after_the_programs_own() {
    let folder = tempfile::tempdir().unwrap();
    let refused = run(folder.path(), &["plugin", "rollback", "deploy", "--version", "2"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(run(folder.path(), &["--version"]).status.success());
}

#[test]
fn every_command_has_help_with_an_example() {
    let folder = tempfile::tempdir().unwrap();
    for command in [
        "demo",
        "serve",
        "token",
        "source",
        "send",
        "listen",
        "sign",
        "verify",
        "imitate",
        "explain",
        "doctor",
        "ledger",
        "task",
        "pack",
        "pack add",
        "plugin",
        "plugin add",
        "plugin grant",
        "plugin test",
        "source add",
        "source requests",
        "import adnanh",
        "import svix",
        "export",
        "import",
        "bench",
        "config",
        "healthcheck",
        "backup",
        "restore",
        "check",
    ] {
        let words: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let output = run(folder.path(), &words);
        let help = String::from_utf8(output.stdout).unwrap();
        assert!(output.status.success() && help.contains(&format!("bellwire {command}")), "{command}: {help}");
        assert!(help.to_lowercase().contains("example"), "{command} has no example: {help}");
    }
}

#[test]
fn a_token_is_printed_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["token"]);
    let token = String::from_utf8(output.stdout).unwrap();
    assert_eq!(token.trim().split('.').count(), 3, "{token}");
    assert_eq!(token.lines().count(), 1);
}

#[test]
fn a_command_for_a_server_makes_no_data_folder() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["source", "list"]);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(!output.status.success() && said.contains("no server has used the data folder"), "{said}");
    assert!(said.contains("\nhint: ") && said.contains("--token"), "{said}");
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
}

#[test]
fn a_module_that_is_not_there_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    for verb in ["grant", "rollback", "remove"] {
        let output = bellwire(folder.path())
            .env("BELLWIRE_URL", format!("http://{}", server.address))
            .args(["plugin", verb, "nope"])
            .output()
            .unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success() && said.starts_with("error: there is no module nope\n"), "{verb}: {said}");
    }
}

#[test]
fn what_sign_signs_verify_accepts_and_a_changed_byte_it_refuses() {
    let folder = tempfile::tempdir().unwrap();
    let secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let pipe = |arguments: &[&str], input: &[u8]| {
        let mut child = bellwire(folder.path())
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(input).unwrap();
        child.wait_with_output().unwrap()
    };
    let signed = pipe(&["sign", "--secret", secret, "--id", "msg_1", "--json"], b"{\"a\":1}");
    let headers: serde_json::Value = serde_json::from_slice(&signed.stdout).unwrap();
    let lines = headers.as_object().unwrap().iter().map(|(name, value)| format!("{name}: {}", value.as_str().unwrap()));
    let lines: Vec<_> = lines.collect();
    let mut arguments = vec!["verify", "--secret", secret];
    lines.iter().for_each(|line| arguments.extend(["--header", line]));
    assert!(pipe(&arguments, b"{\"a\":1}").status.success());
    assert_eq!(pipe(&arguments, b"{\"a\":2}").status.code(), Some(1));
}

#[test]
fn a_folder_that_is_not_ours_has_no_ledger() {
    let folder = tempfile::tempdir().unwrap();
    let output = run(folder.path(), &["ledger"]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().starts_with("error: "));
}
