//! How values become columns. Knows no table.

use super::fault::Fault;
use bellwire_model::{
    AfterAttempt, Directive, EndReason, EndpointKey, FailureClass, FanOut, Sequence, SourceId, Timestamp,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// `after` of a delivery that was delivered.
pub(super) const DELIVERED: u8 = 0;
/// `after` of a delivery that waits.
pub(super) const WAITING: u8 = 1;
/// `after` of a delivery that ended is this plus the reason's code.
pub(super) const ENDED: u8 = 16;

/// A sequence as SQLite keeps it.
pub(super) fn integer(sequence: Sequence) -> i64 {
    sequence.as_u64() as i64
}

/// A sequence from what SQLite kept; a negative number, which we never write, becomes one that leads nowhere.
pub(super) fn sequence(value: i64) -> Sequence {
    u64::try_from(value).map_or(Sequence::MAX, Sequence::from_u64)
}

pub(super) fn after_code(after: AfterAttempt) -> (u8, Option<i64>) {
    match after {
        AfterAttempt::Delivered => (DELIVERED, None),
        AfterAttempt::Waiting { due } => (WAITING, Some(due.as_micros())),
        AfterAttempt::Ended(reason) => (ENDED + reason.code(), None),
    }
}

pub(super) fn after_from(code: u8, due: Option<i64>) -> Result<AfterAttempt, Fault> {
    match (code, due) {
        (DELIVERED, _) => Ok(AfterAttempt::Delivered),
        (WAITING, Some(due)) => Ok(AfterAttempt::Waiting { due: Timestamp::from_micros(due) }),
        _ => Ok(AfterAttempt::Ended(reason_from(code)?)),
    }
}

/// The reason in an `after` of [`ENDED`] and above.
pub(super) fn reason_from(after: u8) -> Result<EndReason, Fault> {
    after
        .checked_sub(ENDED)
        .and_then(EndReason::from_code)
        .ok_or_else(|| Fault::damaged("an attempt", format!("its after is {after}")))
}

pub(super) fn status_code(result: Result<u16, FailureClass>) -> i32 {
    match result {
        Ok(status) => i32::from(status),
        Err(class) => -1 - i32::from(class.code()),
    }
}

pub(super) fn status_from(code: i32) -> Result<Result<u16, FailureClass>, Fault> {
    let damaged = || Fault::damaged("an attempt", format!("its status is {code}"));
    if code >= 0 {
        return u16::try_from(code).map(Ok).map_err(|_| damaged());
    }
    let class = u8::try_from(-1 - code).ok().and_then(FailureClass::from_code).ok_or_else(damaged)?;
    Ok(Err(class))
}

pub(super) fn directive_code(directive: Directive) -> i64 {
    match directive {
        Directive::Disable => 0,
        Directive::AbortMessage => 1,
    }
}

pub(super) fn directive_from(code: i64) -> Option<Directive> {
    match code {
        0 => Some(Directive::Disable),
        1 => Some(Directive::AbortMessage),
        _ => None,
    }
}

/// Appends the fan-out as varints of differences.
pub(super) fn write_fan_out(fan_out: &[EndpointKey], bytes: &mut Vec<u8>) {
    let mut last = 0u32;
    for key in fan_out {
        // Wrapping, so that even a list out of order comes back as it was.
        let mut difference = key.0.wrapping_sub(last);
        last = key.0;
        while difference >= 0x80 {
            bytes.push(difference as u8 | 0x80);
            difference >>= 7;
        }
        bytes.push(difference as u8);
    }
}

pub(super) fn read_fan_out(bytes: &[u8]) -> Result<FanOut, Fault> {
    let mut fan_out = FanOut::new();
    let (mut last, mut value, mut shift) = (0u32, 0u32, 0u32);
    for byte in bytes {
        if shift > 28 {
            return Err(Fault::damaged("a fan-out", "a number in it is too long".to_owned()));
        }
        value |= u32::from(byte & 0x7f) << shift;
        shift += 7;
        if byte & 0x80 == 0 {
            last = last.wrapping_add(value);
            fan_out.push(EndpointKey(last));
            (value, shift) = (0, 0);
        }
    }
    match shift {
        0 => Ok(fan_out),
        _ => Err(Fault::damaged("a fan-out", "it is cut off".to_owned())),
    }
}

/// As JSON; nothing we store can fail to be written.
pub(super) fn json<T: Serialize + ?Sized>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

/// As JSON, or nothing for an empty list.
pub(super) fn json_list(list: &[String]) -> Option<String> {
    (!list.is_empty()).then(|| json(list))
}

pub(super) fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, Fault> {
    serde_json::from_str(text).map_err(|error| Fault::damaged(what, error.to_string()))
}

/// The hash by which an index row tells its event type. FNV-1a: fixed for ever, since rows hold it.
pub(super) fn type_hash(event_type: &str) -> u32 {
    fnv(0, event_type)
}

/// A bit for each channel, each tag and the source. A message has what is looked for only if it has all of its bits.
pub(super) fn marks(channels: &[String], tags: &[String], source: Option<SourceId>) -> u64 {
    let channels = channels.iter().fold(0, |marks, channel| marks | channel_mark(channel));
    let tags = tags.iter().fold(channels, |marks, tag| marks | tag_mark(tag));
    tags | source.map_or(0, source_mark)
}

/// One of the tags' bits: few messages have both.
pub(super) fn source_mark(source: SourceId) -> u64 {
    let hash = source
        .0
        .as_bytes()
        .iter()
        .fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193));
    1 << (31 + hash % 31)
}

pub(super) fn channel_mark(channel: &str) -> u64 {
    1 << (fnv(1, channel) % 31)
}

pub(super) fn tag_mark(tag: &str) -> u64 {
    1 << (31 + fnv(2, tag) % 31)
}

fn fnv(seed: u32, text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5 ^ seed, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fan_out_comes_back_as_it_was() {
        let check = |keys: &[u32]| {
            let fan_out: FanOut = keys.iter().copied().map(EndpointKey).collect();
            let mut bytes = Vec::new();
            write_fan_out(&fan_out, &mut bytes);
            assert_eq!(read_fan_out(&bytes).expect("readable"), fan_out);
            bytes.len()
        };
        assert_eq!(check(&[]), 0);
        assert_eq!(check(&[1, 2, 3, 130]), 4);
        assert_eq!(check(&[5, 128 + 5, u32::MAX]), 1 + 2 + 5);
        check(&[7, 3, 3]);
    }

    #[test]
    fn a_damaged_fan_out_is_refused() {
        assert!(read_fan_out(&[0x80]).is_err());
        assert!(read_fan_out(&[0xff; 9]).is_err());
    }

    #[test]
    fn codes_lead_back() {
        let due = Timestamp::from_seconds(5);
        let ended = EndReason::ALL.map(AfterAttempt::Ended);
        for after in [AfterAttempt::Delivered, AfterAttempt::Waiting { due }].into_iter().chain(ended) {
            let (code, due) = after_code(after);
            assert_eq!(after_from(code, due).expect("known"), after);
        }
        for result in FailureClass::ALL.map(Err).into_iter().chain([Ok(100), Ok(599)]) {
            assert_eq!(status_from(status_code(result)).expect("known"), result);
        }
        assert!(after_from(9, None).is_err());
        assert!(status_from(-100).is_err());
    }
}
