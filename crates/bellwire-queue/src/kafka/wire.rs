//! Kafka's words: requests as bytes, answers read with every length doubted.
//!
//! Of each request one version is spoken, of metadata two, so this is small. A codec for all of them exists; it makes room for what an answer says
//! that it will hold before that is there, and so lets any server end this process with a few bytes.

use bytes::Bytes;

/// A request and its version.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Api {
    pub(super) name: &'static str,
    pub(super) key: i16,
    pub(super) version: i16,
    /// Since some version of each, lengths are written shorter, and fields can follow that old readers do not know.
    pub(super) flexible: bool,
}

pub(super) const PRODUCE: Api = Api { name: "Produce", key: 0, version: 7, flexible: false };
/// The oldest that is given batches compressed by zstd.
pub(super) const FETCH: Api = Api { name: "Fetch", key: 1, version: 10, flexible: false };
pub(super) const LIST_OFFSETS: Api = Api { name: "ListOffsets", key: 2, version: 2, flexible: false };
pub(super) const METADATA: Api = Api { name: "Metadata", key: 3, version: 4, flexible: false };
/// The oldest that tells the ids of topics, by which one that was made anew is known. Kafka 2.8.
pub(super) const METADATA_WITH_IDS: Api = Api { name: "Metadata", key: 3, version: 10, flexible: true };
pub(super) const SASL_HANDSHAKE: Api = Api { name: "SaslHandshake", key: 17, version: 1, flexible: false };
pub(super) const API_VERSIONS: Api = Api { name: "ApiVersions", key: 18, version: 0, flexible: false };
/// The oldest that may be asked by who may do no more than read. Kafka 2.3.
pub(super) const OFFSET_FOR_LEADER_EPOCH: Api =
    Api { name: "OffsetForLeaderEpoch", key: 23, version: 3, flexible: false };
pub(super) const SASL_AUTHENTICATE: Api = Api { name: "SaslAuthenticate", key: 36, version: 0, flexible: false };

/// Errors that somebody here acts upon.
pub(super) mod code {
    pub(in super::super) const OFFSET_OUT_OF_RANGE: i16 = 1;
    pub(in super::super) const CORRUPT_MESSAGE: i16 = 2;
    pub(in super::super) const UNKNOWN_TOPIC_OR_PARTITION: i16 = 3;
    pub(in super::super) const LEADER_NOT_AVAILABLE: i16 = 5;
    pub(in super::super) const NOT_LEADER_OR_FOLLOWER: i16 = 6;
    pub(in super::super) const REQUEST_TIMED_OUT: i16 = 7;
    pub(in super::super) const REPLICA_NOT_AVAILABLE: i16 = 9;
    pub(in super::super) const MESSAGE_TOO_LARGE: i16 = 10;
    pub(in super::super) const INVALID_TOPIC: i16 = 17;
    pub(in super::super) const RECORD_LIST_TOO_LARGE: i16 = 18;
    pub(in super::super) const NOT_ENOUGH_REPLICAS_AFTER_APPEND: i16 = 20;
    pub(in super::super) const UNSUPPORTED_SASL_MECHANISM: i16 = 33;
    pub(in super::super) const KAFKA_STORAGE_ERROR: i16 = 56;
    pub(in super::super) const FENCED_LEADER_EPOCH: i16 = 74;
    pub(in super::super) const UNKNOWN_LEADER_EPOCH: i16 = 75;
    pub(in super::super) const OFFSET_NOT_AVAILABLE: i16 = 78;
    pub(in super::super) const INVALID_RECORD: i16 = 87;

    /// The partition is changing its leader, or has.
    pub(in super::super) fn is_of_leader(number: i16) -> bool {
        matches!(
            number,
            UNKNOWN_TOPIC_OR_PARTITION
                | LEADER_NOT_AVAILABLE
                | NOT_LEADER_OR_FOLLOWER
                | REPLICA_NOT_AVAILABLE
                | KAFKA_STORAGE_ERROR
                | FENCED_LEADER_EPOCH
                | UNKNOWN_LEADER_EPOCH
                | OFFSET_NOT_AVAILABLE
        )
    }
}

/// An error, in words.
pub(super) fn told(number: i16) -> String {
    let name = match number {
        code::OFFSET_OUT_OF_RANGE => "OFFSET_OUT_OF_RANGE",
        code::CORRUPT_MESSAGE => "CORRUPT_MESSAGE",
        code::UNKNOWN_TOPIC_OR_PARTITION => "UNKNOWN_TOPIC_OR_PARTITION",
        code::LEADER_NOT_AVAILABLE => "LEADER_NOT_AVAILABLE",
        code::NOT_LEADER_OR_FOLLOWER => "NOT_LEADER_OR_FOLLOWER: the partition has another leader",
        code::REQUEST_TIMED_OUT => "REQUEST_TIMED_OUT",
        code::REPLICA_NOT_AVAILABLE => "REPLICA_NOT_AVAILABLE",
        code::MESSAGE_TOO_LARGE => "MESSAGE_TOO_LARGE: the topic takes no messages of this size",
        code::INVALID_TOPIC => "INVALID_TOPIC_EXCEPTION",
        code::RECORD_LIST_TOO_LARGE => "RECORD_LIST_TOO_LARGE",
        19 => "NOT_ENOUGH_REPLICAS: too few copies of the partition are up to date",
        code::NOT_ENOUGH_REPLICAS_AFTER_APPEND => "NOT_ENOUGH_REPLICAS_AFTER_APPEND",
        29 => "TOPIC_AUTHORIZATION_FAILED: this user may not do that with the topic",
        30 => "GROUP_AUTHORIZATION_FAILED",
        31 => "CLUSTER_AUTHORIZATION_FAILED",
        code::UNSUPPORTED_SASL_MECHANISM => "UNSUPPORTED_SASL_MECHANISM",
        34 => "ILLEGAL_SASL_STATE",
        35 => "UNSUPPORTED_VERSION",
        44 => "POLICY_VIOLATION",
        code::KAFKA_STORAGE_ERROR => "KAFKA_STORAGE_ERROR",
        58 => "SASL_AUTHENTICATION_FAILED",
        code::FENCED_LEADER_EPOCH => "FENCED_LEADER_EPOCH: the partition has been given a leader anew",
        code::UNKNOWN_LEADER_EPOCH => "UNKNOWN_LEADER_EPOCH",
        76 => "UNSUPPORTED_COMPRESSION_TYPE",
        code::OFFSET_NOT_AVAILABLE => "OFFSET_NOT_AVAILABLE",
        code::INVALID_RECORD => "INVALID_RECORD: the topic does not take such messages",
        _ => return format!("error {number}"),
    };
    name.to_owned()
}

/// Bytes that are not what they should be.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("its answer is not what Kafka answers: {0}")]
pub(super) struct Odd(pub(super) &'static str);

/// Writes a request.
#[derive(Default)]
pub(super) struct Writer {
    pub(super) bytes: Vec<u8>,
    flexible: bool,
}

impl Writer {
    /// The head of a request; what comes next is its body.
    pub(super) fn request(api: Api, correlation: i32) -> Self {
        let mut writer = Writer { bytes: vec![0; 4], flexible: false };
        writer.i16(api.key);
        writer.i16(api.version);
        writer.i32(correlation);
        writer.string(Some("bellwire"));
        writer.flexible = api.flexible;
        writer.tags();
        writer
    }

    /// The request with its length in front, if it is not too long for one.
    pub(super) fn done(mut self) -> Option<Vec<u8>> {
        let length = i32::try_from(self.bytes.len() - 4).ok()?;
        self.bytes[..4].copy_from_slice(&length.to_be_bytes());
        Some(self.bytes)
    }

    pub(super) fn i8(&mut self, value: i8) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(super) fn i16(&mut self, value: i16) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(super) fn i32(&mut self, value: i32) {
        self.bytes.extend(value.to_be_bytes());
    }

    pub(super) fn i64(&mut self, value: i64) {
        self.bytes.extend(value.to_be_bytes());
    }

    /// As in records: small numbers of either sign are short.
    pub(super) fn varint(&mut self, value: i64) {
        self.unsigned((value.wrapping_shl(1) ^ (value >> 63)).cast_unsigned());
    }

    fn unsigned(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push(value as u8);
    }

    /// Cut at what a length can say; nothing here comes near.
    pub(super) fn string(&mut self, text: Option<&str>) {
        match (self.flexible, text) {
            (true, None) => self.unsigned(0),
            (false, None) => self.i16(-1),
            (true, Some(text)) => {
                self.unsigned(text.len() as u64 + 1);
                self.bytes.extend(text.as_bytes());
            }
            (false, Some(text)) => {
                let length = i16::try_from(text.len()).unwrap_or(i16::MAX);
                self.i16(length);
                self.bytes.extend(&text.as_bytes()[..length.cast_unsigned().into()]);
            }
        }
    }

    /// Of requests that are never flexible.
    pub(super) fn blob(&mut self, bytes: &[u8]) {
        self.i32(i32::try_from(bytes.len()).unwrap_or(i32::MAX));
        self.bytes.extend(bytes);
    }

    /// How many follow.
    pub(super) fn count(&mut self, count: usize) {
        match self.flexible {
            true => self.unsigned(count as u64 + 1),
            false => self.i32(i32::try_from(count).unwrap_or(i32::MAX)),
        }
    }

    /// No further fields.
    pub(super) fn tags(&mut self) {
        if self.flexible {
            self.bytes.push(0);
        }
    }
}

/// Reads an answer. Nothing is believed that is not there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Reader {
    bytes: Bytes,
    flexible: bool,
}

impl Reader {
    pub(super) fn new(bytes: Bytes, flexible: bool) -> Self {
        Reader { bytes, flexible }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn rest(self) -> Bytes {
        self.bytes
    }

    pub(super) fn take(&mut self, count: usize) -> Result<Bytes, Odd> {
        if count > self.bytes.len() {
            return Err(Odd("it is cut short"));
        }
        Ok(self.bytes.split_to(count))
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Odd> {
        let taken = self.take(N)?;
        let mut bytes = [0; N];
        bytes.copy_from_slice(&taken);
        Ok(bytes)
    }

    pub(super) fn i8(&mut self) -> Result<i8, Odd> {
        self.array().map(i8::from_be_bytes)
    }

    pub(super) fn i16(&mut self) -> Result<i16, Odd> {
        self.array().map(i16::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, Odd> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u32(&mut self) -> Result<u32, Odd> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i64(&mut self) -> Result<i64, Odd> {
        self.array().map(i64::from_be_bytes)
    }

    pub(super) fn uuid(&mut self) -> Result<[u8; 16], Odd> {
        self.array()
    }

    pub(super) fn varint(&mut self) -> Result<i64, Odd> {
        let value = self.unsigned()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn unsigned(&mut self) -> Result<u64, Odd> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let [byte] = self.array()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Odd("a number has no end"))
    }

    /// A length or a count; `None` for what is not there.
    fn length(&mut self, is_short: bool) -> Result<Option<usize>, Odd> {
        let length = match (self.flexible, is_short) {
            (true, _) => i64::try_from(self.unsigned()?).unwrap_or(i64::MAX) - 1,
            (false, true) => self.i16()?.into(),
            (false, false) => self.i32()?.into(),
        };
        match length {
            -1 => Ok(None),
            length => usize::try_from(length).map(Some).map_err(|_| Odd("a length is negative")),
        }
    }

    pub(super) fn string(&mut self) -> Result<Option<String>, Odd> {
        let Some(length) = self.length(true)? else { return Ok(None) };
        let text = self.take(length)?;
        String::from_utf8(text.into()).map(Some).map_err(|_| Odd("a name is not UTF-8"))
    }

    pub(super) fn blob(&mut self) -> Result<Option<Bytes>, Odd> {
        let Some(length) = self.length(false)? else { return Ok(None) };
        self.take(length).map(Some)
    }

    /// As many as there are said to be; room is made as they come.
    pub(super) fn each<T>(&mut self, mut one: impl FnMut(&mut Self) -> Result<T, Odd>) -> Result<Vec<T>, Odd> {
        let mut all = Vec::new();
        for _ in 0..self.length(false)?.unwrap_or_default() {
            all.push(one(self)?);
        }
        Ok(all)
    }

    /// Passes over fields that nobody here knows.
    pub(super) fn tags(&mut self) -> Result<(), Odd> {
        if self.flexible {
            for _ in 0..self.unsigned()? {
                self.unsigned()?;
                let length = self.unsigned()?;
                self.take(usize::try_from(length).unwrap_or(usize::MAX))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_any_size_come_back() {
        for value in [0, -1, 1, 63, -64, 64, 300, i64::from(i32::MAX), i64::MAX, i64::MIN] {
            let mut writer = Writer::default();
            writer.varint(value);
            let mut reader = Reader::new(writer.bytes.into(), false);
            assert_eq!((reader.varint(), reader.is_empty()), (Ok(value), true));
        }
    }

    #[test]
    fn texts_come_back_in_either_way_of_writing() {
        for flexible in [false, true] {
            let mut writer = Writer { flexible, ..Writer::default() };
            writer.string(Some("orders"));
            writer.string(None);
            writer.count(2);
            writer.i16(7);
            writer.i16(8);
            writer.tags();
            let mut reader = Reader::new(writer.bytes.into(), flexible);
            assert_eq!(reader.string(), Ok(Some("orders".to_owned())));
            assert_eq!(reader.string(), Ok(None));
            assert_eq!(reader.each(Reader::i16), Ok(vec![7, 8]));
            assert_eq!((reader.tags(), reader.is_empty()), (Ok(()), true));
        }
    }

    #[test]
    fn what_is_said_to_follow_and_does_not_takes_no_memory() {
        let huge: &[&[u8]] = &[&[0x7f, 0xff, 0xff, 0xff], &[0xff, 0xff, 0xff, 0xfe], &[0, 0, 0, 9, 1]];
        for bytes in huge {
            let mut reader = Reader::new(Bytes::copy_from_slice(bytes), false);
            assert!(reader.clone().each(Reader::i64).is_err() && reader.blob().is_err(), "{bytes:?}");
        }
        let endless = Bytes::from_static(&[0xff; 12]);
        assert_eq!(Reader::new(endless.clone(), true).string(), Err(Odd("a number has no end")));
        assert!(Reader::new(endless, true).tags().is_err());
        assert!(Reader::new(Bytes::from_static(&[5, 0, 200]), true).tags().is_err());
    }
}
