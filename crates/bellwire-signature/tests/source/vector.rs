//! A published request, and all that one bit can change in it.

use base64::{Engine, prelude::BASE64_STANDARD};
use bellwire_signature::source::{Refusal, Verifier};

use crate::request::Case;

/// How bytes are written as text.
#[derive(Clone, Copy)]
pub(crate) enum Written {
    /// As they are.
    Utf8,
    Hex,
    Base64,
    /// In base64, after such a prefix.
    Prefixed(&'static str),
}

/// What somebody has published: a request, the signature that it has, and the key that it has it of.
pub(crate) struct Vector {
    /// Where it is published.
    pub(crate) source: &'static str,
    pub(crate) case: Case,
    /// As it stands in one of the headers, or in the body.
    signature: String,
    signature_written: Written,
    key_written: Written,
    /// The signed time, as it stands in a header, in seconds.
    time: Option<i64>,
    is_time_compared: bool,
    /// Headers that are signed beside the body.
    signed_headers: &'static [&'static str],
    is_url_signed: bool,
    is_body_signed: bool,
    is_same_body: fn(&[u8], &[u8]) -> bool,
}

/// So many bits were changed, each alone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    pub(crate) body: usize,
    pub(crate) signature: usize,
    pub(crate) key: usize,
    pub(crate) time: usize,
    pub(crate) beside: usize,
}

impl Changed {
    pub(crate) fn plus(self, other: Changed) -> Changed {
        Changed {
            body: self.body + other.body,
            signature: self.signature + other.signature,
            key: self.key + other.key,
            time: self.time + other.time,
            beside: self.beside + other.beside,
        }
    }
}

impl Vector {
    pub(crate) fn new(source: &'static str, case: Case, signature: &str, signature_written: Written) -> Vector {
        Vector {
            source,
            case,
            signature: signature.to_owned(),
            signature_written,
            key_written: Written::Utf8,
            time: None,
            is_time_compared: true,
            signed_headers: &[],
            is_url_signed: false,
            is_body_signed: true,
            is_same_body: |_, _| false,
        }
    }

    pub(crate) fn key(self, key_written: Written) -> Vector {
        Vector { key_written, ..self }
    }

    pub(crate) fn time(self, seconds: i64) -> Vector {
        Vector { time: Some(seconds), ..self }
    }

    /// Nobody says how old such a request may be.
    pub(crate) fn timeless(self) -> Vector {
        Vector { is_time_compared: false, ..self }
    }

    pub(crate) fn signed_headers(self, signed_headers: &'static [&'static str]) -> Vector {
        Vector { signed_headers, ..self }
    }

    pub(crate) fn url(self) -> Vector {
        Vector { is_url_signed: true, ..self }
    }

    /// Only headers are signed.
    pub(crate) fn without_body(self) -> Vector {
        Vector { is_body_signed: false, ..self }
    }

    /// Where not the body's bytes are signed but what they say: whether two bodies say the same.
    pub(crate) fn same_body(self, is_same_body: fn(&[u8], &[u8]) -> bool) -> Vector {
        Vector { is_same_body, ..self }
    }

    /// It verifies, and with any one bit changed it does not.
    pub(crate) fn check(&self) -> Changed {
        let proof = self.case.verify();
        assert!(proof.is_ok(), "{}: {proof:?}", self.source);
        self.check_form();
        let mut changed = Changed {
            body: if self.is_body_signed { self.change_body() } else { 0 },
            signature: self.change_signature(),
            key: self.change_key(),
            time: self.time.map_or(0, |seconds| self.change_time(seconds)),
            beside: self.signed_headers.iter().map(|name| self.change_header(name)).sum(),
        };
        if self.is_url_signed {
            changed.beside += self.change_url();
        }
        changed
    }

    fn change_body(&self) -> usize {
        let verifier = self.case.verifier();
        for (bit, body) in one_bit_changed(&self.case.body) {
            let is_same = (self.is_same_body)(&self.case.body, &body);
            let verdict = self.case.clone().body(&body).verify_with(&verifier);
            assert!(verdict.is_err() || is_same, "{}: bit {bit} of the body", self.source);
        }
        self.case.body.len() * 8
    }

    /// Each bit of its bytes, and each bit of the text that they are written as with all that stands around it.
    fn change_signature(&self) -> usize {
        let verifier = self.case.verifier();
        let bytes = self.signature_written.read(&self.signature);
        for (bit, changed) in one_bit_changed(&bytes) {
            let case = self.replaced(&self.signature, &self.signature_written.write(&changed));
            assert!(case.verify_with(&verifier).is_err(), "{}: bit {bit} of the signature", self.source);
        }
        let around =
            self.holders(&self.signature).map(|at| self.change_header(&self.case.headers[at].0)).sum::<usize>();
        bytes.len() * 8 + around
    }

    /// Each bit of its bytes, and each bit of the text that they are written as.
    fn change_key(&self) -> usize {
        let key = self.case.supplied.secrets[0].to_string();
        let bytes = match self.key_written {
            Written::Utf8 => Vec::new(),
            written => written.read(&key),
        };
        let written = one_bit_changed(&bytes).map(|(bit, changed)| (bit, self.key_written.write(&changed)));
        // A secret is text; what is none cannot be given.
        let text = one_bit_changed(key.as_bytes());
        let text = text.filter_map(|(bit, changed)| Some((bit, String::from_utf8(changed).ok()?)));
        let mut case = self.case.clone();
        let mut changed = 0;
        for (bit, other) in written.chain(text) {
            changed += 1;
            case.supplied.secrets[0] = other.clone().into();
            // What is no key is refused when the source is set up.
            let Ok(verifier) = Verifier::new(&case.recipe, &case.supplied) else { continue };
            let is_same = matches!(self.key_written, Written::Hex) && other.eq_ignore_ascii_case(&key);
            assert!(case.verify_with(&verifier).is_err() || is_same, "{}: bit {bit} of the key", self.source);
        }
        changed
    }

    /// Each bit of the number, each bit of the header that it stands in, and a clock that has gone on or is behind.
    fn change_time(&self, seconds: i64) -> usize {
        let verifier = self.case.verifier();
        let text = seconds.to_string();
        for bit in 0..40 {
            let case = self.replaced(&text, &(seconds ^ (1 << bit)).to_string());
            assert!(case.verify_with(&verifier).is_err(), "{}: bit {bit} of the time", self.source);
        }
        for now_seconds in [self.case.now_seconds - 90_000, self.case.now_seconds + 90_000] {
            let verdict = Case { now_seconds, ..self.case.clone() }.verify();
            let is_time = matches!(verdict, Err(Refusal::TooOld { .. } | Refusal::TooNew { .. }));
            assert_eq!(is_time, self.is_time_compared, "{}: {verdict:?}", self.source);
        }
        40 + self.holders(&text).map(|at| self.change_header(&self.case.headers[at].0)).sum::<usize>()
    }

    /// Every bit of a header counts, but for the case of hexadecimal digits.
    fn change_header(&self, name: &str) -> usize {
        let verifier = self.case.verifier();
        let at = self.case.headers.iter().position(|(other, _)| other == name).expect(name);
        let value = &self.case.headers[at].1;
        for (bit, changed) in one_bit_changed(value) {
            let mut case = self.case.clone();
            case.headers[at].1.clone_from(&changed);
            let is_case = changed.eq_ignore_ascii_case(value) && value[bit / 8].is_ascii_hexdigit();
            let is_refused = case.verify_with(&verifier).is_err();
            let text = String::from_utf8_lossy(&changed);
            assert!(is_refused || is_case, "{}: bit {bit} of {name}: {text}", self.source);
        }
        value.len() * 8
    }

    fn change_url(&self) -> usize {
        let verifier = self.case.verifier();
        let mut tried = 0;
        for (bit, changed) in one_bit_changed(self.case.url.as_bytes()) {
            let Ok(url) = String::from_utf8(changed) else { continue };
            assert!(self.case.clone().url(&url).verify_with(&verifier).is_err(), "{}: bit {bit}: {url}", self.source);
            tried += 1;
        }
        tried
    }

    /// The signature missing, twice, cut short, made longer, or far too long.
    fn check_form(&self) {
        let verifier = self.case.verifier();
        let Some(at) = self.holders(&self.signature).next() else { return };
        let (name, value) = self.case.headers[at].clone();
        let with = |values: &[Vec<u8>]| {
            let mut changed = self.case.clone();
            changed.headers.remove(at);
            changed.headers.extend(values.iter().map(|value| (name.to_ascii_uppercase(), value.clone())));
            changed.verify_with(&verifier)
        };
        assert!(matches!(with(&[]), Err(Refusal::Missing { .. })), "{}: {:?}", self.source, with(&[]));
        assert!(with(std::slice::from_ref(&value)).is_ok(), "{}", self.source);
        // The members of a structured field may stand in several lines, and then the last of a name counts.
        if !["Signature", "Content-Digest"].contains(&name.as_str()) {
            assert!(with(&[value.clone(), value.clone()]).is_ok(), "{}", self.source);
            let mut other = value.clone();
            *other.last_mut().expect("a value") ^= 1;
            assert!(with(&[value.clone(), other.clone()]).is_err(), "{}", self.source);
            assert!(with(&[other, value.clone()]).is_err(), "{}", self.source);
        }
        let mut longer = value.clone();
        longer.extend_from_slice(b"00");
        assert!(with(&[longer]).is_err(), "{}", self.source);
        assert!(with(&[value.repeat(1000)]).is_err(), "{}", self.source);
        for length in 0..value.len() {
            let cut = &value[..length];
            // Padding is no part of what base64 says.
            if !value[length..].iter().all(|byte| b"=:".contains(byte)) {
                assert!(with(&[cut.to_vec()]).is_err(), "{}: {}", self.source, String::from_utf8_lossy(cut));
            }
        }
    }

    /// The headers in which a text stands.
    fn holders(&self, text: &str) -> impl Iterator<Item = usize> {
        let holds = |value: &[u8]| value.windows(text.len()).any(|part| part == text.as_bytes());
        let all: Vec<usize> = (0..self.case.headers.len()).filter(|at| holds(&self.case.headers[*at].1)).collect();
        all.into_iter()
    }

    /// With another text wherever this one stands.
    #[track_caller]
    fn replaced(&self, text: &str, by: &str) -> Case {
        let replaced = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(text, by).into_bytes();
        let mut case = self.case.clone();
        let holders: Vec<usize> = self.holders(text).collect();
        if holders.is_empty() {
            case.body = replaced(&case.body);
            assert_ne!(case.body, self.case.body, "{}: {text} stands nowhere", self.source);
        }
        holders.into_iter().for_each(|at| case.headers[at].1 = replaced(&case.headers[at].1));
        case
    }
}

impl Written {
    fn read(self, text: &str) -> Vec<u8> {
        match self {
            Written::Utf8 => text.as_bytes().to_vec(),
            Written::Hex => {
                let digit = |at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
                (0..text.len()).step_by(2).map(digit).collect()
            }
            Written::Base64 => BASE64_STANDARD.decode(text).expect("base64"),
            Written::Prefixed(prefix) => Written::Base64.read(text.strip_prefix(prefix).expect(prefix)),
        }
    }

    pub(crate) fn write(self, bytes: &[u8]) -> String {
        match self {
            Written::Utf8 => String::from_utf8_lossy(bytes).into_owned(),
            Written::Hex => bytes.iter().map(|byte| format!("{byte:02x}")).collect(),
            Written::Base64 => BASE64_STANDARD.encode(bytes),
            Written::Prefixed(prefix) => format!("{prefix}{}", BASE64_STANDARD.encode(bytes)),
        }
    }
}

/// Each bit, and the bytes with it changed.
fn one_bit_changed(bytes: &[u8]) -> impl Iterator<Item = (usize, Vec<u8>)> {
    (0..bytes.len() * 8).map(move |bit| {
        let mut changed = bytes.to_vec();
        changed[bit / 8] ^= 1 << (bit % 8);
        (bit, changed)
    })
}
