//! What is signed, as a template: literal text, and places in braces for what the request brings.
//!
//! A place is a [field](super::field), with `?` after it if it may be missing (and is then empty), or one of these:
//!
//! | written | is |
//! | --- | --- |
//! | `{body}` | the body's exact bytes |
//! | `{timestamp}` | the timestamp's text, as it came |
//! | `{secret}` | the secret's bytes, for those who hash it with the rest |
//! | `{setting:name}` | what the operator set |
//! | `{form_sorted}` | every field of a form body, sorted by name: name, value, name, value … |
//! | `{json_lines:A,B?}` | `A`, a line end, its value, a line end; the next one; those with `?` only if they are there |
//! | `{signed_headers:X-Names}` | `name:value` of the headers that `X-Names` lists, sorted, `;` between |

use std::{borrow::Cow, collections::BTreeMap};

use super::{
    field::{Field, Scope},
    json::Path,
    refusal::Refusal,
    request::ReceivedRequest,
};

/// A template has at most so many bytes.
const BYTES_MAX: usize = 1024;

/// A header may name at most so many signed headers.
const SIGNED_HEADERS_MAX: usize = 64;

#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Template(Vec<Piece>);

#[derive(Clone, Debug, PartialEq)]
enum Piece {
    Literal(String),
    Field {
        field: Field,
        optional: bool,
    },
    Body,
    /// The field that it stands for.
    Timestamp(Field),
    Secret,
    FormSorted,
    JsonLines(Vec<(String, Path, bool)>),
    SignedHeaders {
        names: Field,
        must: Vec<String>,
    },
}

impl Template {
    /// Reads a template; `settings` are put in at once. `timestamp` is the field that `{timestamp}` stands for.
    pub(crate) fn parse(
        text: &str,
        settings: &BTreeMap<String, String>,
        timestamp: Option<&Field>,
    ) -> Result<Template, String> {
        if text.len() > BYTES_MAX {
            return Err(format!("a template has at most {BYTES_MAX} bytes"));
        }
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            let (place, after) = from
                .strip_prefix('{')
                .and_then(|inner| inner.split_once('}'))
                .ok_or("a brace is open; a place is written {name}")?;
            if !before.is_empty() {
                pieces.push(Piece::Literal(before.to_owned()));
            }
            pieces.push(piece(place, settings, timestamp)?);
            rest = after;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        Ok(Template(pieces))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the secret's own bytes are among what is signed.
    pub(crate) fn has_secret(&self) -> bool {
        self.0.contains(&Piece::Secret)
    }

    /// Whether another value in this field would change what is signed.
    pub(crate) fn covers(&self, covered: &Field) -> bool {
        self.0.iter().any(|piece| match (piece, covered) {
            (Piece::Timestamp(field), _) | (Piece::Field { field, .. }, _) if field == covered => true,
            (Piece::Field { field: Field::Url | Field::UrlDecoded | Field::PathAndQuery, .. }, Field::Query(_)) => true,
            (Piece::Body | Piece::Field { field: Field::BodySha256 | Field::BodyCrc32, .. }, Field::Json(_)) => true,
            (Piece::FormSorted, Field::Form(_)) | (Piece::Body, Field::Form(_)) => true,
            (Piece::JsonLines(lines), Field::Json(path)) => lines.iter().any(|(_, line, _)| line == path),
            (Piece::SignedHeaders { must, .. }, Field::Header(name)) => must.contains(&name.to_ascii_lowercase()),
            _ => false,
        })
    }

    /// The headers that the template names, with their places, for whoever makes up a request.
    pub(crate) fn fields(&self) -> impl Iterator<Item = &Field> {
        self.0.iter().filter_map(|piece| match piece {
            Piece::Field { field, optional: false } => Some(field),
            _ => None,
        })
    }

    /// The header in which the signed headers are listed, and those that it must list.
    pub(crate) fn signed_headers(&self) -> Option<(&Field, &[String])> {
        self.0.iter().find_map(|piece| match piece {
            Piece::SignedHeaders { names, must } => Some((names, must.as_slice())),
            _ => None,
        })
    }

    /// What is signed, in parts, so that the body is never copied.
    pub(crate) fn render<'a>(
        &'a self,
        scope: &Scope<'a>,
        timestamp: &'a str,
        secret: &'a [u8],
    ) -> Result<Vec<Cow<'a, [u8]>>, Refusal> {
        let bytes = |text: Cow<'a, str>| match text {
            Cow::Borrowed(text) => Cow::Borrowed(text.as_bytes()),
            Cow::Owned(text) => Cow::Owned(text.into_bytes()),
        };
        self.0
            .iter()
            .map(|piece| match piece {
                Piece::Literal(text) => Ok(Cow::Borrowed(text.as_bytes())),
                Piece::Field { field, optional: true } => Ok(bytes(field.text(scope)?.unwrap_or_default())),
                Piece::Field { field, optional: false } => Ok(bytes(field.required(scope)?)),
                Piece::Body => Ok(Cow::Borrowed(scope.request.body)),
                Piece::Timestamp(_) => Ok(Cow::Borrowed(timestamp.as_bytes())),
                Piece::Secret => Ok(Cow::Borrowed(secret)),
                Piece::FormSorted => form_sorted(&scope.request).map(Cow::Owned),
                Piece::JsonLines(lines) => json_lines(scope, lines).map(Cow::Owned),
                Piece::SignedHeaders { names, must } => signed_headers(scope, names, must).map(Cow::Owned),
            })
            .collect()
    }
}

fn piece(place: &str, settings: &BTreeMap<String, String>, timestamp: Option<&Field>) -> Result<Piece, String> {
    if let Some(name) = place.strip_prefix("setting:") {
        return match settings.get(name) {
            Some(value) => Ok(Piece::Literal(value.clone())),
            None => Err(format!("`{{{place}}}` is no setting of this recipe")),
        };
    }
    if let Some(names) = place.strip_prefix("json_lines:") {
        let line = |name: &str| {
            let (name, optional) = name.strip_suffix('?').map_or((name, false), |name| (name, true));
            let path = Path::parse(name).ok_or("`json_lines:` takes names with commas between")?;
            Ok((name.to_owned(), path, optional))
        };
        return names.split(',').map(line).collect::<Result<_, String>>().map(Piece::JsonLines);
    }
    if let Some(name) = place.strip_prefix("signed_headers:") {
        let mut must = vec![name.to_ascii_lowercase()];
        if let Some(Field::Header(timestamp)) = timestamp {
            must.push(timestamp.to_ascii_lowercase());
        }
        return Ok(Piece::SignedHeaders { names: Field::parse(&format!("header:{name}"))?, must });
    }
    match place {
        "body" => return Ok(Piece::Body),
        "secret" => return Ok(Piece::Secret),
        "form_sorted" => return Ok(Piece::FormSorted),
        "timestamp" => {
            return match timestamp {
                Some(field) => Ok(Piece::Timestamp(field.clone())),
                None => Err("`{timestamp}` stands for nothing; say in `timestamp` where it is".to_owned()),
            };
        }
        _ => {}
    }
    let (name, optional) = place.strip_suffix('?').map_or((place, false), |name| (name, true));
    let field = Field::parse(name).map_err(|text| {
        format!(
            "{text}; and in a template body, timestamp, secret, setting:, form_sorted, json_lines:, signed_headers:"
        )
    })?;
    if matches!(&field, Field::Json(path) if path.is_many()) {
        return Err(format!("`{{{place}}}` stands for many values; only one can be signed here"));
    }
    Ok(Piece::Field { field, optional })
}

/// Twilio: names and values, decoded, sorted; the values of one name sorted and each only once.
///
/// A body that is no form is refused: nothing of it would be signed.
fn form_sorted(request: &ReceivedRequest<'_>) -> Result<Vec<u8>, Refusal> {
    let form = request.form();
    if form.is_empty() && !request.body.is_empty() {
        return Err(Refusal::Malformed { field: "the body".to_owned(), wanted: "a form" });
    }
    let mut pairs: Vec<_> = form_urlencoded::parse(form).collect();
    pairs.sort();
    pairs.dedup();
    Ok(pairs.iter().flat_map(|(name, value)| [name.as_bytes(), value.as_bytes()]).flatten().copied().collect())
}

/// SNS: for each name that is there, the name and the value, each with a line end.
fn json_lines(scope: &Scope<'_>, lines: &[(String, Path, bool)]) -> Result<Vec<u8>, Refusal> {
    let mut text = String::new();
    for (name, path, optional) in lines {
        let field = Field::Json(path.clone());
        match (field.text(scope)?, optional) {
            (Some(value), _) => {
                text.push_str(name);
                text.push('\n');
                text.push_str(&value);
                text.push('\n');
            }
            (None, true) => {}
            (None, false) => return Err(field.missing()),
        }
    }
    Ok(text.into_bytes())
}

/// Contentful: the named headers, sorted. The list must name itself and the timestamp, which would otherwise be unsigned.
fn signed_headers(scope: &Scope<'_>, names: &Field, must: &[String]) -> Result<Vec<u8>, Refusal> {
    let list = names.required(scope)?.to_ascii_lowercase();
    let mut list: Vec<&str> = list.split(',').map(str::trim).collect();
    if list.len() > SIGNED_HEADERS_MAX {
        return Err(Refusal::TooMany { what: "signed headers", max: SIGNED_HEADERS_MAX });
    }
    list.sort_unstable();
    list.dedup();
    if let Some(absent) = must.iter().find(|name| !list.contains(&name.as_str())) {
        return Err(Refusal::NotCovered { component: format!("header:{absent}") });
    }
    let line = |name: &&str| {
        let value = scope.request.header(name)?.ok_or_else(|| Refusal::Missing { field: format!("header:{name}") })?;
        Ok(format!("{name}:{value}"))
    };
    let lines: Vec<String> = list.iter().map(line).collect::<Result<_, Refusal>>()?;
    Ok(lines.join(";").into_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rendered(template: &str, headers: &[(&str, &[u8])], body: &[u8]) -> Result<String, Refusal> {
        let settings = BTreeMap::from([("id".to_owned(), "{W}".to_owned())]);
        let timestamp = Field::parse("header:X-Time").expect("a field");
        let template = Template::parse(template, &settings, Some(&timestamp)).expect("a template");
        let request = ReceivedRequest {
            method: "POST",
            scheme: "https",
            host: "a.example",
            path_and_query: "/x",
            headers,
            body,
            body_type: None,
        };
        let scope = Scope { request, json: body, url: None, list: None, proven: b"{}" };
        let parts = template.render(&scope, "123", b"secret")?;
        Ok(String::from_utf8_lossy(&parts.concat()).into_owned())
    }

    #[test]
    fn places_are_filled() {
        let headers: &[(&str, &[u8])] = &[("x-id", b"7"), ("content-type", b"application/x-www-form-urlencoded")];
        let check = |template: &str, body: &str, expected: &str| {
            assert_eq!(rendered(template, headers, body.as_bytes()).as_deref(), Ok(expected), "{template}");
        };
        check("v0:{timestamp}:{body}", "{}", "v0:123:{}");
        check("{header:X-Id}|{setting:id}|{header:X-No?}|", "", "7|{W}||");
        check("{secret}{method}{url}", "", "secretPOSThttps://a.example/x");
        check("{form_sorted}", "b=2&a=z&a=b&a=b&c=%20+", "abazb2c  ");
        check("{json_lines:B,A?,C?}", r#"{"A":"x\ny","B":1}"#, "B\n1\nA\nx\ny\n");
        assert_eq!(rendered("{json_lines:B}", headers, b"{}"), Err(Refusal::Missing { field: "json:B".into() }));
        assert_eq!(rendered("{header:X-No}", headers, b""), Err(Refusal::Missing { field: "header:X-No".into() }));
    }

    #[test]
    fn signed_headers_name_themselves_and_the_time() {
        let render = |names: &[u8]| {
            let headers: &[(&str, &[u8])] = &[("X-Names", names), ("X-Time", b"5"), ("X-B", b" v ")];
            rendered("{signed_headers:X-Names}", headers, b"")
        };
        assert_eq!(render(b"x-time,X-Names,x-b").as_deref(), Ok("x-b:v;x-names:x-time,X-Names,x-b;x-time:5"));
        assert_eq!(render(b"x-names,x-b"), Err(Refusal::NotCovered { component: "header:x-time".into() }));
        assert_eq!(render(b"x-names,x-time,x-no"), Err(Refusal::Missing { field: "header:x-no".into() }));
    }

    #[test]
    fn a_faulty_template_is_told() {
        for text in
            ["{", "}", "{body", "{nope}", "{timestamp}", "{setting:x}", "{json:a.*}", "{header:}", "{json_lines:}"]
        {
            assert!(Template::parse(text, &BTreeMap::new(), None).is_err(), "{text}");
        }
        assert!(Template::parse(&"x".repeat(2000), &BTreeMap::new(), None).is_err());
    }
}
