//! A sender that waits for the endpoints' answer: allow, deny or patch, within a deadline, or its own fallback.
//!
//! `POST …/msg?wait=2` accepts the message like any other; it is durable, and goes out, whatever becomes of the waiting. Then the
//! request stays open until the endpoints have answered, or the deadline has passed.

use crate::backend::{Accepted, EndpointAnswer, Listening};
use crate::call::Call;
use crate::document::JsonSchema;
use crate::error::Error;
use crate::wire::Text;
use bellwire_engine::ApplicationEntry;
use bellwire_model::{EndpointId, EndpointKey, FanOut, Message, Timestamp};
use bellwire_store::{AttemptFilter, AttemptQuery, Span};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

const WAIT_MAX_SECONDS: f64 = 30.0;
/// Of an answer's body.
const ANSWER_BYTES_MAX: usize = 65_536;

/// Whether the sender waits, for whom, and what it takes if nobody answers.
#[derive(Deserialize, JsonSchema)]
pub(crate) struct WaitQuery {
    /// Wait so many seconds, at most 30, for what the endpoints answer. (Ours; not in Svix.)
    #[schemars(range(min = 0.001, max = 30.0))]
    wait: Option<f64>,
    /// Wait for this endpoint only, by its ID or UID. Without it, for all that the message goes to.
    wait_for: Option<String>,
    /// What is taken if the answer does not come in time or cannot be understood: `allow` if absent.
    fallback: Option<Fallback>,
}

/// What is taken if nobody answers.
#[derive(Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Fallback {
    Allow,
    Deny,
}

/// What the endpoints answered.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "MessageAnswerOut")]
pub(crate) struct AnswerOut {
    decision: Decision,
    /// What to change, as the endpoint gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    patch: Option<Value>,
    /// Why the fallback was taken. Absent: the endpoints decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    fallback: Option<String>,
    /// Whose answer decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    endpoint_id: Option<Text<EndpointId>>,
    /// Its status.
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    /// Its body, what is not UTF-8 replaced.
    #[serde(skip_serializing_if = "Option::is_none")]
    body: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Decision {
    /// Nobody objects.
    Allow,
    /// One endpoint objects.
    Deny,
    /// Nobody objects, and one wants something changed.
    Patch,
}

/// A checked wish to wait.
pub(crate) struct Wait {
    deadline: Duration,
    fallback: Fallback,
    only: Option<EndpointKey>,
}

impl Wait {
    /// `None`: nobody waits.
    ///
    /// # Errors
    /// 422 for a time that is none or too long, and for an endpoint that is not there.
    pub(crate) fn of(call: &Call, query: WaitQuery, entry: &ApplicationEntry) -> Result<Option<Self>, Error> {
        let Some(seconds) = query.wait else {
            let alone = [("wait_for", query.wait_for.is_some()), ("fallback", query.fallback.is_some())];
            return match alone.into_iter().find(|(_, given)| *given) {
                Some((name, _)) => Err(Error::invalid(&["query", name], format!("`{name}` needs `wait` beside it"))),
                None => Ok(None),
            };
        };
        if !(seconds > 0.0 && seconds <= WAIT_MAX_SECONDS) {
            let msg = "`wait` must be a number of seconds, more than 0 and at most 30";
            return Err(Error::invalid(&["query", "wait"], msg));
        }
        // What endpoints answer can hold what only they and the operator may see.
        if call.principal.application().is_some() {
            return Err(Error::forbidden());
        }
        let only = match &query.wait_for {
            None => None,
            Some(name) => match entry.find_endpoint(name) {
                Some(endpoint) => Some(endpoint.key),
                None => {
                    let msg = format!("no endpoint of this application has the id or uid {name:?}");
                    return Err(Error::invalid(&["query", "wait_for"], msg));
                }
            },
        };
        let fallback = query.fallback.unwrap_or(Fallback::Allow);
        Ok(Some(Wait { deadline: Duration::from_secs_f64(seconds), fallback, only }))
    }

    /// Waits for the answer. `owed` is whom the message goes to.
    pub(crate) async fn answer(
        self,
        call: &Call,
        entry: &ApplicationEntry,
        accepted: &Accepted,
        owed: FanOut,
        listening: Listening,
    ) -> Result<AnswerOut, Error> {
        let mut owed: Vec<EndpointKey> = owed.into_iter().collect();
        if let Some(only) = self.only {
            owed.retain(|endpoint| *endpoint == only);
        }
        if owed.is_empty() {
            return Ok(self.fall_back("no endpoint that is waited for takes this message".to_owned()));
        }
        let mut verdict = Verdict { owed, patch: None, allowed: None, is_incomplete: false };
        let decided = match accepted {
            Accepted::New(_) => match tokio::time::timeout(self.deadline, verdict.hear(listening)).await {
                Ok(decided) => decided,
                Err(_) => Err(format!("no answer came within {} s", self.deadline.as_secs_f64())),
            },
            // It went out before: what was answered then is in the log.
            Accepted::Same(message) => {
                let answers = answers_before(call, message).await?;
                let decided = answers.into_iter().find_map(|answer| verdict.take(answer).transpose());
                decided
                    .unwrap_or_else(|| Err("this message was accepted before, and nobody has answered yet".to_owned()))
            }
        };
        let (decision, patch, answer) = match decided {
            Ok(decided) => decided,
            Err(why) => return Ok(self.fall_back(why)),
        };
        let endpoint_id = entry.endpoints.iter().find(|e| e.key == answer.endpoint).map(|e| Text(e.id));
        let body = String::from_utf8_lossy(&answer.body[..answer.body.len().min(ANSWER_BYTES_MAX)]).into_owned();
        Ok(AnswerOut { decision, patch, fallback: None, endpoint_id, status: answer.status, body: Some(body) })
    }

    fn fall_back(&self, why: String) -> AnswerOut {
        let decision = match self.fallback {
            Fallback::Allow => Decision::Allow,
            Fallback::Deny => Decision::Deny,
        };
        AnswerOut { decision, patch: None, fallback: Some(why), endpoint_id: None, status: None, body: None }
    }
}

type Decided = (Decision, Option<Value>, EndpointAnswer);

/// What is known so far.
struct Verdict {
    /// Who has not answered.
    owed: Vec<EndpointKey>,
    /// The first that was given.
    patch: Option<(Value, EndpointAnswer)>,
    allowed: Option<EndpointAnswer>,
    /// One will never answer.
    is_incomplete: bool,
}

impl Verdict {
    /// Hears answers until it is decided.
    async fn hear(&mut self, mut listening: Listening) -> Result<Decided, String> {
        while let Some(answer) = listening.next().await {
            if let Some(decided) = self.take(answer)? {
                return Ok(decided);
            }
        }
        Err("the server is shutting down".to_owned())
    }

    /// Takes one answer into account. One objection is enough; otherwise all must have answered.
    fn take(&mut self, answer: EndpointAnswer) -> Result<Option<Decided>, String> {
        let Some(at) = self.owed.iter().position(|endpoint| *endpoint == answer.endpoint) else { return Ok(None) };
        match answer.status.map(|status| read(status, &answer.body)).transpose()? {
            // Another may still object.
            None => self.is_incomplete = true,
            Some((Decision::Deny, _)) => return Ok(Some((Decision::Deny, None, answer))),
            Some((Decision::Patch, patch)) => {
                self.patch.get_or_insert_with(|| (patch.unwrap_or_default(), answer));
            }
            Some((Decision::Allow, _)) => self.allowed = Some(answer),
        }
        self.owed.swap_remove(at);
        if !self.owed.is_empty() {
            return Ok(None);
        }
        if self.is_incomplete {
            return Err("an endpoint's delivery has ended without an answer".to_owned());
        }
        Ok(match (self.patch.take(), self.allowed.take()) {
            (Some((patch, answer)), _) => Some((Decision::Patch, Some(patch), answer)),
            (None, Some(answer)) => Some((Decision::Allow, None, answer)),
            (None, None) => None,
        })
    }
}

/// What an answer decides. 2xx without a decision is consent, as it is for every webhook.
fn read(status: u16, body: &[u8]) -> Result<(Decision, Option<Value>), String> {
    if !(200..300).contains(&status) {
        return Err(format!("an endpoint answered {status}"));
    }
    let Ok(Value::Object(mut answer)) = serde_json::from_slice(body) else { return Ok((Decision::Allow, None)) };
    match answer.get("decision").map(|decision| decision.as_str().unwrap_or_default()) {
        None | Some("allow") => Ok((Decision::Allow, None)),
        Some("deny") => Ok((Decision::Deny, None)),
        Some("patch") => match answer.remove("patch") {
            Some(patch @ (Value::Object(_) | Value::Array(_))) => Ok((Decision::Patch, Some(patch))),
            _ => Err("an endpoint answered `patch` without an object or an array in `patch`".to_owned()),
        },
        Some(_) => Err("an endpoint answered a `decision` that is none of allow, deny and patch".to_owned()),
    }
}

/// From the attempt log, newest first.
async fn answers_before(call: &Call, message: &Message) -> Result<Vec<EndpointAnswer>, Error> {
    let sequence = message.sequence();
    let filter = AttemptFilter::default();
    let query = AttemptQuery { span: Span::ALL, ascending: false, limit: 250, filter, with_body: true };
    let page = call.api.read(move |store| store.attempts_of_message(sequence, &query)).await?;
    let answered = page.items.into_iter().filter_map(|attempt| {
        let outcome = attempt.outcome?;
        let status = outcome.result.ok()?;
        Some(EndpointAnswer {
            endpoint: attempt.delivery.endpoint,
            responds: true,
            status: Some(status),
            headers: Vec::new(),
            body: outcome.body,
        })
    });
    Ok(answered.collect())
}

/// Whether a message goes out before a sender's patience ends: one that is to be delivered later does not.
pub(crate) fn can_be_waited_for(deliver_at: Option<Timestamp>) -> Result<(), Error> {
    if deliver_at.is_none() {
        return Ok(());
    }
    Err(Error::invalid(&["query", "wait"], "a message with `deliverAt` goes out later: leave `wait` out"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(endpoint: u32, body: &str) -> EndpointAnswer {
        let body = bytes::Bytes::copy_from_slice(body.as_bytes());
        EndpointAnswer { endpoint: EndpointKey(endpoint), responds: true, status: Some(200), headers: Vec::new(), body }
    }

    #[test]
    fn what_an_answer_decides() {
        let check = |status, body: &str, expected: Option<Decision>| {
            assert_eq!(read(status, body.as_bytes()).ok().map(|(decision, _)| decision), expected, "{status} {body}");
        };
        check(200, "", Some(Decision::Allow));
        check(204, "", Some(Decision::Allow));
        check(200, "ok", Some(Decision::Allow));
        check(200, r#"{"decision":"allow"}"#, Some(Decision::Allow));
        check(200, r#"{"decision":"deny"}"#, Some(Decision::Deny));
        check(200, r#"{"decision":"patch","patch":{"a":1}}"#, Some(Decision::Patch));
        check(200, r#"{"decision":"patch"}"#, None);
        check(200, r#"{"decision":"maybe"}"#, None);
        check(200, r#"{"decision":7}"#, None);
        check(500, r#"{"decision":"allow"}"#, None);
        check(302, "", None);
    }

    #[test]
    fn one_objection_is_enough_and_consent_needs_all() {
        let mut verdict = Verdict {
            owed: vec![EndpointKey(1), EndpointKey(2), EndpointKey(3)],
            patch: None,
            allowed: None,
            is_incomplete: false,
        };
        assert!(verdict.take(answer(1, "ok")).expect("an answer").is_none());
        assert!(verdict.take(answer(1, r#"{"decision":"deny"}"#)).expect("an answer").is_none(), "it has answered");
        assert!(verdict.take(answer(9, r#"{"decision":"deny"}"#)).expect("an answer").is_none(), "nobody waits for it");
        assert!(verdict.take(answer(2, r#"{"decision":"patch","patch":[1]}"#)).expect("an answer").is_none());
        let (decision, patch, _) = verdict.take(answer(3, "")).expect("an answer").expect("a decision");
        assert_eq!((decision, patch), (Decision::Patch, Some(serde_json::json!([1]))));
        let mut verdict =
            Verdict { owed: vec![EndpointKey(1), EndpointKey(2)], patch: None, allowed: None, is_incomplete: false };
        let (decision, _, answer) =
            verdict.take(answer(2, r#"{"decision":"deny"}"#)).expect("an answer").expect("a decision");
        assert_eq!((decision, answer.endpoint), (Decision::Deny, EndpointKey(2)));
    }

    #[test]
    fn one_that_will_never_answer_leaves_the_others_their_objection_and_no_consent() {
        let check = |last: &str, expected: Option<Decision>| {
            let owed = vec![EndpointKey(1), EndpointKey(2)];
            let mut verdict = Verdict { owed, patch: None, allowed: None, is_incomplete: false };
            let never = EndpointAnswer { status: None, ..answer(1, "") };
            assert!(verdict.take(never).expect("no verdict yet").is_none());
            let decided = verdict.take(answer(2, last)).ok().map(|decided| decided.expect("all have ended").0);
            assert_eq!(decided, expected, "{last}");
        };
        check("ok", None);
        check(r#"{"decision":"deny"}"#, Some(Decision::Deny));
    }
}
