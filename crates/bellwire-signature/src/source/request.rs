//! A request as it came in: what can be asked of it without parsing more than is needed.

use std::borrow::Cow;

use bellwire_body::Kind;

use super::refusal::Refusal;

/// A request as it was received. Borrowed, so that the body is never copied.
#[derive(Clone, Copy, Debug)]
pub struct ReceivedRequest<'a> {
    /// In capitals, as it stands in the request line.
    pub method: &'a str,
    /// Of the URL as the sender knows it: `https`. What a proxy made of the URL on the way is of no use to those who sign it.
    pub scheme: &'a str,
    /// Likewise, with the port if the sender has one: `hooks.example.com`.
    pub host: &'a str,
    /// Path and query as they stand in the request line, such as `/in/k3…?auth=x`.
    pub path_and_query: &'a str,
    /// Names in any case, in the order received, repeated where they were repeated.
    pub headers: &'a [(&'a str, &'a [u8])],
    /// The body's exact bytes, after chunks were joined and before anything else.
    pub body: &'a [u8],
    /// What the body is read as, whatever it calls itself; as its `content-type` says if absent.
    pub body_type: Option<&'a str>,
}

impl<'a> ReceivedRequest<'a> {
    /// The URL as the sender knows it. Few sign it, so it is put together only when somebody asks.
    pub(crate) fn url(&self) -> String {
        [self.scheme, "://", self.host, self.path_and_query].concat()
    }

    /// A header's value; `None` if it is not there.
    ///
    /// # Errors
    /// [`Refusal::Ambiguous`] if it is there twice and says different things: the sender's library and ours might
    /// choose differently. [`Refusal::Malformed`] if it is not text.
    pub(crate) fn header(&self, name: &str) -> Result<Option<&'a str>, Refusal> {
        let mut values = self.header_values(name);
        let Some(first) = values.next() else { return Ok(None) };
        if values.any(|other| other != first) {
            return Err(Refusal::Ambiguous { field: format!("header:{name}") });
        }
        text_of(name, first).map(Some)
    }

    /// Every value of a header, in order.
    pub(crate) fn header_values(&self, name: &str) -> impl Iterator<Item = &'a [u8]> {
        self.headers.iter().filter(move |(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
    }

    /// The values of the headers `{prefix}1`, `{prefix}2` and so on, in whatever order.
    pub(crate) fn numbered_headers(&self, prefix: &str) -> Result<Vec<&'a str>, Refusal> {
        let numbered = |name: &str| {
            name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix))
                && name.len() > prefix.len()
                && name[prefix.len()..].bytes().all(|byte| byte.is_ascii_digit())
        };
        self.headers
            .iter()
            .filter(|(name, _)| numbered(name))
            .map(|(name, _)| self.header(name).map(Option::unwrap_or_default))
            .collect()
    }

    pub(crate) fn path(&self) -> &'a str {
        self.path_and_query.split_once('?').map_or(self.path_and_query, |(path, _)| path)
    }

    pub(crate) fn query(&self) -> &'a str {
        self.path_and_query.split_once('?').map_or("", |(_, query)| query)
    }

    pub(crate) fn query_value(&self, name: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
        pair_value("query", self.query().as_bytes(), name)
    }

    /// A field of a form or multipart body.
    pub(crate) fn form_value(&self, name: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
        single("form", bellwire_body::fields(self.content_type(), self.body).into_iter(), name)
    }

    /// The body as JSON, if it is a form, a multipart body or XML; else as it is, whatever that be.
    pub(crate) fn json(&self) -> Cow<'a, [u8]> {
        bellwire_body::json_or_raw(self.content_type(), self.body)
    }

    /// What the body is read as: what it is called, unless somebody knows better; nothing if it is not called anything.
    pub(crate) fn content_type(&self) -> &'a str {
        if let Some(body_type) = self.body_type {
            return body_type;
        }
        let first = self.header_values("content-type").next();
        first.and_then(|value| std::str::from_utf8(value).ok()).unwrap_or_default()
    }

    /// The body if it is a form, else nothing.
    pub(crate) fn form(&self) -> &'a [u8] {
        if Kind::of(self.content_type()) == Kind::Form { self.body } else { b"" }
    }
}

fn pair_value<'a>(kind: &str, pairs: &'a [u8], name: &str) -> Result<Option<Cow<'a, str>>, Refusal> {
    single(kind, form_urlencoded::parse(pairs), name)
}

fn single<'a>(
    kind: &str,
    pairs: impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)>,
    name: &str,
) -> Result<Option<Cow<'a, str>>, Refusal> {
    let mut values = pairs.filter(|(other, _)| other == name).map(|(_, value)| value);
    let Some(first) = values.next() else { return Ok(None) };
    if values.any(|other| other != first) {
        return Err(Refusal::Ambiguous { field: format!("{kind}:{name}") });
    }
    Ok(Some(first))
}

fn text_of<'a>(name: &str, value: &'a [u8]) -> Result<&'a str, Refusal> {
    std::str::from_utf8(value)
        .map(str::trim)
        .map_err(|_| Refusal::Malformed { field: format!("header:{name}"), wanted: "UTF-8" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request<'a>(headers: &'a [(&'a str, &'a [u8])]) -> ReceivedRequest<'a> {
        ReceivedRequest {
            method: "POST",
            scheme: "https",
            host: "example.com",
            path_and_query: "/in/x?a=1&a=1&b=1&b=2&c=%20+",
            headers,
            body: b"k=v",
            body_type: None,
        }
    }

    #[test]
    fn what_comes_twice_with_one_value_is_one_and_with_two_is_refused() {
        let headers: &[(&str, &[u8])] = &[("X-A", b"1"), ("x-a", b"1"), ("x-b", b"1"), ("X-B", b"2"), ("x-c", b"\xff")];
        let request = request(headers);
        assert_eq!(request.header("x-A"), Ok(Some("1")));
        assert_eq!(request.header("x-none"), Ok(None));
        assert_eq!(request.header("x-b"), Err(Refusal::Ambiguous { field: "header:x-b".into() }));
        assert!(matches!(request.header("x-c"), Err(Refusal::Malformed { .. })));
        assert_eq!(request.query_value("a"), Ok(Some("1".into())));
        assert_eq!(request.query_value("b"), Err(Refusal::Ambiguous { field: "query:b".into() }));
        assert_eq!(request.query_value("c"), Ok(Some("  ".into())));
        assert_eq!((request.path(), request.query_value("z")), ("/in/x", Ok(None)));
    }

    #[test]
    fn a_form_is_one_only_if_it_says_so() {
        assert_eq!(request(&[]).form_value("k"), Ok(None));
        let headers: &[(&str, &[u8])] = &[("Content-Type", b"application/x-www-form-urlencoded; charset=UTF-8")];
        assert_eq!(request(headers).form_value("k"), Ok(Some("v".into())));
        let headers: &[(&str, &[u8])] = &[("Content-Type", b"multipart/form-data; boundary=x")];
        let body = b"--x\r\ncontent-disposition: form-data; name=\"k\"\r\n\r\nv\r\n--x--";
        assert_eq!(ReceivedRequest { body, ..request(headers) }.form_value("k"), Ok(Some("v".into())));
        assert_eq!(&*ReceivedRequest { body, ..request(headers) }.json(), br#"{"k":"v"}"#);
    }

    #[test]
    fn numbered_headers_have_a_number() {
        let headers: &[(&str, &[u8])] = &[("X-S-1", b"a"), ("x-s-22", b"b"), ("x-s-", b"c"), ("x-s-1a", b"d")];
        assert_eq!(request(headers).numbered_headers("X-S-"), Ok(vec!["a", "b"]));
    }
}
