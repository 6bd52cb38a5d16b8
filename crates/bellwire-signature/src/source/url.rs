//! The ways in which Twilio may have written a URL before it signed it.

use std::{collections::BTreeSet, fmt::Write as _};

/// With the port and without, and each with its query as it is and as older senders escape it. The first is the URL
/// itself; none stands twice.
pub(crate) fn variants(url: &str) -> Vec<String> {
    let mut seen = BTreeSet::new();
    let (with, without) = ports(url);
    [url.to_owned(), with, without]
        .into_iter()
        .flat_map(|url| {
            let old = old_query(&url);
            [url, old]
        })
        .filter(|url| seen.insert(url.clone()))
        .collect()
}

fn ports(url: &str) -> (String, String) {
    let Some((scheme, rest)) = url.split_once("://") else { return (url.to_owned(), url.to_owned()) };
    let (authority, target) = rest.find(['/', '?', '#']).map_or((rest, ""), |at| rest.split_at(at));
    let port_at = authority.rfind(':').filter(|at| {
        let port = &authority[at + 1..];
        !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit())
    });
    let host = port_at.map_or(authority, |at| &authority[..at]);
    let default = if scheme.eq_ignore_ascii_case("http") { ":80" } else { ":443" };
    let port = port_at.map_or(default, |at| &authority[at..]);
    (format!("{scheme}://{host}{port}{target}"), format!("{scheme}://{host}{target}"))
}

/// As `querystring` of old Node.js writes it: decoded and escaped anew.
fn old_query(url: &str) -> String {
    let Some((before, query)) = url.split_once('?') else { return url.to_owned() };
    let mut text = format!("{before}?");
    for (at, (name, value)) in form_urlencoded::parse(query.as_bytes()).enumerate() {
        if at > 0 {
            text.push('&');
        }
        escape(&mut text, &name);
        text.push('=');
        escape(&mut text, &value);
    }
    text
}

fn escape(text: &mut String, part: &str) {
    for byte in part.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.!~*'()".contains(&byte) {
            text.push(char::from(byte));
        } else {
            let _ = write!(text, "%{byte:02X}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_and_queries_vary() {
        assert_eq!(
            variants("https://a.example/x?q=a+b"),
            [
                "https://a.example/x?q=a+b",
                "https://a.example/x?q=a%20b",
                "https://a.example:443/x?q=a+b",
                "https://a.example:443/x?q=a%20b",
            ]
        );
        assert_eq!(variants("http://[::1]:8080/x"), ["http://[::1]:8080/x", "http://[::1]/x"]);
        assert_eq!(variants("http://[::1]"), ["http://[::1]", "http://[::1]:80"]);
        assert_eq!(variants("nonsense"), ["nonsense"]);
    }
}
