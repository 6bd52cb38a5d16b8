//! The services: what each wants to be sent, and what its answers mean.

use super::email::{Email, Mail};
use super::markup::Markup;
use super::{Note, Refused, Way};
use crate::settings::{self, Fault};
use crate::template::{Beside, Template};
use bellwire_egress::{Request, Response, SendError, Target};
use bellwire_model::{FailureClass, RetryAfter};
use http::{HeaderMap, HeaderValue, Method, header};
use serde::Deserialize;
use serde_json::{Value, json};
use std::time::Duration;

const ANSWER_BYTES_MAX: usize = 4_096;

/// Where a note goes.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Service {
    /// An incoming webhook of Slack, or of what speaks like it.
    Slack(Hook),
    /// A webhook of a Discord channel.
    Discord(Hook),
    /// A workflow's webhook of Microsoft Teams.
    Teams(Hook),
    /// A bot of Telegram.
    Telegram(Telegram),
    /// A topic of ntfy.
    Ntfy(Ntfy),
    /// An e-mail.
    Email(Email),
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Hook {
    webhook_url: String,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Telegram {
    bot_token: String,
    chat_id: Template,
    server: Option<String>,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ntfy {
    server: Option<String>,
    topic: String,
    title: Option<Template>,
    priority: Option<u8>,
    access_token: Option<String>,
}

impl Service {
    /// Reads the settings of the service of this name.
    pub(super) fn read(via: &str, settings: &Value) -> Result<Service, Fault> {
        Ok(match via {
            "slack" => Service::Slack(settings::read(settings)?),
            "discord" => Service::Discord(settings::read(settings)?),
            "teams" => Service::Teams(settings::read(settings)?),
            "telegram" => Service::Telegram(settings::read(settings)?),
            "ntfy" => Service::Ntfy(settings::read(settings)?),
            "email" => Service::Email(settings::read(settings)?),
            _ => return Err(Fault::new(&["via"], "expected slack, discord, teams, telegram, ntfy or email")),
        })
    }

    pub(super) fn check(&self, mail: &Mail, faults: &mut Vec<Fault>) {
        let mut url = |name: &str, text: &str| {
            if Target::parse(text).is_err() {
                // It may be a secret: nothing of it is repeated.
                faults.push(Fault::new(&[name], "expected an http or https URL"));
            }
        };
        match self {
            Service::Slack(Hook { webhook_url })
            | Service::Discord(Hook { webhook_url })
            | Service::Teams(Hook { webhook_url }) => {
                url("webhook_url", webhook_url);
            }
            Service::Telegram(Telegram { server, bot_token, .. }) => {
                if let Some(server) = server {
                    url("server", server);
                }
                if !bot_token.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, ':' | '_' | '-')) {
                    faults.push(Fault::new(&["bot_token"], "a bot's token has letters, digits, :, _ and -"));
                }
            }
            Service::Ntfy(Ntfy { server, topic, priority, .. }) => {
                if let Some(server) = server {
                    url("server", server);
                }
                if topic.is_empty() || !topic.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-')) {
                    faults.push(Fault::new(&["topic"], "a topic has letters, digits, _ and -"));
                }
                if priority.is_some_and(|priority| !(1..=5).contains(&priority)) {
                    faults.push(Fault::new(&["priority"], "expected a priority from 1 to 5"));
                }
            }
            Service::Email(email) => email.check(mail, faults),
        }
    }

    /// What the service makes of a text.
    pub(super) fn markup(&self) -> Markup {
        match self {
            Service::Slack(_) => Markup::Slack,
            Service::Discord(_) => Markup::Discord,
            Service::Teams(_) => Markup::Teams,
            Service::Telegram(_) | Service::Ntfy(_) | Service::Email(_) => Markup::None,
        }
    }

    /// Says it; answers what the service said.
    pub(super) async fn say(&self, note: &Note<'_, '_>, way: Way<'_>, limit: Duration) -> Result<String, Refused> {
        let Note { event, text, .. } = *note;
        let (url, body, bearer) = match self {
            Service::Slack(Hook { webhook_url }) => (webhook_url.clone(), json!({ "text": cut(text, 39_000) }), None),
            // Whoever can send a webhook should not be able to call everyone.
            Service::Discord(Hook { webhook_url }) => {
                (webhook_url.clone(), json!({ "content": cut(text, 2_000), "allowed_mentions": { "parse": [] } }), None)
            }
            Service::Teams(Hook { webhook_url }) => (webhook_url.clone(), card(text), None),
            Service::Telegram(Telegram { bot_token, chat_id, server }) => {
                let server = server.as_deref().unwrap_or("https://api.telegram.org").trim_end_matches('/');
                let chat = chat_id.render(event, Beside::default());
                (
                    format!("{server}/bot{bot_token}/sendMessage"),
                    json!({ "chat_id": chat, "text": cut(text, 4_096), "link_preview_options": { "is_disabled": true } }),
                    None,
                )
            }
            Service::Ntfy(Ntfy { server, topic, title, priority, access_token }) => {
                let mut body = json!({ "topic": topic, "message": cut(text, 4_000) });
                if let Some(title) = title {
                    body["title"] = title.render(event, Beside::default()).into();
                }
                if let Some(priority) = priority {
                    body["priority"] = (*priority).into();
                }
                (server.clone().unwrap_or_else(|| "https://ntfy.sh".to_owned()), body, access_token.as_ref())
            }
            Service::Email(email) => return email.send(note, way, limit).await,
        };
        let request =
            request(&url, &body, bearer, limit).map_err(|why| Refused::Later(FailureClass::Unsendable, None, why))?;
        let response = way.client.exchange(request).await.map_err(|error| {
            let class = match &error {
                SendError::Forbidden(_) => FailureClass::Forbidden,
                SendError::Timeout { .. } => FailureClass::Timeout,
                _ => FailureClass::Plugin,
            };
            Refused::Later(class, None, error.customer_text().into_owned())
        })?;
        judged(&response)
    }
}

fn request(url: &str, body: &Value, bearer: Option<&String>, limit: Duration) -> Result<Request, String> {
    let mut headers = HeaderMap::new();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::USER_AGENT, HeaderValue::from_static(concat!("Bellwire/", env!("CARGO_PKG_VERSION"))));
    if let Some(token) = bearer {
        let mut value = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| "the token cannot be sent")?;
        value.set_sensitive(true);
        headers.insert(header::AUTHORIZATION, value);
    }
    Ok(Request {
        method: Method::POST,
        target: Target::parse(url).map_err(|_| "the URL cannot be called".to_owned())?,
        headers,
        body: body.to_string().into(),
        deadline: limit,
        response_body_max: ANSWER_BYTES_MAX,
    })
}

/// Too fast or broken over there is tried again; what they do not take at all is not.
fn judged(response: &Response) -> Result<String, Refused> {
    let said = String::from_utf8_lossy(&response.body).into_owned();
    let text = || format!("the service answered {}: {said}", response.status);
    match response.status {
        200..=299 => Ok(said),
        408 | 425 | 429 | 500..=599 => {
            let header = response.headers.get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
            let after = match header.and_then(RetryAfter::parse) {
                Some(RetryAfter::Wait(wait)) => Some(wait),
                _ => None,
            };
            Err(Refused::Later(FailureClass::Plugin, after, text()))
        }
        // A token that was taken back may come again; a note that is malformed will not change.
        401 | 403 | 404 | 410 => Err(Refused::Later(FailureClass::Plugin, None, text())),
        _ => Err(Refused::Never(text())),
    }
}

/// An Adaptive Card with one text.
fn card(text: &str) -> Value {
    json!({
        "type": "message",
        "attachments": [{
            "contentType": "application/vnd.microsoft.card.adaptive",
            "content": {
                "$schema": "http://adaptivecards.io/schemas/adaptive-card.json",
                "type": "AdaptiveCard",
                "version": "1.4",
                "body": [{ "type": "TextBlock", "text": cut(text, 20_000), "wrap": true }],
            },
        }],
    })
}

/// The first so many characters, which is how the services count.
fn cut(text: &str, characters_max: usize) -> String {
    match text.char_indices().nth(characters_max.saturating_sub(1)) {
        Some((at, last)) if at + last.len_utf8() < text.len() => format!("{}…", &text[..at]),
        _ => text.to_owned(),
    }
}
