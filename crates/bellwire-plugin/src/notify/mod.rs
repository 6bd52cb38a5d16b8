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
        mail: &Mail,
        client: &Client,
    ) -> Ran {
        let written = |text: &Template, beside: Beside<'_>| {
            text.render_escaped(event, beside, |value, spot| self.service.markup().written(value, spot))
        };
        let text = written(&self.what.text, Beside::default());
        let done = match &self.what.digest {
            None => self.say(event, &text, false, mail, client).await,
            Some(digest) => {
                let summed = async |count: usize, list: &str| {
                    let text = written(&digest.text, Beside { digest: Some((count, list)), ..Beside::default() });
                    self.say(event, &text, true, mail, client).await
                };
                match bursts.place(endpoint, digest, &text) {
                    digest::Place::Alone => self.say(event, &text, false, mail, client).await,
                    digest::Place::First(held) => held.sum_up(summed).await,
                    digest::Place::Held(told) => told.await.unwrap_or_else(|_| {
                        Err(Refused::Later(FailureClass::Plugin, None, "the digest was not sent".to_owned()))
                    }),
                }
            }
        };
        match done {
            Ok(said) => Ran::quiet(Answer::Said(said)),
            Err(Refused::Never(why)) => Ran::quiet(Answer::Fail(why)),
            Err(Refused::Later(_, after @ Some(_), why)) => Ran::quiet(Answer::Retry(after, why)),
            Err(Refused::Later(class, None, why)) => Ran::broken(class, why),
        }
    }

    async fn say(
        &self,
        event: &Event<'_>,
        text: &str,
        is_sum: bool,
        mail: &Mail,
        client: &Client,
    ) -> Result<String, Refused> {
        let limit = self.what.timeout_ms.0;
        let saying = self.service.say(event, text, is_sum, mail, client, limit);
        timeout_at(Instant::now() + limit, saying).await.unwrap_or_else(|_| {
            let text = format!("nothing was heard within {limit:?}");
            Err(Refused::Later(FailureClass::Timeout, None, text))
        })
    }
}

#[cfg(test)]
mod tests;
