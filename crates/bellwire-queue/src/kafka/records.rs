//! What is kept in a partition: batches of records, as they are sent, fetched and compressed.
//!
//! A batch that cannot be read, for whatever reason, is an error, never passed over. What a broker claims takes no memory.

use super::compression::{Packed, unpacked};
use super::wire::{Odd, Reader, Writer};
use bytes::Bytes;
use std::collections::BTreeSet;

/// A batch may have so many records. Clients send what has come together within some milliseconds.
const RECORDS_MAX: usize = 200_000;
/// Of a record's headers so many are looked at.
const HEADERS_MAX: usize = 1_000;
/// Of a batch, before its records: from its first offset to its count.
const HEAD: usize = 61;
/// Up to and with the checksum, which is of what follows.
const BEFORE_CHECKED: usize = 21;
/// The only format since Kafka 0.11.
const MAGIC: i8 = 2;

const COMPRESSION: i16 = 0b111;
const APPEND_TIME: i16 = 1 << 3;
const TRANSACTIONAL: i16 = 1 << 4;
const CONTROL: i16 = 1 << 5;

/// A record to be sent.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Record {
    pub(super) key: Option<Bytes>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) value: Bytes,
    /// Unix milliseconds.
    pub(super) at: i64,
}

impl Record {
    /// About so many bytes.
    pub(super) fn size(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len() + 4).sum();
        self.value.len() + self.key.as_ref().map_or(0, Bytes::len) + headers + 32
    }
}

/// One batch of these records, at least one, uncompressed.
pub(super) fn batch(records: &[&Record]) -> Vec<u8> {
    let first = records.iter().map(|record| record.at).min().unwrap_or_default();
    let last = records.iter().map(|record| record.at).max().unwrap_or_default();
    let count = i32::try_from(records.len()).unwrap_or(i32::MAX);
    let mut checked = Writer::default();
    checked.i16(0);
    checked.i32(count - 1);
    checked.i64(first);
    checked.i64(last);
    // Neither a producer's id nor its epoch nor a sequence.
    checked.i64(-1);
    checked.i16(-1);
    checked.i32(-1);
    checked.i32(count);
    for (place, record) in (0..).zip(records) {
        let mut own = Writer::default();
        own.i8(0);
        own.varint(record.at.saturating_sub(first));
        own.varint(place);
        sized(&mut own, record.key.as_deref());
        sized(&mut own, Some(&record.value));
        own.varint(record.headers.len() as i64);
        for (name, value) in &record.headers {
            sized(&mut own, Some(name.as_bytes()));
            sized(&mut own, Some(value.as_bytes()));
        }
        sized(&mut checked, Some(&own.bytes));
    }
    let mut whole = Writer::default();
    whole.i64(0);
    whole.i32(i32::try_from(checked.bytes.len() + BEFORE_CHECKED - 12).unwrap_or(i32::MAX));
    whole.i32(-1);
    whole.i8(MAGIC);
    whole.bytes.extend(crc32c::crc32c(&checked.bytes).to_be_bytes());
    whole.bytes.extend(checked.bytes);
    whole.bytes
}

fn sized(writer: &mut Writer, bytes: Option<&[u8]>) {
    match bytes {
        None => writer.varint(-1),
        Some(bytes) => {
            writer.varint(bytes.len() as i64);
            writer.bytes.extend(bytes);
        }
    }
}

/// Why a batch cannot be read.
#[derive(Debug, thiserror::Error)]
pub(super) enum BatchError {
    #[error(transparent)]
    Odd(#[from] Odd),
    #[error("it is in a format older than Kafka 0.11, which is not read here")]
    Old,
    #[error("its checksum is wrong")]
    Checksum,
    #[error(transparent)]
    Packed(#[from] Packed),
    #[error("it has more than {RECORDS_MAX} records")]
    TooMany,
}

/// A batch as it was fetched: its head is read, its records are not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Batch {
    pub(super) offset: i64,
    /// The offset behind its last one.
    pub(super) end: i64,
    pub(super) leader_epoch: i32,
    attributes: i16,
    first_at: i64,
    last_at: i64,
    producer: i64,
    count: i32,
    records: Bytes,
}

/// One record of a batch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Found {
    pub(super) offset: i64,
    /// Unix milliseconds; negative if nobody has said.
    pub(super) at: i64,
    pub(super) key: Option<Bytes>,
    pub(super) value: Option<Bytes>,
    headers: Reader,
}

impl Found {
    /// Names in small letters. Values that are not text are left out.
    pub(super) fn headers(&self) -> Result<Vec<(String, String)>, Odd> {
        let mut reader = self.headers.clone();
        let count = usize::try_from(reader.varint()?).map_err(|_| Odd("a record has less than no headers"))?;
        let mut headers = Vec::new();
        for _ in 0..count.min(HEADERS_MAX) {
            let name = piece(&mut reader)?.unwrap_or_default();
            let value = piece(&mut reader)?.unwrap_or_default();
            if let (Ok(name), Ok(value)) = (str::from_utf8(&name), str::from_utf8(&value)) {
                headers.push((name.to_ascii_lowercase(), value.to_owned()));
            }
        }
        Ok(headers)
    }
}

/// The batches of an answer, up to the first that is none, and why that is. The last one may be cut short by the broker, and is then
/// fetched another time.
pub(super) fn batches(bytes: Bytes) -> (Vec<Batch>, Option<BatchError>) {
    let mut reader = Reader::new(bytes, false);
    let mut all = Vec::new();
    loop {
        match next(&mut reader) {
            Ok(Some(batch)) => all.push(batch),
            Ok(None) => return (all, None),
            Err(error) => return (all, Some(error)),
        }
    }
}

fn next(reader: &mut Reader) -> Result<Option<Batch>, BatchError> {
    if reader.len() < HEAD {
        return Ok(None);
    }
    let mut head = reader.clone();
    let (offset, length) = (head.i64()?, head.i32()?);
    let length = usize::try_from(length).map_err(|_| Odd("the length of a batch is negative"))?;
    let leader_epoch = head.i32()?;
    if head.i8()? != MAGIC {
        return Err(BatchError::Old);
    }
    if length < HEAD - 12 {
        return Err(Odd("a batch is too short").into());
    }
    if reader.len() < length.saturating_add(12) {
        return Ok(None);
    }
    let mut whole = Reader::new(reader.take(length + 12)?, false);
    whole.take(BEFORE_CHECKED - 4)?;
    let checksum = whole.u32()?;
    if crc32c::crc32c(&whole.clone().rest()) != checksum {
        return Err(BatchError::Checksum);
    }
    let (attributes, last_delta) = (whole.i16()?, whole.i32()?);
    let (first_at, last_at, producer) = (whole.i64()?, whole.i64()?, whole.i64()?);
    whole.take(6)?;
    let count = whole.i32()?;
    let end = offset.checked_add(i64::from(last_delta)).and_then(|last| last.checked_add(1));
    let end = end.filter(|end| offset >= 0 && *end > offset).ok_or(Odd("a batch ends before it begins"))?;
    let records = whole.rest();
    Ok(Some(Batch { offset, end, leader_epoch, attributes, first_at, last_at, producer, count, records }))
}

impl Batch {
    pub(super) fn is_compressed(&self) -> bool {
        self.attributes & COMPRESSION != 0
    }

    /// Its place alone.
    pub(super) fn without_records(self) -> Self {
        Batch { attributes: 0, count: 0, records: Bytes::new(), ..self }
    }

    /// What it is made of. What it takes to unpack it is bounded, and not little.
    pub(super) fn records(&self) -> Result<Vec<Found>, BatchError> {
        if self.count == 0 && self.records.is_empty() {
            // Cleaning has left its place alone, whatever it was packed by.
            return Ok(Vec::new());
        }
        let mut reader = Reader::new(unpacked(self.attributes & COMPRESSION, &self.records)?, false);
        let mut all = Vec::new();
        let count = usize::try_from(self.count).map_err(|_| Odd("a batch has less than no records"))?;
        if count > RECORDS_MAX {
            return Err(BatchError::TooMany);
        }
        for _ in 0..count {
            let length = reader.varint()?;
            let length = usize::try_from(length).map_err(|_| Odd("the length of a record is negative"))?;
            let found = self.record(Reader::new(reader.take(length)?, false))?;
            if found.offset < self.offset || found.offset >= self.end {
                return Err(Odd("a record is not within its batch").into());
            }
            all.push(found);
        }
        match reader.is_empty() {
            true => Ok(all),
            false => Err(Odd("a batch has more than it says").into()),
        }
    }

    fn record(&self, mut reader: Reader) -> Result<Found, Odd> {
        reader.i8()?;
        let delta = reader.varint()?;
        let at = if self.attributes & APPEND_TIME == 0 { self.first_at.saturating_add(delta) } else { self.last_at };
        let offset = self.offset.saturating_add(reader.varint()?);
        let (key, value) = (piece(&mut reader)?, piece(&mut reader)?);
        Ok(Found { offset, at, key, value, headers: reader })
    }
}

fn piece(reader: &mut Reader) -> Result<Option<Bytes>, Odd> {
    match reader.varint()? {
        -1 => Ok(None),
        length => reader.take(usize::try_from(length).map_err(|_| Odd("a length is negative"))?).map(Some),
    }
}

/// Knows which batches of one answer belong to transactions that came to nothing, and which are none but the broker's own notes.
pub(super) struct Committed {
    /// By their first offset: whose transaction was given up.
    aborted: Vec<(i64, i64)>,
    within: BTreeSet<i64>,
}

impl Committed {
    /// `aborted`: first offsets and producers.
    pub(super) fn new(mut aborted: Vec<(i64, i64)>) -> Self {
        aborted.sort_unstable_by(|one, other| other.cmp(one));
        Committed { aborted, within: BTreeSet::new() }
    }

    /// Whether the records of this batch are to be taken. Batches come in their order.
    pub(super) fn takes(&mut self, batch: &Batch) -> bool {
        while let Some((_, producer)) = self.aborted.pop_if(|(first, _)| *first < batch.end) {
            self.within.insert(producer);
        }
        if batch.attributes & CONTROL != 0 {
            // The note that ends a transaction, either way.
            self.within.remove(&batch.producer);
            return false;
        }
        batch.attributes & TRANSACTIONAL == 0 || !self.within.contains(&batch.producer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(number: i64) -> Record {
        Record {
            key: (number % 2 == 0).then(|| Bytes::from(format!("k{number}"))),
            headers: vec![("webhook-id", format!("msg_{number}"))],
            value: format!("{{\"n\":{number}}}").into(),
            at: 1_800_000_000_000 + number,
        }
    }

    fn made(count: i64) -> Vec<u8> {
        let records: Vec<Record> = (0..count).map(record).collect();
        batch(&records.iter().collect::<Vec<_>>())
    }

    /// As if it were compressed so, with these records, at this offset.
    fn packed(attributes: i16, offset: i64, records: &[u8]) -> Vec<u8> {
        let mut whole = made(3);
        whole.truncate(HEAD);
        whole[..8].copy_from_slice(&offset.to_be_bytes());
        whole[21..23].copy_from_slice(&attributes.to_be_bytes());
        whole.extend(records);
        let length = i32::try_from(whole.len() - 12).expect("is short");
        whole[8..12].copy_from_slice(&length.to_be_bytes());
        let sum = crc32c::crc32c(&whole[BEFORE_CHECKED..]);
        whole[17..21].copy_from_slice(&sum.to_be_bytes());
        whole
    }

    #[test]
    fn what_is_sent_can_be_read() {
        let mut two = made(3);
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        std::io::Write::write_all(&mut gzip, &made(3)[HEAD..]).expect("is written");
        two.extend(packed(1, 3, &gzip.finish().expect("is done")));
        // Of the third only a part came.
        two.extend(&made(1)[..HEAD + 3]);
        let (found, fault) = batches(two.into());
        assert!(fault.is_none(), "{fault:?}");
        let heads = found.iter().map(|batch| (batch.offset, batch.end, batch.is_compressed()));
        assert_eq!(heads.collect::<Vec<_>>(), [(0, 3, false), (3, 6, true)]);
        for batch in found {
            for (number, found) in (0..).zip(batch.records().expect("are records")) {
                let Record { key, headers, value, at } = record(number);
                assert_eq!((found.offset, found.at), (batch.offset + number, at));
                let read = found.headers().expect("are headers");
                assert_eq!(read, [("webhook-id".to_owned(), headers[0].1.clone())]);
                assert_eq!((found.key, found.value), (key, Some(value)));
            }
        }
    }

    #[test]
    fn what_is_spoilt_is_an_error() {
        let good = made(3);
        let spoilt = |at: usize, byte: u8| {
            let mut bytes = good.clone();
            bytes[at] = byte;
            batches(bytes.into()).1.expect("is spoilt")
        };
        assert!(matches!(spoilt(16, 1), BatchError::Old));
        assert!(matches!(spoilt(70, 9), BatchError::Checksum));
        assert!(matches!(spoilt(8, 0xff), BatchError::Odd(_)));
        // More records than there are, one of which has a length that is none.
        let mut many = good.clone();
        many[57..61].copy_from_slice(&200_001_u32.to_be_bytes());
        let sum = crc32c::crc32c(&many[BEFORE_CHECKED..]);
        many[17..21].copy_from_slice(&sum.to_be_bytes());
        let found = batches(many.into()).0;
        assert!(matches!(found[0].records(), Err(BatchError::TooMany)));
        let mut records = good[HEAD..].to_vec();
        records[0] = 0x7f;
        let found = batches(packed(0, 0, &records).into()).0;
        assert!(found[0].records().is_err());
    }

    #[test]
    fn what_comes_before_what_is_spoilt_is_read() {
        let mut two = made(3);
        two.extend(packed(0, 3, &made(3)[HEAD..]));
        let last = two.len() - 1;
        two[last] ^= 1;
        let (found, fault) = batches(two.into());
        assert_eq!(found.iter().map(|batch| batch.end).collect::<Vec<_>>(), [3]);
        assert!(matches!(fault, Some(BatchError::Checksum)), "{fault:?}");
    }

    #[test]
    fn a_batch_of_which_cleaning_has_left_nothing_has_no_records_however_it_was_packed() {
        for compression in 0..5 {
            let mut empty = packed(compression, 7, &[]);
            empty[57..61].copy_from_slice(&0_u32.to_be_bytes());
            let sum = crc32c::crc32c(&empty[BEFORE_CHECKED..]);
            empty[17..21].copy_from_slice(&sum.to_be_bytes());
            let (found, fault) = batches(empty.into());
            assert!(fault.is_none(), "{fault:?}");
            assert_eq!(found[0].records().expect("has none"), [], "{compression}");
        }
    }

    #[test]
    fn what_a_transaction_did_not_commit_is_not_taken() {
        let batch = |offset: i64, producer: i64, attributes: i16| Batch {
            offset,
            end: offset + 1,
            leader_epoch: 0,
            attributes,
            first_at: 0,
            last_at: 0,
            producer,
            count: 1,
            records: Bytes::new(),
        };
        // Producer 7 gives up what it began at 1, and then commits; 8 commits, 9 needs no transaction.
        let mut committed = Committed::new(vec![(1, 7)]);
        for (offset, producer, attributes, taken) in [
            (0, 8, TRANSACTIONAL, true),
            (1, 7, TRANSACTIONAL, false),
            (2, 8, TRANSACTIONAL, true),
            (3, 9, 0, true),
            (4, 7, TRANSACTIONAL, false),
            (5, 7, TRANSACTIONAL | CONTROL, false),
            (6, 7, TRANSACTIONAL, true),
            (7, 8, TRANSACTIONAL | CONTROL, false),
            (8, 7, TRANSACTIONAL | CONTROL, false),
        ] {
            assert_eq!(committed.takes(&batch(offset, producer, attributes)), taken, "{offset}");
        }
    }
}
