//! Where signatures stand in a request, and how they become bytes.

use std::borrow::Cow;

use base64::{
    Engine, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};

use super::{
    field::{Field, Scope, entries},
    recipe::Encoding,
    refusal::Refusal,
};

/// A request has at most so many signatures. A sender in the middle of a rotation has a few.
pub(crate) const SIGNATURES_MAX: usize = 32;

/// A signature's text has at most so many bytes; RSA of 8192 bits has 2048 in hexadecimal.
const TEXT_BYTES_MAX: usize = 4096;

const CONFIG: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&alphabet::STANDARD, CONFIG);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&alphabet::URL_SAFE, CONFIG);

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct SignaturePlace {
    pub(crate) field: Field,
    pub(crate) prefix: String,
    pub(crate) separator: Option<char>,
    pub(crate) entry: Option<String>,
    pub(crate) encoding: Encoding,
}

impl SignaturePlace {
    /// The list in which the signature stands, for the fields beside it.
    pub(crate) fn list<'a>(&self, scope: &Scope<'a>) -> Result<Option<(&'a str, char)>, Refusal> {
        match (&self.field, self.separator) {
            (Field::Header(name), Some(separator)) => Ok(scope.request.header(name)?.map(|list| (list, separator))),
            _ => Ok(None),
        }
    }

    /// The texts that may be a signature, token or JWT. There is at least one.
    pub(crate) fn texts<'a>(&self, scope: &Scope<'a>) -> Result<Vec<Cow<'a, str>>, Refusal> {
        let values = self.field.texts(scope)?;
        if values.is_empty() {
            return Err(self.field.missing());
        }
        let texts: Vec<Cow<'a, str>> = match (self.separator, &self.entry) {
            (Some(separator), Some(entry)) => values
                .iter()
                .flat_map(|value| entries(value, separator))
                .filter(|(name, _)| name == entry)
                .filter_map(|(_, value)| self.strip(value))
                .map(|value| Cow::Owned(value.to_owned()))
                .collect(),
            (Some(separator), None) => values
                .iter()
                .flat_map(|value| value.split(separator))
                .filter_map(|value| self.strip(value.trim()))
                .map(|value| Cow::Owned(value.to_owned()))
                .collect(),
            _ if self.prefix.is_empty() => values,
            _ => {
                values.iter().filter_map(|value| self.strip(value)).map(|value| Cow::Owned(value.to_owned())).collect()
            }
        };
        if texts.len() > SIGNATURES_MAX {
            return Err(Refusal::TooMany { what: "signatures", max: SIGNATURES_MAX });
        }
        if texts.is_empty() {
            return Err(self.field.malformed("a signature after the right prefix"));
        }
        Ok(texts)
    }

    /// The signatures' bytes, malformed ones passed over. There is at least one, and none is empty.
    pub(crate) fn signatures(&self, scope: &Scope<'_>) -> Result<Vec<Vec<u8>>, Refusal> {
        let decoded = |text: &Cow<'_, str>| self.encoding.decode(text).filter(|bytes| !bytes.is_empty());
        let signatures: Vec<Vec<u8>> = self.texts(scope)?.iter().filter_map(decoded).collect();
        if signatures.is_empty() {
            return Err(self.field.malformed(self.encoding.name()));
        }
        Ok(signatures)
    }

    fn strip<'t>(&self, text: &'t str) -> Option<&'t str> {
        if self.prefix.ends_with(' ') {
            let start = text.get(..self.prefix.len())?;
            start.eq_ignore_ascii_case(&self.prefix).then(|| text[self.prefix.len()..].trim_start())
        } else {
            text.strip_prefix(&self.prefix)
        }
    }
}

impl Encoding {
    /// `None` if it is not of this encoding as a whole.
    pub(crate) fn decode(self, text: &str) -> Option<Vec<u8>> {
        if text.len() > TEXT_BYTES_MAX {
            return None;
        }
        match self {
            Encoding::Hex => decode_hex(text),
            Encoding::Base64 => BASE64.decode(text).ok(),
            Encoding::Base64Url => BASE64_URL.decode(text).ok(),
        }
    }

    pub(crate) fn encode(self, bytes: &[u8]) -> String {
        match self {
            Encoding::Hex => super::mac::hex(bytes),
            Encoding::Base64 => base64::prelude::BASE64_STANDARD.encode(bytes),
            Encoding::Base64Url => base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(bytes),
        }
    }

    fn name(self) -> &'static str {
        match self {
            Encoding::Hex => "a signature in hexadecimal",
            Encoding::Base64 => "a signature in base64",
            Encoding::Base64Url => "a signature in base64url",
        }
    }
}

/// Hexadecimal in either case; `None` for anything else.
pub(crate) fn decode_hex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
    let bytes = text.as_bytes();
    if !bytes.len().is_multiple_of(2) {
        return None;
    }
    bytes.chunks_exact(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::request::ReceivedRequest;

    fn signatures(place: SignaturePlace, headers: &[(&str, &[u8])]) -> Result<Vec<Vec<u8>>, Refusal> {
        let request = ReceivedRequest {
            method: "POST",
            scheme: "",
            host: "",
            path_and_query: "/",
            headers,
            body: b"",
            body_type: None,
        };
        place.signatures(&Scope { request, json: b"", url: None, list: None, proven: b"{}" })
    }

    fn place(field: &str, prefix: &str, list: Option<(char, &str)>) -> SignaturePlace {
        SignaturePlace {
            field: Field::parse(field).expect("a field"),
            prefix: prefix.to_owned(),
            separator: list.map(|(separator, _)| separator),
            entry: list.map(|(_, entry)| entry.to_owned()).filter(|entry| !entry.is_empty()),
            encoding: Encoding::Hex,
        }
    }

    #[test]
    fn signatures_are_found_wherever_they_stand() {
        let headers: &[(&str, &[u8])] = &[
            ("a", b"sha256=0aFF"),
            ("b", b"t=1, v1=01,v1=02,v0=03"),
            ("c-1", b"01"),
            ("c-2", b"zz"),
            ("d", b"BEARER 07"),
        ];
        assert_eq!(signatures(place("header:A", "sha256=", None), headers), Ok(vec![vec![10, 255]]));
        assert_eq!(signatures(place("header:b", "", Some((',', "v1"))), headers), Ok(vec![vec![1], vec![2]]));
        assert_eq!(signatures(place("numbered:C-", "", None), headers), Ok(vec![vec![1]]));
        assert_eq!(signatures(place("header:d", "Bearer ", None), headers), Ok(vec![vec![7]]));
        assert_eq!(
            signatures(place("header:e", "", None), headers),
            Err(Refusal::Missing { field: "header:e".into() })
        );
        for (field, prefix) in [("header:a", "sha1="), ("header:a", ""), ("header:d", "Token ")] {
            assert!(matches!(signatures(place(field, prefix, None), headers), Err(Refusal::Malformed { .. })));
        }
    }

    #[test]
    fn a_header_full_of_signatures_is_refused() {
        let many = "v1=00,".repeat(SIGNATURES_MAX + 1);
        let headers: &[(&str, &[u8])] = &[("b", many.as_bytes())];
        assert_eq!(
            signatures(place("header:b", "", Some((',', "v1"))), headers),
            Err(Refusal::TooMany { what: "signatures", max: SIGNATURES_MAX })
        );
    }

    #[test]
    fn encodings_are_read_whole_or_not() {
        assert_eq!(Encoding::Hex.decode("00fF"), Some(vec![0, 255]));
        for text in ["0", "0g", "+1", " 00", "é0"] {
            assert_eq!(Encoding::Hex.decode(text), None, "{text}");
        }
        assert_eq!(Encoding::Base64.decode("+/8="), Some(vec![0xfb, 0xff]));
        assert_eq!(Encoding::Base64.decode("+/8"), Some(vec![0xfb, 0xff]));
        for text in ["+/9=", "-_8=", "+/8=\n", "+/"] {
            assert_ne!(Encoding::Base64.decode(text), Some(vec![0xfb, 0xff]), "{text}");
        }
        assert_eq!(Encoding::Base64Url.decode("-_8"), Some(vec![0xfb, 0xff]));
        assert_eq!(Encoding::Hex.decode(&"00".repeat(TEXT_BYTES_MAX)), None);
    }
}
