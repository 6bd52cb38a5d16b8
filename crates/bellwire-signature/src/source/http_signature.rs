//! HTTP Message Signatures (RFC 9421) of requests, and the Content-Digest (RFC 9530) that ties the body to them.
//!
//! Components with parameters other than `@query-param`'s name (`sf`, `bs`, `key`, `req`, `tr`) are refused: nobody signs
//! webhooks with them, and what is not understood must not be taken for verified.

use std::fmt::Write as _;

use subtle::ConstantTimeEq;

use super::{
    field::Scope,
    mac::{MacKey, any_is, sha256, sha512},
    place::SIGNATURES_MAX,
    public_key::{PublicKey, SignatureAlgorithm},
    refusal::Refusal,
    structured::{Bare, InnerList, Member, dictionary},
};

const INPUT: &str = "signature-input";
const SIGNATURE: &str = "signature";
const DIGEST: &str = "content-digest";

/// What signatures are verified with.
#[derive(Clone)]
pub(crate) enum HttpKeys {
    Hmac(Vec<MacKey>),
    Public(Vec<PublicKey>),
}

/// The parameters of a signature that fits, as JSON. `components` must be covered by it.
pub(crate) fn verify(
    scope: &Scope<'_>,
    keys: &HttpKeys,
    components: &[String],
    now_seconds: i64,
) -> Result<Vec<u8>, Refusal> {
    let inputs = members(scope, INPUT)?;
    let signatures = members(scope, SIGNATURE)?;
    let mut refusal =
        Refusal::Malformed { field: format!("header:{SIGNATURE}"), wanted: "that of a signature's input" };
    for (label, input) in &inputs {
        let Member::InnerList(input) = input else { continue };
        let Some((_, Member::Item(Bare::Bytes(signature)))) = signatures.iter().find(|(other, _)| other == label)
        else {
            continue;
        };
        match verify_one(scope, keys, components, input, signature, now_seconds) {
            Ok(()) => return Ok(parameters(input)),
            Err(found) => refusal = found,
        }
    }
    Err(refusal)
}

fn verify_one(
    scope: &Scope<'_>,
    keys: &HttpKeys,
    components: &[String],
    input: &InnerList<'_>,
    signature: &[u8],
    now_seconds: i64,
) -> Result<(), Refusal> {
    let covers = |component: &str| input.items.iter().any(|(name, _)| name == component);
    if let Some(component) = components.iter().find(|component| !covers(component)) {
        return Err(Refusal::NotCovered { component: component.clone() });
    }
    let base = signature_base(scope, input)?;
    let algorithm = match input.parameter("alg") {
        Some(Bare::String(name)) => Some(name.as_str()),
        Some(_) => return Err(malformed(INPUT, "one whose `alg` is a string")),
        None => None,
    };
    let fits = match keys {
        HttpKeys::Hmac(keys) => {
            if algorithm.is_some_and(|name| name != "hmac-sha256") {
                return Err(malformed(INPUT, "one of the recipe's algorithm"));
            }
            let fits = |key: &MacKey| any_is(&key.mac(&[&base]), &[signature.to_vec()]);
            keys.iter().map(fits).fold(subtle::Choice::from(0), |all, one| all | one).into()
        }
        HttpKeys::Public(keys) => {
            let named = algorithm.map(algorithm_named).transpose()?;
            keys.iter().any(|key| {
                let algorithm = named.unwrap_or_else(|| usual_algorithm(key));
                key.makes(algorithm) && key.is_signed(algorithm, &[&base], signature)
            })
        }
    };
    if !fits {
        return Err(Refusal::Mismatch);
    }
    if let Some(Bare::Integer(expires)) = input.parameter("expires")
        && now_seconds > *expires
    {
        return Err(Refusal::TooOld { by_seconds: now_seconds.abs_diff(*expires) });
    }
    if covers(DIGEST) { check_digest(scope) } else { Ok(()) }
}

/// What a signature with this input signs.
pub(crate) fn base_of(scope: &Scope<'_>, input: &str) -> Result<String, Refusal> {
    let text = format!("sig={input}");
    match dictionary(&text).unwrap_or_default().as_slice() {
        [(_, Member::InnerList(input))] => signature_base(scope, input),
        _ => Err(malformed(INPUT, "a dictionary of RFC 9651")),
    }
}

/// RFC 9421 §2.5.
fn signature_base(scope: &Scope<'_>, input: &InnerList<'_>) -> Result<String, Refusal> {
    let mut base = String::new();
    for (at, (name, parameters)) in input.items.iter().enumerate() {
        if input.items[..at].contains(&(name.clone(), parameters.clone())) {
            return Err(malformed(INPUT, "one that names each component once"));
        }
        let value = component(scope, name, parameters)?;
        if value.contains(['\n', '\r']) {
            return Err(malformed(name, "on one line"));
        }
        let _ = write!(base, "\"{name}\"");
        if let [(parameter, Bare::String(text))] = parameters.as_slice() {
            let _ = write!(base, ";{parameter}=\"{text}\"");
        }
        let _ = writeln!(base, ": {value}");
    }
    let _ = write!(base, "\"@signature-params\": {}", input.text);
    Ok(base)
}

/// RFC 9421 §2.1 and §2.2.
fn component(scope: &Scope<'_>, name: &str, parameters: &[(String, Bare)]) -> Result<String, Refusal> {
    let url = scope.url();
    let (scheme, rest) = url.split_once("://").unwrap_or(("", &url));
    let (authority, target) = rest.find(['/', '?']).map_or((rest, ""), |at| rest.split_at(at));
    let (path, query) = target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
    let path = if path.is_empty() { "/" } else { path };
    match (name, parameters) {
        ("@query-param", [(parameter, Bare::String(wanted))]) if parameter == "name" => {
            let mut values = form_urlencoded::parse(query.unwrap_or("").as_bytes())
                .filter(|(other, _)| percent_encoded(other) == *wanted)
                .map(|(_, value)| percent_encoded(&value));
            let value = values.next().ok_or_else(|| Refusal::Missing { field: format!("query:{wanted}") })?;
            match values.next() {
                None => Ok(value),
                Some(_) => Err(Refusal::Ambiguous { field: format!("query:{wanted}") }),
            }
        }
        (_, [_, ..]) => Err(malformed(INPUT, "one without component parameters")),
        ("@method", _) => Ok(scope.request.method.to_owned()),
        ("@target-uri", _) => Ok(url.into_owned()),
        ("@scheme", _) => Ok(scheme.to_ascii_lowercase()),
        ("@authority", _) => {
            let authority = authority.to_ascii_lowercase();
            let default = if scheme.eq_ignore_ascii_case("http") { ":80" } else { ":443" };
            Ok(authority.strip_suffix(default).unwrap_or(&authority).to_owned())
        }
        ("@path", _) => Ok(path.to_owned()),
        ("@query", _) => Ok(format!("?{}", query.unwrap_or(""))),
        ("@request-target", _) => Ok(query.map_or_else(|| path.to_owned(), |query| format!("{path}?{query}"))),
        (derived, _) if derived.starts_with('@') => Err(malformed(INPUT, "one of components that are known")),
        (header, _) => {
            let values: Vec<&str> = scope
                .request
                .header_values(header)
                .map(|value| std::str::from_utf8(value).map(str::trim))
                .collect::<Result<_, _>>()
                .map_err(|_| malformed(header, "UTF-8"))?;
            if values.is_empty() {
                return Err(Refusal::Missing { field: format!("header:{header}") });
            }
            Ok(values.join(", "))
        }
    }
}

/// RFC 9530 §2. Every digest whose algorithm we know must be the body's, and there must be one.
fn check_digest(scope: &Scope<'_>) -> Result<(), Refusal> {
    let mut known = 0;
    for (algorithm, value) in members(scope, DIGEST)? {
        let digest: Vec<u8> = match algorithm.as_str() {
            "sha-256" => sha256(&[scope.request.body]).to_vec(),
            "sha-512" => sha512(scope.request.body).to_vec(),
            _ => continue,
        };
        let is_it = matches!(value, Member::Item(Bare::Bytes(given)) if bool::from(given.ct_eq(&digest)));
        if !is_it {
            return Err(Refusal::BodyDigest { field: format!("header:{DIGEST}") });
        }
        known += 1;
    }
    if known > 0 { Ok(()) } else { Err(malformed(DIGEST, "one with sha-256 or sha-512")) }
}

/// A header as a dictionary; several of one name are one (RFC 9651 §4.2).
fn members<'a>(scope: &Scope<'a>, header: &str) -> Result<Vec<(String, Member<'a>)>, Refusal> {
    let mut all = Vec::new();
    let mut is_there = false;
    for value in scope.request.header_values(header) {
        is_there = true;
        let text = std::str::from_utf8(value).map_err(|_| malformed(header, "UTF-8"))?;
        all.extend(dictionary(text).ok_or_else(|| malformed(header, "a dictionary of RFC 9651"))?);
    }
    if !is_there {
        return Err(Refusal::Missing { field: format!("header:{header}") });
    }
    if all.len() > SIGNATURES_MAX {
        return Err(Refusal::TooMany { what: "signatures", max: SIGNATURES_MAX });
    }
    let is_twice = |(at, (name, _)): (usize, &(String, Member<'_>))| all[..at].iter().any(|(other, _)| other == name);
    if all.iter().enumerate().any(is_twice) {
        return Err(Refusal::Ambiguous { field: format!("header:{header}") });
    }
    Ok(all)
}

fn algorithm_named(name: &str) -> Result<SignatureAlgorithm, Refusal> {
    match name {
        "ed25519" => Ok(SignatureAlgorithm::Ed25519),
        "ecdsa-p256-sha256" => Ok(SignatureAlgorithm::EcdsaP256Fixed),
        "ecdsa-p384-sha384" => Ok(SignatureAlgorithm::EcdsaP384Fixed),
        "rsa-v1_5-sha256" => Ok(SignatureAlgorithm::RsaSha256),
        "rsa-pss-sha512" => Ok(SignatureAlgorithm::RsaPssSha512),
        _ => Err(malformed(INPUT, "one of an algorithm for public keys")),
    }
}

fn usual_algorithm(key: &PublicKey) -> SignatureAlgorithm {
    match key {
        PublicKey::Ed25519(_) => SignatureAlgorithm::Ed25519,
        PublicKey::P256(_) => SignatureAlgorithm::EcdsaP256Fixed,
        PublicKey::P384(_) => SignatureAlgorithm::EcdsaP384Fixed,
        PublicKey::Rsa(_) => SignatureAlgorithm::RsaPssSha512,
    }
}

fn parameters(input: &InnerList<'_>) -> Vec<u8> {
    let members: serde_json::Map<String, serde_json::Value> = input
        .parameters
        .iter()
        .filter_map(|(name, value)| match value {
            Bare::String(text) => Some((name.clone(), text.clone().into())),
            Bare::Integer(number) => Some((name.clone(), (*number).into())),
            Bare::Bytes(_) | Bare::Other => None,
        })
        .collect();
    serde_json::Value::from(members).to_string().into_bytes()
}

/// RFC 9421 §2.2.8: the characters of a URL's unreserved set stand, all others are escaped.
fn percent_encoded(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~*".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn malformed(header: &str, wanted: &'static str) -> Refusal {
    Refusal::Malformed { field: format!("header:{header}"), wanted }
}
