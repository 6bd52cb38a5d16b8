//! The questions that senders ask before, or between, their webhooks, and the answers that they want.
//!
//! Each is answered only for a source whose recipe names it. What is echoed has at most [`ECHO_BYTES_MAX`], no control
//! characters, and goes out as `text/plain` with `nosniff`, so that no browser takes it for a page. An address that is to
//! be fetched is on the recipe's list. A secret is taken from a request only as long as the source has none.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;
use subtle::ConstantTimeEq;
use zeroize::Zeroizing;

use super::{
    fetched::AllowList,
    field::{Field, Scope},
    mac::{MacKey, hex},
    recipe::Encoding,
    request::ReceivedRequest,
    verifier::Verifier,
};

/// What is echoed has at most so many bytes.
pub const ECHO_BYTES_MAX: usize = 512;

/// Which questions are answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Handshake {
    /// `type=url_verification`: the challenge.
    Slack,
    /// `hub.mode=subscribe` with the setting `verify_token`: the challenge, else 403. Facebook, Instagram, WhatsApp.
    Meta,
    /// `hub.mode` with the setting `topic`: the challenge, else 404. With the setting `hub`, the end of the subscription is not confirmed
    /// here: see [`HubWord`]. W3C WebSub §5.3.
    Websub,
    /// `endpoint.url_validation`: the token and its HMAC.
    Zoom,
    /// `crc_token`: its HMAC.
    X,
    /// `challenge`: the challenge.
    Dropbox,
    /// `X-Okta-Verification-Challenge`: the challenge in JSON.
    Okta,
    /// `SubscriptionConfirmation`: its `SubscribeURL` is to be fetched.
    AwsSns,
    /// `OPTIONS` with `WebHook-Request-Origin` that is the setting `origin` (`*` for any): leave, at the rate that the
    /// setting `rate` gives in requests a minute, at any without it. CloudEvents, HTTP webhook §4.
    Cloudevents,
    /// `SubscriptionValidation`: its code.
    EventGrid,
    /// `validationToken`: the token.
    MicrosoftGraph,
    /// An interaction's PING, or a webhook event's.
    Discord,
    /// `webhook_callback_verification`: the challenge.
    Twitch,
    /// `verification_token`: it becomes the secret.
    Notion,
    /// `X-Hook-Secret`: it is echoed, and becomes the secret.
    Asana,
    /// `HEAD`: yes. Trello, Intercom.
    Head,
    /// An empty list of events: yes, and nothing else.
    Xero,
    /// `ping`: yes.
    Github,
}

/// An answer, to be given at once; no message is made of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// The HTTP status.
    pub status: u16,
    /// Headers; nothing of the caller's belongs beside them.
    pub headers: Vec<(&'static str, String)>,
    /// The body.
    pub body: Vec<u8>,
    /// What is to be done first; if that fails, answer 503 instead, so that the sender asks again.
    pub then: Option<Then>,
}

/// What an answer depends on.
#[derive(Clone, PartialEq, Eq)]
pub enum Then {
    /// This address is to be fetched, through the address guard and without redirects. It is on the recipe's list.
    Fetch(String),
    /// This becomes the source's secret, which has none yet.
    StoreSecret(Zeroizing<String>),
    /// The sender will send for so many seconds, if it was asked to. Whoever knows the callback can say so.
    Lease(u64),
    /// The sender will not send, or no longer, and says why, if it likes. Whoever knows the callback can say so.
    Denied(String),
}

impl std::fmt::Debug for Then {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Then::Fetch(url) => write!(f, "Fetch({url})"),
            Then::StoreSecret(_) => f.write_str("StoreSecret(redacted)"),
            Then::Lease(seconds) => write!(f, "Lease({seconds})"),
            Then::Denied(reason) => write!(f, "Denied({reason:?})"),
        }
    }
}

/// What a WebSub hub says about a subscription that has ended with us, maybe without a source being there any more.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HubWord {
    /// It asks whether the end is meant. W3C WebSub §5.3.
    Unsubscribes {
        /// Of which topic.
        topic: String,
        /// What it wants to hear.
        challenge: String,
    },
    /// It will not send any more by itself. W3C WebSub §5.2.
    Denies {
        /// Of which topic.
        topic: String,
    },
}

impl HubWord {
    /// Reads it from a request; `None` if it is something else, or nothing that could be answered.
    pub fn read(method: &str, path_and_query: &str) -> Option<HubWord> {
        if method != "GET" {
            return None;
        }
        let request =
            ReceivedRequest { method, scheme: "", host: "", path_and_query, headers: &[], body: b"", body_type: None };
        let value = |name: &str| request.query_value(name).ok().flatten().map(std::borrow::Cow::into_owned);
        let topic = value("hub.topic")?;
        match value("hub.mode")?.as_str() {
            "unsubscribe" => Some(HubWord::Unsubscribes { topic, challenge: echoable(value("hub.challenge")?)? }),
            "denied" => Some(HubWord::Denies { topic }),
            _ => None,
        }
    }

    /// Of which topic.
    pub fn topic(&self) -> &str {
        match self {
            HubWord::Unsubscribes { topic, .. } | HubWord::Denies { topic } => topic,
        }
    }

    /// The answer, if that is what we want.
    pub fn agree(&self) -> Reply {
        match self {
            HubWord::Unsubscribes { challenge, .. } => Reply { body: challenge.clone().into_bytes(), ..plain(200) },
            HubWord::Denies { .. } => plain(200),
        }
    }
}

/// A handshake with what it needs.
#[derive(Clone)]
pub(super) struct Handshaker {
    pub(super) kind: Handshake,
    pub(super) settings: BTreeMap<String, String>,
    /// Of the newest secret.
    pub(super) key: Option<MacKey>,
    pub(super) has_secret: bool,
    /// Where a subscription may be confirmed.
    pub(super) allowed: Option<AllowList>,
}

impl Handshake {
    /// The settings that the recipe must have for it.
    pub(super) fn settings(self) -> &'static [&'static str] {
        match self {
            Handshake::Meta => &["verify_token"],
            Handshake::Websub => &["topic"],
            Handshake::Cloudevents => &["origin"],
            _ => &[],
        }
    }

    /// Whether the answer is made with the secret.
    pub(super) fn needs_key(self) -> bool {
        matches!(self, Handshake::Zoom | Handshake::X)
    }

    /// Whether the sender brings the secret, so that a source may begin without.
    pub fn brings_secret(self) -> bool {
        matches!(self, Handshake::Notion | Handshake::Asana)
    }

    /// Whether the question itself is proven, and only answered then.
    fn is_proven(self) -> bool {
        use Handshake::{AwsSns, Discord, EventGrid, Github, Slack, Twitch, Xero, Zoom};
        matches!(self, Slack | Zoom | AwsSns | EventGrid | Discord | Twitch | Xero | Github)
    }
}

impl Verifier {
    /// The answer, if the request is a question that this source answers by itself.
    ///
    /// Ask twice: with `verified` false before anything else, and true once [`Verifier::verify`] has said yes. What comes
    /// unproven from the sender is answered the first time, what it proves the second.
    pub fn handshake(&self, request: &ReceivedRequest<'_>, verified: bool) -> Option<Reply> {
        let handshaker = self.handshaker.as_ref()?;
        if handshaker.kind.is_proven() != verified {
            return None;
        }
        let json = request.json();
        let scope = Scope { request: *request, json: &json, url: None, list: None, proven: b"{}" };
        handshaker.answer(&scope)
    }
}

impl Handshaker {
    fn answer(&self, scope: &Scope<'_>) -> Option<Reply> {
        let text = |field: &str| text_of(scope, field);
        let method = scope.request.method;
        match self.kind {
            Handshake::Slack => {
                let is_it = text("json:type")? == "url_verification";
                is_it.then(|| echo(&text("json:challenge")?)).flatten()
            }
            Handshake::Meta if method == "GET" => {
                let mode = text("query:hub.mode")?;
                let token = text("query:hub.verify_token").unwrap_or_default();
                let is_ours = bool::from(token.as_bytes().ct_eq(self.settings.get("verify_token")?.as_bytes()));
                if mode == "subscribe" && is_ours { echo(&text("query:hub.challenge")?) } else { Some(plain(403)) }
            }
            Handshake::Websub if method == "GET" => {
                let mode = text("query:hub.mode")?;
                let is_ours = text("query:hub.topic")? == *self.settings.get("topic")?;
                match mode.as_str() {
                    "subscribe" if is_ours => {
                        let lease = text("query:hub.lease_seconds").and_then(|seconds| seconds.parse().ok());
                        Some(Reply { then: lease.map(Then::Lease), ..echo(&text("query:hub.challenge")?)? })
                    }
                    // Who subscribes here by itself wants to end nothing as long as it is there; whoever asked the hub for it was not us.
                    "unsubscribe" if is_ours && !self.subscribes() => echo(&text("query:hub.challenge")?),
                    // W3C WebSub §5.2: the subscription is denied, now or later.
                    "denied" if is_ours => {
                        let reason = text("query:hub.reason").and_then(echoable).unwrap_or_default();
                        Some(Reply { then: Some(Then::Denied(reason)), ..plain(200) })
                    }
                    _ => Some(plain(404)),
                }
            }
            Handshake::Zoom => {
                let is_it = text("json:event")? == "endpoint.url_validation";
                let token = echoable(text("json:payload.plainToken").filter(|_| is_it)?)?;
                let encrypted = hex(&self.key.as_ref()?.mac(&[&token]));
                Some(json(200, &json!({ "plainToken": token, "encryptedToken": encrypted })))
            }
            Handshake::X if method == "GET" => {
                let token = echoable(text("query:crc_token")?)?;
                let mac = Encoding::Base64.encode(&self.key.as_ref()?.mac(&[&token]));
                Some(json(200, &json!({ "response_token": format!("sha256={mac}") })))
            }
            Handshake::Dropbox if method == "GET" => echo(&text("query:challenge")?),
            Handshake::Okta if method == "GET" => {
                let challenge = echoable(text("header:X-Okta-Verification-Challenge")?)?;
                Some(json(200, &json!({ "verification": challenge })))
            }
            Handshake::AwsSns => {
                let url = text("json:SubscribeURL").filter(|_| is(scope, "json:Type", "SubscriptionConfirmation"))?;
                match self.allowed.as_ref()?.allows(&url) {
                    true => Some(Reply { then: Some(Then::Fetch(url)), ..plain(200) }),
                    false => Some(plain(403)),
                }
            }
            Handshake::Cloudevents if method == "OPTIONS" => self.allow_origin(scope),
            Handshake::EventGrid => {
                let is_it = text("header:aeg-event-type")? == "SubscriptionValidation";
                let code = text("json:0.data.validationCode").or_else(|| text("json:data.validationCode"));
                let code = echoable(code.filter(|_| is_it)?)?;
                Some(json(200, &json!({ "validationResponse": code })))
            }
            Handshake::MicrosoftGraph => echo(&text("query:validationToken")?),
            Handshake::Discord => {
                let is_event = text_of(scope, "json:event.type").is_some();
                match text("json:type")?.as_str() {
                    "1" if !is_event => Some(json(200, &json!({ "type": 1 }))),
                    "0" => Some(plain(204)),
                    _ => None,
                }
            }
            Handshake::Twitch => {
                let is_it = text("header:Twitch-Eventsub-Message-Type")? == "webhook_callback_verification";
                is_it.then(|| echo(&text("json:challenge")?)).flatten()
            }
            Handshake::Notion if !self.has_secret => {
                let token = echoable(text("json:verification_token")?)?;
                Some(Reply { then: Some(Then::StoreSecret(Zeroizing::new(token))), ..plain(200) })
            }
            Handshake::Asana if !self.has_secret => {
                let secret = echoable(text("header:X-Hook-Secret")?)?;
                let mut reply = plain(200);
                reply.headers.push(("X-Hook-Secret", secret.clone()));
                Some(Reply { then: Some(Then::StoreSecret(Zeroizing::new(secret))), ..reply })
            }
            Handshake::Head if method == "HEAD" => Some(plain(200)),
            Handshake::Xero => {
                let events: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(scope.json).ok()?;
                events.get("events")?.as_array()?.is_empty().then(|| plain(200))
            }
            Handshake::Github => is(scope, "header:X-GitHub-Event", "ping").then(|| plain(200)),
            _ => None,
        }
    }

    /// Whether the source asks the hub itself, so that every question of the hub's is known beforehand.
    fn subscribes(&self) -> bool {
        self.settings.get("hub").is_some_and(|hub| !hub.is_empty())
    }

    fn allow_origin(&self, scope: &Scope<'_>) -> Option<Reply> {
        let origin = echoable(text_of(scope, "header:WebHook-Request-Origin")?)?;
        let ours = self.settings.get("origin")?;
        if ours != "*" && *ours != origin {
            return Some(plain(403));
        }
        let mut reply = plain(200);
        reply.headers.push(("WebHook-Allowed-Origin", origin));
        // It must be there for whoever asks for a rate, and `*` is any: CloudEvents, HTTP webhook §4.2.2.
        let rate = self.settings.get("rate").filter(|rate| !rate.is_empty());
        reply.headers.push(("WebHook-Allowed-Rate", rate.map_or("*", String::as_str).to_owned()));
        reply.headers.push(("Allow", "POST".to_owned()));
        Some(reply)
    }
}

fn text_of(scope: &Scope<'_>, field: &str) -> Option<String> {
    Field::parse(field).ok()?.text(scope).ok().flatten().map(std::borrow::Cow::into_owned)
}

fn is(scope: &Scope<'_>, field: &str, wanted: &str) -> bool {
    text_of(scope, field).as_deref() == Some(wanted)
}

fn echoable(text: String) -> Option<String> {
    ((1..=ECHO_BYTES_MAX).contains(&text.len()) && !text.chars().any(char::is_control)).then_some(text)
}

fn echo(text: &str) -> Option<Reply> {
    let text = echoable(text.to_owned())?;
    Some(Reply { body: text.into_bytes(), ..plain(200) })
}

fn plain(status: u16) -> Reply {
    Reply { status, headers: headers("text/plain; charset=utf-8"), body: Vec::new(), then: None }
}

fn json(status: u16, value: &serde_json::Value) -> Reply {
    Reply { status, headers: headers("application/json"), body: value.to_string().into_bytes(), then: None }
}

fn headers(content_type: &str) -> Vec<(&'static str, String)> {
    vec![("Content-Type", content_type.to_owned()), ("X-Content-Type-Options", "nosniff".to_owned())]
}
