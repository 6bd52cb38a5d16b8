//! What an endpoint makes of a message, seen from the receiver.

use crate::program::{Program, eventually, ledger};
use crate::receiver::{Arrival, Receiver};
use serde_json::{Value, json};

#[test]
fn an_endpoint_gets_only_what_its_filter_takes_and_the_ledger_knows() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let (rich, all) = (Receiver::answering(&[200]), Receiver::answering(&[200]));
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let endpoint = json!({"url": rich.url(), "uid": "rich", "filter": "payload.amount > 1000"});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    assert_eq!(server.call("POST", "/app/acme/endpoint", json!({"url": all.url(), "uid": "all"})).0, 201);
    let send = |server: &Program, payload| {
        let message = json!({"eventType": "invoice.paid", "payload": payload});
        assert_eq!(server.call("POST", "/app/acme/msg", message).0, 202);
    };
    // The second has no amount: the filter cannot say, which means no, and is counted.
    for payload in [json!({"amount": 1}), json!({"id": 2}), json!({"amount": 1001})] {
        send(&server, payload);
    }
    assert_eq!(rich.next().body, br#"{"amount":1001}"#);
    let metrics = server.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").1;
    assert!(metrics.contains("bellwire_filters_failed_total 1"), "{metrics}");
    eventually("all four are recorded", || {
        let sum = ledger(folder.path());
        (sum["accepted"] == 3 && sum["matched"] == 4 && sum["delivered"] == 4).then_some(())
    });
    // A crash forgets what was compiled, not what was written.
    server.kill();
    let server = Program::start(folder.path(), &[]);
    for payload in [json!({"amount": 2}), json!({"amount": 1002})] {
        send(&server, payload);
    }
    assert_eq!(rich.next().body, br#"{"amount":1002}"#);
}

/// What came of a message: its newest attempt, once there are `count`.
fn attempts(server: &Program, message: &str, count: usize) -> Value {
    eventually("the attempts are recorded", || {
        let (_, page) = server.call("GET", &format!("/app/acme/attempt/msg/{message}"), json!(null));
        (page["data"].as_array()?.len() == count).then(|| page["data"].clone())
    })
}

fn verified(server: &Program, endpoint: &str, arrival: &Arrival) {
    arrival.verify(&server.key_of(&format!("/app/acme/endpoint/{endpoint}")));
}

#[test]
fn a_transformation_decides_what_is_sent_and_that_is_what_is_signed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[("BELLWIRE_TRANSFORMATIONS_TIMEOUT", "2s")]);
    let receiver = Receiver::answering(&[200]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let endpoint = json!({"url": receiver.url(), "uid": "hooks", "headers": {"x-own": "a", "x-both": "a"}});
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
    let path = "/app/acme/endpoint/hooks/transformation";
    let transform = |code: &str| {
        let patch = json!({"code": code, "enabled": true, "variables": {"team": "red"}});
        assert_eq!(server.call("PATCH", path, patch).0, 204, "{code}");
    };
    let send = || {
        let message =
            json!({"eventType": "invoice.paid", "payload": {"id": 7}, "transformationsParams": {"to": "/deep"}});
        let (status, message) = server.call("POST", "/app/acme/msg", message);
        assert_eq!((status, &message["payload"]), (202, &json!({"id": 7})));
        message["id"].as_str().unwrap().to_owned()
    };

    transform(
        "function handler(webhook) {\n  webhook.method = 'PUT'; webhook.url += webhook.transformationsParams.to;\n  \
         webhook.headers = {'x-both': 'b', 'x-team': webhook.variables.team};\n  \
         webhook.payload = {number: webhook.payload.id, kind: webhook.eventType}; return webhook\n}",
    );
    let message = send();
    let arrival = receiver.next();
    assert_eq!(arrival.request, "PUT /hooks/deep HTTP/1.1");
    assert_eq!(arrival.body, br#"{"number":7,"kind":"invoice.paid"}"#);
    let header = |name: &str| arrival.headers[name].as_str();
    assert_eq!((header("x-own"), header("x-both"), header("x-team")), ("a", "b", "red"));
    assert_eq!(header("content-type"), "application/json");
    verified(&server, "hooks", &arrival);
    // The attempt shows where it went.
    assert_eq!(attempts(&server, &message, 1)[0]["url"], format!("{}/deep", receiver.url()));
    // The message is what was accepted.
    let (_, kept) = server.call("GET", &format!("/app/acme/msg/{message}"), json!(null));
    assert_eq!(kept["payload"], json!({"id": 7}));

    // One that throws is a failed attempt that says why, and is tried again by the schedule; nothing was sent.
    transform("function handler(webhook) {\n\n  throw new Error('not today')\n}");
    let failed = attempts(&server, &send(), 4);
    assert_eq!(failed[0]["response"], "the transformation failed: line 3: Error: not today");
    assert_eq!((&failed[0]["status"], &failed[0]["responseStatusCode"]), (&json!(2), &json!(0)));

    // One that cancels ends the delivery, with the reason in the ledger.
    transform("handler = webhook => ({ ...webhook, cancel: webhook.payload.id === 7 })");
    let message = send();
    let cancelled = attempts(&server, &message, 1);
    assert_eq!(cancelled[0]["response"], "the endpoint's transformation cancelled this message");
    // For clients that do not know of 4, it failed.
    assert_eq!(cancelled[0]["status"], 2);
    for (status, count) in [(4, 1), (0, 1)] {
        let path = format!("/app/acme/attempt/endpoint/hooks?expanded_statuses=true&status={status}");
        let (_, page) = server.call("GET", &path, json!(null));
        let page = page["data"].as_array().unwrap();
        assert_eq!(page.len(), count, "{status}: {page:?}");
        assert_eq!((&page[0]["status"], page[0]["id"] == cancelled[0]["id"]), (&json!(status), status == 4));
    }
    eventually("the ledger knows", || (ledger(folder.path())["ended"]["cancelled"] == 1).then_some(()));
    // Nothing failed, whoever asks.
    let told = server.call("GET", &format!("/app/acme/msg/{message}/explain"), json!(null)).1.to_string();
    assert!(told.contains("was cancelled by the endpoint's own code") && !told.contains("failed"), "{told}");
    assert!(!server.log().lines().any(|line| line.contains("attempt failed") && line.contains(&message)));

    // The way out has the same guard whatever a script says, and ours stays ours.
    transform("handler = webhook => ({ ...webhook, url: 'http://10.0.0.1/' })");
    assert!(attempts(&server, &send(), 4)[0]["response"].as_str().unwrap().contains("private"));
    transform("handler = webhook => ({ ...webhook, headers: {'webhook-id': 'x'} })");
    assert!(attempts(&server, &send(), 4)[0]["response"].as_str().unwrap().contains("set by the server"));

    // Switched off, the bytes are those that were accepted.
    assert_eq!(server.call("PATCH", path, json!({"enabled": false})).0, 204);
    send();
    assert_eq!(receiver.next().body, br#"{"id":7}"#);
}

#[test]
fn a_format_is_what_arrives_and_is_signed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    assert_eq!(server.call("POST", "/app", json!({"name": "Acme", "uid": "acme"})).0, 201);
    let check = |uid: &str, endpoint: Value, content_type: &str, body: &str| {
        let receiver = Receiver::answering(&[200]);
        let mut endpoint = endpoint;
        endpoint["url"] = json!(receiver.url());
        endpoint["uid"] = json!(uid);
        endpoint["channels"] = json!([uid]);
        assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201, "{uid}");
        let payload = json!({"id": 7, "lines": [{"sku": "a&b"}, {"sku": "c"}], "note": null});
        let message = json!({"eventType": "invoice.paid", "channels": [uid], "payload": payload});
        assert_eq!(server.call("POST", "/app/acme/msg", message).0, 202);
        let arrival = receiver.next();
        assert_eq!(String::from_utf8_lossy(&arrival.body), body, "{uid}");
        assert_eq!(arrival.headers["content-type"], content_type, "{uid}");
        verified(&server, uid, &arrival);
    };
    let json_text = r#"{"id":7,"lines":[{"sku":"a&b"},{"sku":"c"}],"note":null}"#;
    check("plain", json!({"format": "json"}), "application/json", json_text);
    check("named", json!({"contentType": "application/cloudevents+json"}), "application/cloudevents+json", json_text);
    let xml = "<?xml version=\"1.0\" encoding=\"UTF-8\"?><payload><id>7</id><lines><sku>a&amp;b</sku></lines><lines><sku>c</sku></lines>\
               <note nil=\"true\"/></payload>";
    check("xml", json!({"format": "xml"}), "application/xml", xml);
    let own = json!({"format": "xml", "contentType": "text/xml; charset=utf-8"});
    check("text-xml", own, "text/xml; charset=utf-8", xml);
    let form = "id=7&lines%5B0%5D%5Bsku%5D=a%26b&lines%5B1%5D%5Bsku%5D=c&note=";
    check("form", json!({"format": "form"}), "application/x-www-form-urlencoded", form);
}
