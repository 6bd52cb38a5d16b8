//! The payload that is sent: as long as asked for, and telling which message it is and when it was meant to leave.
//!
//! The load patches the mark into prebuilt bytes; the sink reads it back. It is one JSON string of fixed width, so
//! that a server which writes the payload anew with other spaces or order can be measured too.

/// Marks of other runs are no concern of this one: a server that is given by URL may still have old deliveries.
pub(crate) type Run = u32;

/// What a payload says about itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) run: Run,
    /// Counts the run's messages from 0.
    pub(crate) sequence: u64,
    /// When it was meant to leave, by [`super::measure::now_ns`]: what it waits for a free connection counts too.
    pub(crate) intended_ns: u64,
}

const NAME: &[u8] = b"\"bench\":";
/// `rrrrrrrr-ssssssssssssssss-tttttttttttttttt`, in hexadecimal digits.
const MARK_BYTES: usize = 8 + 1 + 16 + 1 + 16;

/// The shortest payload that can be made.
pub(crate) const BYTES_MIN: usize = b"{\"bench\":\"\",\"text\":\"\"}".len() + MARK_BYTES;

/// A payload of `bytes` bytes (at least [`BYTES_MIN`]) and where its mark stands. The filling looks like text and does
/// not compress well.
pub(crate) fn build(bytes: usize) -> (Vec<u8>, usize) {
    let mut payload = b"{\"bench\":\"".to_vec();
    let mark_at = payload.len();
    payload.resize(mark_at + MARK_BYTES, b'0');
    payload.extend_from_slice(b"\",\"text\":\"");
    let filling = bytes.max(BYTES_MIN) - BYTES_MIN;
    let mut state: u32 = 1;
    payload.extend(
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            b"abcdefghijklmnopqrstuvwxyz 01234"[(state >> 27) as usize]
        })
        .take(filling),
    );
    payload.extend_from_slice(b"\"}");
    (payload, mark_at)
}

/// Writes the mark over `bytes[at..]`.
pub(crate) fn write(bytes: &mut [u8], at: usize, mark: Mark) {
    let mark_bytes = &mut bytes[at..at + MARK_BYTES];
    write_hex(&mut mark_bytes[..8], u64::from(mark.run));
    mark_bytes[8] = b'-';
    write_hex(&mut mark_bytes[9..25], mark.sequence);
    mark_bytes[25] = b'-';
    write_hex(&mut mark_bytes[26..], mark.intended_ns);
}

/// Finds the mark in a payload, or `None` if it is not one of ours.
pub(crate) fn read(payload: &[u8]) -> Option<Mark> {
    read_at(payload, payload.windows(NAME.len()).position(|window| window == NAME)?)
}

/// The marks of all payloads in a text.
pub(crate) fn read_all(text: &[u8]) -> impl Iterator<Item = Mark> {
    let named = text.windows(NAME.len()).enumerate().filter(|(_, window)| *window == NAME);
    named.filter_map(|(at, _)| read_at(text, at))
}

fn read_at(payload: &[u8], name_at: usize) -> Option<Mark> {
    let value = payload[name_at + NAME.len()..].trim_ascii_start().strip_prefix(b"\"")?.get(..MARK_BYTES)?;
    Some(Mark {
        run: u32::try_from(read_hex(&value[..8])?).ok()?,
        sequence: read_hex(&value[9..25])?,
        intended_ns: read_hex(&value[26..])?,
    })
}

/// Writes the lowest digits of `value`, as many as there is room for.
pub(crate) fn write_hex(room: &mut [u8], mut value: u64) {
    for digit in room.iter_mut().rev() {
        *digit = b"0123456789abcdef"[(value & 15) as usize];
        value >>= 4;
    }
}

fn read_hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0_u64, |value, digit| Some(value << 4 | u64::from((*digit as char).to_digit(16)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARK: Mark = Mark { run: 0xbe11, sequence: 1_000_000, intended_ns: u64::MAX };

    #[test]
    fn a_payload_has_the_length_asked_for_and_is_json() {
        for bytes in [BYTES_MIN, 100, 1_024, 65_536] {
            let (mut payload, at) = build(bytes);
            write(&mut payload, at, MARK);
            assert_eq!(payload.len(), bytes);
            assert!(serde_json::from_slice::<serde_json::Value>(&payload).is_ok(), "{bytes}");
        }
        assert_eq!(build(0).0.len(), BYTES_MIN);
    }

    #[test]
    fn a_mark_reads_back() {
        let (mut payload, at) = build(200);
        write(&mut payload, at, MARK);
        assert_eq!(read(&payload), Some(MARK));
    }

    #[test]
    fn a_mark_survives_a_server_that_writes_json_anew() {
        let (mut payload, at) = build(200);
        write(&mut payload, at, MARK);
        let value: serde_json::Value = serde_json::from_slice(&payload).expect("JSON");
        let pretty = serde_json::to_string_pretty(&value).expect("JSON");
        assert_eq!(read(pretty.as_bytes()), Some(MARK));
    }

    #[test]
    fn every_mark_of_a_page_is_found_once() {
        let (mut payload, at) = build(200);
        let marks: Vec<_> = (0..3).map(|sequence| Mark { sequence, ..MARK }).collect();
        let mut page = b"{\"data\":[".to_vec();
        for mark in &marks {
            write(&mut payload, at, *mark);
            page.extend_from_slice(&payload);
        }
        assert_eq!(read_all(&page).collect::<Vec<_>>(), marks);
    }

    #[test]
    fn a_foreign_payload_has_no_mark() {
        for payload in ["", "{}", "{\"bench\":1}", "{\"bench\":\"short\"}", "{\"bench\":\"zzzzzzzz-"] {
            assert_eq!(read(payload.as_bytes()), None, "{payload}");
        }
    }
}
