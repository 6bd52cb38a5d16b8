//! JSON Web Tokens in compact form (RFC 7515, RFC 7519), as far as webhooks use them: HS256 and ES256.

use std::collections::BTreeMap;

use zeroize::Zeroizing;

use super::{
    fetched::{KeyRequest, Keys},
    json::{Path, text},
    mac::{MacKey, any_is},
    public_key::{PublicKey, SignatureAlgorithm},
    recipe::Encoding,
    refusal::Refusal,
};

/// A token has at most so many bytes.
const TOKEN_BYTES_MAX: usize = 16 * 1024;

/// `exp` and `nbf` are read with clocks in mind that are off by so much.
const LEEWAY_SECONDS: i64 = 60;

/// What a token is verified with.
#[derive(Clone)]
pub(crate) enum JwtKeys {
    Hs256(Vec<MacKey>),
    Es256(Vec<PublicKey>),
    Es256Fetched(KeySet),
}

/// So many keys of a set are tried for a token that does not say which.
const KEYS_TRIED_MAX: usize = 16;

/// Where keys are fetched: each by its id, or all at once.
#[derive(Clone)]
pub(crate) struct KeySet {
    /// With `{kid}` in it, or in what is posted, if each is fetched by its id.
    pub(crate) url: String,
    /// See there.
    pub(crate) post: BTreeMap<String, Zeroizing<String>>,
    pub(crate) path: Option<Path>,
}

/// The claims of a token, as JSON, if one of our keys has signed it.
pub(crate) fn verify(token: &str, keys: &JwtKeys, now_seconds: i64, fetched: &dyn Keys) -> Result<Vec<u8>, Refusal> {
    let malformed = || Refusal::Malformed { field: "the token".to_owned(), wanted: "a JWT of three parts" };
    if token.len() > TOKEN_BYTES_MAX {
        return Err(malformed());
    }
    let (signed, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
    let (header, claims) = signed.split_once('.').ok_or_else(malformed)?;
    let decode = |text: &str| base64url(text).ok_or_else(malformed);
    let (header, claims, signature) = (decode(header)?, decode(claims)?, decode(signature)?);
    let wanted = match keys {
        JwtKeys::Hs256(_) => "HS256",
        JwtKeys::Es256(_) | JwtKeys::Es256Fetched(_) => "ES256",
    };
    // The algorithm is ours to choose, never the token's.
    if member(&header, "alg").as_deref() != Some(wanted) || is_there(&header, "crit") {
        return Err(Refusal::Malformed { field: "the token's header".to_owned(), wanted: "of the recipe's algorithm" });
    }
    let es256 = |keys: &[PublicKey]| {
        keys.iter().any(|key| key.is_signed(SignatureAlgorithm::EcdsaP256Fixed, &[signed], &signature))
    };
    let fits = match keys {
        JwtKeys::Hs256(keys) => {
            let fits = |key: &MacKey| any_is(&key.mac(&[signed]), std::slice::from_ref(&signature));
            keys.iter().map(fits).fold(subtle::Choice::from(0), |all, one| all | one).into()
        }
        JwtKeys::Es256(keys) => es256(keys),
        JwtKeys::Es256Fetched(set) => es256(&set.keys(member(&header, "kid").as_deref(), fetched)?),
    };
    if !fits {
        return Err(Refusal::Mismatch);
    }
    check_lifetime(&claims, now_seconds)?;
    Ok(claims)
}

impl KeySet {
    /// The keys that may have signed a token with this `kid`.
    fn keys(&self, kid: Option<&str>, fetched: &dyn Keys) -> Result<Vec<PublicKey>, Refusal> {
        let is_id = |kid: &str| {
            (1..=128).contains(&kid.len()) && kid.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b))
        };
        if !kid.map_or(!self.is_asked_by_id(), is_id) {
            let field = "the token's header".to_owned();
            return Err(Refusal::Malformed { field, wanted: "one with the id of a key" });
        }
        let request = self.request(kid.unwrap_or_default());
        let Some(answer) = fetched.fetched(&request) else { return Err(Refusal::NeedsKey(request)) };
        self.read(&answer, kid).map_err(|text| Refusal::Key { text: text.to_owned() })
    }

    fn is_asked_by_id(&self) -> bool {
        let posted = self.post.values().any(|value| value.contains("{kid}"));
        posted || self.url.contains("{kid}")
    }

    fn request(&self, kid: &str) -> KeyRequest {
        let post = (!self.post.is_empty()).then(|| {
            let members: serde_json::Map<String, serde_json::Value> =
                self.post.iter().map(|(name, value)| (name.clone(), value.replace("{kid}", kid).into())).collect();
            Zeroizing::new(serde_json::Value::from(members).to_string())
        });
        KeyRequest { url: self.url.replace("{kid}", kid), post, certificate: false }
    }

    fn read(&self, answer: &[u8], kid: Option<&str>) -> Result<Vec<PublicKey>, &'static str> {
        const NOT_FOUND: &str = "the answer holds no such key";
        let all = Path::parse("*").ok_or(NOT_FOUND)?;
        let root: &serde_json::value::RawValue = serde_json::from_slice(answer).map_err(|_| "it is not JSON")?;
        let found = match &self.path {
            Some(path) => path.find(answer).map_err(|_| "it is not JSON")?.first().copied().ok_or(NOT_FOUND)?,
            None => root,
        };
        let candidates = if found.get().starts_with('[') {
            all.find(found.get().as_bytes()).map_err(|_| "it has too many keys")?
        } else {
            vec![found]
        };
        // Of a whole set, a key without an id may be that of any token.
        let is_it = |key: &str| match (kid, member(key.as_bytes(), "kid").as_deref()) {
            (Some(kid), Some(own)) => own == kid,
            (Some(_), None) => !self.is_asked_by_id(),
            (None, _) => true,
        };
        let (mut usable, mut fault) = (Vec::new(), NOT_FOUND);
        for key in candidates.into_iter().filter(|key| is_it(key.get())) {
            match public_key(key.get().as_bytes()) {
                // What is for other algorithms or uses is none of them, and takes no place.
                Ok(key) if usable.len() < KEYS_TRIED_MAX => usable.push(key),
                Ok(_) => break,
                Err(text) => fault = text,
            }
        }
        if usable.is_empty() { Err(fault) } else { Ok(usable) }
    }
}

fn public_key(key: &[u8]) -> Result<PublicKey, &'static str> {
    if member(key, "kty").as_deref() != Some("EC") || member(key, "crv").as_deref() != Some("P-256") {
        return Err("it is not a key on P-256");
    }
    // RFC 7517 §4.2 and §4.4: both may be left out.
    if member(key, "use").is_some_and(|used| used != "sig") || member(key, "alg").is_some_and(|alg| alg != "ES256") {
        return Err("it is not for signatures by ES256");
    }
    if member(key, "expired_at").is_some() {
        return Err("the sender has retired it");
    }
    let coordinate = |name| member(key, name).and_then(|text| base64url(&text)).ok_or("it lacks its coordinates");
    PublicKey::from_p256_coordinates(&coordinate("x")?, &coordinate("y")?).ok_or("its coordinates have no 32 bytes")
}

fn check_lifetime(claims: &[u8], now_seconds: i64) -> Result<(), Refusal> {
    let time = |name: &str| {
        let Some(text) = member(claims, name) else { return Ok(None) };
        let whole = text.split_once('.').map_or(&*text, |(whole, _)| whole);
        whole
            .parse::<i64>()
            .map(Some)
            .map_err(|_| Refusal::Malformed { field: format!("claim:{name}"), wanted: "a number of seconds" })
    };
    if let Some(end) = time("exp")?.filter(|end| now_seconds > end.saturating_add(LEEWAY_SECONDS)) {
        return Err(Refusal::TooOld { by_seconds: now_seconds.abs_diff(end) });
    }
    if let Some(begin) = time("nbf")?.filter(|begin| now_seconds < begin.saturating_sub(LEEWAY_SECONDS)) {
        return Err(Refusal::TooNew { by_seconds: now_seconds.abs_diff(begin) });
    }
    Ok(())
}

fn member(json: &[u8], name: &str) -> Option<String> {
    let path = Path::parse(name)?;
    path.find(json).ok()?.first().and_then(|value| text(value)).map(std::borrow::Cow::into_owned)
}

fn is_there(json: &[u8], name: &str) -> bool {
    Path::parse(name).is_none_or(|path| path.find(json).map_or(true, |values| !values.is_empty()))
}

fn base64url(text: &str) -> Option<Vec<u8>> {
    // RFC 7515 §2: without padding. Longer than a signature may be.
    use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
    if text.len() <= 256 { Encoding::Base64Url.decode(text) } else { BASE64_URL_SAFE_NO_PAD.decode(text).ok() }
}
