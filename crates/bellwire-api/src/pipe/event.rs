//! A message as readers of a pipe get it.

use super::shaped::Given;
use crate::document::JsonSchema;
use crate::message::MessageOut;
use crate::wire::Time;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bellwire_model::{Endpoint, HOPS_HEADER, Message, Timestamp};
use bellwire_signature::Signer;
use serde::Serialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A message as readers of a pipe get it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PipeEventOut")]
pub(super) struct EventOut<'a> {
    #[serde(flatten)]
    pub(super) message: MessageOut<'a>,
    /// Reading after it begins with the next one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cursor: Option<String>,
    /// Of a message that the endpoint's transformation, format or content type made: its content type, and the headers that the
    /// transformation gave.
    #[serde(skip_serializing_if = "Option::is_none")]
    headers: Option<BTreeMap<&'a str, &'a str>>,
    /// Why the endpoint's transformation or format gave nothing. Then `payload` is empty.
    #[serde(skip_serializing_if = "Option::is_none")]
    transformation_error: Option<&'a str>,
}

impl<'a> EventOut<'a> {
    pub(super) fn new(given: &'a Given, cursor: Option<String>, now: Timestamp) -> Self {
        let Given { message, headers, fault, is_shaped } = given;
        let mut all: BTreeMap<_, _> = headers.iter().map(|(name, value)| (&**name, &**value)).collect();
        if *is_shaped && fault.is_none() {
            all.insert("content-type", message.content_type.as_str());
        }
        EventOut {
            message: MessageOut::new(message, fault.is_none(), now),
            cursor,
            headers: (!all.is_empty()).then_some(all),
            transformation_error: fault.as_deref(),
        }
    }
}

/// A message that was handed to a reader.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "PipeLeaseOut")]
pub(super) struct LeaseOut<'a> {
    /// To acknowledge it with, to refuse it, or to keep it longer.
    pub(super) receipt: String,
    /// How often it has been handed out, this time included.
    pub(super) attempt: u32,
    /// When it is taken back.
    pub(super) leased_until: Time,
    #[serde(flatten)]
    pub(super) message: MessageOut<'a>,
    /// What a push would send beside the payload: the endpoint's headers and the signature; of a webhook that came in at a source of
    /// ours, its own headers as well.
    pub(super) headers: BTreeMap<String, String>,
    /// The payload as it is, if it is text and no JSON object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body: Option<&'a str>,
    /// The payload's bytes, if they are no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) body_base64: Option<String>,
}

/// The headers that a push would have; `own` are those of the endpoint's script, `at` is the time of the signature.
pub(super) fn headers(
    endpoint: &Endpoint,
    signer: &Signer,
    message: &Message,
    own: &[(String, String)],
    at: Timestamp,
) -> BTreeMap<String, String> {
    let mut headers = BTreeMap::new();
    if let Some(received) = &message.received {
        headers.extend(received.headers.iter().map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
    headers.extend(endpoint.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())));
    headers.extend(own.iter().cloned());
    // Its reader may pass it on to another source; no circle of them is endless.
    if let Some(received) = &message.received {
        headers.insert(HOPS_HEADER.to_owned(), (u16::from(received.hops) + 1).to_string());
    }
    headers.insert("content-type".to_owned(), message.content_type.as_str().to_owned());
    let id = message.id.to_string();
    let payload = message.payload.as_deref().unwrap_or_default();
    // Without a secret there is nothing to sign with; then it goes unsigned, as a pipe's reader has shown its token.
    if let Ok(signature) = signer.sign(&id, at.as_seconds(), payload) {
        headers.insert("webhook-id".to_owned(), id);
        headers.insert("webhook-timestamp".to_owned(), at.as_seconds().to_string());
        headers.insert("webhook-signature".to_owned(), signature);
    }
    headers
}

/// Ready to sign what is handed out now.
pub(super) fn signer(endpoint: &Endpoint, now: Timestamp) -> Signer {
    Signer::new(&endpoint.signing_secrets(now).collect::<Vec<_>>())
}

/// A payload that is text and no JSON object.
pub(super) fn text_of(message: &Message) -> Option<&str> {
    let text = std::str::from_utf8(message.payload.as_deref()?).ok()?;
    let is_object = text.trim_start().starts_with('{') && serde_json::from_str::<&RawValue>(text).is_ok();
    (!is_object).then_some(text)
}

/// Bytes that cannot stand in JSON as they are.
pub(super) fn base64_of(message: &Message) -> Option<String> {
    let payload = message.payload.as_ref()?;
    std::str::from_utf8(payload).is_err().then(|| STANDARD.encode(payload))
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::{ApplicationKey, EndpointId, EndpointKey, MessageId, Received, Sequence, SourceId};
    use std::sync::Arc;

    #[test]
    fn what_was_passed_on_before_says_so_whoever_hands_it_on() {
        let received = Received {
            source: SourceId::from_parts(Sequence::ZERO, [0; 12]),
            method: "POST".into(),
            path: "/in/a".into(),
            query: None,
            headers: [("x-event", "push"), (HOPS_HEADER, "2")].into_iter().collect(),
            remote: None,
            hops: 2,
            dedupe: None,
        };
        let (now, key) = (Timestamp::EPOCH, ApplicationKey(1));
        let id = MessageId::from_parts(Sequence::ZERO, [0; 12]);
        let plain = Message::new(id, key, "a.b", "{}", now);
        let message = Message { received: Some(Arc::new(received)), ..plain.clone() };
        let id = EndpointId::from_parts(Sequence::ZERO, [0; 12]);
        let endpoint = Endpoint::new(EndpointKey(1), key, id, "pipe:", now);
        let of = |message| headers(&endpoint, &signer(&endpoint, now), message, &[], now);
        assert_eq!((&*of(&message)[HOPS_HEADER], &*of(&message)["x-event"]), ("3", "push"));
        assert!(!of(&plain).contains_key(HOPS_HEADER), "nobody passed it on");
    }
}
