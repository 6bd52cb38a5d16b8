//! Tokens that can be listed, limited and taken back, and those that cannot but by logging out or all at once.

use crate::world::{
    Answered, ORGANISATION, OTHER_ORGANISATION, SECRET, START, World, application_token, organisation_token,
};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::Ed25519KeyPair;
use axum::body::Body;
use base64::Engine as _;
use bellwire_api::{JwtAlgorithm, Principal, RateLimit, Settings, mint_token, mint_token_by};
use bellwire_model::OrganisationId;
use bellwire_store::Change;
use http::Method;
use serde_json::{Value, json};
use std::num::NonZeroU32;
use std::time::Duration;

const TOKENS: &str = "/api/v1/management/authentication/org_23rb8YdGqMT0qIzpgGwdXfHirMu/api-token";

/// Registers one; answers its id and its text.
async fn register(world: &World, body: Value) -> (String, String) {
    let made = world.post(TOKENS, body).await.expect(200);
    (made["id"].as_str().unwrap().to_owned(), made["token"].as_str().unwrap().to_owned())
}

/// The answer to a request with another token than the world's own.
async fn with(world: &World, token: &str, method: Method, path: &str, body: Value) -> Answered {
    let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
    let request = http::Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
    world.send(request.body(body).unwrap()).await
}

async fn reads(world: &World, token: &str, path: &str) -> Answered {
    with(world, token, Method::GET, path, Value::Null).await
}

async fn portal(world: &World, app: &str, body: Value) -> String {
    let access = world.post(&format!("/api/v1/auth/app-portal-access/{app}"), body).await.expect(200);
    access["token"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_registered_token_is_listed_without_its_text_and_expired_by_its_id() {
    for world in [World::new(), World::embedded()] {
        let (id, token) = register(&world, json!({ "name": "deploys" })).await;
        reads(&world, &token, "/api/v1/app").await.expect(200);
        let list = world.get(TOKENS).await.expect(200);
        let listed = &list["data"][0];
        assert_eq!(listed["id"], id.as_str());
        assert_eq!(listed["scopes"], json!(["full"]));
        assert_eq!(listed["lastUsedAt"], "2026-01-01T00:00:00.000000Z");
        assert_eq!(listed["censoredToken"], format!("****{}", &token[token.len() - 4..]));
        assert!(!list.to_string().contains(&token));
        // Later it is; but not later than it was to.
        let expire = format!("{TOKENS}/{id}/expire");
        world.post(&expire, json!({ "expiry": 60 })).await.expect(204);
        world.post(&expire, json!({ "expiry": 6000 })).await.expect(204);
        world.pass(Duration::from_secs(59));
        reads(&world, &token, "/api/v1/app").await.expect(200);
        world.pass(Duration::from_secs(1));
        let refused = reads(&world, &token, "/api/v1/app").await.expect(401);
        assert!(refused["detail"].as_str().unwrap().contains("expired"), "{refused}");
        assert_eq!(world.get(&format!("{TOKENS}/{id}")).await.expect(200)["expiresAt"], "2026-01-01T00:01:00.000000Z");
    }
}

#[tokio::test]
async fn a_scope_is_held_to_and_named() {
    let world = World::new();
    let app = world.application("acme").await;
    let endpoint = world.endpoint("acme").await;
    let message = json!({ "eventType": "a", "payload": {} });
    let secret = format!("/api/v1/app/acme/endpoint/{endpoint}/secret");
    let (id, reader) = register(&world, json!({ "name": "r", "scopes": ["read-only"] })).await;
    let (_, sender) = register(&world, json!({ "name": "s", "scopes": ["send-only"] })).await;
    let (_, both) = register(&world, json!({ "name": "b", "scopes": ["send-only", "read-only"] })).await;
    let msg = "/api/v1/app/acme/msg";
    for (token, can_read, can_send) in [(&reader, true, false), (&sender, false, true), (&both, true, true)] {
        let expect = |allowed: bool, status| if allowed { status } else { 403 };
        reads(&world, token, msg).await.expect(expect(can_read, 200));
        with(&world, token, Method::POST, msg, message.clone()).await.expect(expect(can_send, 202));
        reads(&world, token, &secret).await.expect(403);
        with(&world, token, Method::POST, "/api/v1/app", json!({ "name": "x" })).await.expect(403);
        with(&world, token, Method::POST, TOKENS, json!({ "name": "x" })).await.expect(403);
        let refused = with(&world, token, Method::DELETE, "/api/v1/app/acme", Value::Null).await.expect(403);
        assert_eq!(refused["code"], "insufficient access");
        assert_eq!(reads(&world, token, "/api/v1/auth/whoami").await.expect(200)["envId"], ORGANISATION);
    }
    let refused = with(&world, &reader, Method::POST, msg, message.clone()).await.expect(403);
    assert_eq!(refused["detail"], "This token has the scope read-only; this operation needs full or send-only.");
    // A change of scopes holds for the next request.
    world.patch(&format!("{TOKENS}/{id}"), json!({ "scopes": ["full"], "name": null })).await.expect(200);
    with(&world, &reader, Method::POST, msg, message.clone()).await.expect(202);
    // Of one application.
    world.application("other").await;
    let (_, own) = register(&world, json!({ "name": "o", "appId": "acme", "scopes": ["read-only"] })).await;
    assert_eq!(reads(&world, &own, "/api/v1/auth/whoami").await.expect(200)["appId"], app.as_str());
    reads(&world, &own, msg).await.expect(200);
    reads(&world, &own, "/api/v1/app/other/msg").await.expect(404);
    reads(&world, &own, "/api/v1/app").await.expect(403);
}

#[tokio::test]
async fn a_token_for_messages_can_do_nothing_else() {
    let world = World::new();
    world.application("acme").await;
    world.application("other").await;
    let made = world.post("/api/v1/auth/app/acme/create-message-token", json!({ "name": "m" })).await.expect(200);
    assert_eq!(made["scopes"], json!(["send-only"]));
    let token = made["token"].as_str().unwrap();
    let message = json!({ "eventType": "a", "payload": {} });
    with(&world, token, Method::POST, "/api/v1/app/acme/msg", message.clone()).await.expect(202);
    with(&world, token, Method::POST, "/api/v1/app/other/msg", message.clone()).await.expect(404);
    let made = json!({ "eventType": "a", "payload": {}, "application": { "name": "New", "uid": "new" } });
    with(&world, token, Method::POST, "/api/v1/app/new/msg", made).await.expect(404);
    // A portal's cannot even that.
    let of_portal = portal(&world, "acme", json!({})).await;
    with(&world, &of_portal, Method::POST, "/api/v1/app/acme/msg", message).await.expect(403);
    reads(&world, token, "/api/v1/app/acme/msg").await.expect(403);
}

#[tokio::test]
async fn what_is_wrong_with_a_token_that_is_wanted_is_said() {
    let world = World::new();
    world.application("acme").await;
    let cases = [
        (TOKENS.to_owned(), json!({}), "name"),
        (TOKENS.to_owned(), json!({ "name": "" }), "name"),
        (TOKENS.to_owned(), json!({ "name": "x", "scopes": [] }), "scopes"),
        (TOKENS.to_owned(), json!({ "name": "x", "scopes": ["everything"] }), "`read-only`"),
        (TOKENS.to_owned(), json!({ "name": "x", "expiry": 0 }), "expiry"),
        (TOKENS.to_owned(), json!({ "name": "x", "appId": "nobody" }), "appId"),
        ("/api/v1/auth/app/acme/expire-all".to_owned(), json!({ "expiry": -1 }), "expiry"),
        ("/api/v1/auth/app/acme/expire-all".to_owned(), json!({ "expiry": 259_201 }), "expiry"),
        ("/api/v1/auth/app/acme/expire-all".to_owned(), json!({ "sessionIds": ["a b"] }), "sessionIds"),
        ("/api/v1/auth/app-portal-access/acme".to_owned(), json!({ "expiry": 60 }), "expiry"),
        ("/api/v1/auth/app-portal-access/acme".to_owned(), json!({ "sessionId": "" }), "sessionId"),
        ("/api/v1/auth/app-portal-access/acme".to_owned(), json!({ "featureFlags": ["a b"] }), "featureFlags"),
        ("/api/v1/auth/app-portal-access/acme".to_owned(), json!({ "capabilities": ["CreateAttempts"] }), "ViewBase"),
        ("/api/v1/auth/app-portal-access/acme".to_owned(), json!({ "capabilities": ["Everything"] }), "Everything"),
        (
            "/api/v1/auth/app-portal-access/acme".to_owned(),
            json!({ "capabilities": ["ViewBase"], "readOnly": true }),
            "readOnly",
        ),
    ];
    let before = world.kept().changes.len();
    for (path, body, says) in cases {
        let answer = world.post(&path, body.clone()).await;
        answer.expect(422);
        assert!(answer.text.contains(says), "{body}: {}", answer.text);
    }
    world.post("/api/v1/auth/app-portal-access/nobody", json!({})).await.expect(404);
    assert_eq!(world.kept().changes.len(), before);
}

#[tokio::test]
async fn the_portals_link_holds_the_token_and_the_application() {
    let mut world = World::new();
    // On the fly, as with a message.
    let access =
        json!({ "application": { "name": "Acme", "uid": "acme" }, "featureFlags": ["beta"], "sessionId": "user@1" });
    let request =
        world.request(Method::POST, "/api/v1/auth/app-portal-access/acme").header("host", "hooks.example:8071");
    let access = world.send(request.body(Body::from(access.to_string())).unwrap()).await.expect(200);
    let (base, key) = access["url"].as_str().unwrap().split_once("/login#key=").unwrap();
    assert_eq!(base, "http://hooks.example:8071");
    let key: Value = serde_json::from_slice(&base64::prelude::BASE64_STANDARD.decode(key).unwrap()).unwrap();
    let app = world.get("/api/v1/app/acme").await.expect(200)["id"].clone();
    assert_eq!(key, json!({ "appId": app, "token": access["token"] }));
    world
        .post("/api/v1/event-type", json!({ "name": "b", "description": "", "featureFlag": "beta" }))
        .await
        .expect(201);
    world.token = access["token"].as_str().unwrap().to_owned();
    world.get("/api/v1/event-type/b").await.expect(200);
    let whoami = world.get("/api/v1/auth/whoami").await.expect(200);
    let expected = json!({ "envId": ORGANISATION, "appId": app, "permissionSource": "SvixJwt", "sessionId": "user@1" });
    assert_eq!(whoami, expected);
    world.get("/api/v1/app").await.expect(403);
    world.pass(Duration::from_secs(604_800 + 59));
    world.get("/api/v1/app/acme").await.expect(200);
    world.pass(Duration::from_secs(1));
    world.get("/api/v1/app/acme").await.expect(401);
    // Elsewhere, if the operator says so; and by its older name, without a body.
    let settings = Settings {
        jwt_secret: SECRET.to_vec(),
        app_portal_url: Some("https://portal.example.com/webhooks".to_owned()),
        ..Settings::default()
    };
    let world = World::with(settings);
    world.application("acme").await;
    let access = world.call(Method::POST, "/api/v1/auth/dashboard-access/acme", Body::empty()).await.expect(200);
    assert!(access["url"].as_str().unwrap().starts_with("https://portal.example.com/webhooks/login#key="), "{access}");
}

#[tokio::test]
async fn a_portals_application_that_exists_may_be_described_again_but_not_wrongly() {
    let world = World::new();
    world.application("a").await;
    let path = "/api/v1/auth/app-portal-access/a";
    let refused = world.post(path, json!({ "application": {} })).await.expect(422);
    assert_eq!(refused["detail"][0]["loc"], json!(["body", "application", "name"]));
    let right = json!({ "application": { "name": "A", "uid": "a" } });
    world.post(path, right).await.expect(200);
}

#[tokio::test]
async fn a_portal_can_do_what_its_capabilities_say() {
    let world = World::new();
    world.application("acme").await;
    let endpoint = world.endpoint("acme").await;
    let message = world.message("acme").await;
    world.attempt(&message, &endpoint, Ok(500), b"");
    let at = format!("/api/v1/app/acme/endpoint/{endpoint}");
    let calls = [
        (Method::GET, at.clone(), "ViewBase"),
        (Method::GET, format!("{at}/secret"), "ViewEndpointSecret"),
        (Method::POST, format!("{at}/secret/rotate"), "ManageEndpointSecret"),
        (Method::PATCH, at.clone(), "ManageEndpoint"),
        (Method::POST, format!("/api/v1/app/acme/msg/{message}/endpoint/{endpoint}/resend"), "CreateAttempts"),
    ];
    let implied = |has: &str, needed: &str| {
        has == needed
            || matches!((has, needed), ("ManageEndpointSecret", "ViewEndpointSecret"))
            || has == "ManageEndpoint" && matches!(needed, "ViewEndpointSecret" | "ManageEndpointSecret")
    };
    for capability in ["ViewBase", "ViewEndpointSecret", "ManageEndpointSecret", "CreateAttempts", "ManageEndpoint"] {
        let mut capabilities = vec!["ViewBase"];
        capabilities.extend((capability != "ViewBase").then_some(capability));
        let token = portal(&world, "acme", json!({ "capabilities": capabilities })).await;
        for (method, path, needed) in &calls {
            let allowed = *needed == "ViewBase" || implied(capability, needed);
            let answer = with(&world, &token, method.clone(), path, json!({})).await;
            assert_eq!(answer.status != 403, allowed, "{capability}: {method} {path}: {}", answer.text);
            assert!(allowed == answer.status.is_success(), "{capability}: {method} {path}: {}", answer.text);
            if !allowed {
                assert!(answer.text.contains(needed) && answer.text.contains("ViewBase"), "{}", answer.text);
            }
        }
    }
    let reader = portal(&world, "acme", json!({ "readOnly": true })).await;
    with(&world, &reader, Method::PATCH, &at, json!({})).await.expect(403);
    let everything = portal(&world, "acme", json!({})).await;
    with(&world, &everything, Method::PATCH, &at, json!({})).await.expect(200);
}

#[tokio::test]
async fn a_logged_out_token_stays_out_however_it_is_spelled() {
    let world = World::new();
    let app = world.application("acme").await;
    let (_, registered) = register(&world, json!({ "name": "o", "appId": "acme" })).await;
    let of_svix = application_token(ORGANISATION, &app, &[]);
    let again = application_token(ORGANISATION, &app, &["other"]);
    for token in [portal(&world, "acme", json!({})).await, of_svix.clone(), registered] {
        reads(&world, &token, "/api/v1/app/acme").await.expect(200);
        with(&world, &token, Method::POST, "/api/v1/auth/logout", Value::Null).await.expect(204);
        reads(&world, &token, "/api/v1/app/acme").await.expect(401);
        // The last character of a signature has bits that mean nothing.
        for last in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_=".chars() {
            let spelled = format!("{}{last}", &token[..token.len() - 1]);
            reads(&world, &spelled, "/api/v1/app/acme").await.expect(401);
            reads(&world, &format!("{token}{last}"), "/api/v1/app/acme").await.expect(401);
        }
    }
    reads(&world, &again, "/api/v1/app/acme").await.expect(200);
    // The operator's own is not logged out by this.
    world.call(Method::POST, "/api/v1/auth/logout", Body::empty()).await.expect(403);
    world.get("/api/v1/app").await.expect(200);
}

#[tokio::test]
async fn all_tokens_of_an_application_issued_before_are_expired_and_no_other() {
    let world = World::new();
    let app = world.application("acme").await;
    let other = world.application("other").await;
    let before = portal(&world, "acme", json!({})).await;
    let (_, registered) = register(&world, json!({ "name": "o", "appId": "acme" })).await;
    let of_svix = application_token(ORGANISATION, &app, &[]);
    let others = application_token(ORGANISATION, &other, &[]);
    world.post("/api/v1/auth/app/acme/expire-all", json!({ "expiry": 60 })).await.expect(204);
    // In the same second, even in the same microsecond, but afterwards.
    let after = portal(&world, "acme", json!({})).await;
    world.pass(Duration::from_secs(59));
    for token in [&before, &registered, &of_svix, &after] {
        reads(&world, token, "/api/v1/app/acme").await.expect(200);
    }
    world.pass(Duration::from_secs(1));
    for token in [&before, &registered, &of_svix] {
        reads(&world, token, "/api/v1/app/acme").await.expect(401);
    }
    reads(&world, &after, "/api/v1/app/acme").await.expect(200);
    reads(&world, &others, "/api/v1/app/other").await.expect(200);
    world.get("/api/v1/app/acme").await.expect(200);
    // Without a body it is at once.
    world.call(Method::POST, "/api/v1/auth/app/acme/expire-all", Body::empty()).await.expect(204);
    reads(&world, &after, "/api/v1/app/acme").await.expect(401);
}

#[tokio::test]
async fn a_session_is_expired_alone() {
    let world = World::new();
    world.application("acme").await;
    let first = portal(&world, "acme", json!({ "sessionId": "a" })).await;
    let second = portal(&world, "acme", json!({ "sessionId": "b" })).await;
    let none = portal(&world, "acme", json!({})).await;
    world.post("/api/v1/auth/app/acme/expire-all", json!({ "sessionIds": ["a"] })).await.expect(204);
    reads(&world, &first, "/api/v1/app/acme").await.expect(401);
    reads(&world, &second, "/api/v1/app/acme").await.expect(200);
    reads(&world, &none, "/api/v1/app/acme").await.expect(200);
}

#[tokio::test]
async fn a_token_that_is_made_twice_under_one_key_is_one_and_is_not_kept() {
    let world = World::new();
    world.application("acme").await;
    for path in [TOKENS, "/api/v1/auth/app/acme/create-message-token", "/api/v1/auth/app-portal-access/acme"] {
        let first = world.post_once(path, "k", json!({ "name": "a" })).await;
        world.pass(Duration::from_secs(7));
        let second = world.post_once(path, "k", json!({ "name": "a" })).await;
        assert_eq!(first.expect(200), second.expect(200));
        let token = first.json()["token"].as_str().unwrap().to_owned();
        let signature = token.rsplit('.').next().unwrap();
        for change in &world.kept().changes {
            if let Change::KeepAnswer(kept) = change {
                let text = String::from_utf8(kept.body.to_vec()).unwrap();
                assert!(!text.contains(signature), "{path} keeps {text}");
            }
        }
    }
    assert_eq!(world.get(TOKENS).await.expect(200)["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn the_list_has_pages_and_only_the_organisations_own() {
    let mut world = World::new();
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(register(&world, json!({ "name": n.to_string() })).await.0);
    }
    let mut seen = Vec::new();
    let mut path = format!("{TOKENS}?limit=2");
    loop {
        let page = world.get(&path).await.expect(200);
        seen.extend(page["data"].as_array().unwrap().iter().map(|t| t["id"].as_str().unwrap().to_owned()));
        if page["done"] == true {
            break;
        }
        path = format!("{TOKENS}?limit=2&iterator={}", page["iterator"].as_str().unwrap());
    }
    ids.reverse();
    assert_eq!(seen, ids);
    world.get(&format!("{TOKENS}?iterator=app_x")).await.expect(422);
    world.token = organisation_token(OTHER_ORGANISATION);
    world.get(TOKENS).await.expect(404);
    let own = format!("/api/v1/management/authentication/{OTHER_ORGANISATION}/api-token");
    assert_eq!(world.get(&own).await.expect(200)["data"], json!([]));
    world.get(&format!("{own}/{}", ids[0])).await.expect(404);
    world.post(&format!("{own}/{}/expire", ids[0]), json!({})).await.expect(404);
}

#[tokio::test]
async fn last_uses_are_written_down_once_and_what_has_ended_is_forgotten() {
    let world = World::new();
    world.application("acme").await;
    let api =
        bellwire_api::Api::new(world.backend.clone(), Settings { jwt_secret: SECRET.to_vec(), ..Settings::default() });
    let (id, token) = register(&world, json!({ "name": "a", "expiry": 3600 })).await;
    let of_app = portal(&world, "acme", json!({})).await;
    with(&world, &of_app, Method::POST, "/api/v1/auth/logout", Value::Null).await.expect(204);
    let changes = |world: &World| world.kept().changes.len();
    let before = changes(&world);
    for _ in 0..100 {
        reads(&world, &token, "/api/v1/app").await.expect(200);
    }
    assert_eq!(changes(&world), before, "no request writes");
    api.keep_tokens().await.unwrap();
    assert_eq!(changes(&world), before + 1);
    api.keep_tokens().await.unwrap();
    assert_eq!(changes(&world), before + 1, "it is written once");
    world.pass(Duration::from_secs(31 * 86_400));
    api.keep_tokens().await.unwrap();
    assert_eq!(changes(&world), before + 3, "the row and the logout");
    let mut world = world;
    world.token = mint_token(
        SECRET,
        &Principal::Organisation(OrganisationId::parse(ORGANISATION).unwrap()),
        START.plus(Duration::from_secs(31 * 86_400)),
        Duration::from_secs(60),
    )
    .unwrap();
    world.get(&format!("{TOKENS}/{id}")).await.expect(404);
}

pub(crate) fn rsa_key() -> String {
    pem(rsa::KeyPair::generate(rsa::KeySize::Rsa2048).unwrap().as_der().unwrap().as_ref())
}

fn pem(pkcs8: &[u8]) -> String {
    use base64::Engine as _;
    let text = base64::engine::general_purpose::STANDARD.encode(pkcs8);
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

#[tokio::test]
async fn only_the_configured_algorithm_is_accepted() {
    let organisation = Principal::Organisation(OrganisationId::parse(ORGANISATION).unwrap());
    let (rsa, ed25519) = (rsa_key(), pem(Ed25519KeyPair::generate().unwrap().to_pkcs8v1().unwrap().as_ref()));
    let key = |algorithm: JwtAlgorithm| match algorithm {
        JwtAlgorithm::EdDsa => ed25519.as_bytes(),
        _ if algorithm.takes_private_key() => rsa.as_bytes(),
        _ => SECRET,
    };
    let mint = |used, key: &[u8]| mint_token_by(used, key, &organisation, START, Duration::from_secs(60)).unwrap();
    for (_, configured) in JwtAlgorithm::ALL {
        let jwt_secret = key(configured).to_vec();
        let world = World::with(Settings { jwt_secret, jwt_algorithm: configured, ..Settings::default() });
        for (_, used) in JwtAlgorithm::ALL {
            let right = if used == configured { 200 } else { 401 };
            reads(&world, &mint(used, key(used)), "/api/v1/app").await.expect(right);
        }
        // Who knows only the text of a key, or has one of the same kind, cannot sign.
        reads(&world, &mint(JwtAlgorithm::Hs256, b"another secret"), "/api/v1/app").await.expect(401);
        if configured.takes_private_key() {
            let text = String::from_utf8(key(configured).to_vec()).unwrap();
            reads(&world, &mint(JwtAlgorithm::Hs256, text.trim().as_bytes()), "/api/v1/app").await.expect(401);
        }
    }
    let world =
        World::with(Settings { jwt_secret: rsa.into(), jwt_algorithm: JwtAlgorithm::Rs256, ..Settings::default() });
    reads(&world, &mint(JwtAlgorithm::Rs256, rsa_key().as_bytes()), "/api/v1/app").await.expect(401);
}

#[tokio::test]
async fn a_token_that_is_used_too_often_is_told_when_to_come_back() {
    let number = |n| NonZeroU32::new(n).unwrap();
    let rate_limit = Some(RateLimit::new(number(2), number(3)));
    let world = World::with(Settings { jwt_secret: SECRET.to_vec(), rate_limit, ..Settings::default() });
    for _ in 0..3 {
        world.get("/api/v1/app").await.expect(200);
    }
    let refused = world.get("/api/v1/app").await;
    assert_eq!(refused.expect(429)["code"], "rate_limited");
    assert_eq!(refused.headers["retry-after"], "1");
    // Another token has an allowance of its own, and a wrong one none to use up.
    let other = organisation_token(OTHER_ORGANISATION);
    reads(&world, &other, "/api/v1/app").await.expect(200);
    reads(&world, "wrong", "/api/v1/app").await.expect(401);
    world.pass(Duration::from_secs(1));
    world.get("/api/v1/app").await.expect(200);
    world.get("/api/v1/app").await.expect(200);
    world.get("/api/v1/app").await.expect(429);
}
