//! Small types that several resources have on the wire.

use crate::document::JsonSchema;
#[cfg(feature = "document")]
use crate::document::{Schema, SchemaGenerator, json_schema};
use bellwire_model::{DeliveryState, EndReason, Timestamp};
use bellwire_store::StatusFilter;
use serde::de::{Error as _, MapAccess, Visitor};
use serde::ser::SerializeMap;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

/// What ids, uids and event types are made of, as the document has it.
#[cfg(feature = "document")]
pub(crate) const NAME_PATTERN: &str = r"^[a-zA-Z0-9\-_.]+$";
#[cfg(feature = "document")]
pub(crate) const CHANNEL_PATTERN: &str = r"^[a-zA-Z0-9\-_.:+]+$";
#[cfg(feature = "document")]
pub(crate) const TAG_PATTERN: &str = r"^[a-zA-Z0-9\-_./\\#]+$";

/// RFC 3339, with microseconds and `Z` when we write it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Time(pub(crate) Timestamp);

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = Cow::<str>::deserialize(deserializer)?;
        // The last two days of the calendar mean "for ever", and lie beyond what the library takes.
        let parsed = text.parse().or_else(|error| match text.strip_prefix("9999-12-31") {
            Some(rest) => format!("9999-12-29{rest}").parse(),
            None => Err(error),
        });
        parsed.map(Time).map_err(|_| {
            D::Error::custom(format!("expected a time of RFC 3339 such as 2026-01-31T09:30:00Z, found {text:?}"))
        })
    }
}

#[cfg(feature = "document")]
impl JsonSchema for Time {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Time".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "format": "date-time" })
    }
}

/// An id or another value that is written as its text.
pub(crate) struct Text<T>(pub(crate) T);

impl<T: fmt::Display> Serialize for Text<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

#[cfg(feature = "document")]
impl<T> JsonSchema for Text<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Text".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string" })
    }
}

/// A field of a PATCH: absent keeps, `null` clears, a value sets.
#[derive(Clone, Default, PartialEq, Debug)]
pub(crate) enum Patch<T> {
    #[default]
    Keep,
    Clear,
    Set(T),
}

impl<T> Patch<T> {
    /// Does to `slot` what it says; `read` makes of the value what the slot holds.
    pub(crate) fn apply<U>(self, slot: &mut Option<U>, read: impl FnOnce(T) -> Option<U>) {
        match self {
            Patch::Set(value) => *slot = read(value),
            Patch::Clear => *slot = None,
            Patch::Keep => {}
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(Option::deserialize(deserializer)?.map_or(Patch::Clear, Patch::Set))
    }
}

#[cfg(feature = "document")]
impl<T: JsonSchema> JsonSchema for Patch<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Nullable_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        Option::<T>::json_schema(generator)
    }
}

/// A field of a PATCH that cannot be cleared: absent keeps, a value sets, `null` is refused.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Keep<T>(pub(crate) Option<T>);

impl<T> Default for Keep<T> {
    fn default() -> Self {
        Keep(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Keep<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(|value| Keep(Some(value)))
    }
}

#[cfg(feature = "document")]
impl<T: JsonSchema> JsonSchema for Keep<T> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        T::schema_name()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        T::json_schema(generator)
    }
}

/// The members of a JSON object in the order they came, duplicates included.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Pairs<V>(pub(crate) Vec<(String, V)>);

impl<V> Default for Pairs<V> {
    fn default() -> Self {
        Pairs(Vec::new())
    }
}

impl<'de, V: Deserialize<'de>> Deserialize<'de> for Pairs<V> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members<V>(PhantomData<V>);

        impl<'de, V: Deserialize<'de>> Visitor<'de> for Members<V> {
            type Value = Pairs<V>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Pairs<V>, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = map.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }

        deserializer.deserialize_map(Members(PhantomData))
    }
}

impl<V: Serialize> Serialize for Pairs<V> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len()))?;
        self.0.iter().try_for_each(|(name, value)| map.serialize_entry(name, value))?;
        map.end()
    }
}

#[cfg(feature = "document")]
impl<V: JsonSchema> JsonSchema for Pairs<V> {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        format!("Map_of_{}", V::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let value = generator.subschema_for::<V>();
        json_schema!({ "type": "object", "additionalProperties": value })
    }
}

/// How a delivery or an attempt went, by Svix's numbers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum MessageStatus {
    Success = 0,
    Pending = 1,
    Fail = 2,
    Sending = 3,
    Canceled = 4,
}

impl MessageStatus {
    const ALL: [MessageStatus; 5] = [
        MessageStatus::Success,
        MessageStatus::Pending,
        MessageStatus::Fail,
        MessageStatus::Sending,
        MessageStatus::Canceled,
    ];

    /// Of a delivery: never tried is pending, tried and waiting is sending.
    pub(crate) fn of(state: DeliveryState, attempts: u32) -> Self {
        match state {
            DeliveryState::Fresh => MessageStatus::Pending,
            DeliveryState::Waiting(_) if attempts == 0 => MessageStatus::Pending,
            DeliveryState::Waiting(_) => MessageStatus::Sending,
            DeliveryState::Delivered => MessageStatus::Success,
            DeliveryState::Ended(EndReason::Exhausted | EndReason::ResendFailed) => MessageStatus::Fail,
            DeliveryState::Ended(
                EndReason::Aborted | EndReason::Expired | EndReason::EndpointDeleted | EndReason::Cancelled,
            ) => MessageStatus::Canceled,
        }
    }

    /// For clients that do not know of [`MessageStatus::Canceled`], it has failed.
    pub(crate) fn shown(self, expanded: bool) -> Self {
        if self == MessageStatus::Canceled && !expanded { MessageStatus::Fail } else { self }
    }

    pub(crate) const fn text(self) -> &'static str {
        match self {
            MessageStatus::Success => "success",
            MessageStatus::Pending => "pending",
            MessageStatus::Fail => "fail",
            MessageStatus::Sending => "sending",
            MessageStatus::Canceled => "canceled",
        }
    }

    /// What to look for when a client asks for this: what it will be shown as this.
    pub(crate) const fn filter(self, expanded: bool) -> StatusFilter {
        match self {
            MessageStatus::Fail if !expanded => StatusFilter::FailOrCanceled,
            MessageStatus::Success => StatusFilter::Success,
            MessageStatus::Pending => StatusFilter::Pending,
            MessageStatus::Fail => StatusFilter::Fail,
            MessageStatus::Sending => StatusFilter::Sending,
            MessageStatus::Canceled => StatusFilter::Canceled,
        }
    }
}

impl Serialize for MessageStatus {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u8(*self as u8)
    }
}

impl<'de> Deserialize<'de> for MessageStatus {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = u8::deserialize(deserializer)?;
        MessageStatus::ALL
            .get(usize::from(number))
            .copied()
            .ok_or_else(|| D::Error::custom("expected 0 (success), 1 (pending), 2 (fail), 3 (sending) or 4 (canceled)"))
    }
}

#[cfg(feature = "document")]
impl JsonSchema for MessageStatus {
    fn schema_name() -> Cow<'static, str> {
        "MessageStatus".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "integer",
            "title": "MessageStatus",
            "description": "The sending status of the message:\n\n- Success = 0\n- Pending = 1\n- Fail = 2\n- Sending = 3\n- Canceled = 4",
            "enum": [0, 1, 2, 3, 4],
            "x-enum-varnames": ["Success", "Pending", "Fail", "Sending", "Canceled"],
        })
    }
}

/// The same in words.
#[derive(Clone, Copy)]
pub(crate) struct MessageStatusText(pub(crate) MessageStatus);

impl Serialize for MessageStatusText {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.0.text())
    }
}

#[cfg(feature = "document")]
impl JsonSchema for MessageStatusText {
    fn schema_name() -> Cow<'static, str> {
        "MessageStatusText".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let all = MessageStatus::ALL.map(MessageStatus::text);
        json_schema!({ "type": "string", "enum": all })
    }
}

/// `{}`.
#[derive(Serialize, JsonSchema)]
pub(crate) struct EmptyResponse {}
