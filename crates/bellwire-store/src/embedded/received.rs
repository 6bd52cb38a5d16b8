//! A received request as the bytes of its column: small, since every message that came in at a source has one.
//!
//! A version, the source's id, the hops, the sender's address, then texts, each with its length before it.

use super::fault::Fault;
use bellwire_model::{KeptHeaders, Ksuid, Received, SourceId};
use std::net::IpAddr;

const VERSION: u8 = 1;
const HAS_QUERY: u8 = 1;
const HAS_DEDUPE: u8 = 2;
const HAS_V4: u8 = 4;
const HAS_V6: u8 = 8;

/// As bytes.
pub(super) fn write(received: &Received) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(64 + received.content_bytes() + 2 * received.headers.len());
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
    let texts = [Some(&received.method), Some(&received.path), received.query.as_ref(), received.dedupe.as_ref()];
    for text in texts.into_iter().flatten() {
        write_text(&mut bytes, text);
    }
    write_number(&mut bytes, received.headers.len());
    for (name, value) in received.headers.iter() {
        write_text(&mut bytes, name);
        write_text(&mut bytes, value);
    }
    bytes
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
    if version != VERSION {
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
    let dedupe = if flags & HAS_DEDUPE != 0 { Some(rest.text()?) } else { None };
    let count = rest.number()?;
    // What is left bounds what they can be.
    let mut headers = KeptHeaders::with_capacity(count.min(rest.0.len()), rest.0.len());
    for _ in 0..count {
        headers.push(rest.str()?, rest.str()?);
    }
    Some(Received { source, method, path, query, headers, remote, hops, dedupe })
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

    fn received(query: Option<&str>, remote: Option<&str>, headers: usize) -> Received {
        Received {
            source: SourceId(Ksuid::from_bytes([7; 20])),
            method: "POST".into(),
            path: "/in/…".into(),
            query: query.map(str::to_owned),
            headers: (0..headers).map(|n| (format!("x-{n}"), "v".repeat(n))).collect(),
            remote: remote.map(|text| text.parse().expect("an address")),
            hops: 3,
            dedupe: query.map(|_| "72d3162e".into()),
        }
    }

    #[test]
    fn a_request_comes_back_as_it_was() {
        for (query, remote, headers) in
            [(None, None, 0), (Some("a=b"), Some("192.0.2.1"), 3), (Some(""), Some("2001:db8::1"), 300)]
        {
            let received = received(query, remote, headers);
            let bytes = write(&received);
            assert_eq!(read(&bytes).expect("readable"), received);
            assert_eq!(source(&bytes), Some(received.source));
        }
    }

    #[test]
    fn what_is_cut_off_is_refused_at_every_place() {
        let bytes = write(&received(Some("a=b"), Some("192.0.2.1"), 3));
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length]).is_err(), "{length} of {}", bytes.len());
        }
        assert!(read(&[bytes.as_slice(), &[0]].concat()).is_err());
    }
}
