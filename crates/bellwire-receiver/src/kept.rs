//! What is kept of a request: bounded, and without what is secret in it.

use crate::verify::Ready;
use bellwire_model::{KeptHeaders, Received, SourceId};
use http::request::Parts;
use std::borrow::Cow;
use std::net::IpAddr;

/// So many headers are kept,
const HEADERS_MAX: usize = 100;
/// and so many bytes of them all.
const HEADERS_BYTES_MAX: usize = 16 * 1024;
/// About so many bytes has one.
const HEADER_BYTES_USUAL: usize = 40;
/// So much of a query is kept, and of a path.
const TEXT_BYTES_MAX: usize = 2_048;
const MASK: &str = "***";
/// Headers that hold a secret whatever the recipe.
const SECRET_HEADERS: [&str; 6] =
    ["authorization", "proxy-authorization", "cookie", "x-api-key", "x-auth-token", "x-amz-security-token"];
/// Query parameters likewise.
const SECRET_PARAMETERS: [&str; 9] =
    ["auth", "token", "access_token", "api_key", "apikey", "key", "secret", "password", "hub.verify_token"];

/// What is kept of a request at a source. `own_path` if it came at the source's own path, else the token in it is left out.
pub(crate) fn received(
    source: SourceId,
    parts: &Parts,
    own_path: bool,
    remote: Option<IpAddr>,
    hops: u8,
    ready: Option<&Ready>,
) -> Received {
    let path = if own_path { cut(parts.uri.path()) } else { "/in/…".to_owned() };
    let parameters = ready.map_or(&[][..], |ready| &ready.secret_parameters);
    Received {
        source,
        method: cut(parts.method.as_str()),
        path,
        query: parts.uri.query().map(|query| cut(&masked_query(query, parameters))),
        headers: headers(parts, ready.map_or(&[][..], |ready| &ready.secret_headers)),
        remote,
        hops,
        dedupe: None,
    }
}

fn headers(parts: &Parts, secret: &[String]) -> KeptHeaders {
    let all = parts.headers.iter();
    kept_headers(all.map(|(name, value)| (name.as_str(), String::from_utf8_lossy(value.as_bytes()))), secret)
}

/// What is kept of headers, whose names are in small letters: bounded, and without the values of what is secret.
pub fn kept_headers<'a>(all: impl Iterator<Item = (&'a str, Cow<'a, str>)>, secret: &[String]) -> KeptHeaders {
    let count = all.size_hint().0.min(HEADERS_MAX);
    let mut kept = KeptHeaders::with_capacity(count, count * HEADER_BYTES_USUAL);
    for (name, value) in all.take(HEADERS_MAX) {
        let is_secret = SECRET_HEADERS.contains(&name) || secret.iter().any(|own| own == name);
        let value = if is_secret { MASK.into() } else { value };
        if kept.content_bytes() + name.len() + value.len() <= HEADERS_BYTES_MAX {
            kept.push(name, &value);
        }
    }
    kept
}

/// The query as it came, but for the values of what is secret.
fn masked_query(query: &str, secret: &[String]) -> String {
    let masked = query.split('&').map(|pair| {
        let Some((name, _)) = pair.split_once('=') else { return pair.to_owned() };
        let plain = form_urlencoded::parse(name.as_bytes()).next().map(|(name, _)| name.to_ascii_lowercase());
        let is_secret =
            plain.is_none_or(|plain| SECRET_PARAMETERS.contains(&plain.as_str()) || secret.contains(&plain));
        if is_secret { format!("{name}={MASK}") } else { pair.to_owned() }
    });
    masked.collect::<Vec<_>>().join("&")
}

fn cut(text: &str) -> String {
    let end = (0..=TEXT_BYTES_MAX.min(text.len())).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    text[..end].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::Ksuid;
    use http::Request;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = Request::builder().method("POST").uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).expect("a request").into_parts().0
    }

    fn kept(parts: &Parts, own_path: bool) -> Received {
        received(SourceId(Ksuid::from_bytes([1; 20])), parts, own_path, None, 0, None)
    }

    #[test]
    fn what_is_secret_is_masked() {
        let parts = parts(
            "/in/geheim?a=1&auth=TK&access%5Ftoken=TK&b",
            &[("authorization", "Bearer TK"), ("x-event", "push"), ("cookie", "TK")],
        );
        let kept = kept(&parts, false);
        assert_eq!(kept.path, "/in/…");
        assert_eq!(kept.query.as_deref(), Some("a=1&auth=***&access%5Ftoken=***&b"));
        assert_eq!(kept.header("x-event"), Some("push"));
        let text = format!("{kept:?}");
        assert!(!text.contains("TK") && !text.contains("geheim"), "{text}");
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let long = "x".repeat(9_000);
        let parts = parts(&format!("/hooks/{long}?{long}"), &[("a", &long), ("b", &long), ("c", "small")]);
        let kept = kept(&parts, true);
        assert_eq!((kept.path.len(), kept.query.as_ref().map(String::len)), (2_048, Some(2_048)));
        assert_eq!(kept.headers.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["a", "c"]);
    }
}
