//! Rules of the kind that adnanh's `webhook` has: a tree of conditions that decides whether a request is let in.
//!
//! A condition compares a value, matches a pattern, checks an HMAC of the body, or asks who sends. What a request lacks makes its
//! condition false, wherever it stands; a signature that is wrong or missing refuses the request, unless another branch of an
//! `or` holds, so that several secrets can be tried. Signatures are checked over the raw body, whatever its content type is.
//!
//! Pure: the time and the parsed body come in as arguments. Made once for a source, asked for every request.

use super::request::ReceivedRequest;
use bellwire_body::{Kind, Value};
use hmac::{Hmac, KeyInit, Mac};
use ipnet::IpNet;
use regex::{Regex, RegexBuilder};
use serde::{Deserialize, Serialize};
use serde_json::Value as Json;
use sha1::Sha1;
use sha2::{Sha256, Sha512};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use subtle::ConstantTimeEq;

const DEPTH_MAX: usize = 32;
const CONDITIONS_MAX: usize = 256;
/// A pattern's program is no larger.
const PATTERN_BYTES_MAX: usize = 1 << 20;
/// How far a Scalr request's date may be from now.
const SCALR_TOLERANCE_SECONDS: i64 = 300;
/// A list holds no more signatures.
const SIGNATURES_MAX: usize = 32;

/// A rule as it is written: exactly one member.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// All must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub and: Option<Vec<Rule>>,
    /// One must hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub or: Option<Vec<Rule>>,
    /// It must not hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub not: Option<Box<Rule>>,
    /// A condition.
    #[serde(rename = "match", skip_serializing_if = "Option::is_none")]
    pub condition: Option<Condition>,
}

/// A condition as it is written.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default, rename_all = "kebab-case")]
pub struct Condition {
    /// `value`, `regex`, `payload-hmac-sha1`, `-sha256`, `-sha512`, `ip-whitelist` or `scalr-signature`.
    pub r#type: String,
    /// What the parameter must be, for `value`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
    /// What it must match, for `regex`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub regex: Option<String>,
    /// The key, for signatures.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub secret: Option<String>,
    /// Networks, with spaces between, for `ip-whitelist`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ip_range: Option<String>,
    /// What is looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub parameter: Option<Parameter>,
}

/// Names a part of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Parameter {
    /// `header`, `query` (or `url`), `payload`, `request`, `string`, `raw-request-body`, `entire-payload`, `entire-headers` or `entire-query`.
    pub source: String,
    /// Which one; for `string`, the text itself.
    pub name: String,
    /// It is a text of JSON, and this part of that is looked at: a path with dots; all of it if empty. A text that is no JSON has no parts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub json: Option<String>,
}

/// A request, as far as rules look at it.
#[derive(Clone, Copy, Debug)]
pub struct RuleRequest<'a> {
    /// In capitals.
    pub method: &'a str,
    /// In the order received.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// Without its question mark.
    pub query: &'a str,
    /// The exact bytes.
    pub body: &'a [u8],
    /// The body as a tree; `None` if it cannot be read as one.
    pub payload: Option<&'a Value>,
    /// Who sent it, if that is known.
    pub remote: Option<IpAddr>,
}

/// What rules say of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// They hold.
    Satisfied,
    /// They do not hold.
    Unsatisfied,
    /// A signature is wrong or missing; the reason is for the operator, not for the sender.
    Refused(String),
}

/// What is wrong with a rule: where it stands, and why it cannot be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{path}: {text}")]
pub struct RuleFault {
    /// Such as `and[1].match.regex`.
    pub path: String,
    /// A clause.
    pub text: String,
}

/// Rules, ready to be asked. `Debug` shows no secret.
#[derive(Clone)]
pub struct Rules(Node);

#[derive(Clone)]
enum Node {
    And(Vec<Node>),
    Or(Vec<Node>),
    Not(Box<Node>),
    Value(Parameter, String),
    Pattern(Parameter, Regex),
    Signature(Parameter, Digest, Vec<u8>),
    Networks(Vec<IpNet>),
    Scalr(Vec<u8>),
    Never,
}

#[derive(Clone, Copy)]
enum Digest {
    Sha1,
    Sha256,
    Sha512,
}

impl Rule {
    /// Puts settings in the place of `{setting:name}`.
    ///
    /// # Errors
    /// The name of a setting that is not there.
    pub(super) fn fill(&mut self, settings: &BTreeMap<String, String>) -> Result<(), String> {
        let inner = self.and.iter_mut().flatten().chain(self.or.iter_mut().flatten());
        for rule in inner.chain(self.not.as_deref_mut()) {
            rule.fill(settings)?;
        }
        let Some(condition) = &mut self.condition else { return Ok(()) };
        for text in [&mut condition.secret, &mut condition.value].into_iter().flatten() {
            if let Some(name) = text.strip_prefix("{setting:").and_then(|rest| rest.strip_suffix('}')) {
                *text = settings.get(name).cloned().ok_or_else(|| name.to_owned())?;
            }
        }
        Ok(())
    }
}

/// The body as a tree with numbers as they are written, if its content type says how to read it: JSON, a form, multipart or XML.
/// Of a list, `root` is the list; of a name that a form has several times, the first value counts. As adnanh's has it.
pub(super) fn payload(request: &ReceivedRequest<'_>) -> Option<Value> {
    let content_type = request.content_type();
    let kind = Kind::of(content_type);
    if kind == Kind::Other && !says_json(content_type) {
        return None;
    }
    let mut value = Value::parse_as_written(&bellwire_body::json(content_type, request.body)?)?;
    match &mut value {
        Value::Array(_) => return Some(Value::Object([("root".to_owned(), value)].into_iter().collect())),
        Value::Object(members) if kind == Kind::Form => {
            for member in members.values_mut() {
                if let Value::Array(values) = member
                    && !values.is_empty()
                {
                    *member = values.swap_remove(0);
                }
            }
        }
        _ => {}
    }
    Some(value)
}

/// Whether the body, of which this is the tree, is no JSON although its content type says so. No body at all claims nothing.
pub(super) fn is_broken_json(request: &ReceivedRequest<'_>, payload: Option<&Value>) -> bool {
    let content_type = request.content_type();
    let claims = || Kind::of(content_type) == Kind::Other && says_json(content_type);
    payload.is_none() && claims() && !request.body.trim_ascii().is_empty()
}

fn says_json(content_type: &str) -> bool {
    content_type.to_ascii_lowercase().contains("json")
}

impl fmt::Debug for Rules {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Rules(…)")
    }
}

impl Rules {
    /// Makes a rule ready. A rule without a member never holds, as with adnanh's.
    ///
    /// # Errors
    /// All that cannot be used.
    pub fn new(rule: &Rule) -> Result<Rules, Vec<RuleFault>> {
        let mut reader = Reader { faults: Vec::new(), conditions: 0 };
        let node = reader.node(rule, "", 0);
        if reader.faults.is_empty() { Ok(Rules(node)) } else { Err(reader.faults) }
    }

    /// Whether `request` is let in at `now_seconds`, in Unix time.
    pub fn verdict(&self, request: &RuleRequest<'_>, now_seconds: i64) -> Verdict {
        match holds(&self.0, request, now_seconds) {
            Ok(true) => Verdict::Satisfied,
            Ok(false) => Verdict::Unsatisfied,
            Err(reason) => Verdict::Refused(reason),
        }
    }
}

impl Parameter {
    /// Whether it names something.
    ///
    /// # Errors
    /// What would.
    pub fn check(&self) -> Result<(), String> {
        match (self.source.as_str(), self.name.as_str()) {
            (other, _) if self.json.is_some() && !matches!(other, "header" | "query" | "url" | "payload") => {
                Err(format!("the source {other} is not read as JSON; header, query and payload are"))
            }
            ("header" | "query" | "url" | "payload", "") => Err(format!("the source {} needs a name", self.source)),
            ("request", "method" | "remote-addr") => Ok(()),
            ("request", _) => Err("of the request, there are method and remote-addr".to_owned()),
            ("header" | "query" | "url" | "payload" | "string", _)
            | ("raw-request-body" | "entire-payload" | "entire-headers" | "entire-query", _) => Ok(()),
            (other, _) => Err(format!(
                "there is no source {other:?}; there are header, query, url, payload, request, string, raw-request-body, \
                 entire-payload, entire-headers and entire-query"
            )),
        }
    }

    /// Its text in `request`; `None` if it is not there.
    pub fn text<'a>(&'a self, request: &RuleRequest<'a>) -> Option<Cow<'a, str>> {
        let text = self.whole_text(request)?;
        let Some(path) = &self.json else { return Some(text) };
        // A file of a multipart body is read by what is in it.
        let file = match self.source.as_str() {
            "payload" => find(request.payload?, &self.name).and_then(content_of),
            _ => None,
        };
        let Some(json) = Value::parse_as_written(file.unwrap_or(&text)) else {
            return path.is_empty().then_some(text);
        };
        match path.as_str() {
            "" => Some(Cow::Owned(text_of(&json).into_owned())),
            path => find(&json, path).map(|found| Cow::Owned(text_of(found).into_owned())),
        }
    }

    fn whole_text<'a>(&'a self, request: &RuleRequest<'a>) -> Option<Cow<'a, str>> {
        match self.source.as_str() {
            "header" => header(request, &self.name).map(Cow::Borrowed),
            "query" | "url" => pairs(request.query).find(|(name, _)| *name == self.name).map(|(_, value)| value),
            "payload" => find(request.payload?, &self.name).map(text_of),
            "request" if self.name == "method" => Some(request.method.into()),
            "request" => request.remote.map(|address| address.to_string().into()),
            "string" => Some(self.name.as_str().into()),
            "raw-request-body" => Some(String::from_utf8_lossy(request.body)),
            "entire-payload" => request.payload?.to_json().map(Cow::Owned),
            "entire-headers" => {
                let text = |value: &[u8]| Json::from(String::from_utf8_lossy(value).into_owned());
                let all = request.headers.iter().map(|(name, value)| ((*name).to_owned(), text(value)));
                Some(Json::Object(all.collect()).to_string().into())
            }
            "entire-query" => {
                let all = pairs(request.query).map(|(name, value)| (name.into_owned(), Json::from(value.into_owned())));
                Some(Json::Object(all.collect()).to_string().into())
            }
            _ => None,
        }
    }
}

struct Reader {
    faults: Vec<RuleFault>,
    conditions: usize,
}

impl Reader {
    fn fault(&mut self, path: &str, text: impl Into<String>) -> Node {
        self.faults.push(RuleFault { path: path.to_owned(), text: text.into() });
        Node::Never
    }

    fn node(&mut self, rule: &Rule, path: &str, depth: usize) -> Node {
        let Rule { and, or, not, condition } = rule;
        let members = [and.is_some(), or.is_some(), not.is_some(), condition.is_some()];
        let inside = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        if depth > DEPTH_MAX {
            return self.fault(path, format!("rules are nested more than {DEPTH_MAX} levels"));
        }
        match members.iter().filter(|member| **member).count() {
            0 => return Node::Never,
            1 => {}
            _ => return self.fault(path, "a rule has only one of `and`, `or`, `not` and `match`"),
        }
        let mut all = |name: &str, rules: &[Rule]| -> Vec<Node> {
            let path = inside(name);
            rules.iter().enumerate().map(|(at, rule)| self.node(rule, &format!("{path}[{at}]"), depth + 1)).collect()
        };
        match (and, or, not, condition) {
            (Some(rules), ..) => Node::And(all("and", rules)),
            (_, Some(rules), ..) => Node::Or(all("or", rules)),
            (_, _, Some(rule), _) => Node::Not(Box::new(self.node(rule, &inside("not"), depth + 1))),
            (_, _, _, Some(condition)) => self.condition(condition, &inside("match")),
            (None, None, None, None) => Node::Never,
        }
    }

    fn condition(&mut self, condition: &Condition, path: &str) -> Node {
        self.conditions += 1;
        if self.conditions == CONDITIONS_MAX + 1 {
            return self.fault(path, format!("there are more than {CONDITIONS_MAX} conditions"));
        }
        let digest = match condition.r#type.as_str() {
            "value" => return self.value(condition, path),
            "regex" => return self.pattern(condition, path),
            "ip-whitelist" => return self.networks(condition, path),
            "scalr-signature" => return self.secret(condition, path).map_or(Node::Never, Node::Scalr),
            "payload-hmac-sha1" | "payload-hash-sha1" => Digest::Sha1,
            "payload-hmac-sha256" | "payload-hash-sha256" => Digest::Sha256,
            "payload-hmac-sha512" | "payload-hash-sha512" => Digest::Sha512,
            other => {
                let text = format!(
                    "there is no condition {other:?}; there are value, regex, payload-hmac-sha1, payload-hmac-sha256, \
                     payload-hmac-sha512, ip-whitelist and scalr-signature"
                );
                return self.fault(&format!("{path}.type"), text);
            }
        };
        match (self.parameter(condition, path), self.secret(condition, path)) {
            (Some(parameter), Some(secret)) => Node::Signature(parameter, digest, secret),
            _ => Node::Never,
        }
    }

    fn parameter(&mut self, condition: &Condition, path: &str) -> Option<Parameter> {
        let path = format!("{path}.parameter");
        let Some(parameter) = &condition.parameter else {
            self.fault(&path, "it is missing: what is looked at");
            return None;
        };
        if let Err(text) = parameter.check() {
            self.fault(&path, text);
        }
        Some(parameter.clone())
    }

    fn secret(&mut self, condition: &Condition, path: &str) -> Option<Vec<u8>> {
        match condition.secret.as_deref().unwrap_or_default() {
            "" => {
                self.fault(&format!("{path}.secret"), "it is empty: whoever knows that could sign");
                None
            }
            secret => Some(secret.as_bytes().to_vec()),
        }
    }

    fn value(&mut self, condition: &Condition, path: &str) -> Node {
        let value = condition.value.clone().unwrap_or_default();
        self.parameter(condition, path).map_or(Node::Never, |parameter| Node::Value(parameter, value))
    }

    fn pattern(&mut self, condition: &Condition, path: &str) -> Node {
        let pattern = condition.regex.as_deref().unwrap_or_default();
        match RegexBuilder::new(pattern).size_limit(PATTERN_BYTES_MAX).build() {
            Ok(regex) => {
                self.parameter(condition, path).map_or(Node::Never, |parameter| Node::Pattern(parameter, regex))
            }
            Err(error) => {
                let why = error.to_string();
                let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
                self.fault(&format!("{path}.regex"), format!("it is no pattern: {why}"))
            }
        }
    }

    fn networks(&mut self, condition: &Condition, path: &str) -> Node {
        let path = format!("{path}.ip-range");
        let mut networks = Vec::new();
        for text in condition.ip_range.as_deref().unwrap_or_default().split_ascii_whitespace() {
            match text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)) {
                Ok(network) => networks.push(network),
                Err(_) => drop(
                    self.fault(&path, format!("{text:?} is neither an address nor a network such as 192.0.2.0/24")),
                ),
            }
        }
        if networks.is_empty() {
            return self.fault(&path, "it names no network");
        }
        Node::Networks(networks)
    }
}

fn holds(node: &Node, request: &RuleRequest<'_>, now: i64) -> Result<bool, String> {
    match node {
        Node::And(nodes) => {
            for node in nodes {
                if !holds(node, request, now)? {
                    return Ok(false);
                }
            }
            Ok(true)
        }
        Node::Or(nodes) => {
            let mut refused = None;
            for node in nodes {
                match holds(node, request, now) {
                    Ok(true) => return Ok(true),
                    Ok(false) => {}
                    Err(reason) => refused = Some(reason),
                }
            }
            refused.map_or(Ok(false), Err)
        }
        Node::Not(node) => holds(node, request, now).map(|holds| !holds),
        Node::Value(parameter, value) => {
            Ok(parameter.text(request).is_some_and(|text| bool::from(text.as_bytes().ct_eq(value.as_bytes()))))
        }
        Node::Pattern(parameter, regex) => Ok(parameter.text(request).is_some_and(|text| regex.is_match(&text))),
        Node::Signature(parameter, digest, secret) => {
            let Some(signatures) = parameter.text(request) else {
                return Err(format!("there is no signature: the {} {} is missing", parameter.source, parameter.name));
            };
            let expected = digest.mac(secret, &[request.body]);
            let mut fits = false;
            for signature in signatures.split(',').take(SIGNATURES_MAX) {
                let signature = signature.trim();
                let signature = signature.strip_prefix(digest.prefix()).unwrap_or(signature);
                fits |= unhex(signature).is_some_and(|bytes| bool::from(bytes.ct_eq(&expected)));
            }
            if fits { Ok(true) } else { Err("the signature does not fit".to_owned()) }
        }
        Node::Networks(networks) => Ok(request.remote.is_some_and(|address| {
            let address = address.to_canonical();
            networks.iter().any(|network| network.contains(&address))
        })),
        Node::Scalr(secret) => scalr(secret, request, now),
        Node::Never => Ok(false),
    }
}

/// HMAC-SHA1 of body and date, in hexadecimal.
fn scalr(secret: &[u8], request: &RuleRequest<'_>, now: i64) -> Result<bool, String> {
    let (Some(signature), Some(date)) = (header(request, "x-signature"), header(request, "date")) else {
        return Err("there is no signature: X-Signature or Date is missing".to_owned());
    };
    let expected = Digest::Sha1.mac(secret, &[request.body, date.as_bytes()]);
    if !unhex(signature).is_some_and(|bytes| bool::from(bytes.ct_eq(&expected))) {
        return Err("the signature does not fit".to_owned());
    }
    match scalr_seconds(date) {
        Some(at) if (now - at).abs() <= SCALR_TOLERANCE_SECONDS => Ok(true),
        Some(_) => Err("the date is more than five minutes from now".to_owned()),
        None => Err("the date is not one such as Thu 07 Sep 2017 06:30:04 UTC".to_owned()),
    }
}

/// `Thu 07 Sep 2017 06:30:04 UTC` in Unix seconds.
fn scalr_seconds(date: &str) -> Option<i64> {
    const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
    let words: Vec<&str> = date.split(' ').collect();
    let [_, day, month, year, time, "UTC"] = words[..] else { return None };
    let number = |text: &str, max: i64| text.parse::<u32>().ok().map(i64::from).filter(|number| *number <= max);
    let (day, year) = (number(day, 31)?, number(year, 9999)?);
    let month = MONTHS.iter().position(|name| *name == month)? as i64 + 1;
    let mut parts = time.split(':');
    let (hour, minute, second) = (number(parts.next()?, 23)?, number(parts.next()?, 59)?, number(parts.next()?, 60)?);
    if parts.next().is_some() || day == 0 {
        return None;
    }
    // Days since 1970-01-01 in the proleptic Gregorian calendar, years counted from March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let of_year = (153 * month + 2) / 5 + day - 1;
    let days = year * 365 + year / 4 - year / 100 + year / 400 + of_year - 719_468;
    Some(days * 86_400 + hour * 3_600 + minute * 60 + second)
}

impl Digest {
    fn prefix(self) -> &'static str {
        match self {
            Digest::Sha1 => "sha1=",
            Digest::Sha256 => "sha256=",
            Digest::Sha512 => "sha512=",
        }
    }

    fn mac(self, key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
        fn mac<M: Mac + KeyInit>(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
            let mut mac = <M as KeyInit>::new_from_slice(key).expect("HMAC takes a key of any length");
            parts.iter().for_each(|part| mac.update(part));
            mac.finalize().into_bytes().to_vec()
        }
        match self {
            Digest::Sha1 => mac::<Hmac<Sha1>>(key, parts),
            Digest::Sha256 => mac::<Hmac<Sha256>>(key, parts),
            Digest::Sha512 => mac::<Hmac<Sha512>>(key, parts),
        }
    }
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let digit = |byte: u8| (byte as char).to_digit(16).map(|digit| digit as u8);
    if text.is_empty() || !text.len().is_multiple_of(2) {
        return None;
    }
    text.as_bytes().chunks(2).map(|pair| Some(digit(pair[0])? << 4 | digit(pair[1])?)).collect()
}

fn header<'a>(request: &RuleRequest<'a>, name: &str) -> Option<&'a str> {
    let (_, value) = request.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(value).ok().map(str::trim)
}

fn pairs(query: &str) -> impl Iterator<Item = (Cow<'_, str>, Cow<'_, str>)> {
    form_urlencoded::parse(query.as_bytes())
}

/// The value at a path with dots. A member whose name has the dots in it comes first; numbers are places in lists.
fn find<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    if let Value::Object(members) = value
        && let Some(member) = members.get(path)
    {
        return Some(member);
    }
    let (first, rest) = path.split_once('.').map_or((path, None), |(first, rest)| (first, Some(rest)));
    let inner = match value {
        Value::Object(members) => members.get(first)?,
        Value::Array(items) => items.get(first.parse::<usize>().ok()?)?,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => return None,
    };
    rest.map_or(Some(inner), |rest| find(inner, rest))
}

/// What is in a file of a multipart body.
fn content_of(value: &Value) -> Option<&str> {
    let Value::Object(members) = value else { return None };
    match (members.get("filename"), members.get("content")) {
        (Some(_), Some(Value::String(content))) => Some(content),
        _ => None,
    }
}

fn text_of(value: &Value) -> Cow<'_, str> {
    match value {
        Value::String(text) => text.as_str().into(),
        Value::Null => "".into(),
        Value::Bool(value) => if *value { "true" } else { "false" }.into(),
        Value::Number(number) => number.text(),
        Value::Array(_) | Value::Object(_) => value.to_json().unwrap_or_default().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value as Written;
    use serde_json::json;

    const NOW: i64 = 1_504_765_804;
    const SHA256: &str = "f417af3a21bd70379b5796d5f013915e7029f62c580fb0f500f59a35a6f04c89";
    const SHA512: &str = "4ab17cc8ec668ead8bf498f87f8f32848c04d5ca3c9bcfcd3db9363f0deb44e580b329502a7fdff633d4d8fca301cc5c94a55a2fec458c675fb0ff2655898324";

    fn rules(rule: Written) -> Rules {
        let rule: Rule = serde_json::from_value(rule).unwrap_or_else(|error| panic!("{error}"));
        Rules::new(&rule).unwrap_or_else(|faults| panic!("{faults:?}"))
    }

    fn verdict(rule: Written, headers: &[(&str, &str)], body: &str) -> Verdict {
        let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_bytes())).collect();
        let payload = Value::parse_as_written(body);
        let request = RuleRequest {
            method: "POST",
            headers: &headers,
            query: "token=t%201&token=other&empty=",
            body: body.as_bytes(),
            payload: payload.as_ref(),
            remote: "192.0.2.7".parse().ok(),
        };
        rules(rule).verdict(&request, NOW)
    }

    fn value(source: &str, name: &str, value: &str) -> Written {
        json!({ "match": { "type": "value", "value": value, "parameter": { "source": source, "name": name } } })
    }

    fn hmac(digest: &str, secret: &str) -> Written {
        let parameter = json!({ "source": "header", "name": "X-Signature" });
        json!({ "match": { "type": format!("payload-hmac-{digest}"), "secret": secret, "parameter": parameter } })
    }

    #[test]
    fn every_source_gives_its_text() {
        let body =
            r#"{"a.b":"dotted","a":{"b":"deep","list":[{"x":1.50},true]},"n":12345678901234567890.10,"none":null}"#;
        let check = |source: &str, name: &str, text: &str| {
            assert_eq!(
                verdict(value(source, name, text), &[("X-One", "1"), ("x-one", "2")], body),
                Verdict::Satisfied,
                "{source} {name}"
            );
        };
        check("header", "x-ONE", "1");
        check("url", "token", "t 1");
        check("query", "empty", "");
        check("payload", "a.b", "dotted");
        check("payload", "a.list.0.x", "1.50");
        check("payload", "a.list.1", "true");
        check("payload", "n", "12345678901234567890.10");
        check("entire-payload", "", body);
        check("payload", "none", "");
        check("payload", "a.list", r#"[{"x":1.50},true]"#);
        check("request", "method", "POST");
        check("request", "remote-addr", "192.0.2.7");
        check("string", "x", "x");
        check("raw-request-body", "", body);
        check("entire-query", "", r#"{"token":"other","empty":""}"#);
        check("entire-headers", "", r#"{"X-One":"1","x-one":"2"}"#);
    }

    #[test]
    fn a_text_of_json_has_parts_for_a_condition_that_asks() {
        let file = r#"{"filename":"a.txt","contentType":null,"size":8,"content":"{\"id\":7}"}"#;
        let body = format!(
            r#"{{"p":"{{\"ref\":\"main\",\"n\":1.50,\"l\":[{{\"x\":1}}]}}","plain":"text","f":{file},"o":{{"a":1}}}}"#
        );
        let check = |source: &str, name: &str, json: &str, text: &str, expected: Verdict| {
            let parameter = json!({ "source": source, "name": name, "json": json });
            let rule = json!({ "match": { "type": "value", "value": text, "parameter": parameter } });
            assert_eq!(verdict(rule, &[("X-Data", r#"{"id":5}"#)], &body), expected, "{source} {name} {json}");
        };
        check("payload", "p", "ref", "main", Verdict::Satisfied);
        check("payload", "p", "n", "1.50", Verdict::Satisfied);
        check("payload", "p", "l.0.x", "1", Verdict::Satisfied);
        check("payload", "p", "gone", "", Verdict::Unsatisfied);
        check("payload", "plain", "", "text", Verdict::Satisfied);
        check("payload", "plain", "ref", "", Verdict::Unsatisfied);
        check("payload", "f", "id", "7", Verdict::Satisfied);
        check("payload", "o", "a", "1", Verdict::Satisfied);
        check("payload", "gone", "", "", Verdict::Unsatisfied);
        check("header", "x-data", "id", "5", Verdict::Satisfied);
        let wrong =
            json!({ "match": { "type": "value", "parameter": { "source": "string", "name": "{}", "json": "a" } } });
        let rule: Rule = serde_json::from_value(wrong).unwrap_or_else(|error| panic!("{error}"));
        assert!(Rules::new(&rule).is_err_and(|faults| faults[0].text.contains("not read as JSON")));
    }

    #[test]
    fn rules_combine_and_what_is_missing_is_false_wherever_it_stands() {
        let (yes, no, gone) = (value("string", "a", "a"), value("string", "a", "b"), value("payload", "gone", "x"));
        for (rule, expected) in [
            (json!({ "and": [yes, yes] }), Verdict::Satisfied),
            (json!({ "and": [yes, no] }), Verdict::Unsatisfied),
            (json!({ "and": [] }), Verdict::Satisfied),
            (json!({ "or": [no, yes] }), Verdict::Satisfied),
            (json!({ "or": [no, no] }), Verdict::Unsatisfied),
            (json!({ "or": [] }), Verdict::Unsatisfied),
            (json!({ "not": no }), Verdict::Satisfied),
            (json!({}), Verdict::Unsatisfied),
            (gone.clone(), Verdict::Unsatisfied),
            (json!({ "not": gone }), Verdict::Satisfied),
            (json!({ "and": [yes, { "not": gone }] }), Verdict::Satisfied),
            (json!({ "or": [gone, yes] }), Verdict::Satisfied),
        ] {
            assert_eq!(verdict(rule.clone(), &[], "not JSON"), expected, "{rule}");
        }
    }

    #[test]
    fn patterns_match_anywhere() {
        let pattern = |regex: &str| json!({ "match": { "type": "regex", "regex": regex, "parameter": { "source": "payload", "name": "ref" } } });
        let check = |regex: &str, expected| {
            assert_eq!(verdict(pattern(regex), &[], r#"{"ref":"refs/heads/main"}"#), expected, "{regex}")
        };
        check("heads", Verdict::Satisfied);
        check("^refs/(heads|tags)/", Verdict::Satisfied);
        check("^heads", Verdict::Unsatisfied);
    }

    #[test]
    fn signatures_are_taken_in_every_form_that_senders_use() {
        let body = r#"{"a": "z"}"#;
        let check = |digest: &str, header: &str, fits: bool| {
            let found = verdict(hmac(digest, "secret"), &[("X-Signature", header)], body);
            assert_eq!(found == Verdict::Satisfied, fits, "{digest} {header}: {found:?}");
            assert!(fits || matches!(found, Verdict::Refused(_)), "{found:?}");
        };
        // From the tests of adnanh/webhook.
        check("sha1", "b17e04cbb22afa8ffbff8796fc1894ed27badd9e", true);
        check("sha256", SHA256, true);
        check("sha512", SHA512, true);
        check("sha256", &format!("sha256={SHA256}"), true);
        check("sha256", &SHA256.to_uppercase(), true);
        check("sha256", &format!("00, sha256={SHA256}"), true);
        check("sha256", &format!("sha1={SHA256}"), false);
        check("sha256", &SHA256[2..], false);
        check("sha256", "", false);
        check("sha256", ",", false);
        check("sha1", SHA256, false);
        let other = verdict(hmac("sha256", "other"), &[("X-Signature", SHA256)], body);
        assert_eq!(other, Verdict::Refused("the signature does not fit".into()));
        assert!(matches!(verdict(hmac("sha256", "secret"), &[], body), Verdict::Refused(_)));
        assert!(matches!(
            verdict(hmac("sha256", "secret"), &[("X-Signature", SHA256)], r#"{"a": "y"}"#),
            Verdict::Refused(_)
        ));
    }

    #[test]
    fn an_empty_body_s_signature_is_no_key_to_another_body() {
        // adnanh's signs "" for multipart bodies; the reference has the request that runs what it likes.
        let empty = "f9e66e179b6747ae54108f82f8ade8b3c25d76fd30afde6c395822c530196169";
        let found =
            verdict(hmac("sha256", "secret"), &[("X-Signature", empty)], "--x\r\n\r\n{\"cmd\":\"evil\"}\r\n--x--");
        assert_eq!(found, Verdict::Refused("the signature does not fit".into()));
        assert_eq!(verdict(hmac("sha256", "secret"), &[("X-Signature", empty)], ""), Verdict::Satisfied);
    }

    #[test]
    fn several_secrets_can_be_tried_and_a_wrong_one_refuses_only_if_no_branch_holds() {
        let (right, wrong, no) = (hmac("sha256", "secret"), hmac("sha256", "old"), value("string", "a", "b"));
        let body = r#"{"a": "z"}"#;
        let headers = [("X-Signature", SHA256)];
        assert_eq!(verdict(json!({ "or": [wrong, right] }), &headers, body), Verdict::Satisfied);
        assert!(matches!(verdict(json!({ "or": [wrong, no] }), &headers, body), Verdict::Refused(_)));
        assert!(
            matches!(verdict(json!({ "not": wrong }), &headers, body), Verdict::Refused(_)),
            "not inverts no forgery"
        );
        assert_eq!(verdict(json!({ "and": [no, wrong] }), &headers, body), Verdict::Unsatisfied);
    }

    #[test]
    fn addresses_are_compared_with_networks() {
        let networks = |range: &str| json!({ "match": { "type": "ip-whitelist", "ip-range": range } });
        assert_eq!(verdict(networks("10.0.0.0/8 192.0.2.0/24"), &[], ""), Verdict::Satisfied);
        assert_eq!(verdict(networks("192.0.2.7"), &[], ""), Verdict::Satisfied);
        assert_eq!(verdict(networks("192.0.2.8 2001:db8::/32"), &[], ""), Verdict::Unsatisfied);
    }

    #[test]
    fn scalr_signs_the_date_as_well() {
        let rule = json!({ "match": { "type": "scalr-signature", "secret": "bilFGi4ZVZUdG+C6r0NIM9tuRq6PaG33R3eBUVhLwMAErGBaazvXe4Gq2DcJs5q+" } });
        let date = "Thu 07 Sep 2017 06:30:04 UTC";
        let signature = "48e395e38ac48988929167df531eb2da00063a7d";
        let check = |rule: &Written, now: i64, date: &str, fits: bool| {
            let headers = [("X-Signature", signature.as_bytes()), ("Date", date.as_bytes())];
            let request = RuleRequest {
                method: "POST",
                headers: &headers,
                query: "",
                body: br#"{"a": "b"}"#,
                payload: None,
                remote: None,
            };
            assert_eq!(rules(rule.clone()).verdict(&request, now) == Verdict::Satisfied, fits, "{now} {date}");
        };
        check(&rule, NOW, date, true);
        check(&rule, NOW + 299, date, true);
        check(&rule, NOW + 301, date, false);
        check(&rule, NOW - 301, date, false);
        check(&rule, NOW, "Thu 07 Sep 2017 06:30:05 UTC", false);
        assert_eq!(scalr_seconds("Thu 29 Feb 2024 00:00:00 UTC"), Some(1_709_164_800));
        assert_eq!(scalr_seconds("Thu 29 Feb 2024 00:00:00 CET"), None);
        assert_eq!(scalr_seconds(""), None);
    }

    #[test]
    fn what_cannot_be_used_is_told_with_its_place() {
        let check = |rule: Written, path: &str, text: &str| {
            let rule: Rule = serde_json::from_value(rule).unwrap_or_else(|error| panic!("{error}"));
            let faults = Rules::new(&rule).expect_err("is wrong");
            assert!(faults[0].path == path && faults[0].text.contains(text), "{faults:?}");
        };
        let p = json!({ "source": "payload", "name": "a" });
        check(json!({ "and": [{ "match": { "type": "valu", "parameter": p } }] }), "and[0].match.type", "no condition");
        check(json!({ "match": { "type": "regex", "regex": "(", "parameter": p } }), "match.regex", "no pattern");
        check(json!({ "match": { "type": "value", "value": "x" } }), "match.parameter", "missing");
        check(
            json!({ "match": { "type": "value", "parameter": { "source": "body" } } }),
            "match.parameter",
            "no source",
        );
        check(
            json!({ "match": { "type": "payload-hmac-sha1", "secret": "", "parameter": p } }),
            "match.secret",
            "empty",
        );
        check(
            json!({ "not": { "match": { "type": "ip-whitelist", "ip-range": "x" } } }),
            "not.match.ip-range",
            "neither",
        );
        check(json!({ "match": { "type": "ip-whitelist" } }), "match.ip-range", "no network");
        check(json!({ "and": [], "or": [] }), "", "only one");
        let deep = (0..40).fold(json!({}), |inner, _| json!({ "not": inner }));
        let rule: Rule = serde_json::from_value(deep).unwrap_or_default();
        assert!(Rules::new(&rule).is_err());
        let many = json!({ "or": vec![value("string", "a", "b"); 300] });
        let rule: Rule = serde_json::from_value(many).unwrap_or_default();
        assert!(Rules::new(&rule).is_err());
    }

    #[test]
    fn a_body_is_read_by_its_content_type() {
        let check = |content_type: &str, body: &str, expected: Option<&str>| {
            let headers: &[(&str, &[u8])] = &[("content-type", content_type.as_bytes())];
            let (body, scheme, host) = (body.as_bytes(), "https", "x.example");
            let request =
                ReceivedRequest { method: "POST", scheme, host, path_and_query: "/a", headers, body, body_type: None };
            let found = payload(&request).and_then(|value| value.to_json());
            assert_eq!(found.as_deref(), expected, "{content_type}");
        };
        check("application/vnd.x+JSON", "[1.50]", Some(r#"{"root":[1.50]}"#));
        check("application/x-www-form-urlencoded", "a=1&a=2&b=", Some(r#"{"a":"1","b":""}"#));
        check("text/xml", "<a b='1'><c>2</c></a>", Some(r#"{"a":{"-b":"1","c":"2"}}"#));
        let parts = "--x\r\ncontent-disposition: form-data; name=\"a\"\r\n\r\nz\r\n--x--";
        check("multipart/form-data; boundary=x", parts, Some(r#"{"a":"z"}"#));
        let read_as = |body_type| {
            let headers: &[(&str, &[u8])] = &[("content-type", b"text/plain")];
            let (scheme, host) = ("https", "x.example");
            let request = ReceivedRequest {
                method: "POST",
                scheme,
                host,
                path_and_query: "/a",
                headers,
                body: br#"{"a":1}"#,
                body_type,
            };
            payload(&request).and_then(|value| value.to_json())
        };
        assert_eq!(read_as(None), None);
        assert_eq!(read_as(Some("application/json")).as_deref(), Some(r#"{"a":1}"#));
        for (content_type, body) in [("text/plain", "{}"), ("", "{}"), ("application/json", "{"), ("text/xml", "<a>")] {
            check(content_type, body, None);
        }
    }

    #[test]
    fn a_recipe_can_be_made_of_rules() {
        use crate::source::{NoKeys, Proof, Recipe, Refusal, Supplied, Verifier};
        let recipe: Recipe = serde_json::from_value(json!({
            "settings": { "secret": { "title": "the sender's secret", "confidential": true } },
            "rules": { "and": [
                { "match": { "type": "payload-hmac-sha256", "secret": "{setting:secret}", "parameter": { "source": "header", "name": "X-Signature" } } },
                { "match": { "type": "value", "value": "z", "parameter": { "source": "payload", "name": "a" } } },
            ] },
            "unsatisfied_status": 200,
            "event_type": ["header:X-Event"],
        }))
        .unwrap_or_else(|error| panic!("{error}"));
        let supplied = Supplied {
            settings: [("secret".to_owned(), "secret".to_owned())].into_iter().collect(),
            ..Supplied::default()
        };
        let verifier = Verifier::new(&recipe, &supplied).unwrap_or_else(|faults| panic!("{faults:?}"));
        assert_eq!(verifier.unsatisfied_status(), 200);
        let check = |body: &[u8], signature: &str, kind: &str, expected: Result<(), Refusal>| {
            let headers: [(&str, &[u8]); 3] =
                [("x-signature", signature.as_bytes()), ("x-event", b"push"), ("content-type", kind.as_bytes())];
            let request = ReceivedRequest {
                method: "POST",
                scheme: "https",
                host: "x.example",
                path_and_query: "/hooks/a",
                headers: &headers,
                body,
                body_type: None,
            };
            let found = verifier.verify(&request, NOW, &NoKeys);
            if let Ok(Proof { event_type, .. }) = &found {
                assert_eq!(event_type.as_deref(), Some("push"));
            }
            assert_eq!(found.map(|_| ()), expected, "{kind}");
        };
        let wrong = Err(Refusal::Rules { text: "the signature does not fit".into() });
        check(br#"{"a": "z"}"#, SHA256, "application/json", Ok(()));
        check(br#"{"a": "z"}"#, SHA256, "text/plain", Err(Refusal::Unsatisfied));
        check(br#"{"a": "y"}"#, SHA256, "application/json", wrong.clone());
        // HMACs of `{"a": ` and of an empty body. What is not let in is answered as ever, whatever its body is.
        let open = "1fb772a5100616c8ffffbbde8b425d1f85ee7d8c725098fe01300b155d3be9e6";
        check(br#"{"a": "#, open, "application/json", Err(Refusal::Unsatisfied));
        check(br#"{"a": "#, SHA256, "application/json", wrong);
        let form = "9ef0ae1c7e5a2b4e0c8d9b1e3a3f8f9a";
        check(
            b"a=z&a=y",
            form,
            "application/x-www-form-urlencoded",
            Err(Refusal::Rules { text: "the signature does not fit".into() }),
        );

        let signed: Recipe = serde_json::from_value(json!({ "rules": hmac("sha256", "secret") })).expect("a recipe");
        let verifier = Verifier::new(&signed, &Supplied::default()).expect("rules");
        let check =
            |body: &str, signature: &str, kind: &str, body_type: Option<&str>, expected: Result<(), Refusal>| {
                let headers: &[(&str, &[u8])] =
                    &[("x-signature", signature.as_bytes()), ("content-type", kind.as_bytes())];
                let (scheme, host, body) = ("https", "x.example", body.as_bytes());
                let request =
                    ReceivedRequest { method: "POST", scheme, host, path_and_query: "/a", headers, body, body_type };
                assert_eq!(verifier.verify(&request, NOW, &NoKeys).map(|_| ()), expected, "{body:?} {kind}");
            };
        let wrong = || Err(Refusal::Rules { text: "the signature does not fit".into() });
        check(r#"{"a": "#, open, "application/json", None, Err(Refusal::NotJson));
        check(r#"{"a": "#, open, "application/vnd.x+JSON; v=1", None, Err(Refusal::NotJson));
        check(r#"{"a": "#, open, "text/plain", Some("application/json"), Err(Refusal::NotJson));
        check(r#"{"a": "#, SHA256, "application/json", None, wrong());
        check(r#"{"a": "#, open, "text/plain", None, Ok(()));
        check(r#"{"a": "#, open, "application/xml", None, Ok(()));
        check(r#"{"a": "#, open, "application/json", Some("application/octet-stream"), Ok(()));
        check(r#"{"a": "z"}"#, SHA256, "application/json", None, Ok(()));
        let empty = "f9e66e179b6747ae54108f82f8ade8b3c25d76fd30afde6c395822c530196169";
        check("", empty, "application/json", None, Ok(()));

        let broken = |recipe: Written, field: &str| {
            let recipe: Recipe = serde_json::from_value(recipe).unwrap_or_else(|error| panic!("{error}"));
            let faults = Verifier::new(&recipe, &Supplied::default()).map(|_| ()).expect_err("is wrong");
            assert_eq!(faults[0].field, field, "{faults:?}");
        };
        broken(json!({ "rules": { "and": [] }, "verify": [{ "algorithm": "none" }] }), "rules");
        broken(json!({ "rules": { "not": { "match": { "type": "x" } } } }), "rules.not.match.type");
        broken(json!({ "rules": hmac("sha1", "{setting:gone}") }), "rules");
        broken(json!({ "rules": { "and": [] }, "unsatisfied_status": 600 }), "unsatisfied_status");
        broken(json!({ "verify": [{ "algorithm": "none" }], "unsatisfied_status": 200 }), "unsatisfied_status");
    }
}
