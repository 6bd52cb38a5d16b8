//! The kinds of endpoint: which settings belong to which, and what an edit makes of them.

use crate::world::{ORGANISATION, World, application_token};
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
