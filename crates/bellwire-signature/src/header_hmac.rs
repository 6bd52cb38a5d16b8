//! HMACs in a header, as receivers expect them that were written before Standard Webhooks: one key, one header, and a form
//! that differs from sender to sender.
//!
//! What is signed and what the header says are two small templates, so that one description fits them all:
//!
//! ```text
//! GitHub    signed {body}                  header sha256={signature}               hex
//! Shopify   signed {body}                  header {signature}                      base64
//! Slack     signed v0:{timestamp}:{body}   header v0={signature}                   hex
//! Stripe    signed {timestamp}.{body}      header t={timestamp},v1={signature}     hex
//! ```

use std::fmt;

use base64::{Engine, prelude::BASE64_STANDARD};
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use zeroize::Zeroizing;

/// A template has at most so many bytes.
pub const TEMPLATE_BYTES_MAX: usize = 256;

/// The hash under the HMAC.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum HashAlgorithm {
    /// For receivers that know nothing newer.
    Sha1,
    /// What nearly all use.
    Sha256,
    /// The longest.
    Sha512,
}

/// How the MAC's bytes become text.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum MacEncoding {
    /// Hexadecimal, lower case.
    Hex,
    /// Base64 of RFC 4648 §4, with padding.
    Base64,
}

/// Text with places for what each attempt brings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Template {
    text: String,
    pieces: Vec<Piece>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
enum Piece {
    Text(String),
    Id,
    Timestamp,
    Body,
    Signature,
}

/// Which of the two templates a text is to be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum TemplateUse {
    /// The bytes that are signed: `{body}` once or more, and `{id}` and `{timestamp}` if wanted.
    Signed,
    /// The header's value: `{signature}` once, and `{id}` and `{timestamp}` if wanted.
    Header,
}

/// Why a text is no template.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TemplateError {
    /// It has a place that does not exist here.
    #[error("{{{name}}} is not known here; there are {known}")]
    Unknown {
        /// What stands in the braces.
        name: String,
        /// What may.
        known: &'static str,
    },
    /// A brace without its other one.
    #[error("a brace is open; a place is written {{name}}")]
    Brace,
    /// What must be there is not.
    #[error("{{{0}}} must be in it")]
    Missing(&'static str),
    /// It is too long, or holds what cannot stand in a header.
    #[error("it must be 1 to {TEMPLATE_BYTES_MAX} printable ASCII characters")]
    Text,
}

/// A key, and how it signs. Wiped when dropped; does not print.
#[derive(Clone, PartialEq)]
pub struct HeaderHmac {
    algorithm: HashAlgorithm,
    encoding: MacEncoding,
    signed: Template,
    header: Template,
    key: Zeroizing<Vec<u8>>,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn parse(text: &str, used: TemplateUse) -> Result<Template, TemplateError> {
        if text.is_empty() || text.len() > TEMPLATE_BYTES_MAX || !text.bytes().all(|b| (b' '..=b'~').contains(&b)) {
            return Err(TemplateError::Text);
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            let (name, after) =
                from.strip_prefix('{').and_then(|inner| inner.split_once('}')).ok_or(TemplateError::Brace)?;
            if !before.is_empty() {
                pieces.push(Piece::Text(before.to_owned()));
            }
            pieces.push(used.place(name)?);
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest.to_owned()));
        }
        let (needed, name) = match used {
            TemplateUse::Signed => (Piece::Body, "body"),
            TemplateUse::Header => (Piece::Signature, "signature"),
        };
        if !pieces.contains(&needed) {
            return Err(TemplateError::Missing(name));
        }
        Ok(Template { text: text.to_owned(), pieces })
    }

    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl TemplateUse {
    fn place(self, name: &str) -> Result<Piece, TemplateError> {
        match (name, self) {
            ("id", _) => Ok(Piece::Id),
            ("timestamp", _) => Ok(Piece::Timestamp),
            ("body", TemplateUse::Signed) => Ok(Piece::Body),
            ("signature", TemplateUse::Header) => Ok(Piece::Signature),
            _ => Err(TemplateError::Unknown {
                name: name.to_owned(),
                known: match self {
                    TemplateUse::Signed => "{id}, {timestamp} and {body}",
                    TemplateUse::Header => "{id}, {timestamp} and {signature}",
                },
            }),
        }
    }
}

impl HeaderHmac {
    /// Signs with `key` the bytes that `signed` describes, and writes the MAC as `header` says.
    pub fn new(
        algorithm: HashAlgorithm,
        encoding: MacEncoding,
        signed: Template,
        header: Template,
        key: Zeroizing<Vec<u8>>,
    ) -> HeaderHmac {
        HeaderHmac { algorithm, encoding, signed, header, key }
    }

    /// The header's value. `timestamp` is Unix seconds; `id` and it stand wherever the templates name them.
    pub fn sign(&self, id: &str, timestamp: i64, body: &[u8]) -> String {
        let timestamp = timestamp.to_string();
        let parts: Vec<&[u8]> = self
            .signed
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_bytes(),
                Piece::Id => id.as_bytes(),
                Piece::Timestamp => timestamp.as_bytes(),
                Piece::Body => body,
                Piece::Signature => &[],
            })
            .collect();
        let signature = self.encoding.encode(&self.algorithm.mac(&self.key, &parts));
        self.header
            .pieces
            .iter()
            .map(|piece| match piece {
                Piece::Text(text) => text.as_str(),
                Piece::Id => id,
                Piece::Timestamp => &timestamp,
                Piece::Signature => &signature,
                Piece::Body => "",
            })
            .collect()
    }

    /// The hash.
    pub fn algorithm(&self) -> HashAlgorithm {
        self.algorithm
    }

    /// The encoding.
    pub fn encoding(&self) -> MacEncoding {
        self.encoding
    }

    /// What is signed.
    pub fn signed(&self) -> &Template {
        &self.signed
    }

    /// What the header says.
    pub fn header(&self) -> &Template {
        &self.header
    }

    /// The key, to be stored. Never for a log or an answer.
    pub fn reveal_key(&self) -> &[u8] {
        &self.key
    }
}

impl fmt::Debug for HeaderHmac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HeaderHmac({:?}, {:?}, {}, redacted)", self.algorithm, self.encoding, self.signed.text)
    }
}

impl HashAlgorithm {
    fn mac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        fn mac<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
            let mut state = <M as KeyInit>::new_from_slice(key).expect("HMAC takes keys of any length");
            parts.iter().for_each(|part| state.update(part));
            state.finalize().into_bytes().to_vec()
        }
        match self {
            HashAlgorithm::Sha1 => mac::<Hmac<Sha1>>(key, parts),
            HashAlgorithm::Sha256 => mac::<Hmac<Sha256>>(key, parts),
            HashAlgorithm::Sha512 => mac::<Hmac<Sha512>>(key, parts),
        }
    }
}

impl MacEncoding {
    fn encode(self, mac: &[u8]) -> String {
        match self {
            MacEncoding::Hex => mac.iter().map(|byte| format!("{byte:02x}")).collect(),
            MacEncoding::Base64 => BASE64_STANDARD.encode(mac),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hmac(algorithm: HashAlgorithm, encoding: MacEncoding, signed: &str, header: &str, key: &str) -> HeaderHmac {
        let template = |text, used| Template::parse(text, used).expect("a template");
        HeaderHmac::new(
            algorithm,
            encoding,
            template(signed, TemplateUse::Signed),
            template(header, TemplateUse::Header),
            Zeroizing::new(key.as_bytes().to_vec()),
        )
    }

    /// GitHub, "Validating webhook deliveries", test values.
    #[test]
    fn github_as_published() {
        let hmac =
            hmac(HashAlgorithm::Sha256, MacEncoding::Hex, "{body}", "sha256={signature}", "It's a Secret to Everybody");
        assert_eq!(
            hmac.sign("msg_1", 0, b"Hello, World!"),
            "sha256=757107ea0eb2509fc211221cce984b8a37570b6d7586c22c46f4379c8b043e17"
        );
    }

    /// Slack, "Verifying requests from Slack", the page's example.
    #[test]
    fn slack_as_published() {
        let body = b"token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V\
            &channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=\
            &response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN\
            &trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c";
        let hmac = hmac(
            HashAlgorithm::Sha256,
            MacEncoding::Hex,
            "v0:{timestamp}:{body}",
            "v0={signature}",
            "8f742231b10e8888abcd99yyyzzz85a5",
        );
        assert_eq!(
            hmac.sign("msg_1", 1_531_420_618, body),
            "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"
        );
    }

    /// RFC 2202 §3 case 2 and RFC 4231 §4.3: the same key and text under each hash.
    #[test]
    fn every_algorithm_and_encoding_as_published() {
        let jefe = |algorithm, encoding| {
            hmac(algorithm, encoding, "{body}", "{signature}", "Jefe").sign("", 0, b"what do ya want for nothing?")
        };
        assert_eq!(jefe(HashAlgorithm::Sha1, MacEncoding::Hex), "effcdf6ae5eb2fa2d27416d5f184df9c259a7c79");
        assert_eq!(
            jefe(HashAlgorithm::Sha256, MacEncoding::Hex),
            "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"
        );
        assert_eq!(jefe(HashAlgorithm::Sha256, MacEncoding::Base64), "W9zBRr9gdU5qBCQmCJV1x1oAPwidJzmDnexYuWTsOEM=");
        assert_eq!(
            jefe(HashAlgorithm::Sha512, MacEncoding::Hex),
            "164b7a7bfcf819e2e395fbe73b56e0a387bd64222e831fd610270cd7ea250554\
             9758bf75c05a994a6d034f65f8f0e6fdcaeab1a34d4a6b4b636e070a38bce737"
        );
    }

    #[test]
    fn the_header_may_name_time_and_id() {
        let stripe = hmac(
            HashAlgorithm::Sha256,
            MacEncoding::Hex,
            "{timestamp}.{body}",
            "t={timestamp},i={id},v1={signature}",
            "k",
        );
        let value = stripe.sign("msg_1", 1_700_000_000, b"{}");
        let whole = hmac(HashAlgorithm::Sha256, MacEncoding::Hex, "1700000000.{body}", "{signature}", "k");
        assert_eq!(value, format!("t=1700000000,i=msg_1,v1={}", whole.sign("", 0, b"{}")));
    }

    #[test]
    fn a_faulty_template_is_told() {
        let check = |text: &str, used, expected: &str| {
            assert_eq!(Template::parse(text, used).expect_err(text).to_string(), expected);
        };
        check("{timestamp}", TemplateUse::Signed, "{body} must be in it");
        check("sha256=", TemplateUse::Header, "{signature} must be in it");
        check("{body}", TemplateUse::Header, "{body} is not known here; there are {id}, {timestamp} and {signature}");
        check("{Body}", TemplateUse::Signed, "{Body} is not known here; there are {id}, {timestamp} and {body}");
        for open in ["{body", "body}", "{{body}}", "{body}}"] {
            assert!(Template::parse(open, TemplateUse::Signed).is_err(), "{open}");
        }
        for text in ["", "é{body}", "{body}\r\nx: y", &"x".repeat(300)] {
            assert_eq!(Template::parse(text, TemplateUse::Signed), Err(TemplateError::Text));
        }
    }

    #[test]
    fn the_key_does_not_print() {
        let printed = format!("{:?}", hmac(HashAlgorithm::Sha1, MacEncoding::Hex, "{body}", "{signature}", "hunter2"));
        assert!(!printed.contains("hunter2") && !printed.contains("104"), "{printed}");
    }
}
