//! A recipe made ready for one source: with its secrets, and every text parsed.

use std::{borrow::Cow, collections::BTreeMap, fmt, net::IpAddr};

use subtle::{Choice, ConstantTimeEq};
use zeroize::Zeroizing;

use super::{
    fetched::{AllowList, KeyRequest, Keys},
    field::{Field, Scope},
    handshake::Handshaker,
    http_signature::{self, HttpKeys},
    identity::{DedupeKey, Identity},
    json::{Path, VALUES_MAX},
    jwt::{self, JwtKeys},
    mac::{MacKey, any_is, hex, sha256},
    place::SignaturePlace,
    public_key::{PublicKey, SignatureAlgorithm},
    recipe::Recipe,
    refusal::{Fault, Refusal},
    request::ReceivedRequest,
    rules::{RuleRequest, Rules, Verdict, is_broken_json, payload},
    template::Template,
    time::Time,
    url::variants,
};
use crate::{SignedHeaders, VerifyError, VerifyKey};

/// What the operator of a source adds to a recipe.
#[derive(Clone, Default)]
pub struct Supplied {
    /// Secrets, newest first; any of them may fit, so that they can be changed without a gap.
    pub secrets: Vec<Zeroizing<String>>,
    /// The recipe's settings, by name.
    pub settings: BTreeMap<String, String>,
    /// The URL under which the sender knows the source, if that is not the request's own: behind another proxy,
    /// say. Without a query, the request's is added.
    pub url: Option<String>,
    /// Instead of the recipe's tolerance, in seconds.
    pub tolerance_seconds: Option<u64>,
    /// Instead of the recipe's.
    pub dedupe: Option<Vec<String>>,
    /// Instead of the recipe's.
    pub event_type: Option<Vec<String>>,
    /// Take secrets of less than 16 bytes, which can be guessed. Empty ones never.
    pub allow_short_secret: bool,
}

/// What is known of a request that is proven.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Proof {
    /// Which event it is about; `None` if the sender does not say, and then nothing is its duplicate.
    pub dedupe_key: Option<DedupeKey>,
    /// The event's type, in the sender's words; at most 256 bytes, of whatever characters.
    pub event_type: Option<String>,
    /// When it was signed, in Unix seconds, if the recipe says where that stands.
    pub signed_at_seconds: Option<i64>,
}

/// Verifies the requests of one source. Cheap to ask, dear to make: keep it.
#[derive(Clone)]
pub struct Verifier {
    pub(super) ways: Vec<Way>,
    pub(super) rules: Option<Rules>,
    pub(super) unsatisfied_status: u16,
    pub(super) identity: Identity,
    pub(super) handshaker: Option<Handshaker>,
    pub(super) url: Option<String>,
}

/// One way of signing, ready.
#[derive(Clone)]
pub(super) struct Way {
    pub(super) when: Option<When>,
    pub(super) scheme: Scheme,
    pub(super) place: Option<SignaturePlace>,
    pub(super) time: Option<Time>,
    pub(super) each: Option<Path>,
    pub(super) url_variants: bool,
    pub(super) body_sha256: Option<Field>,
    pub(super) expect: Vec<(Field, String)>,
}

#[derive(Clone)]
pub(super) struct When {
    pub(super) field: Field,
    pub(super) is: Option<String>,
    pub(super) starts: Option<String>,
}

/// How the proof is made, and what with.
#[derive(Clone)]
pub(super) enum Scheme {
    None,
    Token(Vec<Zeroizing<Vec<u8>>>),
    Basic(Vec<Zeroizing<Vec<u8>>>),
    /// The headers' common prefix, such as `webhook-`.
    Standard {
        keys: Vec<VerifyKey>,
        prefix: String,
    },
    Mac {
        keys: Vec<MacKey>,
        signed: Template,
    },
    Digest {
        secrets: Vec<Zeroizing<Vec<u8>>>,
        signed: Template,
    },
    Public {
        keys: Vec<PublicKey>,
        algorithm: SignatureAlgorithm,
        signed: Template,
    },
    Certificate {
        from: Field,
        allowed: AllowList,
        names: Vec<String>,
        algorithm: SignatureAlgorithm,
        signed: Template,
    },
    Jwt(JwtKeys),
    HttpSignature {
        keys: HttpKeys,
        components: Vec<String>,
    },
}

impl Verifier {
    /// Makes a recipe ready.
    ///
    /// # Errors
    /// Everything that is wrong with the recipe or with what was supplied, at once. A secret that is empty, or shorter
    /// than 16 bytes, is a fault: whoever guesses it can sign.
    pub fn new(recipe: &Recipe, supplied: &Supplied) -> Result<Verifier, Vec<Fault>> {
        super::compile::compile(recipe, supplied)
    }

    /// `Ok` if the request is what the recipe asks for.
    ///
    /// Only raw bytes are looked at. Signatures are decoded and then compared in constant time, each with each secret.
    /// Whether the same event came before is the caller's question, and is asked after this one.
    ///
    /// # Errors
    /// [`Refusal`]: for the log. [`Refusal::NeedsKey`] wants a key to be fetched, and then the same question again; all
    /// others are final. Answer them all alike, with 401 and without a word on the reason.
    pub fn verify(&self, request: &ReceivedRequest<'_>, now_seconds: i64, keys: &dyn Keys) -> Result<Proof, Refusal> {
        self.verify_from(request, None, now_seconds, keys)
    }

    /// As [`Verifier::verify`], for rules that ask from where the request came.
    ///
    /// # Errors
    /// As there; besides, [`Refusal::Unsatisfied`] is to be answered with [`Verifier::unsatisfied_status`], and
    /// [`Refusal::NotJson`] with 400.
    pub fn verify_from(
        &self,
        request: &ReceivedRequest<'_>,
        remote: Option<IpAddr>,
        now_seconds: i64,
        keys: &dyn Keys,
    ) -> Result<Proof, Refusal> {
        if let Some(rules) = &self.rules {
            return self.prove_by_rules(rules, request, remote, now_seconds);
        }
        let url = self.url_of(request);
        let json = request.json();
        let scope = Scope { request: *request, json: &json, url: url.as_deref(), list: None, proven: b"{}" };
        let way = self.way(&scope)?;
        let list = way.place.as_ref().map(|place| place.list(&scope)).transpose()?.flatten();
        let scope = Scope { list, ..scope };
        let proven = way.prove(&scope, now_seconds, keys)?;
        let scope = Scope { proven: proven.as_deref().unwrap_or(b"{}"), ..scope };
        let signed_at_seconds = way.check(&scope, now_seconds)?;
        Ok(Proof {
            dedupe_key: self.identity.dedupe_key(&scope),
            event_type: self.identity.event_type(&scope),
            signed_at_seconds,
        })
    }

    /// What a 401 says in `www-authenticate`, where user and password prove a request: some clients send them only when they are asked
    /// (RFC 7617 §2). Depends on the recipe alone.
    pub fn challenge(&self) -> Option<&'static str> {
        let is_basic = self.ways.iter().any(|way| matches!(way.scheme, Scheme::Basic(_)));
        is_basic.then_some("Basic realm=\"webhooks\", charset=\"UTF-8\"")
    }

    /// What is answered to a request that rules do not let in.
    pub fn unsatisfied_status(&self) -> u16 {
        self.unsatisfied_status
    }

    fn prove_by_rules(
        &self,
        rules: &Rules,
        request: &ReceivedRequest<'_>,
        remote: Option<IpAddr>,
        now_seconds: i64,
    ) -> Result<Proof, Refusal> {
        let payload = payload(request);
        let asked = RuleRequest {
            method: request.method,
            headers: request.headers,
            query: request.query(),
            body: request.body,
            payload: payload.as_ref(),
            remote,
        };
        match rules.verdict(&asked, now_seconds) {
            // After the signature, so only who is let in learns of it.
            Verdict::Satisfied if is_broken_json(request, payload.as_ref()) => return Err(Refusal::NotJson),
            Verdict::Satisfied => {}
            Verdict::Unsatisfied => return Err(Refusal::Unsatisfied),
            Verdict::Refused(text) => return Err(Refusal::Rules { text }),
        }
        let url = self.url_of(request);
        let json = request.json();
        let scope = Scope { request: *request, json: &json, url: url.as_deref(), list: None, proven: b"{}" };
        Ok(Proof {
            dedupe_key: self.identity.dedupe_key(&scope),
            event_type: self.identity.event_type(&scope),
            signed_at_seconds: None,
        })
    }

    pub(super) fn way(&self, scope: &Scope<'_>) -> Result<&Way, Refusal> {
        for way in &self.ways {
            if way.is_meant(scope)? {
                return Ok(way);
            }
        }
        Err(Refusal::NoWay)
    }

    /// The URL that was supplied, with the request's query.
    pub(super) fn url_of(&self, request: &ReceivedRequest<'_>) -> Option<Cow<'_, str>> {
        let url = self.url.as_deref()?;
        Some(match url.contains('?') || request.query().is_empty() {
            true => Cow::Borrowed(url),
            false => Cow::Owned(format!("{url}?{}", request.query())),
        })
    }
}

impl Way {
    fn is_meant(&self, scope: &Scope<'_>) -> Result<bool, Refusal> {
        let Some(when) = &self.when else { return Ok(true) };
        let text = match when.field.text(scope) {
            Err(Refusal::Malformed { .. }) => None,
            found => found?,
        };
        Ok(text.is_some_and(|text| {
            when.is.as_ref().is_none_or(|is| *is == text)
                && when.starts.as_ref().is_none_or(|starts| text.starts_with(starts.as_str()))
        }))
    }

    /// The proof itself; claims or parameters if it brings any, as JSON.
    fn prove(&self, scope: &Scope<'_>, now_seconds: i64, keys: &dyn Keys) -> Result<Option<Vec<u8>>, Refusal> {
        match &self.scheme {
            Scheme::None => return Ok(None),
            Scheme::Jwt(jwt_keys) => {
                let tokens = self.place()?.texts(scope)?;
                let [token] = tokens.as_slice() else {
                    return Err(Refusal::TooMany { what: "tokens", max: 1 });
                };
                return jwt::verify(token, jwt_keys, now_seconds, keys).map(Some);
            }
            Scheme::HttpSignature { keys, components } => {
                return http_signature::verify(scope, keys, components, now_seconds).map(Some);
            }
            Scheme::Standard { keys, prefix } => return self.prove_standard(scope, keys, prefix, now_seconds),
            _ => {}
        }
        let Some(each) = &self.each else {
            self.prove_one(scope, now_seconds, keys)?;
            return Ok(None);
        };
        let field = Field::Json(each.clone());
        let items = each.find(scope.json).map_err(|_| field.malformed("in a JSON text, or is too many"))?;
        if items.is_empty() {
            return Err(field.missing());
        }
        if items.len() > VALUES_MAX {
            return Err(Refusal::TooMany { what: "signed items", max: VALUES_MAX });
        }
        for item in items {
            self.prove_one(&Scope { json: item.get().as_bytes(), ..*scope }, now_seconds, keys)?;
        }
        Ok(None)
    }

    fn prove_one(&self, scope: &Scope<'_>, now_seconds: i64, fetched: &dyn Keys) -> Result<(), Refusal> {
        let timestamp = match &self.time {
            Some(time) => time.field.required(scope)?,
            None => Cow::Borrowed(""),
        };
        let place = self.place()?;
        let fits: bool = match &self.scheme {
            Scheme::Token(secrets) => return expect_any(secrets, &place.texts(scope)?, &place.field),
            Scheme::Basic(secrets) => return check_basic(secrets, &place.texts(scope)?, &place.field),
            Scheme::Mac { keys, signed } => {
                let signatures = place.signatures(scope)?;
                self.any_url(scope, |scope| {
                    let parts = signed.render(scope, &timestamp, b"")?;
                    let fits = |key: &MacKey| any_is(&key.mac(&parts), &signatures);
                    Ok(keys.iter().map(fits).fold(Choice::from(0), |all, one| all | one).into())
                })?
            }
            Scheme::Digest { secrets, signed } => {
                let signatures = place.signatures(scope)?;
                let mut fits = Choice::from(0);
                for secret in secrets {
                    fits |= any_is(&sha256(&signed.render(scope, &timestamp, secret)?), &signatures);
                }
                fits.into()
            }
            Scheme::Public { keys, algorithm, signed } => {
                let signatures = place.signatures(scope)?;
                let parts = signed.render(scope, &timestamp, b"")?;
                keys.iter().any(|key| signatures.iter().any(|one| key.is_signed(*algorithm, &parts, one)))
            }
            Scheme::Certificate { from, allowed, names, algorithm, signed } => {
                let signatures = place.signatures(scope)?;
                let url = from.required(scope)?;
                if !allowed.allows(&url) {
                    return Err(Refusal::KeyAddress { field: from.to_string() });
                }
                let parts = signed.render(scope, &timestamp, b"")?;
                let request = KeyRequest { url: url.into_owned(), post: None, certificate: true };
                let Some(pem) = fetched.fetched(&request) else { return Err(Refusal::NeedsKey(request)) };
                let key =
                    PublicKey::from_certificates(&pem, names, now_seconds).map_err(|text| Refusal::Key { text })?;
                signatures.iter().any(|one| key.is_signed(*algorithm, &parts, one))
            }
            Scheme::None | Scheme::Jwt(_) | Scheme::HttpSignature { .. } | Scheme::Standard { .. } => false,
        };
        if fits { Ok(()) } else { Err(Refusal::Mismatch) }
    }

    /// With the URL as it is and, if the recipe wants it, as the sender might have written it.
    fn any_url(&self, scope: &Scope<'_>, fits: impl Fn(&Scope<'_>) -> Result<bool, Refusal>) -> Result<bool, Refusal> {
        if !self.url_variants {
            return fits(scope);
        }
        let mut any = false;
        for url in variants(&scope.url()) {
            any |= fits(&Scope { url: Some(&url), ..*scope })?;
        }
        Ok(any)
    }

    fn prove_standard(
        &self,
        scope: &Scope<'_>,
        keys: &[VerifyKey],
        prefix: &str,
        now_seconds: i64,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let header = |name: &str| Field::Header(format!("{prefix}{name}"));
        let (id, timestamp, signature) =
            (header("id").required(scope)?, header("timestamp").required(scope)?, header("signature").required(scope)?);
        let headers = SignedHeaders { id: &id, timestamp: &timestamp, signature: &signature };
        // The time is checked with the recipe's tolerance, like any other's.
        let tolerance = std::time::Duration::from_secs(u64::MAX);
        crate::verify(keys, &headers, scope.request.body, now_seconds, tolerance).map_err(|error| match error {
            VerifyError::NoKey => Refusal::NoSecret,
            VerifyError::Id => header("id").malformed("an id without a full stop"),
            VerifyError::Timestamp => header("timestamp").malformed("a whole number in decimal digits"),
            VerifyError::TooOld { by_seconds } => Refusal::TooOld { by_seconds },
            VerifyError::TooNew { by_seconds } => Refusal::TooNew { by_seconds },
            VerifyError::TooManySignatures => Refusal::TooMany { what: "signatures", max: crate::SIGNATURES_MAX },
            VerifyError::NoSignature => header("signature").malformed("a whole `v1,…` or `v1a,…` signature"),
            VerifyError::Mismatch => Refusal::Mismatch,
        })?;
        Ok(None)
    }

    /// All that must hold besides the proof. When it was signed.
    fn check(&self, scope: &Scope<'_>, now_seconds: i64) -> Result<Option<i64>, Refusal> {
        if let Some(field) = &self.body_sha256 {
            let given = field.required(scope)?.to_ascii_lowercase();
            if !bool::from(given.as_bytes().ct_eq(hex(&sha256(&[scope.request.body])).as_bytes())) {
                return Err(Refusal::BodyDigest { field: field.to_string() });
            }
        }
        for (field, wanted) in &self.expect {
            if !bool::from(field.required(scope)?.as_bytes().ct_eq(wanted.as_bytes())) {
                return Err(Refusal::Unexpected { field: field.to_string() });
            }
        }
        let Some(time) = &self.time else { return Ok(None) };
        time.check(&time.field.required(scope)?, now_seconds).map(Some)
    }

    fn place(&self) -> Result<&SignaturePlace, Refusal> {
        self.place.as_ref().ok_or(Refusal::NoWay)
    }
}

/// Whether one of the texts is one of the secrets. Their lengths are no secret.
fn expect_any(secrets: &[Zeroizing<Vec<u8>>], texts: &[Cow<'_, str>], field: &Field) -> Result<(), Refusal> {
    let is_one = |text: &Cow<'_, str>| {
        secrets.iter().fold(Choice::from(0), |fits, secret| fits | secret.as_slice().ct_eq(text.as_bytes()))
    };
    let fits = texts.iter().map(is_one).fold(Choice::from(0), |all, one| all | one);
    if fits.into() { Ok(()) } else { Err(Refusal::Unexpected { field: field.to_string() }) }
}

/// RFC 7617. The password may hold colons; the whole `user:password` is compared at once.
fn check_basic(secrets: &[Zeroizing<Vec<u8>>], texts: &[Cow<'_, str>], field: &Field) -> Result<(), Refusal> {
    let decoded = texts.iter().filter_map(|text| super::recipe::Encoding::Base64.decode(text)).map(Zeroizing::new);
    let decoded: Vec<Zeroizing<Vec<u8>>> = decoded.collect();
    let fits = decoded.iter().fold(Choice::from(0), |fits, text| {
        secrets.iter().fold(fits, |fits, secret| fits | secret.as_slice().ct_eq(text.as_slice()))
    });
    if fits.into() { Ok(()) } else { Err(Refusal::Unexpected { field: field.to_string() }) }
}

impl fmt::Debug for Supplied {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Supplied({} secrets, {} settings, redacted)", self.secrets.len(), self.settings.len())
    }
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Verifier({} ways, redacted)", self.ways.len())
    }
}
