//! How an endpoint is reached: what goes in takes effect, and its secrets do not come out.

use crate::world::{SECRET, World};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bellwire_api::Settings;
use bellwire_model::{Access, Credentials};
use serde_json::{Value, json};

const HIDDEN: &str = "only-the-endpoint-knows";

async fn world() -> (World, String) {
    let world = World::new();
    world.application("acme").await;
    let endpoint = world.endpoint("acme").await;
    (world, format!("/api/v1/app/acme/endpoint/{endpoint}"))
}

fn kept(world: &World) -> Access {
    use bellwire_api::Backend;
    world.backend.catalogue().read().endpoints().next().expect("an endpoint").access.clone()
}

#[tokio::test]
async fn every_way_to_authenticate_is_kept_and_shown_without_its_secret() {
    let (world, endpoint) = world().await;
    let path = format!("{endpoint}/authentication");
    assert_eq!(world.get(&path).await.expect(200), json!({ "type": "none" }));
    let hmac = json!({
        "type": "hmac", "header": "X-Slack-Signature", "timestampHeader": "X-Slack-Request-Timestamp",
        "algorithm": "sha512", "encoding": "base64", "signed": "v0:{timestamp}:{body}", "format": "v0={signature}",
    });
    let cases = [
        (json!({ "type": "bearer", "token": HIDDEN }), json!({ "type": "bearer" })),
        (
            json!({ "type": "basic", "username": "bell", "password": HIDDEN }),
            json!({ "type": "basic", "username": "bell" }),
        ),
        (
            json!({ "type": "query", "parameter": "token", "token": HIDDEN }),
            json!({ "type": "query", "parameter": "token" }),
        ),
        (with(&hmac, "key", HIDDEN), hmac),
        (
            json!({ "type": "hmac", "header": "X-Sig", "key": "68756e74657232", "keyEncoding": "hex" }),
            json!({
                "type": "hmac", "header": "X-Sig", "algorithm": "sha256", "encoding": "hex",
                "signed": "{body}", "format": "{signature}",
            }),
        ),
    ];
    for (set, shown) in cases {
        world.put(&path, set).await.expect(204);
        assert_eq!(world.get(&path).await.expect(200), shown);
        assert!(kept(&world).credentials.is_some());
    }
    let Some(Credentials::Hmac { hmac, .. }) = kept(&world).credentials else { panic!("an HMAC") };
    assert_eq!(hmac.reveal_key(), b"hunter2", "the key is decoded");
    // All that else shows the endpoint keeps silent, too.
    world.put(&path, json!({ "type": "bearer", "token": HIDDEN })).await.expect(204);
    for path in [endpoint.clone(), "/api/v1/app/acme/endpoint".to_owned(), format!("{endpoint}/headers")] {
        assert!(!world.get(&path).await.text.contains(HIDDEN));
    }
    // A change of the endpoint keeps it.
    world.patch(&endpoint, json!({ "description": "d" })).await.expect(200);
    world.put(&endpoint, json!({ "url": "https://example.com/other" })).await.expect(200);
    assert_eq!(world.get(&path).await.expect(200)["type"], "bearer");
    world.delete(&path).await.expect(204);
    assert_eq!(world.get(&path).await.expect(200), json!({ "type": "none" }));
    assert_eq!(kept(&world), Access::default());
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_with_the_field_and_the_reason() {
    let (world, endpoint) = world().await;
    let check = async |body: Value, field: &str, text: &str| {
        let answer = world.put(&format!("{endpoint}/authentication"), body.clone()).await.expect(422);
        let faults = answer["detail"].as_array().expect("faults");
        let found = faults.iter().any(|fault| {
            fault["loc"].as_array().and_then(|loc| loc.last()).is_some_and(|last| last == field)
                && fault["msg"].as_str().is_some_and(|msg| msg.contains(text))
        });
        assert!(found, "{body}: {answer}");
    };
    let hmac = json!({ "type": "hmac", "header": "X-Sig", "key": "k" });
    check(json!({}), "type", "required").await;
    check(json!({ "type": "digest" }), "type", "unknown variant").await;
    check(json!({ "type": "oauth2" }), "type", "/oauth").await;
    check(json!({ "type": "bearer" }), "token", "required").await;
    check(json!({ "type": "bearer", "token": "a b" }), "token", "without spaces").await;
    check(json!({ "type": "bearer", "token": "" }), "token", "1 to").await;
    check(json!({ "type": "bearer", "token": "t", "password": "p" }), "password", "no meaning").await;
    check(json!({ "type": "none", "token": "t" }), "token", "no meaning").await;
    check(json!({ "type": "basic", "username": "a:b" }), "username", "colons").await;
    check(json!({ "type": "basic", "username": "a", "password": "\r\n" }), "password", "control").await;
    check(json!({ "type": "query", "token": "t" }), "parameter", "required").await;
    check(with(&hmac, "header", "a b"), "header", "not a header name").await;
    check(with(&hmac, "header", "webhook-signature"), "header", "reserved").await;
    check(with(&hmac, "timestampHeader", "x-sig"), "timestampHeader", "another header").await;
    check(with(&hmac, "signed", "{timestamp}"), "signed", "{body} must be in it").await;
    check(with(&hmac, "format", "{body}"), "format", "not known here").await;
    check(with(&hmac, "key", ""), "key", "1 to").await;
    check(with(&with(&hmac, "keyEncoding", "hex"), "key", "xyz"), "key", "keyEncoding").await;
    assert_eq!(kept(&world), Access::default());
}

#[tokio::test]
async fn oauth_is_set_shown_without_its_secret_and_taken_away() {
    let (world, endpoint) = world().await;
    let (path, status) = (format!("{endpoint}/oauth"), format!("{endpoint}/oauth-config"));
    world.get(&path).await.expect(404);
    assert_eq!(world.get(&status).await.expect(200), json!({ "enabled": false, "config": null }));
    let config = json!({
        "grantType": "clientCredentials", "authMethod": "clientSecretPost", "clientId": "bell", "clientSecret": HIDDEN,
        "tokenUrl": "https://login.example.com/token", "scopes": ["a", "b"],
        "extraParams": { "audience": "https://receiver.example", "api_key": HIDDEN },
        "extraHeaders": { "x-tenant": "t", "x-api-key": HIDDEN },
    });
    world.put(&path, config.clone()).await.expect(204);
    let shown = json!({
        "grantType": "clientCredentials", "authMethod": "clientSecretPost", "clientId": "bell",
        "tokenUrl": "https://login.example.com/token", "scopes": ["a", "b"],
        "extraParams": { "audience": "https://receiver.example" }, "extraHeaders": { "x-tenant": "t" },
    });
    assert_eq!(world.get(&path).await.expect(200), shown);
    assert_eq!(world.get(&status).await.expect(200), json!({ "enabled": true, "config": shown }));
    assert_eq!(world.get(&format!("{endpoint}/authentication")).await.expect(200), json!({ "type": "oauth2" }));

    let check = async |member: &str, value: Value, text: &str| {
        let answer = world.put(&path, with(&config, member, value)).await.expect(422);
        let fault = &answer["detail"][0];
        assert!(fault["loc"].to_string().contains(member), "{answer}");
        assert!(fault["msg"].as_str().is_some_and(|msg| msg.contains(text)), "{answer}");
    };
    check("refreshToken", json!("r"), "belongs to the grant").await;
    check("jwtParams", json!({}), "belongs to `clientSecretJwt`").await;
    check("clientSecret", Value::Null, "required").await;
    check("tokenUrl", json!("ftp://a/"), "http or https").await;
    check("tokenUrl", json!("https://u:p@a.example/"), "user name").await;
    check("tokenUrl", json!("http://127.0.0.1/token"), "not allowed").await;
    check("scopes", json!(["a b"]), "scopes").await;
    check("extraParams", json!({ "grant_type": "password" }), "member of its own").await;
    check("extraHeaders", json!({ "Authorization": "x" }), "cannot be chosen").await;
    check("extraHeaders", json!({ "host": "x" }), "cannot be chosen").await;

    // It takes the place of another way, and its deletion leaves another way alone.
    world.put(&format!("{endpoint}/authentication"), json!({ "type": "bearer", "token": "t" })).await.expect(204);
    world.delete(&path).await.expect(204);
    assert_eq!(world.get(&format!("{endpoint}/authentication")).await.expect(200), json!({ "type": "bearer" }));
    world.put(&path, config.clone()).await.expect(204);
    world.delete(&path).await.expect(204);
    world.get(&path).await.expect(404);
    assert_eq!(kept(&world), Access::default());
}

#[tokio::test]
async fn oauth_by_a_refresh_token_and_by_a_signed_assertion() {
    let (world, endpoint) = world().await;
    let path = format!("{endpoint}/oauth");
    let key = BASE64_STANDARD.encode(crate::tokens::rsa_key());
    let config = json!({
        "grantType": "refreshToken", "authMethod": "clientSecretJwt", "clientId": "bell", "refreshToken": HIDDEN,
        "tokenUrl": "https://login.example.com/token",
        "jwtParams": { "signingAlgorithm": "RS256", "secretBase64": key, "secretId": "k1", "tokenExpirySecs": 60 },
    });
    world.put(&path, config.clone()).await.expect(204);
    let shown = world.get(&path).await.expect(200);
    assert_eq!((&shown["grantType"], &shown["authMethod"]), (&json!("refreshToken"), &json!("clientSecretJwt")));
    assert!(!shown.to_string().contains(HIDDEN) && !shown.to_string().contains("secretBase64"), "{shown}");
    let check = async |change: &dyn Fn(&mut Value), place: &[&str], text: &str| {
        let mut config = config.clone();
        change(&mut config);
        let answer = world.put(&path, config).await.expect(422);
        let (fault, place) = (&answer["detail"][0], [&["body"], place].concat());
        assert_eq!(fault["loc"], json!(place), "{answer}");
        assert!(fault["msg"].as_str().is_some_and(|msg| msg.contains(text)), "{answer}");
    };
    check(&|c| c["refreshToken"] = Value::Null, &["refreshToken"], "required").await;
    check(&|c| c["clientSecret"] = json!("s"), &["clientSecret"], "belongs to").await;
    check(&|c| c["jwtParams"] = Value::Null, &["jwtParams"], "required").await;
    let params = "jwtParams";
    check(&|c| c[params]["secretBase64"] = Value::Null, &[params, "secretBase64"], "required").await;
    check(&|c| c[params]["secretBase64"] = json!("%"), &[params, "secretBase64"], "base64").await;
    check(&|c| c[params]["secretBase64"] = json!("aGVsbG8="), &[params, "secretBase64"], "PEM").await;
    check(&|c| c[params]["signingAlgorithm"] = Value::Null, &[params, "signingAlgorithm"], "required").await;
    check(&|c| c[params]["tokenExpirySecs"] = json!(0), &[params, "tokenExpirySecs"], "1 to 3600").await;
    check(&|c| c[params]["secretId"] = json!(""), &[params, "secretId"], "1 to 256").await;
    check(&|c| c["extraParams"] = json!({ "refresh_token": "x" }), &["extraParams", "refresh_token"], "own").await;
    let mut shared = config.clone();
    shared[params] = json!({ "signingAlgorithm": "HS256", "secretBase64": "aGVsbG8=" });
    world.put(&path, shared).await.expect(204);
}

#[tokio::test]
async fn certificates_are_checked_kept_and_taken_away() {
    let (world, endpoint) = world().await;
    let (mtls, status, ca) = (format!("{endpoint}/mtls"), format!("{endpoint}/mtls-config"), format!("{endpoint}/ca"));
    world.get(&mtls).await.expect(404);
    assert_eq!(world.get(&status).await.expect(200), json!({ "enabled": false, "config": null }));
    assert_eq!(world.get(&ca).await.expect(200), json!({ "cert": null }));
    let pem = format!("-----BEGIN {HIDDEN}");
    world.put(&mtls, json!({ "identity": pem })).await.expect(204);
    world.put(&ca, json!({ "cert": "-----BEGIN CERTIFICATE-----" })).await.expect(204);
    assert_eq!(world.get(&mtls).await.expect(200), json!({}));
    assert_eq!(world.get(&status).await.expect(200), json!({ "enabled": true, "config": {} }));
    assert_eq!(world.get(&ca).await.expect(200), json!({ "cert": "-----BEGIN CERTIFICATE-----" }));
    assert_eq!(kept(&world).tls.identity.expect("kept").reveal(), pem);
    for (path, member) in [(&mtls, "identity"), (&ca, "cert")] {
        let answer = world.put(path, json!({ member: "nonsense" })).await.expect(422);
        assert_eq!(answer["detail"][0]["loc"], json!(["body", member]));
        assert_eq!(answer["detail"][0]["msg"], format!("`{member}` is not PEM"));
    }
    world.put(&mtls, json!({})).await.expect(422);
    world.delete(&mtls).await.expect(204);
    world.put(&ca, json!({ "cert": null })).await.expect(204);
    assert_eq!(kept(&world), Access::default());
}

#[tokio::test]
async fn verification_is_turned_off_only_where_the_operator_allows_it() {
    let (world, endpoint) = world().await;
    let path = format!("{endpoint}/ssl-verification");
    assert_eq!(world.get(&path).await.expect(200), json!({ "enabled": true }));
    let answer = world.put(&path, json!({ "enabled": false })).await.expect(422);
    assert!(answer["detail"][0]["msg"].as_str().is_some_and(|msg| msg.contains("egress.allow_unverified_tls")));
    world.put(&path, json!({ "enabled": true })).await.expect(204);
    world.put(&path, json!({})).await.expect(422);
    assert_eq!(kept(&world), Access::default());

    let settings = Settings { jwt_secret: SECRET.to_vec(), unverified_tls_allowed: true, ..Settings::default() };
    let world = World::with(settings);
    world.application("acme").await;
    let path = format!("/api/v1/app/acme/endpoint/{}/ssl-verification", world.endpoint("acme").await);
    world.put(&path, json!({ "enabled": false })).await.expect(204);
    assert_eq!(world.get(&path).await.expect(200), json!({ "enabled": false }));
    assert!(kept(&world).tls.unverified);
}

fn with(body: &Value, member: &str, value: impl Into<Value>) -> Value {
    let mut body = body.clone();
    body[member] = value.into();
    body
}
