//! Ids: KSUIDs with Svix's prefixes, made from a [`Sequence`], so that they sort in the order of acceptance and lead to
//! their row without a lookup table.
//!
//! The 20 bytes of an id: 4 bytes of seconds since 2014-05-13T16:53:20Z (as KSUID has it), 1 byte of 4 ms steps (as Svix's
//! variant has it), 3 bytes holding the remaining 2 bits of milliseconds and a 20-bit counter, and 12 random bytes that
//! make it unguessable. The first 8 bytes are the sequence; the row keeps the other 12 and a lookup compares them.

use crate::clock::Timestamp;
use rand::RngCore;
use std::fmt;
use std::str::FromStr;

/// KSUID's epoch, in milliseconds after Unix's.
const EPOCH_MILLIS: i64 = 1_400_000_000_000;
const COUNTER_BITS: u32 = 20;
/// The last millisecond whose seconds fit KSUID's four bytes (in the year 2150).
const MILLIS_MAX: u64 = u32::MAX as u64 * 1_000 + 999;
const TEXT_LENGTH: usize = 27;
const ALPHABET: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";

/// A place in the order in which things were accepted or recorded: milliseconds of engine time since KSUID's epoch, and
/// a counter within the millisecond. Unique and rising within a store; the key of both logs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct Sequence(u64);

impl Sequence {
    /// Before everything.
    pub const ZERO: Sequence = Sequence(0);
    /// After everything.
    pub const MAX: Sequence = Sequence(i64::MAX as u64);

    /// From its integer, as stored.
    pub const fn from_u64(value: u64) -> Self {
        Sequence(value)
    }

    /// As an integer; always fits an `i64`.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// The first sequence that can belong to `time`, for range queries; times before KSUID's epoch give zero.
    pub fn first_at(time: Timestamp) -> Self {
        let millis = u64::try_from(time.as_millis().saturating_sub(EPOCH_MILLIS)).unwrap_or(0);
        Sequence(millis.min(MILLIS_MAX) << COUNTER_BITS)
    }

    /// When it was given out, to the millisecond.
    pub fn time(self) -> Timestamp {
        Timestamp::from_millis((self.0 >> COUNTER_BITS) as i64 + EPOCH_MILLIS)
    }

    /// The one right after.
    #[must_use]
    pub const fn next(self) -> Self {
        Sequence(self.0 + 1)
    }
}

/// Gives out rising sequences, whatever the clock does.
#[derive(Debug, Clone)]
pub struct SequenceSource {
    last: Sequence,
}

impl SequenceSource {
    /// Continues after `last`, the newest sequence in the store.
    pub const fn after(last: Sequence) -> Self {
        SequenceSource { last }
    }

    /// The next one: at `now`, or right after the last if the clock has not moved or went back.
    pub fn next(&mut self, now: Timestamp) -> Sequence {
        self.last = Sequence::first_at(now).max(self.last.next());
        self.last
    }

    /// The newest that was given out.
    pub const fn last(&self) -> Sequence {
        self.last
    }
}

/// The bytes of an id, without its prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ksuid([u8; 20]);

impl Ksuid {
    /// The id of the row at `sequence`, with 12 random bytes from `rng`.
    pub fn new(sequence: Sequence, rng: &mut dyn RngCore) -> Self {
        let mut tail = [0; 12];
        rng.fill_bytes(&mut tail);
        Self::from_parts(sequence, tail)
    }

    /// From the two parts that a row keeps.
    pub fn from_parts(sequence: Sequence, tail: [u8; 12]) -> Self {
        let millis = sequence.0 >> COUNTER_BITS;
        let counter = sequence.0 & ((1 << COUNTER_BITS) - 1);
        let (seconds, rest) = (millis / 1_000, millis % 1_000);
        let mut bytes = [0; 20];
        bytes[..4].copy_from_slice(&(seconds as u32).to_be_bytes());
        bytes[4] = (rest / 4) as u8;
        bytes[5..8].copy_from_slice(&(((rest % 4) << COUNTER_BITS | counter) as u32).to_be_bytes()[1..]);
        bytes[8..].copy_from_slice(&tail);
        Ksuid(bytes)
    }

    /// Where its row is. Any 20 bytes give some sequence; that a row is there proves nothing until [`Ksuid::tail`] is equal.
    pub fn sequence(&self) -> Sequence {
        let b = &self.0;
        let seconds = u64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]]));
        let low = u64::from(u32::from_be_bytes([0, b[5], b[6], b[7]]));
        let millis = seconds * 1_000 + u64::from(b[4]) * 4 + ((low >> COUNTER_BITS) & 3);
        Sequence(millis << COUNTER_BITS | low & ((1 << COUNTER_BITS) - 1))
    }

    /// Whether it could have been made here: its sequence and its tail give it back. Ids that other servers made have random bits
    /// where ours have zeros; they lead to a sequence all the same.
    pub fn is_own(&self) -> bool {
        Self::from_parts(self.sequence(), self.tail()) == *self
    }

    /// The random part.
    pub fn tail(&self) -> [u8; 12] {
        let mut tail = [0; 12];
        tail.copy_from_slice(&self.0[8..]);
        tail
    }

    /// All 20 bytes.
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }

    /// From all 20 bytes.
    pub const fn from_bytes(bytes: [u8; 20]) -> Self {
        Ksuid(bytes)
    }

    /// Writes the 27 base-62 characters.
    fn encode(&self) -> [u8; TEXT_LENGTH] {
        // Long division of a 160-bit number by 62, on 32-bit limbs.
        let mut limbs = [0u32; 5];
        for (limb, chunk) in limbs.iter_mut().zip(self.0.chunks_exact(4)) {
            *limb = u32::from_be_bytes([chunk[0], chunk[1], chunk[2], chunk[3]]);
        }
        let mut text = [b'0'; TEXT_LENGTH];
        for place in text.iter_mut().rev() {
            let mut remainder = 0u64;
            for limb in &mut limbs {
                let value = remainder << 32 | u64::from(*limb);
                *limb = (value / 62) as u32;
                remainder = value % 62;
            }
            *place = ALPHABET[remainder as usize];
        }
        text
    }

    fn decode(text: &[u8]) -> Option<Self> {
        if text.len() != TEXT_LENGTH {
            return None;
        }
        let mut limbs = [0u32; 5];
        for &c in text {
            let digit = match c {
                b'0'..=b'9' => c - b'0',
                b'A'..=b'Z' => c - b'A' + 10,
                b'a'..=b'z' => c - b'a' + 36,
                _ => return None,
            };
            let mut carry = u64::from(digit);
            for limb in limbs.iter_mut().rev() {
                let value = u64::from(*limb) * 62 + carry;
                *limb = value as u32;
                carry = value >> 32;
            }
            if carry != 0 {
                return None;
            }
        }
        let mut bytes = [0; 20];
        for (chunk, limb) in bytes.chunks_exact_mut(4).zip(limbs) {
            chunk.copy_from_slice(&limb.to_be_bytes());
        }
        Some(Ksuid(bytes))
    }
}

/// Why a text is not an id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("expected {prefix} followed by 27 letters and digits")]
pub struct IdError {
    /// The prefix that was expected, underscore included.
    pub prefix: &'static str,
}

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub Ksuid);

        impl $name {
            /// What every such id begins with.
            pub const PREFIX: &'static str = $prefix;

            /// The id of the row at `sequence`.
            pub fn new(sequence: Sequence, rng: &mut dyn RngCore) -> Self {
                $name(Ksuid::new(sequence, rng))
            }

            /// From the two parts that a row keeps.
            pub fn from_parts(sequence: Sequence, tail: [u8; 12]) -> Self {
                $name(Ksuid::from_parts(sequence, tail))
            }

            /// Where its row is, if there is one.
            pub fn sequence(&self) -> Sequence {
                self.0.sequence()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let mut text = [0u8; $prefix.len() + TEXT_LENGTH];
                text[..$prefix.len()].copy_from_slice($prefix.as_bytes());
                text[$prefix.len()..].copy_from_slice(&self.0.encode());
                f.pad(std::str::from_utf8(&text).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                text.strip_prefix($prefix)
                    .and_then(|rest| Ksuid::decode(rest.as_bytes()))
                    .map($name)
                    .ok_or(IdError { prefix: $prefix })
            }
        }
    };
}

id!(
    /// The id of an application.
    ApplicationId, "app_"
);
id!(
    /// The id of an endpoint.
    EndpointId, "ep_"
);
id!(
    /// The id of a message; `webhook-id` on the wire, the same for all its attempts.
    MessageId, "msg_"
);
id!(
    /// The id of an attempt.
    AttemptId, "atmpt_"
);
id!(
    /// The id of a background task.
    TaskId, "qtask_"
);
id!(
    /// The id of a source.
    SourceId, "src_"
);
id!(
    /// The id of a request at a source that made no message and was kept.
    RequestId, "req_"
);
id!(
    /// The id of a token that is registered: listed, scoped, taken back by this.
    TokenId, "key_"
);
id!(
    /// What an application's token is known by that is not registered; its sequence says when it was issued.
    PortalTokenId, "appsk_"
);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_ksuid_text_decodes_to_its_bytes() {
        // segmentio/ksuid, README: 0ujtsYcgvSTl8PAuAdqWYSMnLOv.
        let id = Ksuid::decode(b"0ujtsYcgvSTl8PAuAdqWYSMnLOv").expect("valid");
        let hex: String = id.0.iter().map(|b| format!("{b:02X}")).collect();
        assert_eq!(hex, "0669F7EFB5A1CD34B5F99D1154FB6853345C9735");
        assert_eq!(&id.encode(), b"0ujtsYcgvSTl8PAuAdqWYSMnLOv");
    }

    #[test]
    fn an_id_of_another_server_is_known_as_such() {
        // An id from the documentation of Svix's API.
        let foreign: ApplicationId = "app_1srOrx2ZWZBpBUvZwXKQmoEYga2".parse().expect("valid");
        let own = ApplicationId::from_parts(foreign.sequence(), foreign.0.tail());
        assert!(own.0.is_own() && own.sequence() == foreign.sequence());
        assert_eq!(foreign.0.is_own(), foreign == own);
        assert!(!Ksuid::from_bytes([0xff; 20]).is_own());
    }

    #[test]
    fn too_large_a_number_is_refused() {
        assert!(Ksuid::decode(&[b'z'; 27]).is_none());
        assert!("msg_".parse::<MessageId>().is_err());
        assert!("app_0ujtsYcgvSTl8PAuAdqWYSMnLOv".parse::<MessageId>().is_err());
    }

    #[test]
    fn a_clock_that_goes_back_does_not_stop_the_order() {
        let mut source = SequenceSource::after(Sequence::ZERO);
        let a = source.next(Timestamp::from_seconds(1_700_000_000));
        let b = source.next(Timestamp::from_seconds(1_400_000_001));
        let c = source.next(Timestamp::from_seconds(1_700_000_001));
        assert!(a < b && b < c);
        assert_eq!(c.time(), Timestamp::from_seconds(1_700_000_001));
    }

    proptest! {
        #[test]
        fn ids_lead_to_their_sequence_and_sort_like_it(a in 0..MILLIS_MAX << COUNTER_BITS, b in 0..MILLIS_MAX << COUNTER_BITS, tail: [u8; 12]) {
            let (a, b) = (Sequence(a), Sequence(b));
            let (x, y) = (MessageId::from_parts(a, tail), MessageId::from_parts(b, tail));
            prop_assert_eq!(x.sequence(), a);
            prop_assert_eq!(x.0.tail(), tail);
            prop_assert_eq!(x.to_string().parse::<MessageId>(), Ok(x));
            prop_assert_eq!(x.to_string().cmp(&y.to_string()), a.cmp(&b));
        }

        #[test]
        fn any_text_parses_or_is_refused(text in "\\PC*") {
            let _ = text.parse::<MessageId>();
        }
    }
}
