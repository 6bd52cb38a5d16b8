//! A received request as the bytes of its column: small, since every message that came in at a source has one.
//!
//! A version, what there is, the hops, the source's id, the sender's address, then texts, each with its length before it. Headers that are
//! known stand there by number ([`header_names`]); what told the request from others is most often a header's value, and is then not written twice.
//! Version 1 had the names of all headers written out, and that text on its own before them; it is read, and no longer written.

mod header_names;

use super::fault::Fault;
use bellwire_model::{KeptHeaders, Ksuid, Received, SourceId};
use std::net::IpAddr;

const VERSION: u8 = 2;
const HAS_QUERY: u8 = 1;
const HAS_DEDUPE: u8 = 2;
const HAS_V4: u8 = 4;
const HAS_V6: u8 = 8;

/// A name that is written out, in place of its number; a dedupe text likewise, in place of the number of the header that has it.
const WRITTEN_OUT: usize = 0;

/// What the names of a request's headers that are known come to.
const NAMES_BYTES_USUAL: usize = 128;

/// Appends it as bytes.
pub(super) fn write(received: &Received, bytes: &mut Vec<u8>) {
    let mut flags = 0;
    flags |= if received.query.is_some() { HAS_QUERY } else { 0 };
    flags |= if received.dedupe.is_some() { HAS_DEDUPE } else { 0 };
    flags |= match received.remote {
        None => 0,
        Some(IpAddr::V4(_)) => HAS_V4,
        Some(IpAddr::V6(_)) => HAS_V6,
    };
    bytes.extend([VERSION, flags, received.hops]);
    bytes.extend(received.source.0.as_bytes());
    match received.remote {
        None => {}
        Some(IpAddr::V4(address)) => bytes.extend(address.octets()),
        Some(IpAddr::V6(address)) => bytes.extend(address.octets()),
    }
    for text in [Some(&received.method), Some(&received.path), received.query.as_ref()].into_iter().flatten() {
        write_text(bytes, text);
    }
    write_number(bytes, received.headers.len());
    for (name, value) in received.headers.iter() {
        match header_names::number(name) {
            Some(number) => write_number(bytes, number),
            None => {
                write_number(bytes, WRITTEN_OUT);
                write_text(bytes, name);
            }
        }
        write_text(bytes, value);
    }
    if let Some(dedupe) = &received.dedupe {
        match received.headers.iter().position(|(_, value)| value == dedupe) {
            Some(header) => write_number(bytes, header + 1),
            None => {
                write_number(bytes, WRITTEN_OUT);
                write_text(bytes, dedupe);
            }
        }
    }
}

/// From bytes.
pub(super) fn read(bytes: &[u8]) -> Result<Received, Fault> {
    let damaged = || Fault::damaged("a received request", "it is cut off, or of another version".to_owned());
    let mut rest = Rest(bytes);
    read_parts(&mut rest).filter(|_| rest.0.is_empty()).ok_or_else(damaged)
}

/// The source alone, without reading the rest.
pub(super) fn source(bytes: &[u8]) -> Option<SourceId> {
    let id = bytes.get(3..23)?;
    Some(SourceId(Ksuid::from_bytes(id.try_into().ok()?)))
}

fn read_parts(rest: &mut Rest<'_>) -> Option<Received> {
    let [version, flags, hops] = rest.array()?;
    if !(1..=VERSION).contains(&version) {
        return None;
    }
    let source = SourceId(Ksuid::from_bytes(rest.array()?));
    let remote = match flags & (HAS_V4 | HAS_V6) {
        0 => None,
        HAS_V4 => Some(IpAddr::from(rest.array::<4>()?)),
        _ => Some(IpAddr::from(rest.array::<16>()?)),
    };
    let (method, path) = (rest.text()?, rest.text()?);
    let query = if flags & HAS_QUERY != 0 { Some(rest.text()?) } else { None };
    let has_dedupe = flags & HAS_DEDUPE != 0;
    if version == 1 {
        let dedupe = if has_dedupe { Some(rest.text()?) } else { None };
        let headers = read_headers(rest, Rest::str)?;
        return Some(Received { source, method, path, query, headers, remote, hops, dedupe });
    }
    let headers = read_headers(rest, |rest| match rest.number()? {
        WRITTEN_OUT => rest.str(),
        number => header_names::name(number),
    })?;
    let dedupe = match has_dedupe.then(|| rest.number()) {
        None => None,
        Some(None) => return None,
        Some(Some(WRITTEN_OUT)) => Some(rest.text()?),
        Some(Some(header)) => Some(headers.iter().nth(header - 1)?.1.to_owned()),
    };
    Some(Received { source, method, path, query, headers, remote, hops, dedupe })
}

/// Names by `read_name`, each with its value.
fn read_headers<'a>(rest: &mut Rest<'a>, read_name: impl Fn(&mut Rest<'a>) -> Option<&'a str>) -> Option<KeptHeaders> {
    let count = rest.number()?;
    // What is left bounds what they can be, but for names that are known.
    let mut headers = KeptHeaders::with_capacity(count.min(rest.0.len()), rest.0.len() + NAMES_BYTES_USUAL);
    for _ in 0..count {
        headers.push(read_name(rest)?, rest.str()?);
    }
    Some(headers)
}

fn write_text(bytes: &mut Vec<u8>, text: &str) {
    write_number(bytes, text.len());
    bytes.extend(text.as_bytes());
}

fn write_number(bytes: &mut Vec<u8>, mut number: usize) {
    while number >= 0x80 {
        bytes.push(number as u8 | 0x80);
        number >>= 7;
    }
    bytes.push(number as u8);
}

struct Rest<'a>(&'a [u8]);

impl<'a> Rest<'a> {
    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*head)
    }

    fn number(&mut self) -> Option<usize> {
        let (mut number, mut shift) = (0usize, 0);
        loop {
            let [byte] = self.array()?;
            number |= usize::from(byte & 0x7f) << shift;
            shift += 7;
            match byte & 0x80 {
                0 => return Some(number),
                _ if shift > 28 => return None,
                _ => {}
            }
        }
    }

    fn text(&mut self) -> Option<String> {
        self.str().map(str::to_owned)
    }

    fn str(&mut self) -> Option<&'a str> {
        let length = self.number()?;
        let (text, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn received(query: Option<&str>, remote: Option<&str>, dedupe: Option<&str>, headers: &[(&str, &str)]) -> Received {
        Received {
            source: SourceId(Ksuid::from_bytes([7; 20])),
            method: "POST".into(),
            path: "/in/…".into(),
            query: query.map(str::to_owned),
            headers: headers.iter().copied().collect(),
            remote: remote.map(|text| text.parse().expect("an address")),
            hops: 3,
            dedupe: dedupe.map(str::to_owned),
        }
    }

    fn bytes_of(received: &Received) -> Vec<u8> {
        let mut bytes = Vec::new();
        write(received, &mut bytes);
        bytes
    }

    const HEADERS: &[(&str, &str)] = &[
        ("content-type", "application/json"),
        ("x-own", "ü"),
        ("x-github-delivery", "72d3162e"),
        ("x-own", ""),
        ("x-github-delivery", "72d3162f"),
    ];

    fn examples() -> Vec<Received> {
        let long = "v".repeat(300);
        let many: Vec<_> = (0..300).map(|_| ("user-agent", long.as_str())).collect();
        vec![
            received(None, None, None, &[]),
            received(Some("a=b"), Some("192.0.2.1"), Some("72d3162e"), HEADERS),
            received(Some(""), Some("2001:db8::1"), Some("of the body"), HEADERS),
            received(None, None, Some(""), &many),
        ]
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        for received in examples() {
            let bytes = bytes_of(&received);
            assert_eq!(read(&bytes).expect("readable"), received);
            assert_eq!(source(&bytes), Some(received.source));
        }
    }

    #[test]
    fn names_that_are_known_and_what_stands_in_a_header_are_not_written_out() {
        let bytes = bytes_of(&received(None, None, Some("72d3162e"), HEADERS));
        let times = |text: &str| bytes.windows(text.len()).filter(|found| *found == text.as_bytes()).count();
        assert_eq!(
            [times("x-own"), times("x-github-delivery"), times("content-type"), times("72d3162e")],
            [2, 0, 0, 1]
        );
    }

    /// As the program wrote it before version 2.
    #[test]
    fn what_version_1_wrote_is_read() {
        let mut bytes = vec![1, HAS_QUERY | HAS_DEDUPE | HAS_V4, 3];
        bytes.extend([7; 20]);
        bytes.extend([192, 0, 2, 1]);
        bytes.extend(b"\x04POST\x07/in/\xe2\x80\xa6\x03a=b\x0872d3162e\x02");
        bytes.extend(b"\x0ccontent-type\x10application/json\x05x-own\x00");
        let headers = [("content-type", "application/json"), ("x-own", "")];
        let expected = received(Some("a=b"), Some("192.0.2.1"), Some("72d3162e"), &headers);
        assert_eq!(read(&bytes).expect("readable"), expected);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} of {}", bytes.len());
        }
    }

    #[test]
    fn what_is_cut_off_or_of_another_version_is_refused() {
        for received in examples() {
            let bytes = bytes_of(&received);
            for length in 0..bytes.len().min(2_000) {
                assert!(read(&bytes[..length]).is_err(), "{length} of {}", bytes.len());
            }
            assert!(read(&[bytes.as_slice(), &[0]].concat()).is_err());
            for version in [0, VERSION + 1] {
                assert!(read(&[&[version], &bytes[1..]].concat()).is_err());
            }
        }
    }

    #[test]
    fn a_number_that_means_no_name_and_no_header_is_refused() {
        let bytes = bytes_of(&received(None, None, Some("1"), &[("accept", "1")]));
        // The name's number, its value, the number of the header with the dedupe text.
        let at = bytes.len() - 4;
        assert_eq!([bytes[at + 1], bytes[at + 3]], [1, 1]);
        for (place, wrong) in [(at, 0x7f), (at + 3, 2)] {
            let mut bytes = bytes.clone();
            bytes[place] = wrong;
            assert!(read(&bytes).is_err(), "{wrong} at {place}");
        }
    }
}
