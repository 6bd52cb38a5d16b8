//! Who may do what: every operation of the document with every kind of token (S01, S05).

use crate::document::operations;
use crate::world::{ORGANISATION, OTHER_ORGANISATION, SECRET, World, application_token, organisation_token};
use axum::body::Body;
use bellwire_api::{Principal, Settings, mint_token};
use bellwire_model::{OrganisationId, Timestamp};
use http::{Method, Request};
use serde_json::{Value, json};
use std::time::Duration;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Who {
    Nobody,
    Forger,
    OtherOrganisation,
    Organisation,
    OwnApplication,
    OtherApplication,
}

const EVERYBODY: [Who; 6] =
    [Who::Nobody, Who::Forger, Who::OtherOrganisation, Who::Organisation, Who::OwnApplication, Who::OtherApplication];

/// A world in which there is one of everything that a path can name.
pub(crate) struct Furnished {
    pub(crate) world: World,
    own: String,
    other: String,
    /// Of the pipe.
    cursor: String,
    ids: Vec<(&'static str, String)>,
}

impl Furnished {
    pub(crate) async fn new() -> Self {
        let world = World::new();
        let own = world.application("own").await;
        let other = world.application("other").await;
        let endpoint = world.endpoint("own").await;
        let pipe = json!({ "uid": "pipe", "kind": "pipe" });
        world.post("/api/v1/app/own/endpoint", pipe).await.expect(201);
        let pulled = world.get("/api/v1/app/own/endpoint/pipe/pull").await.expect(200);
        // Streams end where they would wait.
        world.backend.close_pipes();
        let message = world.message("own").await;
        let attempt = world.attempt(&message, &endpoint, Ok(500), b"");
        world.post("/api/v1/event-type", json!({ "name": "a.b", "description": "" })).await.expect(201);
        let tokens = format!("/api/v1/management/authentication/{ORGANISATION}/api-token");
        let registered = world.post(&tokens, json!({ "name": "a" })).await.expect(200);
        // What is only there once it was set.
        for id in ["v1.endpoint.set-oauth-config", "v1.endpoint.set-mtls-config"] {
            let path = if id.contains("oauth") { "oauth" } else { "mtls" };
            world.put(&format!("/api/v1/app/own/endpoint/{endpoint}/{path}"), sample(id)).await.expect(204);
        }
        let told = json!({ "url": "https://example.com", "uid": "told" });
        world.post("/api/v1/operational-webhook/endpoint", told).await.expect(201);
        let recover = format!("/api/v1/app/own/endpoint/{endpoint}/recover");
        let task = world.post(&recover, json!({ "since": "2025-12-31T00:00:00Z" })).await.expect(202);
        let source = json!({ "appId": "own", "preset": "github", "secrets": ["s"], "uid": "git" });
        let source = world.post("/api/v1/source", source).await.expect(201);
        let secrets = world.get("/api/v1/source/git/secret").await.expect(200);
        let ids = vec![
            ("{source_id}", source["id"].as_str().unwrap().to_owned()),
            ("{fingerprint}", secrets["secrets"][0]["fingerprint"].as_str().unwrap().to_owned()),
            ("{task_id}", task["id"].as_str().unwrap().to_owned()),
            ("{app_id}", "own".to_owned()),
            ("{sink_id}", "pipe".to_owned()),
            ("{consumer_id}", "reader".to_owned()),
            ("{endpoint_id}", endpoint),
            ("{msg_id}", message),
            ("{attempt_id}", attempt),
            ("{env_id}", ORGANISATION.to_owned()),
            ("{key_id}", registered["id"].as_str().unwrap().to_owned()),
            ("{event_type_name}", "a.b".to_owned()),
            ("{plugin_name}", "deploy".to_owned()),
        ];
        let cursor = pulled["cursor"].as_str().unwrap().to_owned();
        Furnished { world, own, other, cursor, ids }
    }

    /// A body that the operation accepts here.
    pub(crate) fn body(&self, id: &str) -> Value {
        match id {
            "v1.pipe.consumer.commit" => json!({ "cursor": self.cursor }),
            id => sample(id),
        }
    }

    /// A path of the document, with what is there for its names.
    pub(crate) fn path(&self, template: &str) -> String {
        let template = match template.strip_prefix("/api/v1/operational-webhook/") {
            Some(rest) => format!("/api/v1/operational-webhook/{}", rest.replace("{endpoint_id}", "told")),
            // Only there may deliveries be taken.
            None if template.contains("/pull/") => template.replace("{endpoint_id}", "pipe"),
            None => template.to_owned(),
        };
        self.ids.iter().fold(template, |path, (name, id)| path.replace(name, id))
    }
}

#[tokio::test]
async fn every_operation_refuses_whom_it_must() {
    let document = bellwire_api::openapi_document();
    for (name, operation) in operations(&document) {
        for who in EVERYBODY {
            // A world of its own, so that one call does not change what the next one sees.
            let furnished = Furnished::new().await;
            let Furnished { world, own, other, .. } = &furnished;
            let before = world.kept().changes.len();

            let (method, path) = name.split_once(' ').unwrap();
            let path = furnished.path(path);
            let token = match who {
                Who::Nobody => None,
                Who::Forger => {
                    let organisation = Principal::Organisation(OrganisationId::parse(ORGANISATION).unwrap());
                    let now = crate::world::START;
                    Some(mint_token(b"another secret", &organisation, now, Duration::from_secs(60)).unwrap())
                }
                Who::OtherOrganisation => Some(organisation_token(OTHER_ORGANISATION)),
                Who::Organisation => Some(organisation_token(ORGANISATION)),
                Who::OwnApplication => Some(application_token(ORGANISATION, own, &[])),
                Who::OtherApplication => Some(application_token(ORGANISATION, other, &[])),
            };
            let mut request = Request::builder().method(method.parse::<Method>().unwrap()).uri(&path);
            if let Some(token) = token {
                request = request.header("authorization", format!("Bearer {token}"));
            }
            let body = furnished.body(operation["operationId"].as_str().unwrap());
            let answer = world.send(request.body(Body::from(body.to_string())).unwrap()).await;

            let access = operation["x-access"].as_str().unwrap();
            let operational = name.contains("/operational-webhook/");
            let upserts = name.starts_with("PUT") && name.ends_with("{endpoint_id}");
            let in_application = name.contains("{app_id}");
            let status = answer.status.as_u16();
            let case = format!("{name} as {who:?}: {status} {}", answer.text);
            let expected = match (access, who) {
                // It is for applications' tokens only.
                (_, Who::Organisation | Who::OtherOrganisation) if name.ends_with("/logout") => Some(403),
                // One that requests come to is in no state of its own.
                (_, Who::Organisation) if name.ends_with("/state") => Some(422),
                ("open", _) | (_, Who::Organisation) => None,
                (_, Who::Nobody | Who::Forger) => Some(401),
                // Its own world is empty: nothing of the first one's is there. Lists and upserts see its own.
                (_, Who::OtherOrganisation) if in_application && !name.starts_with("PUT /api/v1/app/{app_id}") => {
                    Some(404)
                }
                (_, Who::OtherOrganisation) if name.starts_with("PUT /api/v1/app/{app_id}/") => Some(404),
                (_, Who::OtherOrganisation) if name.contains("{env_id}") => Some(404),
                (_, Who::OtherOrganisation | Who::OtherApplication) if name.contains("{task_id}") => Some(404),
                // Its name alone can be put: then it is a new one of their own.
                (_, Who::OtherOrganisation)
                    if name.contains("{event_type_name}")
                        && !(name.starts_with("PUT") && name.ends_with("{event_type_name}")) =>
                {
                    Some(404)
                }
                (_, Who::OtherOrganisation) if operational && name.contains("{endpoint_id}") && !upserts => Some(404),
                (_, Who::OtherOrganisation) if name.contains("/explain/") => Some(404),
                (_, Who::OtherOrganisation) if name.contains("{source_id}") => Some(404),
                // The application that it names is not theirs.
                (_, Who::OtherOrganisation) if name == "POST /api/v1/source" => Some(422),
                (_, Who::OtherOrganisation) => None,
                ("organisation" | "sender", Who::OwnApplication | Who::OtherApplication) => Some(403),
                ("application", Who::OtherApplication) => Some(404),
                ("application" | "reader", _) => None,
                (other, _) => panic!("{name} has the access {other}"),
            };
            match expected {
                Some(expected) => {
                    assert_eq!(status, expected, "{case}");
                    assert_eq!(world.kept().changes.len(), before, "{case} changed something");
                }
                // They got past the door; what they want more is none of this test's business.
                None if WANTS_MORE.contains(&operation["operationId"].as_str().unwrap()) => {
                    assert_eq!(status, 422, "{case}");
                }
                None => assert!(matches!(status, 200..=299), "{case}"),
            }
        }
    }
}

/// Operations that need something in their query, an engine, a source with a schedule, or a server that runs plugins.
const WANTS_MORE: [&str; 9] = [
    "v1.application.stats.attempts",
    "v1.message.test-attempt",
    "v1.pipe.socket",
    "v1.plugin.add",
    "v1.plugin.grant",
    "v1.plugin.rollback",
    "v1.plugin.remove",
    "v1.plugin.test",
    "v1.source.run",
];

/// A body that each operation accepts.
pub(crate) fn sample(id: &str) -> Value {
    match id {
        "v1.plugin.add" => json!({ "name": "deploy", "code": "export function handle() {}" }),
        "v1.plugin.test" => json!({ "plugin": { "runs": "javascript", "script": "export function handle() {}" } }),
        "v1.application.create" | "v1.application.update" => json!({ "name": "A" }),
        "v1.endpoint.set-authentication" => json!({ "type": "bearer", "token": "t" }),
        "v1.endpoint.set-oauth-config" => json!({
            "grantType": "clientCredentials", "authMethod": "clientSecretBasic", "clientId": "c", "clientSecret": "s",
            "tokenUrl": "https://example.com/token",
        }),
        "v1.endpoint.set-mtls-config" => json!({ "identity": "-----BEGIN" }),
        "v1.endpoint.set-ssl-verification" => json!({ "enabled": true }),
        "v1.endpoint.create"
        | "v1.endpoint.update"
        | "v1.operational-webhook.endpoint.create"
        | "v1.operational-webhook.endpoint.upsert" => json!({ "url": "https://example.com" }),
        "v1.endpoint.update-headers" | "v1.endpoint.patch-headers" | "v1.operational-webhook.endpoint.set-headers" => {
            json!({ "headers": {} })
        }
        "v1.event-type.create" => json!({ "name": "c.d", "description": "" }),
        "v1.event-type.update" => json!({ "description": "" }),
        "v1.message.create" | "v1.message.stream" | "v1.message.broadcast" => {
            json!({ "eventType": "a.b", "payload": {} })
        }
        "v1.pipe.ack" | "v1.pipe.nack" | "v1.pipe.extend" => json!({ "receipts": ["x"] }),
        "v1.pipe.secevent-poll" => json!({ "returnImmediately": true }),
        "v1.pipe.consumer.seek" => json!({ "from": "now" }),
        "v1.message.poller.consumer-seek" => json!({ "after": "2025-12-31T00:00:00Z" }),
        "v1.endpoint.bulk-create" => json!({ "endpoints": [{ "url": "https://example.com" }] }),
        "v1.endpoint.send-example" => json!({ "eventType": "svix.ping" }),
        "v1.event-type.import-openapi" => json!({ "spec": { "webhooks": {} } }),
        "v1.message.precheck" => json!({ "eventType": "a.b" }),
        "v1.authentication.create-message-token"
        | "v1.management.authentication.create-api-token"
        | "v1.management.authentication.update-api-token" => json!({ "name": "b" }),
        "v1.endpoint.recover" | "v1.endpoint.replay-missing" | "v1.endpoint.bulk-replay" => {
            json!({ "since": "2025-12-31T00:00:00Z" })
        }
        "v1.endpoint.cancel-msgs" => json!({ "createdBefore": "2025-12-31T00:00:00Z" }),
        "v1.statistics.aggregate-app-stats" => {
            json!({ "since": "2025-12-31T00:00:00Z", "until": "2025-12-31T01:00:00Z" })
        }
        "v1.endpoint.transformation.simulate" => {
            json!({ "code": "handler = webhook => webhook", "eventType": "a.b", "payload": {} })
        }
        "v1.source.create" | "v1.source.update" => {
            json!({ "appId": "own", "preset": "github", "secrets": ["s"] })
        }
        "v1.source.add-secret" => json!({ "secret": "another" }),
        _ => json!({}),
    }
}

#[tokio::test]
async fn another_organisations_ids_are_not_found() {
    let mut world = World::new();
    let app = world.application("acme").await;
    world.endpoint(&app).await;
    let message = world.message("acme").await;
    world.token = organisation_token(OTHER_ORGANISATION);
    world.application("acme").await;
    assert_eq!(world.get(&format!("/api/v1/app/{app}")).await.expect(404)["code"], "not_found");
    // Through an application of its own, a message of the other's is not found either.
    world.get(&format!("/api/v1/app/acme/msg/{message}")).await.expect(404);
    world.get(&format!("/api/v1/app/acme/attempt/msg/{message}")).await.expect(404);
}

#[tokio::test]
async fn tokens_are_read_as_they_should() {
    let world = World::new();
    let organisation = Principal::Organisation(OrganisationId::parse(ORGANISATION).unwrap());
    let minted =
        |now: Timestamp, seconds| mint_token(SECRET, &organisation, now, Duration::from_secs(seconds)).unwrap();
    let good = minted(crate::world::START, 3600);
    let head = jwt(r#"{"alg":"none"}"#);
    let claims = good.split('.').nth(1).unwrap();
    let hs512 = format!("{}.{claims}.{}", jwt(r#"{"alg":"HS512"}"#), good.rsplit('.').next().unwrap());
    let cases = [
        (format!("Bearer {good}"), 200, ""),
        (format!("bearer {good}"), 200, ""),
        (format!("Basic {good}"), 401, "Invalid token"),
        (good.clone(), 401, "Invalid token"),
        ("Bearer ".to_owned(), 401, "Invalid token"),
        ("Bearer x".to_owned(), 401, "Invalid token"),
        (format!("Bearer {head}.{claims}."), 401, "Invalid token"),
        (format!("Bearer {hs512}"), 401, "Invalid token"),
        (format!("Bearer {}x", good), 401, "Invalid token"),
        (format!("Bearer {}", "a".repeat(100_000)), 401, "Invalid token"),
        (format!("Bearer {}", minted(crate::world::START.minus(Duration::from_secs(7200)), 3600)), 401, "expired"),
        (format!("Bearer {}", minted(crate::world::START.plus(Duration::from_secs(7200)), 3600)), 401, "not valid yet"),
        (format!("Bearer {}", String::from_utf8(SECRET.to_vec()).unwrap()), 401, "JWT signing secrets can not be used"),
    ];
    for (header, status, text) in cases {
        // Twice: the second time, what was verified is remembered.
        for _ in 0..2 {
            let request = Request::builder().uri("/api/v1/app").header("authorization", &header);
            let answer = world.send(request.body(Body::empty()).unwrap()).await;
            assert_eq!(answer.status.as_u16(), status, "{header}: {}", answer.text);
            assert!(answer.text.contains(text), "{header}: {}", answer.text);
        }
    }
}

#[tokio::test]
async fn a_remembered_token_still_expires() {
    let world = World::new();
    world.get("/api/v1/app").await.expect(200);
    world.pass(Duration::from_secs(3600 + 59));
    world.get("/api/v1/app").await.expect(200);
    world.pass(Duration::from_secs(1));
    world.get("/api/v1/app").await.expect(401);
}

#[tokio::test]
async fn no_secret_no_token() {
    let mut world = World::with(Settings::default());
    let now = crate::world::START.as_seconds();
    let claims = serde_json::json!({ "sub": ORGANISATION, "iat": now, "nbf": now, "exp": now + 60 });
    // As anybody could sign it.
    let (head, key) = (jsonwebtoken::Header::default(), jsonwebtoken::EncodingKey::from_secret(b""));
    world.token = jsonwebtoken::encode(&head, &claims, &key).unwrap();
    world.get("/api/v1/app").await.expect(401);
}

#[tokio::test]
async fn a_secret_can_be_replaced_without_a_gap() {
    let settings = Settings {
        jwt_secret: b"the new one".to_vec(),
        jwt_secrets_before: vec![SECRET.to_vec()],
        ..Settings::default()
    };
    let mut world = World::with(settings);
    world.get("/api/v1/app").await.expect(200);
    let organisation = Principal::Organisation(OrganisationId::parse(ORGANISATION).unwrap());
    world.token = mint_token(b"the new one", &organisation, crate::world::START, Duration::from_secs(60)).unwrap();
    world.get("/api/v1/app").await.expect(200);
}

#[tokio::test]
async fn an_application_sees_event_types_by_its_flags() {
    let mut world = World::new();
    let app = world.application("acme").await;
    world.post("/api/v1/event-type", json!({ "name": "open", "description": "" })).await.expect(201);
    let beta = json!({ "name": "beta", "description": "", "featureFlags": ["x", "y"] });
    assert_eq!(world.post("/api/v1/event-type", beta).await.expect(201)["featureFlag"], "x");
    let names = |list: Value| -> Vec<String> {
        list["data"].as_array().unwrap().iter().map(|t| t["name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(world.get("/api/v1/event-type").await.expect(200)), ["beta", "open"]);
    world.token = application_token(ORGANISATION, &app, &[]);
    assert_eq!(names(world.get("/api/v1/event-type").await.expect(200)), ["open"]);
    world.get("/api/v1/event-type/beta").await.expect(404);
    world.token = application_token(ORGANISATION, &app, &["y"]);
    assert_eq!(names(world.get("/api/v1/event-type").await.expect(200)), ["beta", "open"]);
    world.get("/api/v1/event-type/beta").await.expect(200);
}

fn jwt(part: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in part.as_bytes().chunks(3) {
        let bits = chunk.iter().fold(0u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..=chunk.len() {
            text.push(char::from(ALPHABET[(bits >> (18 - 6 * at)) as usize & 63]));
        }
    }
    text
}
