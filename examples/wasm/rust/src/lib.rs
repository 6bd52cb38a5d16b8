//! Starts a deployment when the main branch was pushed to, and tells the application of it.
//!
//! Build it with `cargo build --release --target wasm32-wasip2`; then `bellwire plugin add target/wasm32-wasip2/release/deploy.wasm`.

wit_bindgen::generate!({
    path: "../../../crates/bellwire-plugin/src/wasm/handler.wit",
    world: "filtering-handler",
});

use bellwire::handler::host::{Level, Outgoing, emit, fetch, log, secret, variable};
use bellwire::handler::types::{Header, Retry};
use serde::Deserialize;

/// What it wants; the operator grants it once.
#[used]
#[unsafe(link_section = "bellwire.permissions")]
static PERMISSIONS: [u8; 34] = *b"fetch 127.0.0.1 *.example.com\nemit";

#[derive(Deserialize)]
struct Push {
    #[serde(rename = "ref")]
    reference: String,
    after: String,
    repository: Repository,
}

#[derive(Deserialize)]
struct Repository {
    full_name: String,
}

struct Deploy;

impl Guest for Deploy {
    /// Only pushes; a source gets everything that its sender sends.
    fn filter(event: Event) -> Result<bool, String> {
        let named = |header: &&Header| header.name == "x-github-event";
        let received = event.received.as_ref().and_then(|request| request.headers.iter().find(named));
        Ok(received.map_or(event.event_type == "push", |header| header.value == "push"))
    }

    /// GitHub sends a form with the JSON in it, unless it was asked for JSON.
    fn transform(mut event: Event) -> Result<Event, String> {
        if event.content_type.starts_with("application/x-www-form-urlencoded") {
            let mut fields = form_urlencoded::parse(&event.payload);
            let (_, json) = fields.find(|(name, _)| name == "payload").ok_or("the form has no field `payload`")?;
            event.payload = json.into_owned().into_bytes();
        }
        Ok(event)
    }

    fn handle(event: Event) -> Result<Answer, String> {
        let push: Push = match serde_json::from_slice(&event.payload) {
            Ok(push) => push,
            Err(error) => return Ok(Answer::Fail(format!("no push can be read: {error}"))),
        };
        if push.reference != "refs/heads/main" {
            return Ok(Answer::Drop(format!("{} is not deployed", push.reference)));
        }
        let url = variable("deploy_url").ok_or("the endpoint has no variable `deploy_url`")?;
        let key = secret("deploy_key").ok_or("the endpoint has no secret `deploy_key`")?;
        let repository = push.repository.full_name;
        log(Level::Info, &format!("deploying {} of {repository}", push.after));
        let header = |name: &str, value: String| Header { name: name.to_owned(), value };
        let answer = fetch(&Outgoing {
            url,
            method: "POST".to_owned(),
            headers: vec![
                header("authorization", format!("Bearer {key}")),
                header("content-type", "application/json".to_owned()),
                // What is made twice is made once.
                header("idempotency-key", event.dedupe),
            ],
            body: serde_json::json!({ "repository": repository, "commit": push.after }).to_string().into_bytes(),
        })?;
        match answer.status {
            200..=299 => {}
            429 | 503 => {
                return Ok(Answer::Retry(Retry { seconds: Some(60), reason: "told to wait".to_owned() }));
            }
            status => return Err(format!("the deployment was answered with {status}")),
        }
        let started = serde_json::json!({ "repository": repository, "commit": push.after });
        emit("deployment.started", &started.to_string(), &[]);
        Ok(Answer::Ack(String::from_utf8_lossy(&answer.body).into_owned()))
    }
}

export!(Deploy);
