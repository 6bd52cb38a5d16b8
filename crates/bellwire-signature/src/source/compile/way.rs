//! One way of a recipe: every text of it parsed, and what has no effect refused.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{Faults, TOLERANCE_SECONDS_MAX};
use crate::source::{
    fetched::AllowList,
    field::Field,
    http_signature::HttpKeys,
    json::Path,
    jwt::{JwtKeys, KeySet},
    key::{mac_keys, public_keys, secret_bytes, standard_keys, utf8_keys},
    mac::Hash,
    place::SignaturePlace,
    public_key::{PublicKey, SignatureAlgorithm},
    recipe::{self, Algorithm, Encoding, KeyFormat},
    template::Template,
    time::Time,
    verifier::{Scheme, Supplied, Way, When},
};

/// One way of a recipe, being read.
pub(super) struct Context<'r> {
    pub(super) way: &'r recipe::Way,
    pub(super) settings: &'r BTreeMap<String, String>,
    pub(super) supplied: &'r Supplied,
    pub(super) at: usize,
}

impl Context<'_> {
    fn name(&self, field: &str) -> String {
        format!("verify[{}].{field}", self.at)
    }

    pub(super) fn way(&self, faults: &mut Faults) -> Option<Way> {
        let before = faults.0.len();
        let way = self.way;
        self.check_use(faults);
        let time = way.timestamp.as_ref().and_then(|place| self.time(place, faults));
        let place = self.place(faults);
        let signed = Template::parse(&way.signed, self.settings, time.as_ref().map(|time| &time.field));
        let signed = faults.take(self.name("signed"), signed).unwrap_or_default();
        self.check_signed(&signed, faults);
        let when = way.when.as_ref().and_then(|when| {
            let field = self.field("when.field", &when.field, faults)?;
            Some(When { field, is: when.is.clone(), starts: when.starts.clone() })
        });
        let each = way.each.as_ref().and_then(|text| {
            faults
                .take(self.name("each"), Path::parse(text).ok_or_else(|| "it is no path such as `items.*`".to_owned()))
        });
        let body_sha256 = way.body_sha256.as_ref().and_then(|text| self.field("body_sha256", text, faults));
        self.check_proven(&signed, time.as_ref(), body_sha256.as_ref(), faults);
        let mut expect = Vec::new();
        for (field, value) in &way.expect {
            let name = format!("expect.{field}");
            let value = faults.take(self.name(&name), self.filled(value));
            expect.extend(self.field(&name, field, faults).zip(value));
        }
        let scheme = self.scheme(signed, faults);
        let scheme = scheme.filter(|_| faults.0.len() == before)?;
        Some(Way { when, scheme, place, time, each, url_variants: way.url_variants, body_sha256, expect })
    }

    /// What is set must have an effect.
    fn check_use(&self, faults: &mut Faults) {
        let way = self.way;
        let mut must = |field: &str, is_set: bool, is_used: bool, text: &str| {
            if is_set != is_used {
                let verb = if is_set { "has no effect here" } else { "is missing" };
                faults.tell(self.name(field), format!("it {verb}: {text}"));
            }
        };
        must(
            "signed",
            !way.signed.is_empty(),
            way.is_signed(),
            "what is signed, for an algorithm that signs a template",
        );
        let needs_place = way.algorithm != Algorithm::None && way.algorithm != Algorithm::HttpSignature;
        must("signature", way.signature.is_some(), needs_place, "where the signature stands");
        must("certificate", way.certificate.is_some(), way.key == KeyFormat::X509, "it belongs to `key = \"x509\"`");
        must("key_set", way.key_set.is_some(), way.key == KeyFormat::Jwk, "it belongs to `key = \"jwk\"`");
        let is_http = way.algorithm == Algorithm::HttpSignature;
        must("components", !way.components.is_empty(), is_http, "what an HTTP message signature must cover");
        if !way.is_signed() && way.url_variants {
            must("url_variants", true, false, "nothing here signs the URL");
        }
        if way.each.is_some() && (way.timestamp.is_some() || !(way.is_signed() || way.algorithm == Algorithm::Token)) {
            must("each", true, false, "it goes with a template or a token, and without `timestamp`");
        }
        if !self.format_fits() {
            faults.tell(self.name("key"), format!("{:?} is no form of a key for {:?}", way.key, way.algorithm));
        }
    }

    fn format_fits(&self) -> bool {
        use KeyFormat::{Base64, Hex, Jwk, Spki, Standard, Utf8, X509};
        let key = self.way.key;
        match self.way.algorithm {
            Algorithm::None | Algorithm::Token | Algorithm::Basic => key == Utf8,
            Algorithm::StandardWebhooks => key == Standard,
            Algorithm::JwtEs256 => matches!(key, Spki | Jwk),
            Algorithm::Ed25519 => matches!(key, Hex | Base64 | Spki),
            Algorithm::HttpSignature => matches!(key, Utf8 | Base64 | Hex | Spki),
            Algorithm::RsaSha1 | Algorithm::RsaSha256 | Algorithm::RsaPssSha512 => matches!(key, Spki | X509),
            Algorithm::EcdsaP256Sha256 | Algorithm::EcdsaP384Sha384 => matches!(key, Spki | X509),
            _ => matches!(key, Utf8 | Base64 | Hex),
        }
    }

    fn time(&self, place: &recipe::TimestampPlace, faults: &mut Faults) -> Option<Time> {
        let field = self.field("timestamp.field", &place.field, faults)?;
        let tolerance_seconds = self.supplied.tolerance_seconds.unwrap_or(place.tolerance_s);
        if tolerance_seconds > TOLERANCE_SECONDS_MAX {
            faults.tell(self.name("timestamp.tolerance_s"), format!("it is at most {TOLERANCE_SECONDS_MAX}"));
        }
        Some(Time { field, unit: place.unit, tolerance_seconds })
    }

    fn place(&self, faults: &mut Faults) -> Option<SignaturePlace> {
        let place = self.way.signature.as_ref()?;
        let field = self.field("signature.field", &place.field, faults)?;
        if place.separator.is_some_and(|separator| !matches!(separator, ',' | ';' | ' ')) {
            faults.tell(self.name("signature.separator"), "it is a comma, a semicolon or a space");
        }
        if place.entry.is_some() && place.separator.is_none() {
            faults.tell(self.name("signature.entry"), "it has no effect without `separator`");
        }
        let is_text = matches!(
            self.way.algorithm,
            Algorithm::Token
                | Algorithm::Basic
                | Algorithm::JwtHs256
                | Algorithm::JwtEs256
                | Algorithm::StandardWebhooks
        );
        if is_text && place.encoding != Encoding::Hex {
            faults.tell(self.name("signature.encoding"), "it has no effect here: what stands there is not decoded");
        }
        if self.way.algorithm == Algorithm::StandardWebhooks && !(place.prefix.is_empty() && place.separator.is_none())
        {
            faults.tell(self.name("signature"), "Standard Webhooks have a form of their own; only `field` is set");
        }
        let (prefix, separator, entry) = (place.prefix.clone(), place.separator, place.entry.clone());
        Some(SignaturePlace { field, prefix, separator, entry, encoding: place.encoding })
    }

    /// What is compared besides the proof must be part of what is proven.
    fn check_proven(&self, signed: &Template, time: Option<&Time>, body_sha256: Option<&Field>, faults: &mut Faults) {
        let is_proven = |field: &Field| match self.way.algorithm {
            Algorithm::None | Algorithm::Token | Algorithm::Basic => false,
            Algorithm::StandardWebhooks => {
                let prefix = self.way.signature.as_ref().and_then(|place| place.field.strip_suffix("signature"));
                prefix.is_some_and(|prefix| field.to_string() == format!("{prefix}timestamp"))
            }
            Algorithm::JwtHs256 | Algorithm::JwtEs256 => matches!(field, Field::Claim(_)),
            Algorithm::HttpSignature => matches!(field, Field::Parameter(_)),
            _ => signed.is_empty() || signed.covers(field),
        };
        for (name, field) in [("timestamp.field", time.map(|time| &time.field)), ("body_sha256", body_sha256)] {
            if let Some(field) = field.filter(|field| !is_proven(field)) {
                faults.tell(self.name(name), format!("{field} is not signed, so comparing it proves nothing"));
            }
        }
    }

    fn check_signed(&self, signed: &Template, faults: &mut Faults) {
        if signed.is_empty() {
            return;
        }
        let is_digest = self.way.algorithm == Algorithm::Sha256;
        if is_digest != signed.has_secret() {
            faults.tell(self.name("signed"), "{secret} must be in it for the algorithm sha256, and for no other");
        }
        let has_url = signed.fields().any(|field| *field == Field::Url);
        if self.way.url_variants && !has_url {
            faults.tell(self.name("url_variants"), "it has no effect without {url} in `signed`");
        }
    }

    fn scheme(&self, signed: Template, faults: &mut Faults) -> Option<Scheme> {
        let way = self.way;
        let (secrets, short) = (&self.supplied.secrets, self.supplied.allow_short_secret);
        let told = |found: Vec<(usize, String)>, faults: &mut Faults| {
            found.into_iter().for_each(|(at, text)| faults.tell(format!("secrets[{at}]"), text));
        };
        macro_rules! keys {
            ($read:expr) => {
                match $read {
                    Ok(keys) => keys,
                    Err(found) => {
                        told(found, faults);
                        return None;
                    }
                }
            };
        }
        if let Some(hash) = way.hash() {
            return Some(Scheme::Mac { keys: keys!(mac_keys(hash, way.key, secrets, short)), signed });
        }
        if let Some(algorithm) = way.signature_algorithm() {
            if let Some(place) = &way.certificate {
                let from = self.field("certificate.url", &place.url, faults)?;
                let allowed = self.allow_list(&place.hosts, &place.path_prefix, &place.path_suffix, faults);
                return Some(Scheme::Certificate { from, allowed, names: place.names.clone(), algorithm, signed });
            }
            let keys = keys!(public_keys(way.key, secrets, |key| key.makes(algorithm)));
            return Some(Scheme::Public { keys, algorithm, signed });
        }
        Some(match way.algorithm {
            Algorithm::None => Scheme::None,
            Algorithm::Token => Scheme::Token(keys!(secret_bytes(KeyFormat::Utf8, secrets, short))),
            Algorithm::Basic => Scheme::Basic(keys!(utf8_keys(secrets, short))),
            Algorithm::Sha256 => Scheme::Digest { secrets: keys!(secret_bytes(way.key, secrets, short)), signed },
            Algorithm::StandardWebhooks => {
                let prefix = way.signature.as_ref().and_then(|place| place.field.strip_prefix("header:"));
                let Some(prefix) = prefix.and_then(|header| header.strip_suffix("signature")) else {
                    faults.tell(self.name("signature.field"), "it is a header whose name ends with `signature`");
                    return None;
                };
                Scheme::Standard { keys: keys!(standard_keys(secrets, short)), prefix: prefix.to_owned() }
            }
            Algorithm::JwtHs256 => Scheme::Jwt(JwtKeys::Hs256(keys!(mac_keys(Hash::Sha256, way.key, secrets, short)))),
            Algorithm::JwtEs256 => match &way.key_set {
                Some(place) => Scheme::Jwt(JwtKeys::Es256Fetched(self.key_set(place, faults)?)),
                None => {
                    let is_fit = |key: &PublicKey| key.makes(SignatureAlgorithm::EcdsaP256Fixed);
                    Scheme::Jwt(JwtKeys::Es256(keys!(public_keys(way.key, secrets, is_fit))))
                }
            },
            Algorithm::HttpSignature => {
                let keys = match way.key {
                    KeyFormat::Spki => HttpKeys::Public(keys!(public_keys(way.key, secrets, |_| true))),
                    _ => HttpKeys::Hmac(keys!(mac_keys(Hash::Sha256, way.key, secrets, short))),
                };
                Scheme::HttpSignature { keys, components: way.components.clone() }
            }
            _ => return None,
        })
    }

    fn key_set(&self, place: &recipe::KeySetPlace, faults: &mut Faults) -> Option<KeySet> {
        let url = faults.take(self.name("key_set.url"), self.filled(&place.url))?;
        let is_fine = url.strip_prefix("https://").is_some_and(|rest| {
            let host = rest.split(['/', '?']).next().unwrap_or_default();
            !host.contains(['@', ':', '\\', '#', '{', '}']) && host.contains('.')
        });
        if !is_fine {
            faults.tell(self.name("key_set.url"), "it begins with https:// and a host without user or port");
        }
        let mut post = BTreeMap::new();
        for (name, value) in &place.post {
            let value = faults.take(self.name(&format!("key_set.post.{name}")), self.filled(value))?;
            post.insert(name.clone(), Zeroizing::new(value));
        }
        let path = if place.path.is_empty() {
            None
        } else {
            let path = Path::parse(&place.path).ok_or_else(|| "it is no path such as `keys`".to_owned());
            Some(faults.take(self.name("key_set.path"), path)?)
        };
        Some(KeySet { url, post, path })
    }

    fn allow_list(&self, hosts: &[String], prefix: &str, suffix: &str, faults: &mut Faults) -> AllowList {
        // The last two labels name whose host it is, so they are fixed.
        let is_host =
            |host: &String| host.rsplit('.').take(2).filter(|label| !label.is_empty() && *label != "*").count() == 2;
        if hosts.is_empty() || !hosts.iter().all(is_host) {
            let text = "it lists hosts such as `*.example.com`; the last two labels are fixed";
            faults.tell(self.name("certificate.hosts"), text);
        }
        AllowList { hosts: hosts.to_vec(), path_prefix: prefix.to_owned(), path_suffix: suffix.to_owned() }
    }

    fn field(&self, name: &str, text: &str, faults: &mut Faults) -> Option<Field> {
        let field = self.filled(text).and_then(|text| Field::parse(&text));
        faults.take(self.name(name), field)
    }

    /// With the settings put in.
    fn filled(&self, text: &str) -> Result<String, String> {
        let mut filled = text.to_owned();
        while let Some((before, after)) = filled.split_once("{setting:") {
            let (name, after) = after.split_once('}').ok_or("a brace is open")?;
            let value = self.settings.get(name).ok_or_else(|| format!("there is no setting `{name}`"))?;
            if value.contains("{setting:") {
                return Err(format!("the setting `{name}` must not name a setting"));
            }
            filled = format!("{before}{value}{after}");
        }
        Ok(filled)
    }
}

impl recipe::Way {
    pub(super) fn needs_secret(&self) -> bool {
        self.algorithm != Algorithm::None && !matches!(self.key, KeyFormat::X509 | KeyFormat::Jwk)
    }

    /// Whether there is a template of what is signed.
    fn is_signed(&self) -> bool {
        self.hash().is_some() || self.signature_algorithm().is_some() || self.algorithm == Algorithm::Sha256
    }

    fn hash(&self) -> Option<Hash> {
        match self.algorithm {
            Algorithm::HmacSha1 => Some(Hash::Sha1),
            Algorithm::HmacSha256 => Some(Hash::Sha256),
            Algorithm::HmacSha384 => Some(Hash::Sha384),
            Algorithm::HmacSha512 => Some(Hash::Sha512),
            _ => None,
        }
    }

    fn signature_algorithm(&self) -> Option<SignatureAlgorithm> {
        match self.algorithm {
            Algorithm::Ed25519 => Some(SignatureAlgorithm::Ed25519),
            Algorithm::EcdsaP256Sha256 => Some(SignatureAlgorithm::EcdsaP256),
            Algorithm::EcdsaP384Sha384 => Some(SignatureAlgorithm::EcdsaP384),
            Algorithm::RsaSha1 => Some(SignatureAlgorithm::RsaSha1),
            Algorithm::RsaSha256 => Some(SignatureAlgorithm::RsaSha256),
            Algorithm::RsaPssSha512 => Some(SignatureAlgorithm::RsaPssSha512),
            _ => None,
        }
    }
}
