//! The server's side: the pipe endpoint that is listened to, what it hands out, and what it is told.

use super::super::http::{self as http_api, Answer, Api};
use super::super::{Hint, input};
use super::Arguments;
use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use bellwire_model::Timestamp;
use bellwire_node::clock::wall;
use bytes::Bytes;
use http::Method;
use rand_chacha::rand_core::RngCore as _;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// The server keeps the request for so long if there is nothing.
const WAIT: Duration = Duration::from_secs(20);
/// At the end, the server has so long to answer: who pressed Ctrl-C waits for it.
const CLOSE_MAX: Duration = Duration::from_secs(5);
/// A webhook is ours for as long as its local answer may take, and for this: to be told of, or to wait for a program that is being started.
const LEASE_BEYOND: Duration = Duration::from_secs(30);
/// An endpoint that was made for this is kept for so long while nobody listens: a lid may be closed overnight, and a process that was killed
/// leaves nothing behind for ever.
const KEPT: Duration = Duration::from_secs(24 * 3600);
/// The server leases nothing for longer.
const LEASE_SECONDS_MAX: u64 = 12 * 3600;

#[derive(Deserialize)]
struct SecretOut {
    key: String,
}

#[derive(Deserialize)]
struct EndpointOut {
    kind: Option<String>,
    pipe: Option<PipeOut>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PipeOut {
    max_attempts: u32,
}

/// The endpoint that is listened to.
pub(super) struct Pipe<'a> {
    api: &'a Api,
    /// The endpoints that it is one of.
    all: String,
    path: String,
    pub(super) name: String,
    /// Made for this, and taken away after it.
    temporary: Option<Temporary>,
    /// The last attempt at a webhook has this number.
    pub(super) attempts_max: Cell<u32>,
    /// For how long a webhook is ours.
    lease_seconds: u64,
    /// Receipts of webhooks that are here and of which the server was told nothing yet.
    pub(super) out: RefCell<BTreeSet<String>>,
}

/// An endpoint that the server removes when nobody listens to it for too long.
struct Temporary {
    /// As it was made, to be made again.
    made: RefCell<Value>,
    /// When it was last seen. By the wall clock, which goes on while a lid is closed.
    seen: Cell<Timestamp>,
}

impl Temporary {
    fn new(made: Value) -> Self {
        Temporary { made: RefCell::new(made), seen: Cell::new(wall()) }
    }

    /// Whether that it is gone at `now` means that it has expired; otherwise somebody has deleted it.
    fn has_expired(&self, now: Timestamp) -> bool {
        now.since(self.seen.get()) >= KEPT
    }
}

impl<'a> Pipe<'a> {
    pub(super) async fn open(api: &'a Api, application: &str, arguments: &Arguments) -> anyhow::Result<Pipe<'a>> {
        let name = match &arguments.endpoint {
            Some(name) => name.clone(),
            None => format!("listen-{:08x}", input::chance()?.next_u32()),
        };
        let all = format!("/app/{application}/endpoint");
        let path = format!("{all}/{name}");
        let lease_seconds = (arguments.timeout + LEASE_BEYOND).as_secs().min(LEASE_SECONDS_MAX);
        let attempts_max = Cell::new(u32::MAX);
        let out = RefCell::default();
        let mut pipe = Pipe { api, all, path, name, temporary: None, attempts_max, lease_seconds, out };
        if arguments.endpoint.is_some() {
            let found = api.call(Method::GET, &pipe.path, Bytes::new()).await?;
            if found.is_success() {
                let EndpointOut { kind, pipe: settings } =
                    serde_json::from_slice(&found.body).context("an endpoint")?;
                ensure!(
                    kind.as_deref() == Some("pipe"),
                    Hint::new(
                        format!("the endpoint {} is not a pipe", pipe.name),
                        "name another, or turn it into one with PATCH and {\"kind\":\"pipe\"}: then what it is owed waits for whoever listens"
                    )
                );
                pipe.knows(settings);
                return Ok(pipe);
            }
            ensure!(found.status == 404, "the endpoint {} cannot be read: {}", pipe.name, found.reason());
        }
        let mut new = serde_json::json!({ "uid": pipe.name, "kind": "pipe", "description": "of `bellwire listen`" });
        if !arguments.filter.is_empty() {
            new["eventTypes"] = arguments.filter.as_slice().into();
        }
        if let Some(secret) = &arguments.secret {
            new["secret"] = secret.as_str().into();
        }
        if arguments.endpoint.is_none() {
            new["pipe"] = serde_json::json!({ "expiresAfter": KEPT.as_secs() });
            pipe.temporary = Some(Temporary::new(new.clone()));
        }
        pipe.make(&new).await?;
        Ok(pipe)
    }

    async fn make(&self, new: &Value) -> anyhow::Result<()> {
        let made = self.api.call(Method::POST, &self.all, new.to_string().into()).await?;
        let fault: Value = serde_json::from_slice(&made.body).unwrap_or_default();
        if made.status == 422 && fault["detail"][0]["loc"][1] == "eventTypes" {
            bail!(Hint::new(
                format!("--filter: {}", made.reason()),
                "a filter names event types of the catalogue: POST /api/v1/event-type makes one; without --filter everything is shown"
            ));
        }
        if !made.is_success() {
            return Err(http_api::refused(&Method::POST, &self.all, &made));
        }
        let EndpointOut { pipe: settings, .. } = serde_json::from_slice(&made.body).context("an endpoint")?;
        self.knows(settings);
        Ok(())
    }

    fn knows(&self, settings: Option<PipeOut>) {
        self.attempts_max.set(settings.map_or(u32::MAX, |settings| settings.max_attempts));
    }

    /// What a local program verifies with, if it is new and may be read: a secret that was there before is its owner's to show.
    pub(super) async fn new_secret(&self, arguments: &Arguments) -> Option<String> {
        let temporary = self.temporary.as_ref().filter(|_| arguments.secret.is_none())?;
        let SecretOut { key } = self.api.get(&format!("{}/secret", self.path)).await.ok()?;
        temporary.made.borrow_mut()["secret"] = key.as_str().into();
        Some(key)
    }

    /// Has the server put what it accepted earlier before what comes.
    pub(super) async fn replay(&self, since: Timestamp) -> anyhow::Result<()> {
        let body = serde_json::json!({ "since": since.to_string() }).to_string();
        let _: serde_json::Value = self.api.post(&format!("{}/replay-missing", self.path), body).await?;
        Ok(())
    }

    /// What waits, as soon as something does; nothing after a while.
    pub(super) async fn receive(&self, limit: usize) -> anyhow::Result<Received> {
        let body =
            serde_json::json!({ "limit": limit, "wait": WAIT.as_secs(), "lease": self.lease_seconds }).to_string();
        let answer = self.api.call(Method::POST, &format!("{}/pull/receive", self.path), body.into()).await;
        Ok(match answer {
            Err(error) => Received::Unreachable(format!("{error:#}")),
            Ok(answer) if answer.is_success() => {
                self.temporary.iter().for_each(|temporary| temporary.seen.set(wall()));
                let page: Page =
                    serde_json::from_slice(&answer.body).context("the server's answer is not as expected")?;
                Received::Deliveries(page.data)
            }
            Ok(answer) if answer.status >= 500 || answer.status == 429 => Received::Unreachable(answer.reason()),
            Ok(answer) if answer.status == 404 && self.has_expired() => {
                self.make_again().await?;
                Received::MadeAgain
            }
            Ok(answer) => bail!(refused(&answer, &self.name)),
        })
    }

    fn has_expired(&self) -> bool {
        self.temporary.as_ref().is_some_and(|temporary| temporary.has_expired(wall()))
    }

    /// The endpoint, under the same name and with the same secret.
    async fn make_again(&self) -> anyhow::Result<()> {
        let Some(temporary) = &self.temporary else { return Ok(()) };
        let made = temporary.made.borrow().clone();
        self.make(&made).await?;
        temporary.seen.set(wall());
        Ok(())
    }

    /// Tells the server how it went. What does not arrive is told by silence: the webhook comes again.
    pub(super) async fn tell(&self, verb: &str, body: &serde_json::Value) -> Result<(), String> {
        let path = format!("{}/pull/{verb}", self.path);
        match self.api.call(Method::POST, &path, body.to_string().into()).await {
            Ok(answer) if answer.is_success() => {
                let said: Told = serde_json::from_slice(&answer.body).unwrap_or_default();
                said.data.into_iter().find(|one| one.status >= 400).map_or(Ok(()), |one| Err(one.detail))
            }
            Ok(answer) => Err(answer.reason()),
            Err(error) => Err(format!("{error:#}")),
        }
    }

    /// Whether a webhook is still ours, and stays so. A server that cannot be asked may know it yet when it is back.
    pub(super) async fn keep(&self, receipt: &str) -> bool {
        let body = serde_json::json!({ "receipts": [receipt], "lease": self.lease_seconds });
        let path = format!("{}/pull/extend", self.path);
        match self.api.call(Method::POST, &path, body.to_string().into()).await {
            Ok(answer) if answer.is_success() => {
                let said: Told = serde_json::from_slice(&answer.body).unwrap_or_default();
                said.data.iter().all(|one| one.status < 400)
            }
            Ok(answer) => answer.status >= 500 || answer.status == 429,
            Err(_) => true,
        }
    }

    pub(super) async fn close(&self) -> anyhow::Result<()> {
        if self.temporary.is_none() {
            // What is still here goes to whoever listens next, now and not only when its lease ends.
            let out: Vec<String> = self.out.take().into_iter().collect();
            if !out.is_empty() {
                let said = serde_json::json!({ "receipts": out, "delay": 0, "reason": "bellwire listen was ended" });
                let _ = tokio::time::timeout(CLOSE_MAX, self.tell("nack", &said)).await;
            }
            return Ok(());
        }
        let stays = || {
            Hint::new(
                format!("the endpoint {} is still there", self.name),
                format!("DELETE /api/v1{} takes it away", self.path),
            )
        };
        let deleted = tokio::time::timeout(CLOSE_MAX, self.api.call(Method::DELETE, &self.path, Bytes::new())).await;
        let answer = deleted.context("no answer in time").and_then(|answer| answer).with_context(stays)?;
        ensure!(
            answer.is_success() || answer.status == 404,
            "the endpoint {} could not be taken away: {}",
            self.name,
            answer.reason()
        );
        Ok(())
    }
}

fn refused(answer: &Answer, name: &str) -> anyhow::Error {
    let what = format!("the endpoint {name} cannot be listened to ({}): {}", answer.status, answer.reason());
    match answer.status {
        404 => Hint::new(what, "was it deleted? start `bellwire listen` again to make another").into(),
        401 | 403 => Hint::new(what, "--token needs one that may take what waits at a pipe").into(),
        _ => anyhow::anyhow!(what),
    }
}

/// What became of receipts.
#[derive(Default, Deserialize)]
struct Told {
    data: Vec<ToldOne>,
}

#[derive(Deserialize)]
struct ToldOne {
    status: u16,
    #[serde(default)]
    detail: String,
}

pub(super) enum Received {
    Deliveries(Vec<Delivery>),
    /// The endpoint had expired, and there is another in its place.
    MadeAgain,
    /// The server, or the way to it, is gone for now.
    Unreachable(String),
}

#[derive(Deserialize)]
struct Page {
    data: Vec<Delivery>,
}

/// A webhook that was handed to us.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Delivery {
    pub(super) receipt: String,
    pub(super) attempt: u32,
    pub(super) id: String,
    pub(super) event_type: String,
    pub(super) timestamp: String,
    pub(super) payload: Box<RawValue>,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Option<String>,
    pub(super) body_base64: Option<String>,
}

impl Delivery {
    /// The payload, byte for byte as it was accepted.
    pub(super) fn bytes(&self) -> Bytes {
        if let Some(text) = &self.body {
            return Bytes::copy_from_slice(text.as_bytes());
        }
        let decoded =
            self.body_base64.as_ref().and_then(|text| base64::engine::general_purpose::STANDARD.decode(text).ok());
        match decoded {
            Some(bytes) => bytes.into(),
            None => Bytes::copy_from_slice(self.payload.get().as_bytes()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn delivery(rest: &str) -> Delivery {
        let text = format!(
            r#"{{"receipt":"r","attempt":1,"id":"msg_1","eventType":"a.b","timestamp":"2026-01-01T00:00:00Z","headers":{{}},{rest}}}"#
        );
        serde_json::from_str(&text).expect("a delivery")
    }

    #[test]
    fn an_endpoint_that_is_gone_has_expired_only_if_nobody_listened_for_long() {
        let temporary = Temporary::new(Value::Null);
        let seen = temporary.seen.get();
        assert!(!temporary.has_expired(seen.plus(KEPT / 2)), "somebody has deleted it");
        assert!(temporary.has_expired(seen.plus(KEPT)));
        temporary.seen.set(seen.plus(KEPT));
        assert!(!temporary.has_expired(seen.plus(KEPT)));
    }

    #[test]
    fn the_bytes_are_those_that_were_accepted() {
        let json = delivery(r#""payload":{ "big": 12345678901234567890123, "b":1.0 }"#);
        assert_eq!(&json.bytes()[..], br#"{ "big": 12345678901234567890123, "b":1.0 }"#);
        let text = delivery(r#""payload":{"rawPayload":"<a/>"},"body":"<a/>""#);
        assert_eq!(&text.bytes()[..], b"<a/>");
        let binary = delivery(r#""payload":{"rawPayload":"?"},"bodyBase64":"AP8=""#);
        assert_eq!(&binary.bytes()[..], [0, 255]);
    }
}
