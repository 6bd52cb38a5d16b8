//! A field: one named thing of a request, as recipes write it.
//!
//! | written | is |
//! | --- | --- |
//! | `header:X-Event` | a header's value |
//! | `query:token` | a parameter of the query, decoded |
//! | `form:name` | a field of a form or multipart body, decoded |
//! | `json:data.id` | a value of the body, `*` for every item of a list; of forms, multipart bodies and XML, as they are read |
//! | `xml:OrganizationId` | the text of the one element of that name |
//! | `method`, `path`, `path_and_query` | as in the request line |
//! | `url`, `url_decoded` | the URL as the sender knows it; the same with `%2F` and the like decoded |
//! | `body_sha256`, `body_crc32` | of the body's bytes, in lower-case hexadecimal and in decimal |
//! | `entry:t` | an entry of the list that the signature stands in |
//! | `claim:iat` | a claim of a verified JWT |
//! | `parameter:created` | a parameter of an HTTP message signature |

use std::{borrow::Cow, fmt};

use bellwire_body::Element;

use super::{
    json::{JsonFault, Path, VALUES_MAX, text},
    mac::{crc32, hex, sha256},
    refusal::Refusal,
    request::ReceivedRequest,
};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    Header(String),
    Numbered(String),
    Query(String),
    Form(String),
    Json(Path),
    Xml(String),
    Method,
    Path,
    PathAndQuery,
    Url,
    UrlDecoded,
    BodySha256,
    BodyCrc32,
    Entry(String),
    Claim(Path),
    Parameter(String),
}

/// Where fields are looked up.
#[derive(Clone, Copy)]
pub(crate) struct Scope<'a> {
    pub(crate) request: ReceivedRequest<'a>,
    /// What `json:` looks into: the body, or one item of it.
    pub(crate) json: &'a [u8],
    /// The URL as the sender knows it, where that is not the request's own.
    pub(crate) url: Option<&'a str>,
    /// The list in which the signature stands, and what separates its entries.
    pub(crate) list: Option<(&'a str, char)>,
    /// The claims of a verified JWT, or the parameters of a verified HTTP message signature, as JSON.
    pub(crate) proven: &'a [u8],
}

impl<'a> Scope<'a> {
    /// The URL as the sender knows it.
    pub(crate) fn url(&self) -> Cow<'a, str> {
        self.url.map_or_else(|| Cow::Owned(self.request.url()), Cow::Borrowed)
    }
}

impl Field {
    pub(crate) fn parse(text: &str) -> Result<Field, String> {
        let (kind, name) = text.split_once(':').map_or((text, None), |(kind, name)| (kind, Some(name)));
        let named = |of: &str| match name {
            Some(name) if !name.is_empty() => Ok(name.to_owned()),
            _ => Err(format!("`{of}:` needs a name after it")),
        };
        let path = |of: &str| {
            Path::parse(&named(of)?)
                .ok_or_else(|| format!("`{of}:` takes names with dots between, at most 16, such as `{of}:data.id`"))
        };
        let plain = |field: Field| match name {
            None => Ok(field),
            Some(_) => Err(format!("`{kind}` stands alone, without `:`")),
        };
        match kind {
            "header" => named("header").and_then(header_name).map(Field::Header),
            "numbered" => named("numbered").and_then(header_name).map(Field::Numbered),
            "query" => named("query").map(Field::Query),
            "form" => named("form").map(Field::Form),
            "json" => path("json").map(Field::Json),
            "xml" => named("xml").and_then(element_name).map(Field::Xml),
            "entry" => named("entry").map(Field::Entry),
            "claim" => path("claim").map(Field::Claim),
            "parameter" => named("parameter").map(Field::Parameter),
            "method" => plain(Field::Method),
            "path" => plain(Field::Path),
            "path_and_query" => plain(Field::PathAndQuery),
            "url" => plain(Field::Url),
            "url_decoded" => plain(Field::UrlDecoded),
            "body_sha256" => plain(Field::BodySha256),
            "body_crc32" => plain(Field::BodyCrc32),
            _ => Err(format!(
                "`{text}` is no field; there are header:, numbered:, query:, form:, json:, xml:, entry:, claim:, \
                 parameter:, method, path, path_and_query, url, url_decoded, body_sha256 and body_crc32"
            )),
        }
    }

    /// The field's text; `None` if it is not there.
    pub(crate) fn text<'a>(&self, scope: &Scope<'a>) -> Result<Option<Cow<'a, str>>, Refusal> {
        let request = &scope.request;
        Ok(match self {
            Field::Header(name) => request.header(name)?.map(Cow::Borrowed),
            Field::Query(name) => request.query_value(name)?,
            Field::Form(name) => request.form_value(name)?,
            Field::Json(path) => path.text(scope.json).map_err(|fault| self.refusal_of(fault))?,
            Field::Claim(path) => path.text(scope.proven).map_err(|fault| self.refusal_of(fault))?,
            Field::Parameter(name) => {
                let path = Path::parse(name).ok_or_else(|| self.missing())?;
                path.text(scope.proven).map_err(|fault| self.refusal_of(fault))?
            }
            Field::Xml(name) => self.element(request.body, name)?,
            Field::Method => Some(Cow::Borrowed(request.method)),
            Field::Path => Some(Cow::Borrowed(request.path())),
            Field::PathAndQuery => Some(Cow::Borrowed(request.path_and_query)),
            Field::Url => Some(scope.url()),
            Field::UrlDecoded => Some(Cow::Owned(decoded(&scope.url()))),
            Field::BodySha256 => Some(Cow::Owned(hex(&sha256(&[request.body])))),
            Field::BodyCrc32 => Some(Cow::Owned(crc32(request.body).to_string())),
            Field::Entry(name) => self.entry(scope, name)?,
            Field::Numbered(_) => self.texts(scope)?.into_iter().next(),
        })
    }

    /// The same for a field that must be there.
    pub(crate) fn required<'a>(&self, scope: &Scope<'a>) -> Result<Cow<'a, str>, Refusal> {
        self.text(scope)?.ok_or_else(|| self.missing())
    }

    /// Every text that the field stands for; none if even one of them is not there.
    pub(crate) fn texts<'a>(&self, scope: &Scope<'a>) -> Result<Vec<Cow<'a, str>>, Refusal> {
        match self {
            Field::Json(path) => {
                let values = path.find(scope.json).map_err(|fault| self.refusal_of(fault))?;
                Ok(values.into_iter().map(text).collect::<Option<Vec<_>>>().unwrap_or_default())
            }
            Field::Numbered(prefix) => {
                Ok(scope.request.numbered_headers(prefix)?.into_iter().map(Cow::Borrowed).collect())
            }
            _ => Ok(self.text(scope)?.into_iter().collect()),
        }
    }

    pub(crate) fn missing(&self) -> Refusal {
        Refusal::Missing { field: self.to_string() }
    }

    pub(crate) fn malformed(&self, wanted: &'static str) -> Refusal {
        Refusal::Malformed { field: self.to_string(), wanted }
    }

    fn refusal_of(&self, fault: JsonFault) -> Refusal {
        match fault {
            JsonFault::NotJson => self.malformed("in a JSON text whose names stand once"),
            JsonFault::TooMany => Refusal::TooMany { what: "items in the body", max: VALUES_MAX },
        }
    }

    fn entry<'a>(&self, scope: &Scope<'a>, name: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
        let Some((list, separator)) = scope.list else { return Ok(None) };
        let mut values = entries(list, separator).filter(|(other, _)| *other == name).map(|(_, value)| value);
        let Some(first) = values.next() else { return Ok(None) };
        if values.any(|other| other != first) {
            return Err(Refusal::Ambiguous { field: self.to_string() });
        }
        Ok(Some(Cow::Borrowed(first)))
    }

    fn element<'a>(&self, body: &'a [u8], name: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
        match bellwire_body::element(body, name) {
            None => Err(self.malformed("in an XML text without a document type")),
            Some(Element::Several) => Err(Refusal::Ambiguous { field: self.to_string() }),
            Some(Element::Missing) => Ok(None),
            Some(Element::Found(text)) => Ok(Some(Cow::Owned(text))),
        }
    }
}

/// The entries `name=value` of a list; whatever has no `=` is passed over.
pub(crate) fn entries(list: &str, separator: char) -> impl Iterator<Item = (&str, &str)> {
    list.split(separator).filter_map(|entry| entry.trim().split_once('='))
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Field::Header(name) => write!(f, "header:{name}"),
            Field::Numbered(name) => write!(f, "numbered:{name}"),
            Field::Query(name) => write!(f, "query:{name}"),
            Field::Form(name) => write!(f, "form:{name}"),
            Field::Json(path) => write!(f, "json:{}", path.as_text()),
            Field::Xml(name) => write!(f, "xml:{name}"),
            Field::Entry(name) => write!(f, "entry:{name}"),
            Field::Claim(path) => write!(f, "claim:{}", path.as_text()),
            Field::Parameter(name) => write!(f, "parameter:{name}"),
            Field::Method => f.write_str("method"),
            Field::Path => f.write_str("path"),
            Field::PathAndQuery => f.write_str("path_and_query"),
            Field::Url => f.write_str("url"),
            Field::UrlDecoded => f.write_str("url_decoded"),
            Field::BodySha256 => f.write_str("body_sha256"),
            Field::BodyCrc32 => f.write_str("body_crc32"),
        }
    }
}

fn header_name(name: String) -> Result<String, String> {
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if is_name { Ok(name) } else { Err(format!("`{name}` is no header's name")) }
}

fn element_name(name: String) -> Result<String, String> {
    let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-:".contains(&byte));
    if is_name { Ok(name) } else { Err(format!("`{name}` is no element's name")) }
}

/// The URL with those characters decoded that HubSpot decodes before it signs.
fn decoded(url: &str) -> String {
    const DECODED: [(&str, char); 12] = [
        ("3A", ':'),
        ("2F", '/'),
        ("3F", '?'),
        ("40", '@'),
        ("21", '!'),
        ("24", '$'),
        ("27", '\''),
        ("28", '('),
        ("29", ')'),
        ("2A", '*'),
        ("2C", ','),
        ("3B", ';'),
    ];
    let mut parts = url.split('%');
    let mut text = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let known = DECODED.iter().find(|(code, _)| part.get(..2).is_some_and(|at| at.eq_ignore_ascii_case(code)));
        match known {
            Some((_, character)) => {
                text.push(*character);
                text.push_str(&part[2..]);
            }
            None => {
                text.push('%');
                text.push_str(part);
            }
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope<'a>(body: &'a [u8]) -> Scope<'a> {
        let request = ReceivedRequest {
            method: "POST",
            scheme: "https",
            host: "a.example",
            path_and_query: "/in/x?u=%2Fa%3ab%20",
            headers: &[],
            body,
            body_type: None,
        };
        Scope { request, json: body, url: None, list: Some(("t=1, v1=a,v1=b", ',')), proven: b"{}" }
    }

    #[test]
    fn fields_are_read_as_they_are_written() {
        let scope = scope(br#"{"a":{"b":7}}"#);
        let check = |field: &str, expected: Option<&str>| {
            let field = Field::parse(field).expect("a field");
            assert_eq!(field.text(&scope), Ok(expected.map(Cow::Borrowed)), "{field}");
            assert_eq!(Field::parse(&field.to_string()), Ok(field));
        };
        check("method", Some("POST"));
        check("path", Some("/in/x"));
        check("path_and_query", Some("/in/x?u=%2Fa%3ab%20"));
        check("url", Some("https://a.example/in/x?u=%2Fa%3ab%20"));
        check("url_decoded", Some("https://a.example/in/x?u=/a:b%20"));
        check("query:u", Some("/a:b "));
        check("json:a.b", Some("7"));
        check("json:a", None);
        check("header:X-A", None);
        check("entry:t", Some("1"));
        check("entry:u", None);
        check("body_crc32", Some("2585560631"));
        assert_eq!(
            Field::parse("entry:v1").expect("a field").text(&scope),
            Err(Refusal::Ambiguous { field: "entry:v1".into() })
        );
    }

    #[test]
    fn what_is_no_field_is_told() {
        for text in ["", "body", "header", "header:", "header:a b", "json:", "json:a..b", "method:x", "xml:a>b", "x:y"]
        {
            assert!(Field::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_element_must_stand_once() {
        let field = Field::parse("xml:Id").expect("a field");
        assert_eq!(field.text(&scope(b"<a><Id> 7 </Id></a>")), Ok(Some("7".into())));
        assert_eq!(field.text(&scope(b"<a><Ids>7</Ids></a>")), Ok(None));
        assert!(field.text(&scope(b"<a><Id>7</Id><Id>8</Id></a>")).is_err());
        assert!(field.text(&scope(b"\xff")).is_err());
    }
}
