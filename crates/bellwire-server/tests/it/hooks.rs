//! What a file declares: in force at the start, at a change, at a signal; and the old one when the new one is wrong.

use crate::program::{PATIENCE, Program, bellwire, eventually, run};
use crate::receiver::Receiver;
use serde_json::{Value, json};
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

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
fn a_path_goes_from_one_source_to_another_in_one_change_of_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let declare = |paths: [&str; 2]| {
        let [a, b] = paths;
        let source = |name, path| format!("[sources.{name}]\npreset = \"none\"\npath = \"{path}\"\n");
        write(folder.path(), &format!("{}{}", source("a", a), source("b", b)));
    };
    declare(["/x", "/y"]);
    let program = Program::start(folder.path(), &[("BELLWIRE_SERVER_HOOKS", "hooks.toml")]);
    for paths in [["/y", "/x"], ["/x", "/z"], ["/z", "/x"]] {
        declare(paths);
        program.signal("HUP");
        eventually("the paths are what the file says", || {
            let path =
                |name: &str| program.call("GET", &format!("/source/hooks.{name}"), Value::Null).1["path"].clone();
            (["a", "b"].map(path) == paths).then_some(())
        });
        assert!(post(&program, paths[0], "", "{}").0 == 202, "{}", program.log());
    }
    assert!(!program.has_said("the hooks file cannot be used"), "{}", program.log());
}

#[test]
fn what_a_change_of_the_file_leaves_out_is_gone_whatever_stood_there_before() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::answering(&[200]);
    let files = [
        format!(
            "[sources.a]\npreset = \"github\"\nsecret = \"a secret of some length\"\npath = \"/a\"\n\
             [endpoints.e]\nfrom = \"a\"\nurl = \"{}\"\nheaders = {{ X = \"y\" }}\n",
            receiver.url()
        ),
        "[sources.a]\npreset = \"none\"\n[endpoints.e]\nfrom = \"a\"\nkind = \"pipe\"\n".to_owned(),
        "[sources.a]\ncron = { schedule = \"0 0 1 1 *\", zone = \"UTC\" }\n[endpoints.e]\nfrom = \"a\"\n\
         plugin = { runs = \"javascript\", script = \"const handle = () => {}\" }\n"
            .to_owned(),
        format!("[sources.a]\npreset = \"none\"\n[endpoints.e]\nfrom = \"a\"\nurl = \"{}\"\n", receiver.url()),
    ];
    write(folder.path(), &files[0]);
    let program = Program::start(folder.path(), &[("BELLWIRE_SERVER_HOOKS", "hooks.toml")]);
    let ways = [("http", 1, "push"), ("http", 0, "pipe"), ("cron", 0, "plugin"), ("http", 0, "push")];
    for (file, (way, secrets, kind)) in files.iter().zip(ways) {
        write(folder.path(), file);
        program.signal("HUP");
        eventually("the change is in force", || {
            let source = program.call("GET", "/source/hooks.a", Value::Null).1;
            let endpoint = program.call("GET", "/app/hooks.a/endpoint/hooks.e", Value::Null).1;
            let is = |value: &Value, text: &str| value.as_str().is_none_or(|value| value == text);
            let is_so = is(&source["way"], way) && source["secretCount"].as_u64().unwrap_or(0) == secrets;
            (is_so && endpoint["kind"].as_str().unwrap_or("push") == kind).then_some(())
        });
    }
    let (_, headers) = program.call("GET", "/app/hooks.a/endpoint/hooks.e/headers", Value::Null);
    assert_eq!(headers["headers"], json!({}), "{headers}");
    assert!(!program.has_said("the hooks file cannot be used"), "{}", program.log());
}

#[test]
fn another_secret_in_the_file_is_rotated_to() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::answering(&[200]);
    let [one, two] =
        ["MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "C2FVsBQIhrscChlQIMV+b5sSYspob7oD"].map(|key| format!("whsec_{key}"));
    let file = |secret: &str| {
        let url = receiver.url();
        let text = format!(
            "[sources.a]\npreset = \"none\"\npath = \"/a\"\n[endpoints.e]\nfrom = \"a\"\nurl = \"{url}\"\nsecret = \"{secret}\"\n"
        );
        write(folder.path(), &text);
    };
    file(&one);
    let allowed = [("BELLWIRE_SERVER_HOOKS", "hooks.toml"), ("BELLWIRE_EGRESS_ALLOW", "127.0.0.0/8")];
    let program = Program::start(folder.path(), &allowed);
    // There, back again, and there: while the ones before are still good.
    for (secret, signatures) in [(&two, 2), (&one, 2), (&two, 2)] {
        file(secret);
        program.signal("HUP");
        let path = "/app/hooks.a/endpoint/hooks.e/secret";
        eventually("the secret is rotated", || {
            (program.call("GET", path, Value::Null).1["key"] == **secret).then_some(())
        });
        assert_eq!(
            program.raw("POST /a HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}").0,
            202
        );
        let signed = receiver.next().header("webhook-signature").to_owned();
        assert_eq!(signed.split(' ').count(), signatures, "{signed}");
    }
    assert!(!program.has_said("the hooks file cannot be used"), "{}", program.log());
}

#[test]
fn the_first_request_that_is_answered_finds_what_the_file_declares() {
    let folder = tempfile::tempdir().unwrap();
    let source =
        |n| format!("[sources.s{n}]\npreset = \"github\"\nsecret = {{ env = \"SECRET\" }}\npath = \"/hooks/{n}\"\n");
    write(folder.path(), &(0..60).map(source).collect::<String>());
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut command = bellwire(folder.path());
    command.args(["serve", "--hooks", "hooks.toml", "--listen", &address.to_string()]);
    let mut server = command.env("SECRET", "of sixty sources").stderr(Stdio::null()).spawn().unwrap();
    let mut stream = eventually("it listens", || TcpStream::connect(address).ok());
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
        .write_all(b"POST /hooks/59 HTTP/1.1\r\nhost: x\r\ncontent-length: 2\r\nconnection: close\r\n\r\n{}")
        .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    server.kill().unwrap();
    server.wait().unwrap();
    assert!(answer.starts_with("HTTP/1.1 401"), "the source is there, and the request not signed: {answer}");
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

#[test]
fn check_tells_every_mistake_that_it_can_find_in_one_go() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"[sources.github]
presett = "github"
secret = { env = "GONE" }
rate = 0

[sources.pay]
preset = "strip"
body_bytes_max = "much"
methods = ["FETCH"]
dedupe = { by = "body", window = 60 }

[endpoints.a]
from = "githb"
url = "ftp://nowhere"
throttle_rate = "many"
retry_schedule = "soon"
fifoo = true

[endpoints.b]
from = ["github", "pay"]
plugin = { runs = "command", program = "/bin/true", timeout_ms = 0, lost = 1 }

[endpoints.c]
from = "pay"
kind = "plug"
"#;
    write(folder.path(), text);
    let output = run(folder.path(), &["check", "hooks.toml", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let faults: Vec<_> =
        told["faults"].as_array().unwrap().iter().map(|fault| (fault["line"].as_u64(), fault)).collect();
    let found: Vec<_> =
        faults.iter().map(|(line, fault)| (line.unwrap_or(0), fault["place"].as_str().unwrap())).collect();
    let expected = [
        (1, "sources.github.preset"),
        (2, "sources.github.presett"),
        (3, "sources.github.secret"),
        (4, "sources.github.rate"),
        (7, "sources.pay.preset"),
        (8, "sources.pay.body_bytes_max"),
        (9, "sources.pay.methods.0"),
        (10, "sources.pay.dedupe.window"),
        (13, "endpoints.a.from"),
        (14, "endpoints.a.url"),
        (15, "endpoints.a.throttle_rate"),
        (16, "endpoints.a.retry_schedule"),
        (17, "endpoints.a.fifoo"),
        (21, "endpoints.b.plugin.lost"),
        (21, "endpoints.b.plugin.timeout_ms"),
        (25, "endpoints.c.kind"),
    ];
    let mut sorted = found.clone();
    sorted.sort();
    assert_eq!(sorted, expected, "{told:#}");
    assert!(found.is_sorted_by_key(|(line, _)| *line), "{found:?}");
    for (place, hint) in [
        ("sources.github.presett", "did you mean preset?"),
        ("sources.github.secret", "set GONE before"),
        ("sources.pay.preset", "did you mean stripe?"),
        ("endpoints.a.from", "did you mean github?"),
        ("endpoints.a.fifoo", "did you mean fifo?"),
    ] {
        let fault = faults.iter().find(|(_, fault)| fault["place"] == place).unwrap().1;
        assert!(fault["hint"].as_str().unwrap_or_default().contains(hint), "{fault}");
    }
    // A server tells the same, and does nothing of it.
    let output = run(folder.path(), &["serve", "--listen", "127.0.0.1:0", "--hooks", "hooks.toml"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(expected.iter().all(|(line, place)| text.contains(&format!("hooks.toml:{line}: {place}: "))), "{text}");
}

#[test]
fn check_tells_what_is_wrong_and_not_what_follows_from_it() {
    let folder = tempfile::tempdir().unwrap();
    let text = r#"[sources.day]
cron = "@daily"

[sources.noon]
cron = { schedule = "61 * * * *", zone = "Europe/Berln" }

[sources.any]
preset = "none"
dedupe = "off"
answer = 200

[sources.rules]
recipe = { settings = { key = { title = "the key" } }, rules = { match = { type = "payload-hmac-sha256", secret = "{setting:key}", parameter = { source = "header", name = "X-Sig" } } } }
settings = { key = { env = "GONE" } }

[endpoints.a]
from = "any"
plugin = { runs = "comand" }

[endpoints.b]
from = "any"
plugin = { runs = "command", program = "./gone" }

[endpoints.c]
from = "any"
plugin = "command"
"#;
    write(folder.path(), text);
    let output = run(folder.path(), &["check", "hooks.toml", "--json"]);
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    let faults = told["faults"].as_array().unwrap();
    let mut found: Vec<_> =
        faults.iter().map(|fault| (fault["line"].as_u64().unwrap(), fault["place"].as_str().unwrap())).collect();
    found.sort_unstable();
    let expected = [
        (2, "sources.day.cron"),
        (5, "sources.noon.cron.schedule"),
        (5, "sources.noon.cron.zone"),
        (9, "sources.any.dedupe"),
        (10, "sources.any.answer"),
        (14, "sources.rules.settings.key"),
        (18, "endpoints.a.plugin.runs"),
        (22, "endpoints.b.plugin.program"),
        (26, "endpoints.c.plugin"),
    ];
    assert_eq!(found, expected, "{told:#}");
}

#[test]
fn a_name_that_no_event_type_can_have_is_told_once_with_what_comes_in_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let text = "[sources.shop]\npreset = \"none\"\n\n[endpoints.a]\nfrom = \"shop\"\nurl = \"https://example.com\"\n\
                event_types = [\n  \"order.paid\",\n  \"orders/create\",\n]\n";
    write(folder.path(), text);
    let output = run(folder.path(), &["check", "hooks.toml"]);
    let expected = "hooks.toml:9: endpoints.a.event_types.1: an event type may only hold letters, digits, `-`, `_` and `.`\n  \
                    hint: what a sender calls so comes in as orders_create\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
}

/// The log says so, about this place of the file.
fn told(program: &Program, place: &str, what: &str) {
    eventually(&format!("{place} is told"), || {
        program.log().lines().any(|line| line.contains(place) && line.contains(what)).then_some(())
    });
}

/// What the newest message's plugin said, once it has run.
fn said(program: &Program, payload: Value) -> String {
    let message = crate::plugins::send(program, "came", payload);
    crate::plugins::attempts(program, &message, 1)[0]["response"].as_str().unwrap().to_owned()
}

#[test]
fn a_file_that_is_gone_is_told_once_and_stays_in_force() {
    let folder = tempfile::tempdir().unwrap();
    write(folder.path(), "[sources.a]\npreset = \"none\"\npath = \"/hooks/a\"\n");
    let program = Program::start(folder.path(), &[("BELLWIRE_SERVER_HOOKS", "hooks.toml")]);
    std::fs::remove_file(folder.path().join("hooks.toml")).unwrap();
    told(&program, "hooks.toml", "is not there any more");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(program.log().lines().filter(|line| line.contains("is not there any more")).count(), 1);
    let request = "POST /hooks/a HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\n{}";
    assert_eq!(program.raw(request).0, 202);
}

#[test]
fn a_plugin_from_a_file_is_taken_up_when_it_changes_and_the_old_one_runs_when_the_new_one_is_wrong() {
    let folder = tempfile::tempdir().unwrap();
    let hooks = |permissions: &str| {
        write(
            folder.path(),
            &format!(
                "[plugins.deploy]\nfile = \"deploy.js\"\n{permissions}\n[endpoints.run]\napplication = \"acme\"\n\
                 event_types = [\"came\"]\nplugin = {{ runs = \"javascript\", module = \"deploy\" }}\n"
            ),
        );
    };
    let code = |text: &str| {
        std::fs::write(folder.path().join("new.js"), text).unwrap();
        std::fs::rename(folder.path().join("new.js"), folder.path().join("deploy.js")).unwrap();
    };
    hooks("");
    let output = run(folder.path(), &["check", "hooks.toml"]);
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(
        text.contains("hooks.toml:2: plugins.deploy.file: ") && text.contains("deploy.js cannot be read"),
        "{text}"
    );
    assert_eq!(text.matches("hooks.toml:").count(), 1, "what follows from it is not told: {text}");
    code("function handle(event) { return 'one ' + event.payload.n }");
    let program = Program::start(folder.path(), &[("BELLWIRE_SERVER_HOOKS", "hooks.toml")]);
    assert!(program.log().contains("2 created, 0 updated"), "{}", program.log());
    assert_eq!(said(&program, json!({"n": 1})), "one 1");

    // The hooks file itself stays as it is.
    code("function handle(event) { return 'two' }");
    eventually("the new version runs", || (said(&program, json!({})) == "two").then_some(()));
    code("function handle(event) { return");
    told(&program, "hooks.toml:2: plugins.deploy.file: ", "what it said before stays in force");
    assert_eq!(said(&program, json!({})), "two");
    code("// @permission respond\nfunction handle(event, ctx) { return 'three' }");
    told(&program, "hooks.toml:1: plugins.deploy.permissions: it wants more than it is granted: respond", "respond");
    assert!(program.log().contains("hint: permissions = [\\\"respond\\\"]"), "{}", program.log());
    assert_eq!(said(&program, json!({})), "two");
    hooks("permissions = [\"respond\", \"fetch api.example.com\"]");
    eventually("the new version runs", || (said(&program, json!({})) == "three").then_some(()));
    // What is not named right by an endpoint is told, and nothing is done.
    let text = std::fs::read_to_string(folder.path().join("hooks.toml")).unwrap();
    write(folder.path(), &text.replace("module = \"deploy\"", "module = \"deply\""));
    told(&program, "hooks.toml:7: endpoints.run.plugin.module: no module", "what it said before stays in force");
    write(folder.path(), &text);
    program.signal("HUP");
    eventually("all is as it was", || program.has_said("the hooks file is in force").then_some(()));
    assert!(program.stop().success());
    // Nothing is installed twice.
    let program = Program::start(folder.path(), &[("BELLWIRE_SERVER_HOOKS", "hooks.toml")]);
    assert!(program.log().contains("0 created, 0 updated, 2 as they were, 0 removed"), "{}", program.log());
    let (_, module) = program.call("GET", "/plugin", Value::Null);
    assert_eq!(module["data"][0]["versions"].as_array().unwrap().len(), 3, "{module}");
    // What a check tries is not installed.
    std::fs::remove_dir_all(folder.path().join("plugins")).unwrap();
    assert!(run(folder.path(), &["check", "hooks.toml"]).status.success());
    assert!(!folder.path().join("plugins").exists());
}

#[test]
fn a_plugin_that_the_file_made_goes_when_it_is_not_declared_any_more_and_nothing_else_does() {
    let folder = tempfile::tempdir().unwrap();
    for name in ["made", "lent", "before"] {
        std::fs::write(folder.path().join(format!("{name}.js")), "function handle() { return 'x' }").unwrap();
    }
    write(folder.path(), "[applications.acme]\n");
    let program = Program::start(folder.path(), &[("BELLWIRE_SERVER_HOOKS", "hooks.toml")]);
    let installed = || -> Vec<String> {
        let (_, answer) = program.call("GET", "/plugin", Value::Null);
        answer["data"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap().to_owned()).collect()
    };
    for name in ["before", "other"] {
        let body = json!({ "name": name, "code": "function handle() { return 'y' }" });
        assert_eq!(program.call("POST", "/plugin", body).0, 200);
    }
    let plugin = |name: &str| format!("[plugins.{name}]\nfile = \"{name}.js\"\n");
    let run = "[endpoints.run]\napplication = \"acme\"\nplugin = { runs = \"javascript\", module = \"made\" }\n";
    let all = ["made", "lent", "before"].map(plugin).concat();
    write(folder.path(), &format!("[applications.acme]\n{all}{run}"));
    eventually("all are installed", || (installed() == ["before", "lent", "made", "other"]).then_some(()));
    // An endpoint that the file knows nothing of runs one of them.
    let body = json!({ "uid": "own", "kind": "plugin", "plugin": { "runs": "javascript", "module": "lent" } });
    let (status, endpoint) = program.call("POST", "/app/acme/endpoint", body);
    assert_eq!(status, 201, "{endpoint}");
    write(folder.path(), "[applications.acme]\n");
    eventually("what nobody runs is gone", || (installed() == ["before", "lent", "other"]).then_some(()));
    eventually("it is told", || program.has_said("stays because an endpoint runs it").then_some(()));
    assert_eq!(program.call("DELETE", "/app/acme/endpoint/own", Value::Null).0, 204);
    write(folder.path(), "[applications.acme]\n\n");
    eventually("nor is the other one", || (installed() == ["before", "other"]).then_some(()));
}

#[test]
fn a_plugin_that_the_file_made_is_known_as_its_own_however_soon_the_server_dies() {
    let installed = |folder: &Path| {
        let organisations = std::fs::read_dir(folder.join("plugins")).into_iter().flatten().map_while(Result::ok);
        let mut indexes = organisations.map(|one| one.path().join("modules.json"));
        indexes.any(|index| std::fs::read_to_string(index).is_ok_and(|text| text.contains("\"made\"")))
    };
    for _ in 0..3 {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("made.js"), "// @permission respond\nfunction handle() {}").unwrap();
        write(folder.path(), "[plugins.made]\nfile = \"made.js\"\npermissions = [\"respond\"]\n");
        let environment = [("BELLWIRE_SERVER_HOOKS", "hooks.toml")];
        let mut command = bellwire(folder.path());
        command.args(["serve", "--listen", "127.0.0.1:0"]).envs(environment).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        // Without a pause: it dies at the first sight of it.
        let deadline = Instant::now() + PATIENCE;
        while !installed(folder.path()) {
            assert!(Instant::now() < deadline, "it is not installed");
        }
        child.kill().unwrap();
        child.wait().unwrap();
        write(folder.path(), "[applications.acme]\n");
        let program = Program::start(folder.path(), &environment);
        assert_eq!(program.call("GET", "/plugin", Value::Null), (200, json!({"data": []})));
    }
}

/// A program that writes its arguments and one variable to a file beside it.
fn script(folder: &Path, name: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    let path = folder.join(name);
    std::fs::write(&path, "#!/bin/sh\necho \"$@ $HOOK_a\" >> \"$(dirname \"$0\")/ran\"\n").unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

fn ran(folder: &Path, lines: usize) -> String {
    eventually("the program ran", || {
        std::fs::read_to_string(folder.join("ran")).ok().filter(|text| text.lines().count() >= lines)
    })
}

fn post(program: &Program, path: &str, headers: &str, body: &str) -> (u16, String) {
    program.raw(&format!(
        "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{headers}content-length: {}\r\n\r\n{body}",
        body.len()
    ))
}

#[test]
fn a_verified_github_webhook_runs_a_command() {
    let folder = tempfile::tempdir().unwrap();
    script(folder.path(), "build");
    write(
        folder.path(),
        r#"
[sources.github]
preset = "github"
secret = { env = "GITHUB_WEBHOOK_SECRET" }
path = "/hooks/github"

[endpoints.build]
from = "github"
event_types = ["push"]
plugin = { runs = "command", program = "./build", args = ["{{type}}", "{{payload}}"] }
"#,
    );
    // The example of GitHub's documentation.
    let secret = "It's a Secret to Everybody";
    let signature = "757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17";
    let environment = [("BELLWIRE_SERVER_HOOKS", "hooks.toml"), ("GITHUB_WEBHOOK_SECRET", secret)];
    let program = Program::start(folder.path(), &environment);
    let headers = |event: &str, id: &str| {
        format!("x-github-event: {event}\r\nx-github-delivery: {id}\r\nx-hub-signature-256: sha256={signature}\r\n")
    };
    assert_eq!(post(&program, "/hooks/github", &headers("push", "1"), "Hello, World?").0, 401);
    for (event, id) in [("issues", "2"), ("push", "3"), ("push", "3")] {
        let (status, text) = post(&program, "/hooks/github", &headers(event, id), "Hello, World!");
        assert!((200..300).contains(&status), "{status} {text}");
    }
    assert_eq!(ran(folder.path(), 1), "push Hello, World! \n");

    // Renamed in the file, it is another source; its path moves with it.
    let text = std::fs::read_to_string(folder.path().join("hooks.toml")).unwrap();
    write(folder.path(), &text.replace("github]", "forge]").replace("from = \"github\"", "from = \"forge\""));
    program.signal("HUP");
    eventually("the change is in force", || {
        let (_, answer) = program.call("GET", "/source", Value::Null);
        (answer["data"].as_array()?.iter().map(|source| source["uid"].as_str()).collect::<Vec<_>>()
            == [Some("hooks.forge")])
        .then_some(())
    });
    assert!(post(&program, "/hooks/github", &headers("push", "4"), "Hello, World!").0 < 300);
    assert_eq!(ran(folder.path(), 2).lines().count(), 2);
}

#[test]
fn hooks_of_adnanh_s_run_at_their_old_path_and_answer_as_they_did() {
    let folder = tempfile::tempdir().unwrap();
    script(folder.path(), "redeploy.sh");
    let hooks = json!([{
        "id": "redeploy",
        "execute-command": "./redeploy.sh",
        "response-message": "Redeploying",
        "http-methods": ["post"],
        "pass-arguments-to-command": [{ "source": "payload", "name": "a" }, { "source": "string", "name": "-v" }],
        "pass-environment-to-command": [{ "source": "payload", "name": "a" }],
        "trigger-rule": { "and": [
            { "match": { "type": "payload-hmac-sha256", "secret": "{{ getenv \"HOOK_SECRET\" | js }}", "parameter": { "source": "header", "name": "X-Signature" } } },
            { "match": { "type": "value", "value": "z", "parameter": { "source": "payload", "name": "a" } } },
        ] },
    }, {
        "id": "sealed",
        "execute-command": "./redeploy.sh",
        "trigger-rule": { "match": { "type": "payload-hmac-sha256", "secret": "{{ getenv \"HOOK_SECRET\" | js }}", "parameter": { "source": "header", "name": "X-Signature" } } },
    }]);
    // As a template: quotes within quotes are what Go makes of it.
    let text = hooks.to_string().replace("\\\"", "`");
    std::fs::write(folder.path().join("hooks.json"), text).unwrap();
    let output = run(folder.path(), &["import", "adnanh", "hooks.json", "--template", "-o", "hooks.toml"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("2 of 2 hooks taken over, 0 things to look at"), "{told}");
    assert!(told.contains("otherwise: all hooks: a wrong or missing signature is answered with 401"), "{told}");
    assert!(told.contains("otherwise: all hooks: a body that its content type calls JSON and that is none"), "{told}");

    let environment = [("BELLWIRE_SERVER_HOOKS", "hooks.toml"), ("HOOK_SECRET", "secret")];
    let program = Program::start(folder.path(), &environment);
    // From the tests of adnanh/webhook.
    let signed = "content-type: application/json\r\nx-signature: f417af3a21bd70379b5796d5f013915e7029f62c580fb0f500f59a35a6f04c89\r\n";
    let body = r#"{"a": "z"}"#;
    assert_eq!(post(&program, "/hooks/redeploy", signed, body), (200, "Redeploying".to_owned()));
    assert_eq!(ran(folder.path(), 1), "z -v z\n");
    assert_eq!(post(&program, "/hooks/redeploy", signed, r#"{"a": "y"}"#), (401, String::new()));
    assert_eq!(post(&program, "/hooks/redeploy", "content-type: application/json\r\n", body), (401, String::new()));
    let plain = signed.replace("application/json", "text/plain");
    assert_eq!(post(&program, "/hooks/redeploy", &plain, body), (200, "Hook rules were not satisfied.".to_owned()));
    // What is signed and let in, and no JSON, runs nothing; adnanh's would.
    let open = "content-type: application/json\r\nx-signature: 1fb772a5100616c8ffffbbde8b425d1f85ee7d8c725098fe01300b155d3be9e6\r\n";
    assert_eq!(post(&program, "/hooks/sealed", open, r#"{"a": "#), (400, "The body is not JSON.".to_owned()));
    assert_eq!(post(&program, "/hooks/sealed", signed, r#"{"a": "#), (401, String::new()));
    assert_eq!(program.raw("GET /hooks/redeploy HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").0, 405);
    assert_eq!(program.raw("GET /hooks/other HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").0, 404);
    // It runs every time: it has no duplicates.
    assert_eq!(post(&program, "/hooks/redeploy", signed, body).0, 200);
    assert_eq!(ran(folder.path(), 2).lines().count(), 2);
}

#[test]
fn hooks_of_adnanh_s_that_wait_for_their_command_answer_with_what_it_wrote() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    write("say.sh", "#!/bin/sh\nprintf 'said %s' \"$1\"\n");
    write("where.sh", "#!/bin/sh\nprintf '%s in %s' \"$1\" \"$PWD\"\n");
    write("fail.sh", "#!/bin/sh\nprintf 'no: %s' \"$1\"\nexit 3\n");
    write("files.sh", "#!/bin/sh\ncat \"$HOOK_FILE\" \"$PLAIN\" \"$ALL\"\n");
    let argument = json!([{ "source": "payload", "name": "a" }]);
    let hook = |id: &str, command: &str, more: Value| {
        let mut hook = json!({ "id": id, "execute-command": command, "pass-arguments-to-command": argument });
        hook.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        hook
    };
    let hooks = json!([
        hook(
            "output",
            "./say.sh",
            json!({
                "include-command-output-in-response": true,
                "success-http-response-code": 201,
                "response-headers": [{ "name": "X-Served-By", "value": "hooks" }],
            })
        ),
        hook(
            "parsed",
            "./say.sh",
            json!({
                "include-command-output-in-response": true,
                "incoming-payload-content-type": "application/x-www-form-urlencoded",
                "parse-parameters-as-json": [{ "source": "payload", "name": "payload" }],
                "pass-arguments-to-command": [{ "source": "payload", "name": "payload.commits.0.id" }],
                "trigger-rule": { "match": { "type": "value", "value": "main", "parameter": { "source": "payload", "name": "payload.ref" } } },
            })
        ),
        hook(
            "whole",
            "./where.sh",
            json!({
                "include-command-output-in-response": true,
                "pass-arguments-to-command": [{ "source": "entire-payload" }],
            })
        ),
        hook("failing", "./fail.sh", json!({ "include-command-output-in-response": true })),
        hook(
            "failing-output",
            "./fail.sh",
            json!({
                "include-command-output-in-response": true,
                "include-command-output-in-response-on-error": true,
            })
        ),
        hook(
            "elsewhere",
            "./say.sh",
            json!({
                "response-message": "look there",
                "success-http-response-code": 302,
                "response-headers": [{ "name": "Location", "value": "/there" }],
                "trigger-rule": { "match": { "type": "value", "value": "z", "parameter": { "source": "payload", "name": "a" } } },
                "trigger-rule-mismatch-http-response-code": 500,
            })
        ),
        hook(
            "files",
            "./files.sh",
            json!({
                "include-command-output-in-response": true,
                "pass-file-to-command": [
                    { "source": "payload", "name": "file", "base64decode": true },
                    { "source": "payload", "name": "deep.text", "envname": "PLAIN" },
                    { "source": "raw-request-body", "envname": "ALL" },
                ],
            })
        ),
    ]);
    std::fs::write(folder.path().join("hooks.json"), hooks.to_string()).unwrap();
    let output = run(folder.path(), &["import", "adnanh", "hooks.json", "-o", "hooks.toml"]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && told.contains("7 of 7 hooks taken over, 0 things to look at"), "{told}");

    let program = Program::start(folder.path(), &[("BELLWIRE_SERVER_HOOKS", "hooks.toml")]);
    let ask = |id: &str, kind: &str, body: &str| {
        let length = body.len();
        program.raw_with_head(&format!(
            "POST /hooks/{id} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: {kind}\r\ncontent-length: {length}\r\n\r\n{body}"
        ))
    };
    let check = |id: &str, kind: &str, body: &str, status: u16, text: &str| {
        let (found, head, said) = ask(id, kind, body);
        assert_eq!((found, said.as_str()), (status, text), "{id}");
        head
    };
    const JSON: &str = "application/json";
    let head = check("output", JSON, r#"{"a":12345678901234567890.10}"#, 201, "said 12345678901234567890.10");
    assert!(head.contains("x-served-by: hooks"), "{head}");
    let part = "--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\nparts\r\n--x--\r\n";
    check("output", "multipart/form-data; boundary=x", part, 201, "said parts");
    check("output", "application/x-www-form-urlencoded", "a=field", 201, "said field");
    // What its own parser made of the body, in the folder where adnanh's would have run.
    let said = format!(r#"{{"b":"2","a":"1"}} in {}"#, folder.path().canonicalize().unwrap().display());
    check("whole", "application/x-www-form-urlencoded", "b=2&a=1", 200, &said);
    // A form that calls itself text, with JSON in a field.
    let form = |name: &str| {
        format!("payload=%7B%22ref%22%3A%22{name}%22%2C%22commits%22%3A%5B%7B%22id%22%3A%22c1%22%7D%5D%7D")
    };
    check("parsed", "text/plain", &form("main"), 200, "said c1");
    check("parsed", "text/plain", &form("other"), 200, "Hook rules were not satisfied.");
    let error = "Error occurred while executing the hook's command. Please check your logs for more details.";
    check("failing", JSON, r#"{"a":1}"#, 500, error);
    check("failing-output", JSON, r#"{"a":1}"#, 500, "no: 1");
    let head = check("elsewhere", JSON, r#"{"a":"z"}"#, 302, "look there");
    assert!(head.contains("location: /there"), "{head}");
    check("elsewhere", JSON, r#"{"a":"y"}"#, 500, "Hook rules were not satisfied.");
    let body = r#"{"file":"b25lLA==","deep":{"text":"two,"}}"#;
    check("files", JSON, body, 200, &format!("one,two,{body}"));
}
