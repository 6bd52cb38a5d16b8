//! Plugins in WebAssembly, from the file to the attempt in the log. `scripts/test wasm` builds the components and runs what needs them.

use crate::plugins::start;
#[cfg(feature = "wasm")]
use crate::{
    plugins::{attempts, event_types, install, send, serve},
    program::{Program, eventually, ledger, run},
};
#[cfg(feature = "wasm")]
use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::{Value, json};
#[cfg(feature = "wasm")]
use std::{
    path::PathBuf,
    sync::atomic::{AtomicUsize, Ordering},
};

#[test]
fn either_a_text_or_a_component_is_installed() {
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    let check = |body: Value, place: &str, text: &str| {
        let (status, answer) = server.call("POST", "/plugin", body);
        assert_eq!((status, &answer["detail"][0]["loc"]), (422, &json!(["body", place])), "{answer}");
        assert!(answer["detail"][0]["msg"].as_str().unwrap().contains(text), "{answer}");
    };
    check(json!({"name": "deploy"}), "code", "required");
    check(json!({"name": "deploy", "code": "", "component": ""}), "code", "not both");
    check(json!({"name": "deploy", "component": "?"}), "component", "base64");
}

#[cfg(feature = "wasm")]
#[test]
#[ignore = "needs components"]
fn a_component_is_installed_granted_and_run_and_what_harms_costs_its_own_lane() {
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the server")]
    let components = PathBuf::from(std::env::var_os("BELLWIRE_TEST_COMPONENTS").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let data = folder.path();
    let server = start(data);
    // A lane for each: what fails again and again slows its own down. The event type, what is done, and what is said of it.
    let harmful = [
        ("loop", "loop", "computed for longer"),
        ("memory", "memory", "wanted to hold more"),
        ("stack", "stack", "used up its stack"),
        ("trap", "trap", "on purpose"),
        ("status", "status 7", "status from 200 to 599"),
        ("emit", "emit-rubbish", "not JSON"),
    ];
    event_types(&server, &harmful.map(|(event_type, ..)| event_type));
    event_types(&server, &["works"]);
    let url = format!("http://{}", server.address);
    let plugin = |arguments: &[&str]| {
        let output = run(data, &[&["plugin", "--url", &url], arguments].concat());
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        (output.status.success(), text)
    };
    let file = |name: &str| components.join(name).with_extension("wasm").to_str().unwrap().to_owned();
    let (added, text) = plugin(&["add", &file("hostile")]);
    assert!(
        added && text.contains("fetch 127.0.0.1, environment REGION, respond, emit") && text.contains("none runs"),
        "{text}"
    );
    assert!(plugin(&["grant", "hostile"]).0);
    assert!(plugin(&["add", &file("limit"), "--grant"]).0);
    let (added, text) = plugin(&["add", &file("limit"), "--name", "broken-off", "--json"]);
    assert!(added && text.contains("\"runs\": \"wasm\""), "{text}");
    // One language may not take another's place.
    std::fs::write(data.join("limit.js"), "function handle() {}").unwrap();
    let (added, text) = plugin(&["add", data.join("limit.js").to_str().unwrap()]);
    assert!(!added && text.contains("is one for wasm"), "{text}");
    let wrong = json!({"kind": "plugin", "plugin": {"runs": "javascript", "module": "limit"}});
    let (status, body) = server.call("POST", "/app/acme/endpoint", wrong);
    assert_eq!((status, &body["detail"][0]["loc"]), (422, &json!(["body", "plugin", "module"])), "{body}");

    for (event_type, ..) in harmful {
        install(&server, event_type, json!({"runs": "wasm", "module": "hostile"}));
    }
    install(&server, "works", json!({"runs": "wasm", "module": "limit", "variables": {"limit": "5"}}));
    let sent = harmful.map(|(event_type, harm, _)| send(&server, event_type, json!({"harm": harm})));
    let healthy = attempts(&server, &send(&server, "works", json!({"amount": 5})), 1);
    assert_eq!(
        (&healthy[0]["response"], &healthy[0]["responseStatusCode"], &healthy[0]["url"]),
        (&json!("{\"allow\":true}\nallowed\n"), &json!(200), &json!("plugin:wasm"))
    );
    for (message, (_, harm, why)) in sent.iter().zip(harmful) {
        let all = attempts(&server, message, 4);
        let response = all[0]["response"].as_str().unwrap();
        assert!(response.contains(why) && response.contains(&format!("about to: {harm}")), "{harm}: {response}");
        assert_eq!(all[0]["status"], 2, "{harm}");
    }
    let (worked, text) = plugin(&["test", "hostile", "--message", &sent[3], "--application", "acme"]);
    assert!(!worked && text.starts_with("broken after") && text.contains("on purpose"), "{text}");
    eventually("all have ended", || {
        let sum = ledger(data);
        (sum["ended"]["exhausted"] == 6 && sum["pending"] == 0).then_some(())
    });
    // What is compiled is gone with the process; what is installed is not, and is compiled again before there is a message for it.
    for (event_type, ..) in harmful {
        let path = format!("/app/acme/endpoint/{event_type}");
        assert_eq!(server.call("PATCH", &path, json!({"disabled": true})).0, 200);
    }
    // One that two endpoints run is compiled once.
    event_types(&server, &["works-too"]);
    install(&server, "works-too", json!({"runs": "wasm", "module": "limit"}));
    assert!(server.stop().success());
    let server = serve(data);
    let compiled = "the components that enabled endpoints run are compiled";
    eventually("it is compiled", || server.has_said(compiled).then_some(()));
    let log = server.log();
    assert!(log.lines().any(|line| line.contains(compiled) && line.contains("\"count\":1,")), "{log}");
    let again = attempts(&server, &send(&server, "works", json!({"amount": 6})), 1);
    assert_eq!(again[0]["response"], "{\"allow\":false}\ndenied\n");
    assert!(server.stop().success());
}

#[cfg(feature = "wasm")]
#[test]
#[ignore = "needs components"]
fn nothing_is_lost_run_twice_or_half_swapped_while_a_component_is_swapped_and_rolled_back() {
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the server")]
    let components = PathBuf::from(std::env::var_os("BELLWIRE_TEST_COMPONENTS").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let server = start(folder.path());
    event_types(&server, &["flows"]);
    let limit = std::fs::read(components.join("limit.wasm")).unwrap();
    // Each says its number twice, at two places of its code: in what it answers and in what it logs.
    let install = |number: usize| {
        let mut bytes = limit.clone();
        for (text, other) in
            [("{\"allow\":true}", format!("{{\"allow\":{number:04}}}")), ("allowed", format!("run{number:04}"))]
        {
            let found: Vec<_> = (0..bytes.len()).filter(|at| bytes[*at..].starts_with(text.as_bytes())).collect();
            let [at] = found[..] else { panic!("{text} is there {} times", found.len()) };
            bytes[at..at + text.len()].copy_from_slice(other.as_bytes());
        }
        let body = json!({"name": "flow", "component": BASE64_STANDARD.encode(bytes)});
        let (status, answer) = server.call("POST", "/plugin", body);
        assert_eq!(status, 200, "{answer}");
    };
    let roll_back = |number: usize| {
        let (status, answer) = server.call("POST", "/plugin/flow/rollback", json!({"version": number}));
        assert_eq!((status, &answer["active"]), (200, &json!(number)), "{answer}");
    };
    install(1);
    assert_eq!(server.call("POST", "/plugin/flow/grant", json!({})).0, 200);
    let plugin = json!({"runs": "wasm", "module": "flow", "variables": {"limit": "5"}});
    crate::plugins::install(&server, "flows", plugin);
    let send = || send(&server, "flows", json!({"amount": 1}));
    let says = |number: usize| format!("{{\"allow\":{number:04}}}\nrun{number:04}\n");

    // What runs, in this order. Before each message of the flow: how many of them were in force by then.
    let order = [1, 2, 3, 2, 4, 1];
    let in_force = AtomicUsize::new(0);
    let sent = std::thread::scope(|scope| {
        let swapping = scope.spawn(|| {
            for (at, number) in order.into_iter().enumerate() {
                match order[..at].contains(&number) {
                    _ if at == 0 => {}
                    true => roll_back(number),
                    false => install(number),
                }
                in_force.store(at, Ordering::SeqCst);
                // From now on it is the only one, until the next one comes.
                for _ in 0..5 {
                    assert_eq!(attempts(&server, &send(), 1)[0]["response"], says(number));
                }
            }
        });
        let mut sent = Vec::new();
        while !swapping.is_finished() {
            let from = in_force.load(Ordering::SeqCst);
            sent.push((send(), from));
        }
        swapping.join().unwrap();
        sent
    });
    assert!(sent.len() > 5 * order.len(), "only {} messages flowed", sent.len());
    let sum = eventually("all have run", || Some(ledger(folder.path())).filter(|sum| sum["pending"] == 0));
    let all = json!(sent.len() + 5 * order.len());
    assert_eq!((&sum["accepted"], &sum["delivered"]), (&all, &all));
    for (message, from) in sent {
        let all = attempts(&server, &message, 1);
        let said = all[0]["response"].as_str().unwrap();
        assert!(order[from..].iter().any(|number| said == says(*number)), "{said} after {:?}", &order[..=from]);
    }
    assert!(server.stop().success());
}

#[cfg(feature = "wasm")]
#[test]
#[ignore = "needs components"]
fn a_component_from_a_hooks_file_is_taken_up_when_it_changes_and_the_old_one_runs_when_the_new_one_is_wrong() {
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the server")]
    let components = PathBuf::from(std::env::var_os("BELLWIRE_TEST_COMPONENTS").unwrap());
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| {
        std::fs::copy(components.join(name).with_extension("wasm"), folder.path().join("new")).unwrap();
        std::fs::rename(folder.path().join("new"), folder.path().join("handler.wasm")).unwrap();
    };
    let hooks = |permissions: &str| {
        let text = format!(
            "[plugins.handler]\nfile = \"handler.wasm\"\n{permissions}\n[endpoints.run]\napplication = \"acme\"\n\
             plugin = {{ runs = \"wasm\", module = \"handler\", variables = {{ limit = \"5\" }} }}\n"
        );
        std::fs::write(folder.path().join("hooks.new"), text).unwrap();
        std::fs::rename(folder.path().join("hooks.new"), folder.path().join("hooks.toml")).unwrap();
    };
    let said = |server: &Program, payload: Value| {
        attempts(server, &send(server, "came", payload), 1)[0]["response"].as_str().unwrap().to_owned()
    };
    place("limit");
    hooks("permissions = [\"respond\"]");
    let output = run(folder.path(), &["check", "hooks.toml"]);
    assert!(output.status.success(), "{output:?}");
    let environment = [("BELLWIRE_SERVER_HOOKS", "hooks.toml"), ("BELLWIRE_PLUGINS_COMPUTE_MAX", "1s")];
    let server = Program::start(folder.path(), &environment);
    assert_eq!(said(&server, json!({"amount": 5})), "{\"allow\":true}\nallowed\n");
    // One that is none.
    std::fs::write(folder.path().join("handler.wasm"), b"\0asm and no component").unwrap();
    eventually("it is told", || server.log().contains("hooks.toml:2: plugins.handler.file: ").then_some(()));
    assert_eq!(said(&server, json!({"amount": 6})), "{\"allow\":false}\ndenied\n");
    // One that wants more than it is granted.
    place("hostile");
    let wants = "it wants more than it is granted: fetch 127.0.0.1, environment REGION, respond, emit";
    eventually("it is told", || server.log().contains(wants).then_some(()));
    assert_eq!(said(&server, json!({"amount": 6})), "{\"allow\":false}\ndenied\n");
    hooks("permissions = [\"fetch 127.0.0.1\", \"environment REGION\", \"respond\", \"emit\"]");
    eventually("the new version runs", || {
        said(&server, json!({"harm": "nothing"})).contains("about to: nothing").then_some(())
    });
    assert!(server.stop().success());
    let server = Program::start(folder.path(), &environment);
    assert!(said(&server, json!({"harm": "nothing"})).contains("about to: nothing"));
    assert!(server.log().contains("0 created, 0 updated, 2 as they were, 0 removed"), "{}", server.log());
}
