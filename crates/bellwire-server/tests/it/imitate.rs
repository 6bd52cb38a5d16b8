//! `bellwire imitate`: a source tried out before its sender knows it.

use crate::program::{Program, run};
use serde_json::{Value, json};
use std::path::Path;

fn source(server: &Program, source: Value) -> String {
    let (status, made) = server.call("POST", "/source", source);
    assert_eq!(status, 201, "{made}");
    let url = made["listenerUrl"].as_str().unwrap();
    format!("http://{}{}", server.address, &url[url.find("/in/").unwrap()..])
}

/// What it prints, and whether it says that all went well.
fn imitate(folder: &Path, arguments: &[&str]) -> (bool, String) {
    let output = run(folder, &[&["imitate"], arguments].concat());
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

#[test]
fn a_source_takes_what_its_sender_would_send() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let github = source(&server, json!({"appId": "acme", "preset": "github", "secrets": ["a long enough secret"]}));
    let right = ["github", &github, "--secret", "a long enough secret", "--id", "d-1"];
    assert_eq!(imitate(folder.path(), &right), (true, "202\n".to_owned()));
    assert_eq!(imitate(folder.path(), &right), (true, "202 (a repeat of what came before)\n".to_owned()));
    let (accepted, text) = imitate(folder.path(), &["github", &github, "--secret", "another, also long enough"]);
    assert!(!accepted && text.starts_with("401"), "{text}");
    let old = [&right[..], &["--timestamp", "1"]].concat();
    assert!(imitate(folder.path(), &old).0, "GitHub signs no time");

    // A sender that signs its URL and the time; and one that its operator describes.
    let adyen =
        source(&server, json!({"appId": "acme", "preset": "adyen", "secrets": ["00112233445566778899AABBCCDDEEFF"]}));
    let (accepted, text) = imitate(folder.path(), &["adyen", &adyen, "--secret", "00112233445566778899AABBCCDDEEFF"]);
    assert!(accepted, "{text}");
    let known =
        json!({"appId": "acme", "preset": "square", "secrets": ["a long enough secret"], "url": "https://a.example/x"});
    let square = source(&server, known);
    let arguments = ["square", &square, "--secret", "a long enough secret"];
    assert!(!imitate(folder.path(), &arguments).0, "it is known under another URL");
    let (accepted, text) = imitate(folder.path(), &[&arguments[..], &["--as", "https://a.example/x"]].concat());
    assert!(accepted, "{text}");

    let recipe = json!({"verify": [{
        "signed": "{timestamp}.{body}",
        "signature": {"field": "header:X-Acme-Signature", "separator": ",", "entry": "v1"},
        "timestamp": {"field": "entry:t"},
    }], "event_type": ["json:type"]});
    let file = folder.path().join("recipe.json");
    std::fs::write(&file, recipe.to_string()).unwrap();
    let acme = source(&server, json!({"appId": "acme", "recipe": recipe, "secrets": ["a long enough secret"]}));
    let own = ["--recipe", file.to_str().unwrap(), &acme, "--secret", "a long enough secret"];
    assert_eq!(imitate(folder.path(), &own).1, "202\n");
    assert!(!imitate(folder.path(), &[&own[..], &["--timestamp", "1700000000"]].concat()).0, "too old");

    let (_, messages) = server.call("GET", "/app/acme/msg", json!(null));
    let types: Vec<&str> =
        messages["data"].as_array().unwrap().iter().map(|m| m["eventType"].as_str().unwrap()).collect();
    assert_eq!(types, ["sample", "payment.created", "AUTHORISATION", "push"]);
}

#[test]
fn what_cannot_be_imitated_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
    for (arguments, says) in [
        (&["discord", "http://127.0.0.1:1/in/x", "--secret", public][..], "only the sender has the key"),
        (&["nobody", "http://127.0.0.1:1/in/x"], "bellwire source presets"),
        (&["github", "http://127.0.0.1:1/in/x"], "secrets: there must be one"),
        (&["github", "http://127.0.0.1:1/in/x", "--secret", "short"], "it can be guessed"),
        (&["github", "http://127.0.0.1:1/in/x", "--secret", "a long enough secret", "--set", "a=b"], "settings.a"),
        (&["github", "http://127.0.0.1:1/in/x", "--secret", "a long enough secret"], "no answer from the source"),
    ] {
        let (done, text) = imitate(folder.path(), arguments);
        assert!(!done && text.contains(says), "{arguments:?}: {text}");
    }
    let (done, text) =
        imitate(folder.path(), &["github", "http://127.0.0.1:1/in/x", "--secret", "a long enough secret", "--dry-run"]);
    assert!(
        done && text.starts_with("POST http://127.0.0.1:1/in/x\n") && text.contains("X-Hub-Signature-256: sha256="),
        "{text}"
    );
}
