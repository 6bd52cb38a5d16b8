//! A recipe: how one sender proves its webhooks, as data. Presets are recipes, and users write their own.
//!
//! ```
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let recipe: bellwire_signature::source::Recipe = serde_json::from_str(r#"{
//!     "verify": [{
//!         "algorithm": "hmac-sha256",
//!         "signed": "{timestamp}.{body}",
//!         "signature": { "field": "header:X-Acme-Signature", "separator": ",", "entry": "v1" },
//!         "timestamp": { "field": "entry:t" }
//!     }],
//!     "dedupe": ["json:id"],
//!     "event_type": ["json:type"]
//! }"#)?;
//! # assert_eq!(recipe.verify.len(), 1);
//! # Ok(())
//! # }
//! ```

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{handshake::Handshake, rules::Rule};

/// How a sender proves that a request is its own, and where in it the id and the event type stand.
///
/// Whatever is written here has an effect or is refused by [`Verifier::new`](super::Verifier::new).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Recipe {
    /// What the sender is called.
    pub title: String,
    /// Where the sender describes it.
    pub docs: String,
    /// What the operator supplies as a secret, in words; empty if there is none to supply.
    pub secret: String,
    /// What else the operator supplies, by name.
    pub settings: BTreeMap<String, Setting>,
    /// The ways in which this sender signs. The first whose `when` holds is taken, and no other.
    pub verify: Vec<Way>,
    /// Instead of `verify`: a tree of conditions, in which `{setting:name}` stands for a setting.
    pub rules: Option<Rule>,
    /// What is answered to a request that the rules do not let in, though no signature is wrong; 403 if not set.
    pub unsatisfied_status: Option<u16>,
    /// Where the sender's own id of the event stands: alternatives, the first that is there counts. Fields of one
    /// alternative are joined with ` + `. `webhook-id` and `Idempotency-Key` need not be named.
    pub dedupe: Vec<String>,
    /// Where the type of the event stands; likewise, fields of one alternative become one name with dots.
    pub event_type: Vec<String>,
    /// Which questions of the sender are answered by themselves.
    pub handshake: Option<Handshake>,
    /// A webhook such as the sender's, for trying the source out.
    pub sample: SampleText,
}

/// A webhook before it is signed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleText {
    /// What it is.
    pub content_type: String,
    /// Headers that are not part of the proof.
    pub headers: BTreeMap<String, String>,
    /// Its body.
    pub body: String,
}

impl Default for SampleText {
    fn default() -> SampleText {
        let body = r#"{"id":"sample_1","type":"sample"}"#.to_owned();
        SampleText { content_type: "application/json".to_owned(), headers: BTreeMap::new(), body }
    }
}

/// Something that the operator supplies besides secrets.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Setting {
    /// What it is, in words.
    pub title: String,
    /// What it is if not supplied. Without, it must be supplied.
    pub default: Option<String>,
    /// Whether it is a secret too, not to be shown again.
    pub confidential: bool,
}

/// One way of signing.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Way {
    /// For which requests; for all if not set.
    pub when: Option<When>,
    /// How the proof is made.
    pub algorithm: Algorithm,
    /// How the secret's text becomes a key.
    pub key: KeyFormat,
    /// A template of what is signed; see [`super`].
    pub signed: String,
    /// Where the signature, the token or the JWT stands.
    pub signature: Option<Place>,
    /// Where the time of signing stands.
    pub timestamp: Option<TimestampPlace>,
    /// A path into the body: every value there is signed for itself, `json:` fields begin there, and all must fit.
    pub each: Option<String>,
    /// Whether `{url}` is also tried with or without its port, and with its query written the old way (Twilio).
    pub url_variants: bool,
    /// A field that must hold the body's SHA-256 in hexadecimal.
    pub body_sha256: Option<String>,
    /// Fields that must have this very value; `{setting:name}` is put in.
    pub expect: BTreeMap<String, String>,
    /// Where the signer's certificate is fetched, for `x509`.
    pub certificate: Option<CertificatePlace>,
    /// Where the signer's key is fetched, for `jwk`.
    pub key_set: Option<KeySetPlace>,
    /// What an HTTP message signature must cover, such as `@method` and `content-digest`.
    pub components: Vec<String>,
}

/// Which requests a way is for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct When {
    /// A field, which must be there.
    pub field: String,
    /// And be this, if set.
    pub is: Option<String>,
    /// And begin with this, if set.
    pub starts: Option<String>,
}

/// How the proof is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Algorithm {
    /// There is no proof: the URL alone is the secret. Never chosen by itself.
    None,
    /// HMAC with SHA-1.
    HmacSha1,
    /// HMAC with SHA-256.
    #[default]
    HmacSha256,
    /// HMAC with SHA-384.
    HmacSha384,
    /// HMAC with SHA-512.
    HmacSha512,
    /// SHA-256 of a text that holds the secret.
    Sha256,
    /// Ed25519.
    Ed25519,
    /// ECDSA on P-256 with SHA-256, the signature in DER.
    EcdsaP256Sha256,
    /// ECDSA on P-384 with SHA-384, the signature in DER.
    EcdsaP384Sha384,
    /// RSA PKCS #1 v1.5 with SHA-1, for those who still have it.
    RsaSha1,
    /// RSA PKCS #1 v1.5 with SHA-256.
    RsaSha256,
    /// RSA-PSS with SHA-512.
    RsaPssSha512,
    /// Standard Webhooks, `v1` and `v1a`.
    StandardWebhooks,
    /// A JWT, HMAC-SHA256.
    JwtHs256,
    /// A JWT, ECDSA on P-256.
    JwtEs256,
    /// HTTP Message Signatures (RFC 9421), with Content-Digest (RFC 9530).
    HttpSignature,
    /// The secret itself stands in the request.
    Token,
    /// Basic authentication; the secret is `user:password`.
    Basic,
}

/// How the secret's text becomes a key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum KeyFormat {
    /// The text's own bytes.
    #[default]
    Utf8,
    /// Base64, padded or not.
    Base64,
    /// Hexadecimal.
    Hex,
    /// Standard Webhooks' `whsec_…` or `whpk_…`.
    Standard,
    /// A public key as SubjectPublicKeyInfo: PEM, or base64 of DER.
    Spki,
    /// A certificate, fetched from where the request says, within `certificate`'s bounds.
    X509,
    /// A JSON Web Key, fetched from where `key_set` says.
    Jwk,
}

/// Where a signature stands, and how it is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Place {
    /// A field; `numbered:X-Signature-` is every header of that name with a number after it.
    pub field: String,
    /// What stands before it, such as `sha256=`. An authentication scheme, which ends with a space, is read in any case.
    pub prefix: String,
    /// What separates the entries of a list: `,` or `;`.
    pub separator: Option<char>,
    /// The entries that hold a signature: those named so.
    pub entry: Option<String>,
    /// How the bytes are written.
    pub encoding: Encoding,
}

/// How a signature's bytes are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Encoding {
    /// Hexadecimal, in either case.
    #[default]
    Hex,
    /// Base64 (RFC 4648 §4), padded or not.
    Base64,
    /// Base64url (RFC 4648 §5), padded or not.
    Base64Url,
}

/// Where the time of signing stands.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimestampPlace {
    /// A field.
    pub field: String,
    /// How it is written.
    pub unit: TimeUnit,
    /// How far it may be from our clock, either way, in seconds. A time that may be as old as it likes needs no
    /// `timestamp`: it is signed as the field that it is.
    pub tolerance_s: u64,
}

impl Default for TimestampPlace {
    fn default() -> TimestampPlace {
        TimestampPlace { field: String::new(), unit: TimeUnit::S, tolerance_s: 300 }
    }
}

/// How a time is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TimeUnit {
    /// Whole Unix seconds, digits only.
    #[default]
    S,
    /// Whole Unix milliseconds, digits only.
    Ms,
    /// A date and time of RFC 3339.
    Iso8601,
}

/// Where a signer's certificate may be fetched.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CertificatePlace {
    /// The field that holds the URL.
    pub url: String,
    /// Hosts that are allowed; `*` stands for one label, such as `sns.*.amazonaws.com`.
    pub hosts: Vec<String>,
    /// What the URL's path begins with.
    pub path_prefix: String,
    /// What it ends with.
    pub path_suffix: String,
    /// One of these must be the certificate's common name or among its DNS names; `*` as above.
    pub names: Vec<String>,
}

/// Where a signer's key is fetched by its id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct KeySetPlace {
    /// The URL; `{setting:name}` and `{kid}` are put in.
    pub url: String,
    /// What is posted there as JSON, if the key is not simply read; places likewise.
    pub post: BTreeMap<String, String>,
    /// Where in the answer the key stands: a key itself, or a list of keys to be searched for the id.
    pub path: String,
}
