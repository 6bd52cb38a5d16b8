//! Notify: a note in a chat, a push to a phone, or an e-mail.
//!
//! Chats are reached by HTTP through the address guard, mail by SMTP ([`email`]). With a digest, a burst is a few notes and then one
//! that sums up the rest ([`digest`]).

mod digest;
mod email;
mod markup;
mod service;

use crate::answer::{Answer, Ran};
use crate::event::{Event, Root};
use crate::plugins::InFlight;
use crate::settings::{Fault, Millis};
use crate::template::{Beside, Template};
use bellwire_egress::Client;
use bellwire_model::{EndpointKey, FailureClass};
use digest::Digest;
use serde::Deserialize;
use serde_json::{Map, Value};
use service::Service;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

pub use digest::Bursts;
pub use email::{Mail, Server};

/// Settings of the kind `notify`: which service and what it needs, and these beside it.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Notify {
    service: Service,
    what: What,
}

#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct What {
    /// What it says.
    text: Template,
    #[serde(default = "timeout_default")]
    timeout_ms: Millis<10, 60_000>,
    digest: Option<Digest>,
}

fn timeout_default() -> Millis<10, 60_000> {
    Millis::new(15_000)
}

/// What is said.
pub(super) struct Note<'a, 'e> {
    /// Of a digest, the one that it began with.
    event: &'a Event<'e>,
    text: &'a str,
    /// It sums up several events.
    is_sum: bool,
}

/// How notes go out.
#[derive(Clone, Copy)]
pub(crate) struct Way<'a> {
    pub(crate) mail: &'a Mail,
    pub(crate) client: &'a Client,
}

/// Why a note was not taken.
#[derive(Clone, Debug)]
pub(super) enum Refused {
    /// Try again, not before this long if they said so.
    Later(FailureClass, Option<Duration>, String),
    /// It will never be taken.
    Never(String),
}

impl Notify {
    /// Reads settings. Unknown names are faults.
    ///
    /// # Errors
    /// The first thing that does not fit, with its place.
    pub(crate) fn read(settings: &Value) -> Result<Notify, Fault> {
        let members = settings.as_object().cloned().unwrap_or_default();
        let (what, mut service): (Map<_, _>, Map<_, _>) =
            members.into_iter().partition(|(name, _)| matches!(name.as_str(), "text" | "timeout_ms" | "digest"));
        let via = service.remove("via").unwrap_or_default();
        let service = Service::read(via.as_str().unwrap_or_default(), &service.into())?;
        Ok(Notify { service, what: crate::settings::read(&what.into())? })
    }

    /// What is wrong beyond the shape of the settings.
    pub(crate) fn check(&self, mail: &Mail, faults: &mut Vec<Fault>) {
        self.service.check(mail, faults);
        let beside = |template: &Template, root| template.names(root);
        if beside(&self.what.text, Root::File) {
            faults.push(Fault::new(&["text"], "{{file}} is for programs"));
        }
        if beside(&self.what.text, Root::Count) || beside(&self.what.text, Root::List) {
            faults.push(Fault::new(&["text"], "{{count}} and {{list}} belong into `digest.text`"));
        }
        if let Some(digest) = &self.what.digest {
            digest.check(faults);
        }
    }

    /// Says it, or has it said together with others.
    pub(crate) async fn run(
        &self,
        event: &Event<'_>,
        endpoint: EndpointKey,
        bursts: &Bursts,
        way: Way<'_>,
        in_flight: &dyn InFlight,
    ) -> Ran {
        let written = |text: &Template, beside: Beside<'_>| {
            text.render_escaped(event, beside, |value, spot| self.service.markup().written(value, spot))
        };
        let text = written(&self.what.text, Beside::default());
        let place = match &self.what.digest {
            None => digest::Place::Alone,
            Some(digest) => bursts.place(endpoint, digest, &text),
        };
        let done = match place {
            digest::Place::Alone => self.say(&Note { event, text: &text, is_sum: false }, way).await,
            digest::Place::First(held) => {
                in_flight.rests();
                let sum = held.wait().await;
                in_flight.goes_on();
                let (count, list) = (sum.count(), sum.list());
                let template = self.what.digest.as_ref().map_or(&self.what.text, |digest| &digest.text);
                let text = written(template, Beside { digest: Some((count, &list)), ..Beside::default() });
                let told = self.say(&Note { event, text: &text, is_sum: true }, way).await;
                sum.tell(&told);
                told
            }
            digest::Place::Held(told) => {
                // There may be many of these.
                drop(text);
                in_flight.rests();
                told.await.unwrap_or_else(|_| {
                    Err(Refused::Later(FailureClass::Plugin, None, "the digest was not sent".to_owned()))
                })
            }
        };
        match done {
            Ok(said) => Ran::quiet(Answer::Said(said)),
            Err(Refused::Never(why)) => Ran::quiet(Answer::Fail(why)),
            Err(Refused::Later(_, after @ Some(_), why)) => Ran::quiet(Answer::Retry(after, why)),
            Err(Refused::Later(class, None, why)) => Ran::broken(class, why),
        }
    }

    async fn say(&self, note: &Note<'_, '_>, way: Way<'_>) -> Result<String, Refused> {
        let limit = self.what.timeout_ms.0;
        let saying = self.service.say(note, way, limit);
        timeout_at(Instant::now() + limit, saying).await.unwrap_or_else(|_| {
            let text = format!("nothing was heard within {limit:?}");
            Err(Refused::Later(FailureClass::Timeout, None, text))
        })
    }
}

#[cfg(test)]
mod tests;
