//! Security event tokens by RFC 8936, on the leases of a pipe.

use crate::pipe::{PIPE, numbers, world, world_with};
use crate::world::World;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use bellwire_store::Change;
use serde_json::{Map, Value, json};
use std::time::Duration;

impl World {
    async fn poll(&self, body: Value) -> (Map<String, Value>, bool) {
        let out = self.post(&format!("{PIPE}/pull/set"), body).await.expect(200);
        (out["sets"].as_object().expect("tokens").clone(), out["moreAvailable"] == true)
    }

    async fn poll_at_once(&self) -> (Map<String, Value>, bool) {
        self.poll(json!({ "returnImmediately": true })).await
    }
}

#[tokio::test]
async fn security_events_are_polled_as_rfc_8936_has_it() {
    let world = world().await;
    world.send_n(0..4).await;
    let (sets, more) = world.poll(json!({ "maxEvents": 3, "returnImmediately": true })).await;
    assert_eq!((sets.len(), more), (3, true));
    // Each is a token of its kind, signed with the endpoint's secret, with the payload as its event.
    let secret = world.get(&format!("{PIPE}/secret")).await.expect(200)["key"].as_str().expect("a secret").to_owned();
    let key = STANDARD.decode(&secret["whsec_".len()..]).expect("base64");
    let key = jsonwebtoken::DecodingKey::from_secret(&key);
    let mut validation = jsonwebtoken::Validation::new(jsonwebtoken::Algorithm::HS256);
    validation.required_spec_claims.clear();
    let mut seen = Vec::new();
    for (id, token) in &sets {
        let decoded =
            jsonwebtoken::decode::<Value>(token.as_str().expect("a token"), &key, &validation).expect("signed");
        assert_eq!((decoded.header.typ.as_deref(), &decoded.claims["jti"]), (Some("secevent+jwt"), &json!(id)));
        seen.push(decoded.claims["events"]["urn:bellwire:event-type:a.b"]["n"].as_u64().expect("the payload"));
    }
    seen.sort_unstable();
    assert_eq!(seen, [0, 1, 2]);
    let ids: Vec<&String> = sets.keys().collect();
    // Acknowledging comes along with the next poll; what is refused does not come again, what is not mentioned does.
    let errors = json!({ ids[1]: { "err": "invalid_key", "description": "no" } });
    let body = json!({ "ack": [ids[0], "unknown"], "setErrs": errors, "returnImmediately": true });
    let (second, more) = world.poll(body).await;
    assert_eq!((second.len(), more), (1, false));
    let (none, more) = world.poll(json!({ "maxEvents": 0, "ack": [ids[0]] })).await;
    assert!(none.is_empty() && !more);
    world.pass(Duration::from_secs(31));
    let (third, _) = world.poll_at_once().await;
    let again: Vec<&String> = third.keys().collect();
    assert!(again.len() == 2 && again.contains(&ids[2]) && !again.contains(&ids[0]) && !again.contains(&ids[1]));
}

/// RFC 8936 section 2.3: what is acknowledged need not be kept, whenever that is said.
#[tokio::test]
async fn who_acknowledges_late_is_believed() {
    let world = world_with(json!({ "lease": 10, "maxAttempts": 2 })).await;
    world.send_n(0..4).await;
    let (sets, _) = world.poll_at_once().await;
    let ids: Vec<&String> = sets.keys().collect();
    assert_eq!(ids.len(), 4);
    // Nobody has them any more: their leases have ended, or the process was another one.
    world.pass(Duration::from_secs(11));
    let said = json!({ "maxEvents": 0, "ack": [ids[0], ids[0]], "setErrs": { ids[1]: { "err": "invalid_key" } } });
    world.poll(said.clone()).await;
    let mut statuses = world.statuses().await;
    statuses.sort_by_key(Value::as_u64);
    assert_eq!(statuses, [0, 1, 1, 2]);
    world.backend.forget_leases();
    world.poll(json!({ "maxEvents": 0, "ack": [ids[2]] })).await;
    // Said again, it changes nothing.
    world.poll(said).await;
    let mut statuses = world.statuses().await;
    statuses.sort_by_key(Value::as_u64);
    assert_eq!(statuses, [0, 0, 1, 2]);
    let (last, more) = world.poll_at_once().await;
    assert_eq!((last.keys().collect::<Vec<_>>(), more), (vec![ids[3]], false));
}

/// RFC 8936 section 2.4: `moreAvailable` says whether there is more, not whether the page was full.
#[tokio::test]
async fn a_full_page_is_not_always_followed_by_another() {
    let world = world().await;
    world.send_n(0..3).await;
    let (sets, more) = world.poll(json!({ "maxEvents": 2, "returnImmediately": true })).await;
    assert_eq!((sets.len(), more), (2, true));
    // One that only acknowledges is told, too.
    assert!(world.poll(json!({ "maxEvents": 0 })).await.1);
    let (sets, more) = world.poll(json!({ "maxEvents": 1, "returnImmediately": true })).await;
    assert_eq!((sets.len(), more), (1, false));
    let (sets, more) = world.poll_at_once().await;
    assert_eq!((sets.len(), more), (0, false));
}

/// RFC 8936 section 2.2: without `returnImmediately` a poll waits for a token.
#[tokio::test]
async fn a_poll_waits_for_a_token() {
    let world = world().await;
    let begun = std::time::Instant::now();
    let ((sets, _), ()) = tokio::join!(world.poll(json!({ "somethingNew": 1 })), async {
        tokio::task::yield_now().await;
        world.send_n(0..1).await;
    });
    assert_eq!(sets.len(), 1);
    assert!(begun.elapsed() < Duration::from_secs(20), "it was woken, {:?}", begun.elapsed());
}

fn claims(token: &Value) -> String {
    let claims = token.as_str().and_then(|token| token.split('.').nth(1)).expect("a token");
    String::from_utf8(URL_SAFE_NO_PAD.decode(claims).expect("base64")).expect("UTF-8")
}

/// RFC 8417 section 2.2: an event is an object. What was accepted as one is there with every digit.
#[tokio::test]
async fn an_event_is_an_object_and_keeps_its_digits() {
    let world = world().await;
    let send = async |body: &str| {
        let path = "/api/v1/app/acme/msg";
        world.call(http::Method::POST, path, body.to_owned()).await.expect(202);
        let (sets, _) = world.poll_at_once().await;
        let (id, token) = sets.iter().next().expect("a token");
        let claims = claims(token);
        let parsed: Value = serde_json::from_str(&claims).expect("JSON");
        assert!(parsed["iss"].as_str().expect("who") == "http://server.example" && parsed["iat"].is_u64());
        assert_eq!(parsed["jti"], json!(id));
        (claims, parsed["events"]["urn:bellwire:event-type:a.b"].clone())
    };
    let (claims, _) = send(r#"{"eventType":"a.b","payload":{"n":12345678901234567890.10}}"#).await;
    assert!(claims.contains(r#"{"n":12345678901234567890.10}"#), "{claims}");
    for (raw, text) in [("[1,2]", "[1,2]"), (r#"\"text\""#, "\"text\""), ("plain", "plain")] {
        let raw = format!(
            r#"{{"eventType":"a.b","payload":{{}},"transformationsParams":{{"rawPayload":"{raw}","headers":{{"content-type":"text/plain"}}}}}}"#
        );
        assert_eq!(send(&raw).await.1, json!({ "rawPayload": text }));
    }
}

/// RFC 8936 section 2.4: each token goes under its `jti`. One that was accepted as a token has its own.
#[tokio::test]
async fn what_is_a_token_already_goes_as_it_came_under_its_own_id() {
    let world = world().await;
    let token = |claims: &str| format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims));
    let mine = token(r#"{"jti":"set-7","iss":"https://idp.example"}"#);
    let nameless = token(r#"{"iss":"https://idp.example"}"#);
    for payload in [&mine, &nameless] {
        let params = json!({ "rawPayload": payload, "headers": { "content-type": "application/secevent+jwt" } });
        let body = json!({ "eventType": "a.b", "payload": {}, "transformationsParams": params });
        world.post("/api/v1/app/acme/msg", body).await.expect(202);
    }
    let (sets, _) = world.poll_at_once().await;
    assert_eq!((sets.len(), &sets["set-7"]), (2, &json!(mine)));
    assert!(sets.iter().any(|(id, token)| id.starts_with("msg_") && *token == json!(nameless)), "{sets:?}");
    // By that id it is acknowledged.
    world.poll(json!({ "maxEvents": 0, "ack": ["set-7"] })).await;
    assert_eq!(world.statuses().await, [0, 1]);
}

/// Section 2: who polls shares the log with all other readers of the endpoint.
#[tokio::test]
async fn a_token_that_was_handed_out_is_nobody_else_s_until_its_lease_ends() {
    let world = world().await;
    world.send_n(0..3).await;
    let (sets, _) = world.poll(json!({ "maxEvents": 2, "returnImmediately": true })).await;
    assert_eq!(sets.len(), 2);
    assert_eq!(numbers(&world.receive(json!({})).await), [2]);
    assert!(world.poll_at_once().await.0.is_empty());
}

fn foreign(claims: &Value) -> String {
    format!("{}.{}.c2ln", URL_SAFE_NO_PAD.encode("{}"), URL_SAFE_NO_PAD.encode(claims.to_string()))
}

impl World {
    async fn send_token(&self, token: &str, content_type: &str) {
        let params = json!({ "rawPayload": token, "headers": { "content-type": content_type } });
        let body = json!({ "eventType": "a.b", "payload": {}, "transformationsParams": params });
        self.post("/api/v1/app/acme/msg", body).await.expect(202);
    }
}

/// RFC 8417 section 2.2: a `jti` is unique among those of its issuer only.
#[tokio::test]
async fn tokens_of_two_makers_with_the_same_id_are_not_taken_for_one() {
    let world = world().await;
    let (one, other) = (foreign(&json!({ "jti": "7", "iss": "a" })), foreign(&json!({ "jti": "7", "iss": "b" })));
    for token in [&one, &other] {
        world.send_token(token, "application/secevent+jwt").await;
    }
    let (sets, _) = world.poll_at_once().await;
    assert_eq!((sets.len(), &sets["7"]), (2, &json!(one)), "{sets:?}");
    assert!(sets.iter().any(|(id, token)| id.starts_with("msg_") && *token == json!(other)), "{sets:?}");
    // Who goes by the token's own id has taken one of them.
    world.poll(json!({ "maxEvents": 0, "ack": ["7"] })).await;
    assert_eq!(world.statuses().await, [0, 1]);
    world.pass(Duration::from_secs(31));
    let (sets, _) = world.poll_at_once().await;
    assert_eq!(sets, Map::from_iter([("7".to_owned(), json!(other))]));
    world.poll(json!({ "maxEvents": 0, "ack": ["7"] })).await;
    assert_eq!(world.statuses().await, [0, 0]);
}

#[tokio::test]
async fn a_token_whose_id_reads_like_a_message_s_is_not_taken_for_that_message() {
    let world = world().await;
    world.send_n(0..1).await;
    let victim = world.poll_at_once().await.0.keys().next().expect("a token").clone();
    world.pass(Duration::from_secs(31));
    let token = foreign(&json!({ "jti": victim, "iss": "a" }));
    world.send_token(&token, "application/secevent+jwt").await;
    let (sets, _) = world.poll_at_once().await;
    assert!(sets.len() == 2 && sets[&victim] != json!(token), "{sets:?}");
    world.poll(json!({ "maxEvents": 0, "ack": [victim] })).await;
    assert_eq!(world.statuses().await, [0, 1]);
}

/// RFC 9110 section 8.3.1: media types have letters of either size, and parameters.
#[tokio::test]
async fn a_token_is_one_however_its_type_is_written() {
    let token = foreign(&json!({ "jti": "set-1", "iss": "a" }));
    for (content_type, is_token) in [
        ("application/SecEvent+JWT", true),
        ("application/secevent+jwt; charset=utf-8", true),
        ("text/x-not-secevent+jwt", false),
    ] {
        let world = world().await;
        world.send_token(&token, content_type).await;
        assert_eq!(world.poll_at_once().await.0.contains_key("set-1"), is_token, "{content_type}");
    }
}

#[tokio::test]
async fn a_poll_that_can_sign_nothing_costs_no_attempt() {
    let world = World::embedded();
    world.application("acme").await;
    let secret = "whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg==";
    let pipe = json!({ "lease": 10, "maxAttempts": 1 });
    let body = json!({ "uid": "pipe", "kind": "pipe", "secret": secret, "pipe": pipe });
    world.post("/api/v1/app/acme/endpoint", body).await.expect(201);
    world.send_n(0..2).await;
    for _ in 0..3 {
        let refused = world.post(&format!("{PIPE}/pull/set"), json!({ "returnImmediately": true })).await.expect(409);
        assert_eq!(refused["code"], "secret_cannot_sign_tokens");
        world.pass(Duration::from_secs(11));
    }
    // Nobody has them, and they can be had in another way.
    let leased = world.receive(json!({})).await;
    assert_eq!(numbers(&leased), [0, 1]);
    assert!(leased.iter().all(|one| one["attempt"] == 1), "{leased:?}");
}

#[tokio::test]
async fn what_is_refused_in_one_poll_is_written_in_one_commit() {
    let world = world().await;
    world.send_n(0..3).await;
    let (sets, _) = world.poll_at_once().await;
    let errors: Map<String, Value> = sets.keys().map(|id| (id.clone(), json!({ "err": id }))).collect();
    let settled = || world.kept().changes.iter().filter(|change| matches!(change, Change::Settle(_))).count();
    let before = settled();
    world.poll(json!({ "maxEvents": 0, "setErrs": errors })).await;
    assert_eq!(settled() - before, 1);
    assert_eq!(world.statuses().await, [2, 2, 2]);
    // Each has its own reason.
    for id in sets.keys() {
        let attempts = world.get(&format!("/api/v1/app/acme/attempt/msg/{id}")).await.expect(200);
        assert_eq!(attempts["data"][0]["response"], json!(format!("{id}: ")), "{attempts}");
    }
}
