//! Makes up a request as the sender would: for samples, for trying out a source, and for tests of what verifies it.

use std::borrow::Cow;

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

use super::{
    fetched::Keys,
    field::{Field, Scope},
    http_signature::{self, HttpKeys},
    jwt::JwtKeys,
    mac::{hex, sha256},
    place::SignaturePlace,
    recipe::Encoding,
    refusal::Refusal,
    request::ReceivedRequest,
    verifier::{Scheme, Verifier, Way},
};
use crate::scheme::standard_webhooks::signed_content;

/// A request that is to be signed, and then one that is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sample {
    /// In capitals.
    pub method: String,
    /// The whole URL, as the sender knows it.
    pub url: String,
    /// What the recipe signs and is not there is added.
    pub headers: Vec<(String, String)>,
    /// Where the signature stands in a JSON body, or the time does, it is put in.
    pub body: Vec<u8>,
}

/// Why a request cannot be signed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SampleError {
    /// Only the sender has the key.
    #[error("only the sender has the key that signs")]
    NotOurs,
    /// There is no secret.
    #[error("the source has no secret to sign with")]
    NoSecret,
    /// What the recipe wants in the body is not there, or something else is in its place.
    #[error("the body has no place for {field}")]
    Body {
        /// As recipes write it.
        field: String,
    },
    /// Signed, it would still be refused.
    #[error("it would be refused: {0}")]
    Refused(Refusal),
}

/// Makes a signature with a key that is not ours.
pub type Signs<'s> = &'s dyn Fn(&[u8]) -> Vec<u8>;

impl Verifier {
    /// The request as the sender would sign it now, with the newest secret. `id` stands wherever the sender has an id of
    /// its own in a header.
    ///
    /// # Errors
    /// [`SampleError`]; above all, of senders with a private key there is no sample.
    pub fn sign(&self, sample: &Sample, id: &str, now_seconds: i64) -> Result<Sample, SampleError> {
        self.sign_with(sample, id, now_seconds, None, &super::NoKeys)
    }

    /// The same with a private key that `signs` knows; `keys` has its public half, if the sender publishes it.
    ///
    /// # Errors
    /// [`SampleError`].
    pub fn sign_with(
        &self,
        sample: &Sample,
        id: &str,
        now_seconds: i64,
        signs: Option<Signs<'_>>,
        keys: &dyn Keys,
    ) -> Result<Sample, SampleError> {
        let url = with_request(sample, |request| self.url_of(request).map_or_else(|| request.url(), Cow::into_owned));
        let sample = &Sample { url, ..sample.clone() };
        let is_meant = |way: &Way| match (&way.when, &way.place) {
            (Some(when), Some(place)) if when.field == place.field => true,
            (Some(when), _) => with_scope(sample, |scope| when.field.text(scope).is_ok_and(|text| text.is_some())),
            (None, _) => true,
        };
        let (meant, other): (Vec<&Way>, Vec<&Way>) = self.ways.iter().partition(|way| is_meant(way));
        let mut error = SampleError::NotOurs;
        for way in meant.into_iter().chain(other) {
            let draft = Draft { sample: sample.clone(), way, id, now_seconds, signs };
            let signed = match draft.sign(self) {
                Ok(signed) => signed,
                Err(found) => {
                    error = found;
                    continue;
                }
            };
            match with_request(&signed, |request| self.verify(request, now_seconds, keys)) {
                Ok(_) => return Ok(signed),
                Err(refusal) => error = SampleError::Refused(refusal),
            }
        }
        Err(error)
    }
}

/// A request on its way to being signed.
struct Draft<'d> {
    sample: Sample,
    way: &'d Way,
    id: &'d str,
    now_seconds: i64,
    signs: Option<Signs<'d>>,
}

impl Draft<'_> {
    fn sign(mut self, verifier: &Verifier) -> Result<Sample, SampleError> {
        let way = self.way;
        let time = way.time.as_ref().map(|time| (time, time.text(self.now_seconds)));
        if let Some((time, text)) = &time {
            self.put(&time.field, text)?;
        }
        for header in verifier.identity.dedupe_headers() {
            self.put_if_absent(&Field::Header(header.to_owned()), self.id)?;
        }
        for (field, wanted) in &way.expect {
            self.put_if_absent(field, wanted)?;
        }
        if let Some(field) = &way.body_sha256 {
            let digest = hex(&sha256(&[&self.sample.body]));
            self.put(field, &digest)?;
        }
        let timestamp = time.map_or(String::new(), |(_, text)| text);
        match &way.scheme {
            Scheme::None => {}
            Scheme::Standard { keys, prefix } => {
                let key = keys.first().ok_or(SampleError::NoSecret)?;
                let crate::secret::Proof::Hmac(key) = key.proof() else { return Err(SampleError::NotOurs) };
                self.put_if_absent(&Field::Header(format!("{prefix}id")), self.id)?;
                let mac = key.mac(&signed_content(self.id, &timestamp, &self.sample.body));
                let text = format!("v1,{}", Encoding::Base64.encode(&mac));
                self.put(&Field::Header(format!("{prefix}signature")), &text)?;
            }
            Scheme::Jwt(keys) => self.sign_jwt(keys)?,
            Scheme::HttpSignature { keys, components } => self.sign_http(keys, components)?,
            Scheme::Token(secrets) | Scheme::Basic(secrets) => {
                let secret = secrets.first().ok_or(SampleError::NoSecret)?;
                let text = match &way.scheme {
                    Scheme::Basic(_) => Encoding::Base64.encode(secret),
                    _ => String::from_utf8_lossy(secret).into_owned(),
                };
                self.place_all(|_| Ok(text.clone()), &timestamp)?;
            }
            Scheme::Mac { signed, .. }
            | Scheme::Digest { signed, .. }
            | Scheme::Public { signed, .. }
            | Scheme::Certificate { signed, .. } => {
                for field in signed.fields() {
                    let is_time = matches!(field, Field::Header(name) if name.to_ascii_lowercase().contains("time"));
                    let text = if is_time { self.now_seconds.to_string() } else { self.id.to_owned() };
                    if matches!(field, Field::Header(_)) {
                        self.put_if_absent(field, &text)?;
                    }
                }
                if let Some((names, must)) = signed.signed_headers() {
                    self.put_if_absent(names, &must.join(","))?;
                }
                let (scheme, signs, stamp) = (&way.scheme, self.signs, timestamp.clone());
                let encoding = way.place.as_ref().map_or(Encoding::Hex, |place| place.encoding);
                let make = |scope: &Scope<'_>| {
                    let render = |secret: &[u8]| {
                        let parts = signed.render(scope, &stamp, secret).map_err(SampleError::Refused)?;
                        Ok::<Vec<u8>, SampleError>(parts.concat())
                    };
                    let bytes = match scheme {
                        Scheme::Mac { keys, .. } => keys.first().ok_or(SampleError::NoSecret)?.mac(&[render(b"")?]),
                        Scheme::Digest { secrets, .. } => {
                            sha256(&[render(secrets.first().ok_or(SampleError::NoSecret)?)?]).to_vec()
                        }
                        _ => signs.ok_or(SampleError::NotOurs)?(&render(b"")?),
                    };
                    Ok(encoding.encode(&bytes))
                };
                self.place_all(make, &timestamp)?;
            }
        }
        Ok(self.sample)
    }

    /// Puts the signature, or each item's own, where it stands.
    fn place_all(
        &mut self,
        make: impl Fn(&Scope<'_>) -> Result<String, SampleError>,
        timestamp: &str,
    ) -> Result<(), SampleError> {
        let way = self.way;
        let place = way.place.as_ref().ok_or(SampleError::NotOurs)?;
        let Some(each) = &way.each else {
            let text = with_scope(&self.sample, &make)?;
            let text = self.entry_text(place, timestamp, &text);
            return self.put(&place.field, &text);
        };
        let wrong = || SampleError::Body { field: format!("json:{}", each.as_text()) };
        let mut body: Value = serde_json::from_slice(&self.sample.body).map_err(|_| wrong())?;
        for path in each.expanded(&body) {
            let Field::Json(inner) = &place.field else { return Err(wrong()) };
            let item =
                path.find(&self.sample.body).ok().and_then(|found| found.first().map(|raw| raw.get().to_owned()));
            let item = item.ok_or_else(wrong)?;
            let text = with_scope(&self.sample, |scope| make(&Scope { json: item.as_bytes(), ..*scope }))?;
            if !inner.below(&path).set(&mut body, text.into()) {
                return Err(wrong());
            }
        }
        self.sample.body = body.to_string().into_bytes();
        Ok(())
    }

    /// The whole value that holds a signature: with its prefix, and in its list.
    fn entry_text(&self, place: &SignaturePlace, timestamp: &str, signature: &str) -> String {
        let signature = format!("{}{signature}", place.prefix);
        let Some(separator) = place.separator else { return signature };
        let time = self.way.time.as_ref().and_then(|time| match &time.field {
            Field::Entry(name) => Some(format!("{name}={timestamp}{separator}")),
            _ => None,
        });
        let entry = place.entry.as_ref().map_or(String::new(), |entry| format!("{entry}="));
        format!("{}{entry}{signature}", time.unwrap_or_default())
    }

    fn sign_jwt(&mut self, keys: &JwtKeys) -> Result<(), SampleError> {
        let mut claims = json!({ "iat": self.now_seconds });
        for (field, wanted) in &self.way.expect {
            if let Field::Claim(path) = field {
                path.set(&mut claims, wanted.clone().into());
            }
        }
        if let Some(Field::Claim(path)) = &self.way.body_sha256 {
            path.set(&mut claims, hex(&sha256(&[&self.sample.body])).into());
        }
        let algorithm = if matches!(keys, JwtKeys::Hs256(_)) { "HS256" } else { "ES256" };
        let header = json!({ "alg": algorithm, "typ": "JWT", "kid": self.id });
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(&claims));
        let signature = match keys {
            JwtKeys::Hs256(keys) => keys.first().ok_or(SampleError::NoSecret)?.mac(&[&signed]),
            _ => self.signs.ok_or(SampleError::NotOurs)?(signed.as_bytes()),
        };
        let token = format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature));
        self.place_all(|_| Ok(token.clone()), "")
    }

    fn sign_http(&mut self, keys: &HttpKeys, components: &[String]) -> Result<(), SampleError> {
        if components.iter().any(|component| component == "content-digest") {
            let digest = format!("sha-256=:{}:", Encoding::Base64.encode(&sha256(&[&self.sample.body])));
            self.put(&Field::Header("Content-Digest".to_owned()), &digest)?;
        }
        let covered: Vec<String> = components.iter().map(|component| format!("\"{component}\"")).collect();
        let input = format!("({});created={};keyid=\"{}\"", covered.join(" "), self.now_seconds, self.id);
        let base = with_scope(&self.sample, |scope| http_signature::base_of(scope, &input));
        let base = base.map_err(SampleError::Refused)?;
        let signature = match keys {
            HttpKeys::Hmac(keys) => keys.first().ok_or(SampleError::NoSecret)?.mac(&[&base]),
            HttpKeys::Public(_) => self.signs.ok_or(SampleError::NotOurs)?(base.as_bytes()),
        };
        self.put(&Field::Header("Signature-Input".to_owned()), &format!("sig1={input}"))?;
        let signature = format!("sig1=:{}:", Encoding::Base64.encode(&signature));
        self.put(&Field::Header("Signature".to_owned()), &signature)
    }

    fn put_if_absent(&mut self, field: &Field, text: &str) -> Result<(), SampleError> {
        let is_there = with_scope(&self.sample, |scope| field.text(scope).is_ok_and(|text| text.is_some()));
        if is_there { Ok(()) } else { self.put(field, text) }
    }

    /// Claims, parameters and a list's entries are written with the signature.
    fn put(&mut self, field: &Field, text: &str) -> Result<(), SampleError> {
        let sample = &mut self.sample;
        let wrong = || SampleError::Body { field: field.to_string() };
        match field {
            Field::Header(name) => {
                sample.headers.retain(|(other, _)| !other.eq_ignore_ascii_case(name));
                sample.headers.push((name.clone(), text.to_owned()));
            }
            Field::Numbered(prefix) => sample.headers.push((format!("{prefix}1"), text.to_owned())),
            Field::Query(name) => {
                let separator = if sample.url.contains('?') { '&' } else { '?' };
                let pair = form_urlencoded::Serializer::new(String::new()).append_pair(name, text).finish();
                sample.url = format!("{}{separator}{pair}", sample.url);
            }
            Field::Form(name) => {
                let separator: &[u8] = if sample.body.is_empty() { b"" } else { b"&" };
                let pair = form_urlencoded::Serializer::new(String::new()).append_pair(name, text).finish();
                sample.body = [&sample.body, separator, pair.as_bytes()].concat();
            }
            Field::Json(path) => {
                let mut body: Value = serde_json::from_slice(&sample.body).map_err(|_| wrong())?;
                let is_time = self.way.time.as_ref().is_some_and(|time| time.field == *field);
                let value = text.parse::<u64>().ok().filter(|_| is_time).map_or_else(|| text.into(), Value::from);
                if !path.set(&mut body, value) {
                    return Err(wrong());
                }
                sample.body = body.to_string().into_bytes();
            }
            Field::Xml(name) => {
                let body = String::from_utf8_lossy(&sample.body).into_owned();
                sample.body = format!("{body}<{name}>{text}</{name}>").into_bytes();
            }
            Field::Claim(_) | Field::Parameter(_) | Field::Entry(_) => {}
            _ => return Err(wrong()),
        }
        Ok(())
    }
}

fn with_request<T>(sample: &Sample, ask: impl FnOnce(&ReceivedRequest<'_>) -> T) -> T {
    let headers: Vec<(&str, &[u8])> =
        sample.headers.iter().map(|(name, value)| (name.as_str(), value.as_bytes())).collect();
    let (scheme, rest) = sample.url.split_once("://").unwrap_or(("", &sample.url));
    let (host, target) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let path_and_query: Cow<'_, str> = match target.starts_with('/') {
        true => Cow::Borrowed(target),
        false => Cow::Owned(format!("/{target}")),
    };
    ask(&ReceivedRequest {
        method: &sample.method,
        scheme,
        host,
        path_and_query: &path_and_query,
        headers: &headers,
        body: &sample.body,
        body_type: None,
    })
}

fn with_scope<T>(sample: &Sample, ask: impl FnOnce(&Scope<'_>) -> T) -> T {
    with_request(sample, |request| {
        ask(&Scope { request: *request, json: request.body, url: Some(&sample.url), list: None, proven: b"{}" })
    })
}
