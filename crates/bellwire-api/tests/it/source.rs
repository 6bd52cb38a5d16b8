//! Sources: what can be set, what is refused, and what is shown to whom.

use crate::world::World;
use bellwire_model::{KeptRequest, RequestId, RequestOutcome, SourceKey};
use bellwire_store::Change;
use serde_json::{Value, json};
use std::sync::Arc;

const ALL: &str = "/api/v1/source";

async fn world() -> World {
    let world = World::new();
    world.application("acme").await;
    world
}

fn github() -> Value {
    json!({ "uid": "git", "name": "Git", "appId": "acme", "preset": "github", "secrets": ["geheim"] })
}

#[tokio::test]
async fn a_source_is_made_shown_changed_and_deleted() {
    let world = world().await;
    let made = world.post(ALL, github()).await.expect(201);
    let url = made["listenerUrl"].as_str().expect("a URL");
    let token = url.strip_prefix("http://server.example/in/").expect("our address");
    assert!(token.len() == 32 && token.bytes().all(|b| b.is_ascii_alphanumeric()), "{token}");
    let shown = world.get("/api/v1/source/git").await.expect(200);
    assert_eq!((&shown["id"], &shown["secretCount"], &shown["methods"]), (&made["id"], &json!(1), &json!(["POST"])));
    let text = shown.to_string();
    assert!(!text.contains(token) && !text.contains("geheim"), "{text}");
    let secret = world.get("/api/v1/source/git/secret").await.expect(200);
    assert_eq!((&secret["listenerUrl"], &secret["secrets"][0]["secret"]), (&made["listenerUrl"], &json!("geheim")));

    let change = json!({ "name": "Hub", "path": "/hooks/git", "rate": 5, "disabled": true,
        "dedupe": { "by": "places", "places": ["header:x-a"], "windowSeconds": 60 },
        "allowedNetworks": ["192.0.2.1", "2001:db8::/32"] });
    let patched = world.patch("/api/v1/source/git", change).await.expect(200);
    assert_eq!(patched["allowedNetworks"], json!(["192.0.2.1/32", "2001:db8::/32"]));
    assert_eq!(
        patched["dedupe"],
        json!({ "by": "places", "places": ["header:x-a"], "windowSeconds": 60, "conflict": "flag" })
    );
    // Replaced, everything is as given, but the secrets and the listener URL stay.
    let replaced = world.put("/api/v1/source/git", github()).await.expect(200);
    assert_eq!(
        (&replaced["path"], &replaced["disabled"], &replaced["secretCount"]),
        (&Value::Null, &json!(false), &json!(1))
    );
    assert_eq!(world.get("/api/v1/source/git/secret").await.expect(200)["listenerUrl"], made["listenerUrl"]);

    world.delete("/api/v1/source/git").await.expect(204);
    world.get("/api/v1/source/git").await.expect(404);
    // By a uid that nobody has, PUT makes one.
    let mut body = github();
    body["uid"] = Value::Null;
    let made = world.put("/api/v1/source/git", body).await.expect(201);
    assert_eq!(made["uid"], "git");
    world.put("/api/v1/source/src_0ujtsYcgvSTl8PAuAdqWYSMnLOv", github()).await.expect(404);
}

#[tokio::test]
async fn every_fault_is_told_with_its_place() {
    let world = world().await;
    let body = json!({ "appId": "nobody", "preset": "github", "recipe": {}, "methods": ["POST", "BREW"], "rate": 0,
        "path": "/api/x", "bodyBytesMax": 0, "trustedProxies": ["x"], "eventType": "a b", "url": "ftp://x",
        "answer": { "status": 600 }, "dedupe": { "by": "places" }, "uid": "src_x" });
    let told = world.post(ALL, body).await.expect(422);
    let mut places: Vec<String> = told["detail"]
        .as_array()
        .expect("faults")
        .iter()
        .map(|fault| {
            fault["loc"]
                .as_array()
                .expect("a place")
                .iter()
                .skip(1)
                .map(|p| p.as_str().expect("text"))
                .collect::<Vec<_>>()
                .join(".")
        })
        .collect();
    places.sort();
    places.dedup();
    assert_eq!(
        places,
        [
            "answer.status",
            "appId",
            "bodyBytesMax",
            "dedupe.places",
            "eventType",
            "methods.[1]",
            "path",
            "rate",
            "recipe",
            "trustedProxies.[0]",
            "uid",
            "url",
        ]
    );
    let told = world.post(ALL, json!({ "appId": "acme", "preset": "nobody" })).await.expect(422);
    assert_eq!(told["detail"][0]["loc"], json!(["body", "preset"]));
    let told = world.post(ALL, json!({ "appId": "acme", "preset": "github", "colour": "red" })).await.expect(422);
    assert!(told["detail"][0]["msg"].as_str().expect("text").contains("colour"));
}

#[tokio::test]
async fn uids_and_paths_are_taken_once() {
    let world = world().await;
    let mut one = github();
    one["path"] = json!("/hooks/git");
    world.post(ALL, one.clone()).await.expect(201);
    world.post(ALL, one.clone()).await.expect(409);
    one["uid"] = json!("other");
    world.post(ALL, one.clone()).await.expect(409);
    one["path"] = json!("/hooks/other");
    world.post(ALL, one).await.expect(201);
    world.patch("/api/v1/source/other", json!({ "path": "/hooks/git" })).await.expect(409);
    let listed = world.get("/api/v1/source?order=ascending&limit=1").await.expect(200);
    assert_eq!((&listed["data"][0]["uid"], &listed["done"]), (&json!("git"), &json!(false)));
    let rest = world
        .get(&format!("/api/v1/source?order=ascending&iterator={}", listed["iterator"].as_str().expect("an id")))
        .await;
    assert_eq!(rest.expect(200)["data"][0]["uid"], "other");
}

#[tokio::test]
async fn secrets_change_over_and_expire() {
    let world = world().await;
    world.post(ALL, github()).await.expect(201);
    let add = json!({ "secret": "new", "gracePeriodSeconds": 60 });
    world.post("/api/v1/source/git/secret", add).await.expect(204);
    let told = world.post("/api/v1/source/git/secret", json!({ "secret": "bad" })).await.expect(422);
    assert_eq!(told["detail"][0]["loc"], json!(["body", "secret"]));
    let secrets = world.get("/api/v1/source/git/secret").await.expect(200)["secrets"].clone();
    assert_eq!((&secrets[0]["secret"], &secrets[1]["secret"]), (&json!("new"), &json!("geheim")));
    assert!(secrets[0]["expiresAt"].is_null() && secrets[1]["expiresAt"].is_string());
    world.pass(std::time::Duration::from_secs(61));
    assert_eq!(world.get("/api/v1/source/git").await.expect(200)["secretCount"], 1);
    let fingerprint = secrets[0]["fingerprint"].as_str().expect("text");
    world.delete(&format!("/api/v1/source/git/secret/{fingerprint}")).await.expect(204);
    world.delete(&format!("/api/v1/source/git/secret/{fingerprint}")).await.expect(404);
    assert_eq!(world.get("/api/v1/source/git").await.expect(200)["secretCount"], 0);
}

#[tokio::test]
async fn the_same_request_makes_one_source_and_keeps_no_token() {
    let world = world().await;
    let first = world.post_once(ALL, "k", github()).await.expect(201);
    let again = world.post_once(ALL, "k", github()).await.expect(201);
    assert_eq!((&first["id"], &first["listenerUrl"]), (&again["id"], &again["listenerUrl"]));
    let url = first["listenerUrl"].as_str().expect("a URL").to_owned();
    let token = url.rsplit('/').next().expect("a token");
    for change in &world.kept().changes {
        if let Change::KeepAnswer(kept) = change {
            assert!(!String::from_utf8_lossy(&kept.body).contains(token));
        }
    }
    let rotated = world.post_once("/api/v1/source/git/token/rotate", "r", json!({})).await.expect(200);
    assert_ne!(rotated["listenerUrl"], first["listenerUrl"]);
    let again = world.post_once("/api/v1/source/git/token/rotate", "r", json!({})).await.expect(200);
    assert_eq!(rotated, again);
}

#[tokio::test]
async fn nobody_else_sees_a_source() {
    let world = world().await;
    let made = world.post(ALL, github()).await.expect(201);
    let id = made["id"].as_str().expect("an id").to_owned();
    let stranger = World { token: crate::world::organisation_token(crate::world::OTHER_ORGANISATION), ..world };
    stranger.get(&format!("/api/v1/source/{id}")).await.expect(404);
    stranger.get(&format!("/api/v1/source/{id}/request")).await.expect(404);
    assert_eq!(stranger.get(ALL).await.expect(200)["data"], json!([]));
    let app = stranger.backend_application("acme");
    let portal = World { token: crate::world::application_token(crate::world::ORGANISATION, &app, &[]), ..stranger };
    portal.get(ALL).await.expect(403);
    portal.get(&format!("/api/v1/source/{id}/secret")).await.expect(403);
}

impl World {
    fn backend_application(&self, uid: &str) -> String {
        use bellwire_api::Backend;
        let organisation = bellwire_model::OrganisationId::parse(crate::world::ORGANISATION).expect("an organisation");
        let catalogue = self.backend.catalogue().read();
        catalogue.find_application(&organisation, uid).expect("it is there").application.id.to_string()
    }

    /// What the receiver would keep.
    async fn keep(&self, n: u8, outcome: RequestOutcome) -> String {
        use bellwire_api::Backend;
        let organisation = bellwire_model::OrganisationId::parse(crate::world::ORGANISATION).expect("an organisation");
        let source = self.backend.catalogue().read().sources().find(&organisation, "git").expect("there").clone();
        let id = RequestId::from_parts(self.backend.sequence(), [n; 12]);
        let received = bellwire_model::Received {
            source: source.id,
            method: "POST".into(),
            path: "/in/…".into(),
            query: None,
            headers: [("x-a", "b")].into_iter().collect(),
            remote: Some([192, 0, 2, n].into()),
            hops: 0,
            dedupe: None,
        };
        let key: SourceKey = source.key;
        let request =
            KeptRequest { id, source: key, outcome, status: 401, received: Arc::new(received), body: "hi".into() };
        self.backend.change(vec![Change::KeepRequest(Arc::new(request))]).await.expect("kept");
        id.to_string()
    }
}

#[tokio::test]
async fn requests_are_listed_newest_first_with_the_reason() {
    let world = world().await;
    world.post(ALL, github()).await.expect(201);
    let refused = world.keep(1, RequestOutcome::Refused { reason: "the signature does not fit".into() }).await;
    let duplicate = world.keep(2, RequestOutcome::Duplicate { message: None, conflict: true }).await;
    let all = world.get("/api/v1/source/git/request").await.expect(200);
    let ids: Vec<_> =
        all["data"].as_array().expect("a list").iter().map(|r| r["id"].as_str().expect("an id")).collect();
    assert_eq!(ids, [&duplicate, &refused]);
    assert_eq!(
        (&all["data"][1]["reason"], &all["data"][1]["body"]),
        (&json!("the signature does not fit"), &json!("aGk="))
    );
    assert_eq!(all["done"], true);
    let some = world.get("/api/v1/source/git/request?outcome=conflict").await.expect(200);
    assert_eq!(some["data"].as_array().map(Vec::len), Some(1));
    world.get("/api/v1/source/git/request?outcome=nice").await.expect(400);
}
