//! The filter dialect of the CloudEvents Subscriptions API, version 0.1, section 3.2.4: `exact`, `prefix`, `suffix`, `all`,
//! `any`, `not`, and an array of filters, which is `all`. `sql` is refused: no library implements CloudEvents SQL well enough.
//!
//! The attributes are those of a message as a CloudEvent: `type`, `id` (the sender's own id), `datacontenttype` is not kept
//! apart. As our addition, `payload.…` and `data.…` lead into the payload, member by member, with numbers for items of arrays.

use super::FilterFault;
use crate::candidate::Candidate;
use bellwire_body::Value as Part;
use serde_json::{Map, Value};
use std::borrow::Cow;

const SOURCE_BYTES_MAX: usize = 16 * 1024;
const CONDITIONS_MAX: usize = 256;
const DEPTH_MAX: usize = 8;

/// A condition, ready to be asked.
#[derive(Debug)]
pub(super) enum Dialect {
    All(Vec<Dialect>),
    Any(Vec<Dialect>),
    Not(Box<Dialect>),
    /// Every one of them must hold.
    Compare(Comparison, Vec<(Attribute, String)>),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Comparison {
    Exact,
    Prefix,
    Suffix,
}

#[derive(Debug)]
pub(super) enum Attribute {
    Type,
    Id,
    /// A way into the payload.
    Payload(Vec<String>),
}

pub(super) fn compile(json: &str) -> Result<Dialect, FilterFault> {
    if json.len() > SOURCE_BYTES_MAX {
        return Err(FilterFault::new(format!("a filter has at most {SOURCE_BYTES_MAX} bytes, not {}", json.len())));
    }
    let value: Value = serde_json::from_str(json).map_err(|error| FilterFault::new(error.to_string()))?;
    let mut left = CONDITIONS_MAX;
    read(&value, "filter", DEPTH_MAX, &mut left)
}

impl Dialect {
    pub(super) fn ask(&self, candidate: &Candidate<'_>) -> bool {
        match self {
            Dialect::All(all) => all.iter().all(|filter| filter.ask(candidate)),
            Dialect::Any(any) => any.iter().any(|filter| filter.ask(candidate)),
            Dialect::Not(filter) => !filter.ask(candidate),
            Dialect::Compare(comparison, pairs) => pairs.iter().all(|(attribute, wanted)| {
                attribute.value(candidate).is_some_and(|found| match comparison {
                    Comparison::Exact => found == wanted.as_str(),
                    Comparison::Prefix => found.starts_with(wanted),
                    Comparison::Suffix => found.ends_with(wanted),
                })
            }),
        }
    }
}

impl Attribute {
    /// Its text, if the message has it. Numbers and booleans of the payload as JSON writes them.
    fn value<'c>(&self, candidate: &'c Candidate<'_>) -> Option<Cow<'c, str>> {
        let path = match self {
            Attribute::Type => return Some(candidate.event_type.into()),
            Attribute::Id => return candidate.event_id.map(Cow::Borrowed),
            Attribute::Payload(path) => path,
        };
        let found = path.iter().try_fold(candidate.payload(), |value, step| match value {
            Part::Object(members) => members.get(step),
            Part::Array(items) => items.get(step.parse::<usize>().ok()?),
            _ => None,
        })?;
        match found {
            Part::String(text) => Some(text.as_str().into()),
            Part::Number(number) => Some(number.text()),
            Part::Bool(value) => Some(if *value { "true" } else { "false" }.into()),
            Part::Null | Part::Array(_) | Part::Object(_) => None,
        }
    }

    fn parse(name: &str) -> Result<Self, String> {
        let path = ["payload.", "data."].iter().find_map(|prefix| name.strip_prefix(prefix));
        match (name, path) {
            ("type" | "eventType", _) => Ok(Attribute::Type),
            ("id" | "eventId", _) => Ok(Attribute::Id),
            (_, Some(path)) if path.split('.').all(|step| !step.is_empty()) => {
                Ok(Attribute::Payload(path.split('.').map(str::to_owned).collect()))
            }
            _ => Err(format!("there is no attribute {name:?}; use type, id, or payload.… with the names on the way")),
        }
    }
}

fn read(value: &Value, at: &str, depth: usize, left: &mut usize) -> Result<Dialect, FilterFault> {
    let fault = |message: String| Err(FilterFault::new(format!("{at}: {message}")));
    let Some(depth) = depth.checked_sub(1) else {
        return fault(format!("filters are nested at most {DEPTH_MAX} deep"));
    };
    *left = match left.checked_sub(1) {
        Some(left) => left,
        None => return fault(format!("a filter has at most {CONDITIONS_MAX} conditions")),
    };
    let members = match value {
        Value::Array(_) => return Ok(Dialect::All(read_list(value, at, depth, left)?)),
        Value::Object(members) => members,
        _ => return fault("expected an object such as {\"exact\": {\"type\": \"invoice.paid\"}}".to_owned()),
    };
    let mut members_left = members.iter();
    let (Some((name, inner)), None) = (members_left.next(), members_left.next()) else {
        return fault(format!("a filter object has exactly one member, not {}", members.len()));
    };
    let inside = format!("{at}.{name}");
    match name.as_str() {
        "exact" => compare(Comparison::Exact, inner, &inside, left),
        "prefix" => compare(Comparison::Prefix, inner, &inside, left),
        "suffix" => compare(Comparison::Suffix, inner, &inside, left),
        "all" => Ok(Dialect::All(read_list(inner, &inside, depth, left)?)),
        "any" => Ok(Dialect::Any(read_list(inner, &inside, depth, left)?)),
        "not" => Ok(Dialect::Not(Box::new(read(inner, &inside, depth, left)?))),
        "sql" => fault("CloudEvents SQL is not supported; give a CEL expression as a string instead".to_owned()),
        other => fault(format!(
            "{other:?} is no filter; expected exact, prefix, suffix, all, any or not, or CEL as a string"
        )),
    }
}

fn read_list(value: &Value, at: &str, depth: usize, left: &mut usize) -> Result<Vec<Dialect>, FilterFault> {
    match value {
        Value::Array(items) if !items.is_empty() => {
            items.iter().enumerate().map(|(n, item)| read(item, &format!("{at}[{n}]"), depth, left)).collect()
        }
        _ => Err(FilterFault::new(format!("{at}: expected an array of at least one filter"))),
    }
}

fn compare(comparison: Comparison, value: &Value, at: &str, left: &mut usize) -> Result<Dialect, FilterFault> {
    let fault = |message: String| FilterFault::new(format!("{at}: {message}"));
    let members: &Map<String, Value> = match value {
        Value::Object(members) if !members.is_empty() => members,
        _ => return Err(fault("expected an object of at least one attribute and its value".to_owned())),
    };
    *left = left
        .checked_sub(members.len() - 1)
        .ok_or_else(|| fault(format!("a filter has at most {CONDITIONS_MAX} conditions")))?;
    let pairs = members.iter().map(|(name, wanted)| match wanted {
        Value::String(text) if comparison == Comparison::Exact || !text.is_empty() => {
            Ok((Attribute::parse(name).map_err(&fault)?, text.clone()))
        }
        Value::String(_) => Err(fault(format!("the value of {name:?} must not be empty"))),
        _ => Err(fault(format!("the value of {name:?} must be a string"))),
    });
    Ok(Dialect::Compare(comparison, pairs.collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_matches_what_the_specification_says() {
        let check = |filter: &str, expected: bool| {
            let dialect = compile(filter).expect(filter);
            let payload = br#"{"a":{"b":"north","n":7,"t":true,"z":null,"l":[{"id":"x"}]}}"#;
            let candidate = Candidate::new("com.github.push", Some("e-1"), &[], &[], payload);
            assert_eq!(dialect.ask(&candidate), expected, "{filter}");
        };
        check(r#"{"exact":{"type":"com.github.push"}}"#, true);
        check(r#"{"exact":{"type":"com.github"}}"#, false);
        check(r#"{"exact":{"type":"com.github.push","id":"e-1"}}"#, true);
        check(r#"{"exact":{"type":"com.github.push","id":"e-2"}}"#, false);
        check(r#"{"prefix":{"type":"com."}}"#, true);
        check(r#"{"suffix":{"type":".push"}}"#, true);
        check(r#"{"suffix":{"type":".pull"}}"#, false);
        check(r#"{"not":{"suffix":{"type":".pull"}}}"#, true);
        check(r#"{"all":[{"prefix":{"type":"com."}},{"suffix":{"type":".pull"}}]}"#, false);
        check(r#"{"any":[{"prefix":{"type":"com."}},{"suffix":{"type":".pull"}}]}"#, true);
        check(r#"[{"prefix":{"type":"com."}},{"exact":{"id":"e-1"}}]"#, true);
        check(r#"{"exact":{"payload.a.b":"north"}}"#, true);
        check(r#"{"exact":{"data.a.b":"north"}}"#, true);
        check(r#"{"exact":{"data.a.n":"7"}}"#, true);
        check(r#"{"exact":{"data.a.t":"true"}}"#, true);
        check(r#"{"exact":{"data.a.l.0.id":"x"}}"#, true);
        check(r#"{"exact":{"data.a.l.1.id":"x"}}"#, false);
        check(r#"{"exact":{"data.a.z":"null"}}"#, false);
        check(r#"{"exact":{"data.missing":""}}"#, false);
        check(r#"{"not":{"exact":{"data.missing":"x"}}}"#, true);
    }

    #[test]
    fn what_is_no_filter_is_refused_with_its_place() {
        let check = |filter: &str, expected: &str| {
            let fault = compile(filter).expect_err(filter);
            assert!(fault.message.contains(expected), "{filter}: {fault}");
        };
        check("7", "filter: expected an object");
        check("{}", "exactly one member");
        check(r#"{"exact":{"type":"a"},"not":{}}"#, "exactly one member");
        check(r#"{"exact":{}}"#, "filter.exact: expected an object");
        check(r#"{"exact":{"type":7}}"#, "must be a string");
        check(r#"{"prefix":{"type":""}}"#, "must not be empty");
        check(r#"{"exact":{"colour":"red"}}"#, "no attribute \"colour\"");
        check(r#"{"exact":{"payload.":"red"}}"#, "no attribute");
        check(r#"{"all":[]}"#, "at least one");
        check(r#"{"all":[{"exact":{"type":"a"}},{"never":{}}]}"#, "filter.all[1]: \"never\" is no filter");
        check(r#"{"sql":"type = 'a'"}"#, "CloudEvents SQL is not supported");
        let deep = format!("{}{}{}", r#"{"not":"#.repeat(9), r#"{"exact":{"type":"a"}}"#, "}".repeat(9));
        check(&deep, "at most 8 deep");
        let wide = format!("[{}]", vec![r#"{"exact":{"type":"a"}}"#; 300].join(","));
        check(&wide, "at most 256 conditions");
        check(&" ".repeat(20_000), "at most 16384 bytes");
    }
}
