//! The kinds of endpoint: which settings belong to which, and what an edit makes of them.

use crate::world::{Answered, ORGANISATION, SECRET, World, application_token};
use bellwire_api::Settings;
use bellwire_model::Kind;
use bellwire_store::Change;
use http::{Method, Request};
use serde_json::{Value, json};

const ALL: &str = "/api/v1/app/acme/endpoint";
const ONE: &str = "/api/v1/app/acme/endpoint/main";

async fn world() -> World {
    let world = World::new();
    world.application("acme").await;
    world
}

impl World {
    /// As they are kept.
    fn settings_of_main(&self) -> String {
        let put = |change: &Change| match change {
            Change::PutEndpoint(endpoint) => Some(endpoint.kind.clone()),
            _ => None,
        };
        match self.kept().changes.iter().rev().find_map(put) {
            Some(Kind::Plugin(plugin)) => plugin.settings.reveal().to_owned(),
            other => panic!("{other:?}"),
        }
    }
}

fn script(code: &str) -> Value {
    json!({ "runs": "javascript", "code": code, "token": "hunter2" })
}

#[tokio::test]
async fn a_plugin_has_no_url_and_conceals_its_secrets() {
    let world = world().await;
    let body = json!({ "uid": "main", "plugin": script("a") });
    let made = world.post(ALL, body).await.expect(201);
    assert_eq!(made["kind"], "plugin");
    assert_eq!(made["url"], "plugin:javascript");
    assert_eq!(made["plugin"], json!({ "runs": "javascript", "code": "a", "token": "***" }));
    // What was shown can be sent back: the secret stays.
    world.put(ONE, json!({ "url": made["url"], "plugin": made["plugin"] })).await.expect(200);
    assert!(world.settings_of_main().contains("hunter2"));
    // An edit that knows nothing of kinds leaves it what it is.
    let edited = world.put(ONE, json!({ "url": made["url"], "description": "x" })).await.expect(200);
    assert_eq!((&edited["kind"], &edited["plugin"]["code"]), (&json!("plugin"), &json!("a")));
    let patched = world.patch(ONE, json!({ "plugin": script("b") })).await.expect(200);
    assert_eq!(patched["plugin"]["code"], "b");
}

#[tokio::test]
async fn what_conceals_a_secret_is_not_taken_for_one() {
    let world = world().await;
    let body = |name: &str| {
        let plugin = json!({ "runs": "javascript", "code": "a", "secrets": { name: "***" } });
        json!({ "uid": "main", "plugin": plugin })
    };
    let at = |refused: &Value| refused["detail"][0]["loc"].clone();
    // Copied from another endpoint as it was shown.
    assert_eq!(at(&world.post(ALL, body("one")).await.expect(422)), json!(["body", "plugin", "secrets", "one"]));
    let own = json!({ "runs": "javascript", "code": "***", "secrets": { "one": "hunter2" } });
    world.post(ALL, json!({ "uid": "main", "plugin": own })).await.expect(201);
    assert_eq!(at(&world.patch(ONE, body("other")).await.expect(422)), json!(["body", "plugin", "secrets", "other"]));
    world.patch(ONE, body("one")).await.expect(200);
    assert!(world.settings_of_main().contains("hunter2"));
}

#[tokio::test]
async fn a_plugin_that_is_refused_is_not_asked_for_a_url() {
    let world = world().await;
    for plugin in [json!({ "runs": "pigeon" }), json!({}), json!({ "runs": "javascript", "code": "bad" })] {
        let refused = world.post(ALL, json!({ "plugin": plugin })).await.expect(422);
        assert_eq!(refused["detail"].as_array().map(Vec::len), Some(1), "{refused}");
    }
    let refused = world.post(ALL, json!({ "kind": "plugin" })).await.expect(422);
    assert_eq!(refused["detail"].as_array().map(Vec::len), Some(1), "{refused}");
    let refused = world.post(ALL, json!({ "plugin": 7 })).await.expect(422);
    assert!(refused["detail"][0]["msg"].as_str().expect("a text").contains("expected an object"), "{refused}");
}

#[tokio::test]
async fn an_endpoint_moves_between_the_kinds() {
    let world = world().await;
    let made = world.post(ALL, json!({ "uid": "main", "kind": "pipe" })).await.expect(201);
    assert_eq!((&made["kind"], &made["url"]), (&json!("pipe"), &json!("pipe:")));
    let refused = world.patch(ONE, json!({ "kind": "push" })).await.expect(422);
    assert_eq!(refused["detail"][0]["loc"], json!(["body", "url"]));
    let pushed = world.patch(ONE, json!({ "kind": "push", "url": "https://example.com/" })).await.expect(200);
    assert_eq!((pushed.get("kind"), pushed.get("pipe")), (None, None));
    let piped = world.patch(ONE, json!({ "pipe": {} })).await.expect(200);
    assert_eq!(piped["kind"], "pipe");
}

#[tokio::test]
async fn what_does_not_belong_together_is_refused_by_name() {
    let world = world().await;
    let check = async |body: Value, at: Value, words: &str| {
        let refused = world.post(ALL, body).await.expect(422);
        assert_eq!(refused["detail"][0]["loc"], at, "{refused}");
        assert!(refused["detail"][0]["msg"].as_str().expect("a text").contains(words), "{refused}");
    };
    check(json!({}), json!(["body", "url"]), "required").await;
    check(json!({ "kind": "plugin" }), json!(["body", "plugin"]), "required").await;
    check(json!({ "plugin": { "code": "x" } }), json!(["body", "plugin", "runs"]), "one of javascript, wasm").await;
    check(json!({ "plugin": { "runs": "shell" } }), json!(["body", "plugin", "runs"]), "one of javascript, wasm").await;
    check(json!({ "plugin": { "runs": "wasm" } }), json!(["body", "plugin", "runs"]), "no plugins of the kind wasm")
        .await;
    check(json!({ "plugin": script("bad") }), json!(["body", "plugin", "code"]), "does not read").await;
    check(json!({ "kind": "push", "url": "https://example.com", "pipe": {} }), json!(["body", "pipe"]), "kind pipe")
        .await;
    check(json!({ "plugin": script("a"), "pipe": {} }), json!(["body", "pipe"]), "not both").await;
    check(json!({ "plugin": script("a"), "url": "https://example.com" }), json!(["body", "url"]), "leave it out").await;
}

#[tokio::test]
async fn a_portal_installs_no_plugins() {
    let world = world().await;
    let id = world.get("/api/v1/app/acme").await.expect(200)["id"].as_str().expect("an id").to_owned();
    let token = application_token(ORGANISATION, &id, &[]);
    let as_portal = async |method: Method, path: &str, body: Value| {
        let request = Request::builder().method(method).uri(path).header("authorization", format!("Bearer {token}"));
        world.send(request.body(body.to_string().into()).expect("a request")).await
    };
    let refused = as_portal(Method::POST, ALL, json!({ "plugin": script("a") })).await.expect(422);
    assert!(refused["detail"][0]["msg"].as_str().expect("a text").contains("operator"), "{refused}");
    as_portal(Method::POST, ALL, json!({ "kind": "pipe" })).await.expect(201);
    // It may edit what the operator installed, but not what it runs.
    world.post(ALL, json!({ "uid": "main", "plugin": script("a") })).await.expect(201);
    as_portal(Method::PATCH, ONE, json!({ "description": "x" })).await.expect(200);
    as_portal(Method::PATCH, ONE, json!({ "plugin": script("b") })).await.expect(422);
}

/// Where certificates need not be verified.
async fn unverified_world() -> World {
    let world =
        World::with(Settings { jwt_secret: SECRET.to_vec(), unverified_tls_allowed: true, ..Settings::default() });
    world.application("acme").await;
    world
}

/// Whether endpoints of the kinds push, plugin and pipe take a setting, and how it is set: in the endpoint's own body, or at a path below it.
struct Setting {
    name: &'static str,
    below: Option<(Method, &'static str)>,
    body: Value,
    taken: [bool; 3],
    /// Where a refusal points.
    field: &'static str,
}

const KINDS: [&str; 3] = ["push", "plugin", "pipe"];

fn settings() -> Vec<Setting> {
    let inside =
        |name, value: Value, taken| Setting { name, below: None, body: json!({ name: value }), taken, field: name };
    let below = |name, method, body, taken, field| Setting { name, below: Some((method, name)), body, taken, field };
    let (all, push) = ([true; 3], [true, false, false]);
    vec![
        inside("filter", json!("payload.a == 1"), all),
        inside("channels", json!(["north"]), all),
        inside("throttleRate", json!(5), all),
        inside("fifo", json!(true), all),
        inside("metadata", json!({ "a": "b" }), all),
        inside("format", json!("xml"), all),
        inside("contentType", json!("application/vnd.acme+json"), all),
        inside("retrySchedule", json!([5, 60]), [true, true, false]),
        inside("headers", json!({ "x-team": "a" }), [true, false, true]),
        inside("secret", json!("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"), [true, false, true]),
        below(
            "transformation",
            Method::PATCH,
            json!({ "code": "const handler = w => w", "enabled": true }),
            all,
            "enabled",
        ),
        below("headers", Method::PUT, json!({ "headers": { "x-team": "a" } }), [true, false, true], "headers"),
        below("headers", Method::PATCH, json!({ "headers": { "x-team": "a" } }), [true, false, true], "headers"),
        below("authentication", Method::PUT, json!({ "type": "bearer", "token": "t" }), push, "type"),
        below(
            "oauth",
            Method::PUT,
            json!({ "grantType": "clientCredentials", "authMethod": "clientSecretBasic", "clientId": "a", "clientSecret": "b", "tokenUrl": "https://login.example.com/token" }),
            push,
            "grantType",
        ),
        below("mtls", Method::PUT, json!({ "identity": "-----BEGIN PRIVATE KEY-----" }), push, "identity"),
        below("ca", Method::PUT, json!({ "cert": "-----BEGIN CERTIFICATE-----" }), push, "cert"),
        below("ssl-verification", Method::PUT, json!({ "enabled": false }), push, "enabled"),
        below("secret/rotate", Method::POST, json!({}), [true, false, true], "key"),
    ]
}

/// An endpoint that is nothing but of its kind.
fn plain(kind: &str) -> Value {
    match kind {
        "push" => json!({ "uid": "main", "url": "https://example.com/hook" }),
        "plugin" => json!({ "uid": "main", "plugin": script("a") }),
        _ => json!({ "uid": "main", "kind": "pipe" }),
    }
}

fn with(mut body: Value, more: &Value) -> Value {
    let members = more.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(members);
    body
}

impl World {
    async fn ask(&self, method: Method, path: &str, body: Value) -> Answered {
        match method {
            Method::POST => self.post(path, body).await,
            Method::PUT => self.put(path, body).await,
            _ => self.patch(path, body).await,
        }
    }
}

#[tokio::test]
async fn each_kind_takes_the_settings_that_have_an_effect_on_it_and_refuses_the_others_by_name() {
    for setting in settings() {
        for (kind, taken) in KINDS.into_iter().zip(setting.taken) {
            let name = format!("{} of {kind}", setting.name);
            let good = |answer: &Answered| (200..300).contains(&answer.status.as_u16());
            let mut answers = Vec::new();
            match &setting.below {
                Some((method, below)) => {
                    let world = unverified_world().await;
                    world.post(ALL, plain(kind)).await.expect(201);
                    answers.push(world.ask(method.clone(), &format!("{ONE}/{below}"), setting.body.clone()).await);
                }
                None => {
                    answers.push(world().await.post(ALL, with(plain(kind), &setting.body)).await);
                    let bulk = json!({ "endpoints": [with(plain(kind), &setting.body)] });
                    let bulk = world().await.post(&format!("{ALL}/bulk/create"), bulk).await;
                    assert_eq!(good(&bulk), taken, "{name}, with others");
                    for method in [Method::PUT, Method::PATCH] {
                        // Headers are no part of a patch, and a secret is changed elsewhere.
                        if setting.name == "secret" || setting.name == "headers" && method == Method::PATCH {
                            continue;
                        }
                        let world = world().await;
                        world.post(ALL, plain(kind)).await.expect(201);
                        let body =
                            if method == Method::PUT { with(plain(kind), &setting.body) } else { setting.body.clone() };
                        answers.push(world.ask(method, ONE, body).await);
                    }
                }
            }
            for answer in answers {
                assert_eq!(good(&answer), taken, "{name}: {answer:?}");
                if !taken {
                    let refused = answer.expect(422);
                    assert_eq!(refused["detail"][0]["loc"], json!(["body", setting.field]), "{name}");
                    let msg = refused["detail"][0]["msg"].as_str().expect("a text");
                    assert!(msg.contains(&format!("has no effect on an endpoint of the kind {kind}")), "{name}: {msg}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_kind_that_would_leave_a_setting_without_effect_is_refused_until_the_setting_is_gone() {
    for setting in settings() {
        for (kind, taken) in KINDS.into_iter().zip(setting.taken).skip(1) {
            let name = format!("{} of {kind}", setting.name);
            let world = unverified_world().await;
            match &setting.below {
                // A secret that an endpoint always has does no harm.
                _ if setting.name.starts_with("secret") => continue,
                None => drop(world.post(ALL, with(plain("push"), &setting.body)).await.expect(201)),
                Some((method, below)) => {
                    world.post(ALL, plain("push")).await.expect(201);
                    let set = world.ask(method.clone(), &format!("{ONE}/{below}"), setting.body.clone()).await;
                    assert!(set.status.is_success(), "{name}: {set:?}");
                }
            }
            let mut other = plain(kind);
            other.as_object_mut().expect("an object").remove("uid");
            let moved = world.patch(ONE, other).await;
            assert_eq!(moved.status == 200, taken, "{name}: {moved:?}");
            if !taken {
                let refused = moved.expect(422);
                assert_eq!(refused["detail"][0]["loc"], json!(["body", "kind"]), "{name}");
                assert!(
                    refused["detail"][0]["msg"].as_str().expect("a text").contains("take it away first"),
                    "{refused}"
                );
            }
        }
    }
}

#[tokio::test]
async fn what_is_cleared_with_the_change_of_kind_is_not_in_its_way() {
    let world = world().await;
    let both = json!({ "headers": { "x-team": "a" }, "retrySchedule": [5] });
    world.post(ALL, with(plain("push"), &both)).await.expect(201);
    world.put(&format!("{ONE}/ssl-verification"), json!({ "enabled": true })).await.expect(204);
    let refused = world.patch(ONE, json!({ "kind": "pipe" })).await.expect(422);
    assert_eq!(refused["detail"].as_array().map(Vec::len), Some(1), "{refused}");
    world.patch(ONE, json!({ "kind": "pipe", "retrySchedule": null })).await.expect(200);
}

#[tokio::test]
async fn a_portal_does_not_change_what_a_plugin_is_given() {
    let world = world().await;
    let id = world.get("/api/v1/app/acme").await.expect(200)["id"].as_str().expect("an id").to_owned();
    let token = application_token(ORGANISATION, &id, &["ManageTransformation"]);
    world.post(ALL, plain("plugin")).await.expect(201);
    let request = Request::builder().method(Method::PATCH).uri(format!("{ONE}/transformation"));
    let request = request.header("authorization", format!("Bearer {token}"));
    let body = json!({ "code": "const handler = w => w", "enabled": true }).to_string();
    let refused = world.send(request.body(body.into()).expect("a request")).await.expect(422);
    assert!(refused["detail"][0]["msg"].as_str().expect("a text").contains("operator"), "{refused}");
}
