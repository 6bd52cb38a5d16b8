//! Plugins of every kind, from the message to the attempt in the log.

use crate::program::{Program, eventually, ledger, run};
use crate::receiver::Receiver;
use serde_json::{Value, json};
use std::path::Path;

/// A server with an application, which allows the programs of `/bin`.
pub(crate) fn serve(folder: &Path) -> Program {
    // A debug build on a busy machine is slow.
    let environment = [("BELLWIRE_PLUGINS_COMMANDS", "/bin,/usr/bin"), ("BELLWIRE_PLUGINS_COMPUTE_MAX", "1s")];
    Program::start(folder, &environment)
}

pub(crate) fn start(folder: &Path) -> Program {
    let server = serve(folder);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    server
}

/// An endpoint that takes messages of the event type that is its own name.
pub(crate) fn install(server: &Program, uid: &str, plugin: Value) {
    let endpoint = json!({"uid": uid, "kind": "plugin", "plugin": plugin, "filterTypes": [uid]});
    let (status, body) = server.call("POST", "/app/acme/endpoint", endpoint);
    assert_eq!(status, 201, "{uid}: {body}");
}

pub(crate) fn event_types(server: &Program, names: &[&str]) {
    for name in names {
        assert_eq!(server.call("POST", "/event-type", json!({"name": name, "description": "of a test"})).0, 201);
    }
}

pub(crate) fn send(server: &Program, event_type: &str, payload: Value) -> String {
    let (status, message) = server.call("POST", "/app/acme/msg", json!({"eventType": event_type, "payload": payload}));
    assert_eq!(status, 202, "{message}");
    message["id"].as_str().unwrap().to_owned()
}

/// The attempts of a message, the newest first, once there are `count`.
pub(crate) fn attempts(server: &Program, message: &str, count: usize) -> Vec<Value> {
    eventually("the attempts are recorded", || {
        let (_, page) = server.call("GET", &format!("/app/acme/attempt/msg/{message}"), json!(null));
        let all = page["data"].as_array()?;
        (all.len() == count).then(|| all.clone())
    })
}

#[test]
fn each_kind_runs_and_its_output_is_in_the_log() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    event_types(&server, &["js", "cmd", "fail", "drop", "made"]);
    install(
        &server,
        "js",
        json!({"runs": "javascript", "script": "export function handle(event, ctx) {\n  console.log('saw', event.payload.id)\n  ctx.emit('made', { from: event.id })\n  return event.type\n}"}),
    );
    install(
        &server,
        "made",
        json!({"runs": "javascript", "script": "const handle = (event, ctx) => ctx.emit('made', event.payload)"}),
    );
    install(
        &server,
        "cmd",
        json!({"runs": "command", "program": "/bin/sh", "args": ["-c", "echo \"$1\"; cat", "sh", "{{payload.id}}"]}),
    );
    install(
        &server,
        "fail",
        json!({"runs": "command", "program": "/bin/sh", "args": ["-c", "echo sorry; exit $1", "sh", "{{payload.code}}"]}),
    );
    install(
        &server,
        "drop",
        json!({"runs": "javascript", "script": "const handle = (e, ctx) => ctx.drop('not mine')"}),
    );

    let js = attempts(&server, &send(&server, "js", json!({"id": 7})), 1);
    assert_eq!(
        (&js[0]["response"], &js[0]["responseStatusCode"], &js[0]["url"]),
        (&json!("js\nsaw 7\n"), &json!(200), &json!("plugin:javascript"))
    );
    let command = attempts(&server, &send(&server, "cmd", json!({"id": "a;b"})), 1);
    assert_eq!(command[0]["response"], "a;b\n{\"id\":\"a;b\"}");
    // 65 ends at once; 1 is tried again by the schedule.
    let ended = attempts(&server, &send(&server, "fail", json!({"code": 65})), 1);
    assert!(ended[0]["response"].as_str().unwrap().ends_with("end now\nsorry\n"), "{ended:?}");
    let failed = attempts(&server, &send(&server, "fail", json!({"code": 1})), 4);
    assert_eq!(
        (&failed[0]["status"], &failed[0]["response"]),
        (&json!(2), &json!("the program exited with 1\nsorry\n"))
    );
    let dropped = attempts(&server, &send(&server, "drop", json!({})), 1);
    assert_eq!(dropped[0]["response"], "not mine");
    // Emitted ones emit on, until the chain is cut.
    eventually("the chain ends", || {
        let sum = ledger(folder.path());
        (sum["ended"]["aborted"] == 1
            && sum["ended"]["cancelled"] == 1
            && sum["ended"]["exhausted"] == 2
            && sum["pending"] == 0)
            .then_some(())
    });
    let (_, emitted) = server.call("GET", "/app/acme/msg?event_types=made&limit=50", json!(null));
    let emitted = emitted["data"].as_array().unwrap().clone();
    assert!((2..=10).contains(&emitted.len()), "{emitted:?}");
    assert!(emitted.iter().all(|message| message["payload"]["from"].as_str().unwrap().starts_with("msg_")));
    assert!(server.stop().success());
}

#[test]
fn what_cannot_run_is_refused_with_its_place() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let check = |plugin: Value, place: &[&str], text: &str| {
        let (status, body) = server.call("POST", "/app/acme/endpoint", json!({"kind": "plugin", "plugin": plugin}));
        let loc: Vec<&str> = ["body", "plugin"].iter().chain(place).copied().collect();
        assert_eq!((status, &body["detail"][0]["loc"]), (422, &json!(loc)), "{body}");
        assert!(body["detail"][0]["msg"].as_str().unwrap().contains(text), "{body}");
    };
    check(json!({"runs": "command", "program": "/etc/passwd"}), &["program"], "plugins.commands");
    check(json!({"runs": "command", "program": "/bin/true", "trusted": true}), &["trusted"], "only the operator");
    check(json!({"runs": "command", "program": "/bin/true", "args": ["{{payload"]}), &["args", "0"], "lacks its }}");
    check(json!({"runs": "javascript", "script": "let a = 1"}), &["script"], "a function named handle");
    check(json!({"runs": "javascript", "scirpt": ""}), &["scirpt"], "unknown field");
}

#[test]
fn one_that_loops_or_swells_costs_its_own_lane_only() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    event_types(&server, &["loops", "swells", "garbage", "works"]);
    install(&server, "loops", json!({"runs": "javascript", "script": "const handle = () => { for (;;) {} }"}));
    install(
        &server,
        "swells",
        json!({"runs": "javascript", "script": "const handle = () => { const a = []; for (;;) a.push(new Uint8Array(1e6)) }"}),
    );
    install(
        &server,
        "garbage",
        json!({"runs": "javascript", "script": "const handle = (e, ctx) => ctx.respond({ status: 'yes' })"}),
    );
    install(&server, "works", json!({"runs": "javascript", "script": "const handle = event => event.payload.n"}));
    let bad: Vec<String> = ["loops", "swells", "garbage"].map(|name| send(&server, name, json!({}))).into();
    for n in 0..20 {
        let message = send(&server, "works", json!({ "n": n }));
        assert_eq!(attempts(&server, &message, 1)[0]["response"], n.to_string());
    }
    for (message, text) in bad.iter().zip(["computed for longer than 1s", "", "status"]) {
        let (_, kept) = server.call("GET", &format!("/app/acme/msg/{message}"), json!(null));
        assert_eq!(kept["id"], **message);
        let failed = attempts(&server, message, 4);
        assert!(failed[0]["response"].as_str().unwrap().contains(text), "{failed:?}");
    }
}

#[test]
fn one_that_swells_costs_no_more_than_its_bound() {
    const BOUND: u64 = 128 << 20;
    let folder = tempfile::tempdir().unwrap();
    let environment = [("BELLWIRE_PLUGINS_MEMORY_MAX", "128MiB"), ("BELLWIRE_PLUGINS_COMPUTE_MAX", "5s")];
    let server = Program::start(folder.path(), &environment);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    event_types(&server, &["works", "swells"]);
    install(&server, "works", json!({"runs": "javascript", "script": "const handle = event => event.payload.n"}));
    let swells = "const handle = () => { const a = []; for (;;) a.push(new Uint8Array(1e6).fill(1)) }";
    let plugin = json!({"runs": "javascript", "script": swells});
    let endpoint = json!({"kind": "plugin", "plugin": plugin, "filterTypes": ["swells"], "retrySchedule": []});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    let message = send(&server, "works", json!({"n": 1}));
    attempts(&server, &message, 1);
    let before = server.resident_bytes();
    let grown = || {
        let message = send(&server, "swells", json!({}));
        let failed = attempts(&server, &message, 1);
        assert!(failed[0]["response"].as_str().unwrap().contains("memory"), "{failed:?}");
        server.resident_bytes_at_most() - before
    };
    let first = grown();
    assert!(first > BOUND / 2, "it held no more than {first} bytes: this test sees nothing");
    assert!(first < BOUND + BOUND / 5, "{first} bytes more, of {BOUND}");
    // Of the two threads, each may keep what it once had for its next run; many runs make no more of it.
    let last = (0..6).map(|_| grown()).max().unwrap();
    assert!(last < 2 * BOUND + BOUND / 5, "{last} bytes more, of twice {BOUND}");
}

/// Whether a process runs; one that has ended and that nobody has looked at does not.
fn runs(id: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.trim_start().starts_with(['Z', 'X']))
}

#[test]
fn programs_end_with_a_server_that_is_killed_and_run_again_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let told = folder.path().join("told");
    let server = start(folder.path());
    event_types(&server, &["slow"]);
    let script = format!(
        "(trap '' TERM; sleep 600) & echo $$ $! >> {}; [ -e {}.go ] && exit 0; sleep 600",
        told.display(),
        told.display()
    );
    install(
        &server,
        "slow",
        json!({"runs": "command", "program": "/bin/sh", "args": ["-c", script], "timeout_ms": 600_000}),
    );
    let message = send(&server, "slow", json!({}));
    let ids = eventually("it runs", || {
        let ids: Vec<String> = std::fs::read_to_string(&told).ok()?.split_whitespace().map(str::to_owned).collect();
        (ids.len() == 2).then_some(ids)
    });
    assert!(ids.iter().all(|id| runs(id)));
    server.kill();
    eventually("the whole group has ended", || (!ids.iter().any(|id| runs(id))).then_some(()));
    // The delivery was never finished: the next server makes the attempt again.
    std::fs::write(format!("{}.go", told.display()), "").unwrap();
    let server = serve(folder.path());
    assert_eq!(attempts(&server, &message, 1)[0]["responseStatusCode"], 200);
}

#[test]
fn a_sender_that_waits_gets_the_plugins_answer() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    event_types(&server, &["ask"]);
    install(
        &server,
        "ask",
        json!({"runs": "javascript", "script": "const handle = (e, ctx) => ctx.respond({ body: { decision: 'deny', why: e.payload.name } })"}),
    );
    let (status, answer) =
        server.call("POST", "/app/acme/msg?wait=20", json!({"eventType": "ask", "payload": {"name": "Ada"}}));
    assert_eq!((status, &answer["answer"]["decision"]), (202, &json!("deny")), "{answer}");
    assert!(answer["answer"]["body"].as_str().unwrap().contains("Ada"), "{answer}");
}

#[test]
fn nobody_waits_for_a_plugin_that_has_ended_the_delivery_without_an_answer() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    event_types(&server, &["dropped", "failed"]);
    install(
        &server,
        "dropped",
        json!({"runs": "javascript", "script": "const handle = (e, ctx) => ctx.drop('not mine')"}),
    );
    install(&server, "failed", json!({"runs": "javascript", "script": "const handle = (e, ctx) => ctx.fail('bad')"}));
    for event_type in ["dropped", "failed"] {
        let message = json!({"eventType": event_type, "payload": {}});
        let (status, answer) = server.call("POST", "/app/acme/msg?wait=4&fallback=deny", message);
        assert_eq!((status, &answer["answer"]["decision"]), (202, &json!("deny")), "{answer}");
        let why = answer["answer"]["fallback"].as_str().unwrap();
        assert!(why.contains("ended without an answer"), "{event_type}: {why}");
    }
}

#[test]
fn a_row_is_written_once_and_a_note_arrives() {
    let folder = tempfile::tempdir().unwrap();
    let database = folder.path().join("shop.db");
    let rows = || {
        let opened = rusqlite::Connection::open(&database).unwrap();
        opened.query_row("SELECT count(*) || ' ' || max(note) FROM paid", [], |row| row.get::<_, String>(0)).unwrap()
    };
    rusqlite::Connection::open(&database)
        .unwrap()
        .execute_batch("CREATE TABLE paid (id TEXT PRIMARY KEY, note TEXT NOT NULL)")
        .unwrap();
    let named = format!("shop=sqlite:{}", database.display());
    let server = Program::start(folder.path(), &[("BELLWIRE_PLUGINS_DATABASES", &named)]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    event_types(&server, &["paid", "told"]);
    let insert =
        "INSERT INTO paid VALUES ({{dedupe}}, {{payload.note}}) ON CONFLICT (id) DO UPDATE SET note = excluded.note";
    install(&server, "paid", json!({"runs": "sql", "connection": "shop", "statements": [insert]}));
    let message = send(&server, "paid", json!({"note": "'); DROP TABLE paid; --"}));
    assert_eq!(attempts(&server, &message, 1)[0]["response"], "1 row");
    let (status, _) = server.call("POST", &format!("/app/acme/msg/{message}/endpoint/paid/resend"), json!(null));
    assert_eq!(status, 202);
    attempts(&server, &message, 2);
    assert_eq!(rows(), "1 '); DROP TABLE paid; --");
    // A constraint never gives way: the delivery ends, and the attempt says why.
    let refused = attempts(&server, &send(&server, "paid", json!({})), 1);
    assert!(refused[0]["response"].as_str().unwrap().contains("NOT NULL"), "{refused:?}");

    let chat = Receiver::answering(&[200]);
    let note = json!({"runs": "notify", "via": "slack", "webhook_url": chat.url(), "text": "{{payload.who}} joined"});
    install(&server, "told", note);
    let (_, shown) = server.call("GET", "/app/acme/endpoint/told", json!(null));
    assert_eq!(shown["plugin"]["webhook_url"], "***");
    send(&server, "told", json!({"who": "Ada"}));
    assert_eq!(chat.next().body, br#"{"text":"Ada joined"}"#);
    eventually("all is recorded", || (ledger(folder.path())["pending"] == 0).then_some(()));
}

#[test]
fn a_burst_of_notes_is_one_sum_when_its_window_ends_and_delivered_only_then() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    event_types(&server, &["told"]);
    let chat = Receiver::answering(&[200]);
    let digest = json!({"window_ms": 8_000, "at_most": 2, "text": "{{count}} more"});
    let note =
        json!({"runs": "notify", "via": "slack", "webhook_url": chat.url(), "text": "{{payload.n}}", "digest": digest});
    install(&server, "told", note);
    for n in 0..200 {
        send(&server, "told", json!({"n": n}));
    }
    for _ in 0..2 {
        chat.next();
    }
    eventually("two are delivered", || (ledger(folder.path())["delivered"] == 2).then_some(()));
    assert_eq!(chat.next().body, br#"{"text":"198 more"}"#);
    eventually("all are delivered", || (ledger(folder.path())["delivered"] == 200).then_some(()));
}

#[test]
fn a_module_is_installed_granted_swapped_rolled_back_and_tried() {
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let server = start(data);
    event_types(&server, &["deploy"]);
    let url = format!("http://{}", server.address);
    let plugin = |url: &str, arguments: &[&str]| {
        let output = run(data, &[&["plugin", "--url", url], arguments].concat());
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    let file = data.join("deploy.js");
    let file = file.to_str().unwrap();
    std::fs::write(file, "// @permission fetch api.example.com\nexport const handle = () => 'one'").unwrap();
    let (added, text) = plugin(&url, &["add", file]);
    assert!(added && text.contains("fetch api.example.com") && text.contains("none runs"), "{text}");
    install(&server, "deploy", json!({"runs": "javascript", "module": "deploy"}));
    let said = |server: &Program, count| {
        attempts(server, &send(server, "deploy", json!({})), count)[0]["response"].as_str().unwrap().to_owned()
    };
    assert!(said(&server, 4).contains("bellwire plugin grant deploy"));
    assert!(plugin(&url, &["grant", "deploy"]).0);
    assert_eq!(said(&server, 1), "one");
    std::fs::write(file, "function handle(").unwrap();
    let (added, text) = plugin(&url, &["add", file]);
    assert!(!added && text.contains("SyntaxError"), "{text}");
    std::fs::write(file, "// @permission emit\nexport const handle = (e, ctx) => { ctx.emit('x', 1); return 'two' }")
        .unwrap();
    assert!(plugin(&url, &["add", file, "--grant"]).0);
    assert_eq!(said(&server, 1), "two");
    let (rolled_back, text) = plugin(&url, &["rollback", "deploy"]);
    assert!(rolled_back, "{text}");
    assert_eq!(said(&server, 1), "one");
    let message = send(&server, "deploy", json!({}));
    let (worked, text) = plugin(&url, &["test", file, "--message", &message, "--application", "acme"]);
    assert!(worked && text.starts_with("ack after") && text.contains("two\nemitted x: 1"), "{text}");
    let (removed, text) = plugin(&url, &["remove", "deploy"]);
    assert!(!removed && text.contains("runs it"), "{text}");
    // What was rolled back stays so, here and in a copy.
    let copy = tempfile::tempdir().unwrap();
    let copied = run(data, &["backup", copy.path().join("copy").to_str().unwrap()]);
    assert!(copied.status.success(), "{copied:?}");
    assert!(server.stop().success());
    for place in [data, &copy.path().join("copy")] {
        let server = serve(place);
        let url = format!("http://{}", server.address);
        let listed = run(place, &["plugin", "--url", &url, "list"]);
        assert!(String::from_utf8_lossy(&listed.stdout).contains("  runs  fetch api.example.com"), "{listed:?}");
        assert_eq!(said(&server, 1), "one");
        assert_eq!(server.call("DELETE", "/app/acme/endpoint/deploy", json!(null)).0, 204);
        assert!(run(place, &["plugin", "--url", &url, "remove", "deploy"]).status.success());
    }
}

#[test]
fn a_plugin_is_given_what_its_endpoint_makes_of_the_message() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    event_types(&server, &["shaped"]);
    let script = "export const handle = event => [event.payload, event.contentType]";
    install(&server, "shaped", json!({"runs": "javascript", "script": script}));
    let code = "function handler(webhook) {\n  if (webhook.payload.skip) webhook.cancel = true\n  if (webhook.payload.away) webhook.url = 'https://example.com/'\n  \
                webhook.payload = { doubled: webhook.payload.n * 2 }\n  return webhook\n}";
    let path = "/app/acme/endpoint/shaped/transformation";
    assert_eq!(server.call("PATCH", path, json!({"code": code, "enabled": true})).0, 204);
    let response = |payload: Value, count: usize| {
        let all = attempts(&server, &send(&server, "shaped", payload), count);
        all[0]["response"].as_str().unwrap().to_owned()
    };
    assert_eq!(response(json!({"n": 21}), 1), r#"[{"doubled":42},"application/json"]"#);
    assert_eq!(response(json!({"skip": true}), 1), "the endpoint's transformation cancelled this message");
    // Tried again by the schedule, like everything that a script gets wrong.
    assert!(response(json!({"away": true}), 4).contains("gave a URL, which means nothing"));
    assert_eq!(server.call("PATCH", "/app/acme/endpoint/shaped", json!({"format": "xml"})).0, 200);
    assert_eq!(response(json!({"n": 1}), 1), r#"[{"payload":{"doubled":"2"}},"application/xml"]"#);
    assert!(server.stop().success());
}

#[test]
fn a_module_is_its_organisations_alone() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let token = |arguments: &[&str]| {
        let output = run(folder.path(), &[&["token"], arguments].concat());
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    };
    let ask = |token: &str, method: &str, path: &str, body: Value| {
        let body = body.to_string();
        let (status, text) = server.raw(&format!(
            "{method} /api/v1{path} HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {token}\r\nconnection: close\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        ));
        (status, serde_json::from_str(&text).unwrap_or(Value::Null))
    };
    let (own, other) = (server.token.clone(), token(&["--organisation", "org_other"]));
    let module = |code: &str| json!({"name": "deploy", "code": code});
    assert_eq!(ask(&own, "POST", "/plugin", module("const handle = () => 'own'")).0, 200);

    // Another organisation sees nothing of it and changes nothing.
    let none = json!({"data": []});
    assert_eq!(ask(&other, "GET", "/plugin", json!(null)), (200, none));
    assert_eq!(ask(&other, "POST", "/plugin/deploy/grant", json!({})).0, 404);
    assert_eq!(ask(&other, "POST", "/plugin/deploy/rollback", json!({"version": 1})).0, 404);
    assert_eq!(ask(&other, "DELETE", "/plugin/deploy", json!(null)).0, 404);
    assert_eq!(ask(&other, "POST", "/app", json!({"name": "Other", "uid": "other"})).0, 201);
    let endpoint = json!({"uid": "js", "plugin": {"runs": "javascript", "module": "deploy"}});
    let (status, refused) = ask(&other, "POST", "/app/other/endpoint", endpoint.clone());
    assert_eq!((status, &refused["detail"][0]["loc"]), (422, &json!(["body", "plugin", "module"])), "{refused}");

    // A token of an application changes none at all.
    let (_, application) = server.call("GET", "/app/acme", json!(null));
    let portal = token(&["--application", application["id"].as_str().unwrap()]);
    for (method, path, body) in [
        ("GET", "/plugin", json!(null)),
        ("POST", "/plugin", module("const handle = () => 'portal'")),
        ("POST", "/plugin/deploy/grant", json!({"fetch": ["a.example"]})),
        ("DELETE", "/plugin/deploy", json!(null)),
    ] {
        assert_eq!(ask(&portal, method, path, body).0, 403, "{method} {path}");
    }

    // The same name is another module elsewhere, and each runs its own.
    assert_eq!(ask(&other, "POST", "/plugin", module("const handle = () => 'other'")).0, 200);
    for (token, app, said) in [(&own, "acme", "own"), (&other, "other", "other")] {
        assert_eq!(ask(token, "POST", &format!("/app/{app}/endpoint"), endpoint.clone()).0, 201);
        let (status, message) =
            ask(token, "POST", &format!("/app/{app}/msg"), json!({"eventType": "a.b", "payload": {}}));
        assert_eq!(status, 202, "{message}");
        let path = format!("/app/{app}/attempt/msg/{}", message["id"].as_str().unwrap());
        let heard = eventually("the attempt is recorded", || {
            ask(token, "GET", &path, json!(null)).1["data"][0]["response"].as_str().map(str::to_owned)
        });
        assert_eq!(heard, said);
    }
    // One that an endpoint runs stays; whether others' endpoints run theirs does not matter.
    let (status, refused) = ask(&other, "DELETE", "/plugin/deploy", json!(null));
    assert_eq!(status, 422, "{refused}");
    assert_eq!(ask(&other, "DELETE", "/app/other/endpoint/js", json!(null)).0, 204);
    assert_eq!(ask(&other, "DELETE", "/plugin/deploy", json!(null)).0, 204);
    assert_eq!(ask(&own, "GET", "/plugin", json!(null)).1["data"][0]["name"], "deploy");
    assert!(server.stop().success());
}

#[test]
fn what_an_endpoint_names_is_reached_by_the_proxy_or_refused() {
    use std::io::{BufRead, BufReader};
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let (sender, asked) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        for stream in proxy.incoming().map_while(Result::ok) {
            let mut line = String::new();
            let _ = BufReader::new(stream).read_line(&mut line);
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let folder = tempfile::tempdir().unwrap();
    let environment = [("BELLWIRE_EGRESS_PROXY", url.as_str()), ("BELLWIRE_EGRESS_NO_PROXY", "direct.example")];
    let server = Program::start(folder.path(), &environment);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let create = |plugin: Value| server.call("POST", "/app/acme/endpoint", json!({"kind": "plugin", "plugin": plugin}));
    let mail = |host: &str| json!({"runs": "notify", "via": "email", "from": "bell@a.example", "to": ["b@a.example"], "subject": "s", "text": "t", "smtp": {"host": host}});
    let refused = |(status, body): (u16, Value), place: &[&str]| {
        let loc: Vec<&str> = ["body", "plugin"].iter().chain(place).copied().collect();
        assert_eq!((status, &body["detail"][0]["loc"]), (422, &json!(loc)), "{body}");
        assert!(body["detail"][0]["msg"].as_str().unwrap().contains("egress.no_proxy"), "{body}");
    };
    refused(create(mail("mail.example")), &["smtp", "host"]);
    assert_eq!(create(mail("direct.example")).0, 201);
    if cfg!(feature = "nats") {
        let nats = |url: &str| json!({"runs": "queue", "broker": "nats", "url": url, "subject": "a"});
        refused(create(nats("nats://queue.example")), &["url"]);
        assert_eq!(create(nats("nats://direct.example")).0, 201);
        let taken = |url: &str| {
            let queue = json!({"broker": "nats", "url": url, "stream": "s"});
            server.call("POST", "/source", json!({"name": url, "appId": "acme", "queue": queue, "disabled": true}))
        };
        let (status, body) = taken("nats://queue.example");
        assert_eq!((status, &body["detail"][0]["loc"]), (422, &json!(["body", "queue", "url"])), "{body}");
        let (status, body) = taken("nats://direct.example");
        assert_eq!(status, 201, "{body}");
    }
    event_types(&server, &["sql", "redis"]);
    let sql = json!({"runs": "sql", "dsn": "postgres://u:p@db.example/x", "statements": ["SELECT 1"]});
    install(&server, "sql", sql);
    send(&server, "sql", json!({}));
    let heard = || asked.recv_timeout(std::time::Duration::from_secs(30)).unwrap();
    assert!(heard().starts_with("CONNECT db.example:5432 "));
    if cfg!(feature = "redis") {
        let redis = json!({"runs": "queue", "broker": "redis", "url": "redis://cache.example", "stream": "a"});
        install(&server, "redis", redis);
        send(&server, "redis", json!({}));
        // The database's attempts go on meanwhile.
        assert!((0..20).any(|_| heard().starts_with("CONNECT cache.example:6379 ")));
    }
}

#[test]
fn a_module_from_a_url_is_installed() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let place = Receiver::saying(|arrival| match arrival.request.starts_with("GET /there.js ") {
        true => (200, "export const handle = () => 'from there'".to_owned()),
        false => (404, "function handle() { return 'the page that says that there is none' }".to_owned()),
    });
    let add = |path: &str| {
        let (url, there) = (format!("http://{}", server.address), format!("http://{}{path}", place.address));
        let output = run(folder.path(), &["plugin", "--url", &url, "add", &there, "--name", "there"]);
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    let (added, text) = add("/gone.js");
    assert!(!added && text.contains("404"), "{text}");
    assert_eq!(server.call("GET", "/plugin", json!(null)).1["data"], json!([]));
    let (added, text) = add("/there.js");
    assert!(added, "{text}");
    event_types(&server, &["came"]);
    install(&server, "came", json!({"runs": "javascript", "module": "there"}));
    assert_eq!(attempts(&server, &send(&server, "came", json!({})), 1)[0]["response"], "from there");
}

#[test]
fn nothing_is_lost_or_run_twice_while_a_module_is_swapped() {
    const COUNT: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    event_types(&server, &["flows"]);
    let add = |version: usize| {
        let code = format!("function handle() {{ return 'version {version}' }}");
        assert_eq!(server.call("POST", "/plugin", json!({"name": "flow", "code": code})).0, 200);
    };
    add(0);
    install(&server, "flows", json!({"runs": "javascript", "module": "flow"}));
    let swaps = std::thread::scope(|scope| {
        let sending = scope.spawn(|| (0..COUNT).for_each(|n| drop(send(&server, "flows", json!({"n": n})))));
        let mut swaps = 0;
        while !sending.is_finished() {
            swaps += 1;
            add(swaps);
        }
        swaps
    });
    let sum = eventually("all have run", || Some(ledger(folder.path())).filter(|sum| sum["pending"] == 0));
    assert_eq!((&sum["accepted"], &sum["delivered"]), (&json!(COUNT), &json!(COUNT)));
    let (mut said, mut iterator) = (Vec::new(), String::new());
    loop {
        let (_, page) =
            server.call("GET", &format!("/app/acme/attempt/endpoint/flows?limit=250{iterator}"), json!(null));
        let all = page["data"].as_array().unwrap();
        said.extend(all.iter().map(|attempt| attempt["response"].as_str().unwrap().to_owned()));
        if page["done"] == true {
            break;
        }
        iterator = format!("&iterator={}", page["iterator"].as_str().unwrap());
    }
    assert_eq!(said.len(), COUNT, "each ran once");
    let version = |text: &String| text.strip_prefix("version ").and_then(|number| number.parse::<usize>().ok());
    let versions: std::collections::BTreeSet<_> = said.iter().map(|text| version(text).expect("a version")).collect();
    assert!(versions.len() > 1 && versions.last() <= Some(&swaps), "{versions:?} of {swaps}");
}

#[test]
fn many_installed_plugins_cost_little() {
    const COUNT: usize = 300;
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let run_all = |from: usize, to: usize| {
        for n in from..to {
            let code = format!("const own = 'number {n}'; function handle() {{ return own }}");
            assert_eq!(server.call("POST", "/plugin", json!({"name": format!("own-{n}"), "code": code})).0, 200);
            let name = format!("plugin.n{n}");
            event_types(&server, &[&name]);
            install(&server, &name, json!({"runs": "javascript", "module": format!("own-{n}")}));
            let message = send(&server, &name, json!({}));
            assert_eq!(attempts(&server, &message, 1)[0]["response"], format!("number {n}"));
        }
    };
    // What all of them share is there with the first few.
    run_all(0, 10);
    let before = server.resident_bytes();
    run_all(10, 10 + COUNT);
    let each = server.resident_bytes().saturating_sub(before) / COUNT as u64;
    assert!(each < 512 << 10, "each costs {each} bytes");
}

#[test]
fn a_plugin_has_a_filter_an_order_retries_and_a_rate_as_a_push_has() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let script = "function handle(event) {
        console.log(event.payload.n + '/' + event.attempt)
        if (event.payload.n === 1 && event.attempt === 1) throw new Error('not yet')
    }";
    let endpoint = |uid: &str, more: Value| {
        let mut endpoint = json!({"uid": uid, "kind": "plugin", "plugin": {"runs": "javascript", "script": script}, "channels": [uid]});
        endpoint.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let (status, answer) = server.call("POST", "/app/acme/endpoint", endpoint);
        assert_eq!(status, 201, "{answer}");
    };
    endpoint("ordered", json!({"filter": "payload.n < 100", "fifo": true, "retrySchedule": [1]}));
    endpoint("slow", json!({"throttleRate": 4}));
    let post = |channel: &str, n: u32| {
        let body = json!({"eventType": "a.b", "channels": [channel], "payload": {"n": n}});
        assert_eq!(server.call("POST", "/app/acme/msg", body).0, 202);
    };
    // Oldest first.
    let log = |endpoint: &str, count: usize| {
        eventually("they have run", || {
            let (_, page) =
                server.call("GET", &format!("/app/acme/attempt/endpoint/{endpoint}?limit=250"), json!(null));
            let mut all = page["data"].as_array()?.clone();
            all.reverse();
            (all.len() >= count).then_some(all)
        })
    };
    for n in [0, 1, 100, 2, 3] {
        post("ordered", n);
    }
    let ran: Vec<_> = log("ordered", 5)
        .iter()
        .map(|one| one["response"].as_str().unwrap().lines().last().unwrap().to_owned())
        .collect();
    let expected = ["0/1", "1/1", "1/2", "2/1", "3/1"];
    assert!(ran.iter().zip(expected).all(|(ran, expected)| ran.contains(expected) || expected == "1/1"), "{ran:?}");
    assert_eq!(ran.len(), 5, "what the filter does not take has no attempt");
    (0..12).filter(|n| *n != 1).for_each(|n| post("slow", n));
    let times: Vec<jiff::Timestamp> =
        log("slow", 11).iter().map(|one| one["timestamp"].as_str().unwrap().parse().unwrap()).collect();
    let took = times.last().unwrap().as_millisecond() - times[0].as_millisecond();
    // A second's worth may come at once, and the rest at four in a second.
    assert!(took >= 1_500, "eleven at four in a second took {took} ms");
}
