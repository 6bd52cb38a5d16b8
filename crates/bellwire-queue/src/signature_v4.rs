//! Version 4 of AWS' signature of requests.

use hmac::{Hmac, KeyInit, Mac};
use sha2::{Digest, Sha256};

/// For what a signature is good.
pub(crate) struct Scope<'a> {
    /// `20150830T123600Z`.
    pub(crate) date: &'a str,
    pub(crate) region: &'a str,
    pub(crate) service: &'a str,
}

/// The header `authorization`. `request` is the method, the path and the query, both as they go out and need no more escaping;
/// `headers` have names in small letters, in alphabetical order, and values without spaces around.
pub(crate) fn sign(
    scope: &Scope<'_>,
    key_id: &str,
    secret: &str,
    request: (&str, &str, &str),
    headers: &[(&str, &str)],
    payload: &[u8],
) -> String {
    let Scope { date, region, service } = scope;
    let day = date.get(..8).unwrap_or(date);
    let (method, path, query) = request;
    let names = headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{}", hex(&Sha256::digest(payload)));
    let credential = format!("{day}/{region}/{service}/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{date}\n{credential}\n{}", hex(&Sha256::digest(canonical.as_bytes())));
    let mut key = mac(format!("AWS4{secret}").as_bytes(), day.as_bytes());
    for part in [*region, *service, "aws4_request"] {
        key = mac(&key, part.as_bytes());
    }
    let signature = hex(&mac(&key, text.as_bytes()));
    format!("AWS4-HMAC-SHA256 Credential={key_id}/{credential}, SignedHeaders={names}, Signature={signature}")
}

fn mac(key: &[u8], text: &[u8]) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of every length");
    mac.update(text);
    mac.finalize().into_bytes().into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY";
    const DATE: &str = "20150830T123600Z";

    /// The example of "Create a signed AWS API request", and of AWS' test suite for version 4: `get-vanilla`, `post-vanilla` and
    /// `post-x-www-form-urlencoded`.
    #[test]
    fn what_aws_published_is_signed_as_there() {
        let form = "application/x-www-form-urlencoded";
        for (service, request, headers, payload, signature) in [
            (
                "iam",
                ("GET", "/", "Action=ListUsers&Version=2010-05-08"),
                vec![
                    ("content-type", "application/x-www-form-urlencoded; charset=utf-8"),
                    ("host", "iam.amazonaws.com"),
                    ("x-amz-date", DATE),
                ],
                "",
                "5d672d79c15b13162d9279b0855cfba6789a8edb4c82c400e06b5924a6f2b5d7",
            ),
            (
                "service",
                ("GET", "/", ""),
                vec![("host", "example.amazonaws.com"), ("x-amz-date", DATE)],
                "",
                "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31",
            ),
            (
                "service",
                ("POST", "/", ""),
                vec![("host", "example.amazonaws.com"), ("x-amz-date", DATE)],
                "",
                "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b",
            ),
            (
                "service",
                ("POST", "/", ""),
                vec![("content-type", form), ("host", "example.amazonaws.com"), ("x-amz-date", DATE)],
                "Param1=value1",
                "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a",
            ),
        ] {
            let scope = Scope { date: DATE, region: "us-east-1", service };
            let signed = sign(&scope, "AKIDEXAMPLE", SECRET, request, &headers, payload.as_bytes());
            assert!(signed.ends_with(&format!("Signature={signature}")), "{request:?} {headers:?}: {signed}");
            let begins = format!("AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/{service}/aws4_request, ");
            assert!(signed.starts_with(&begins), "{signed}");
        }
    }

    #[test]
    fn everything_counts() {
        let signed = |secret: &str, date: &str, path: &str, header: &str, payload: &[u8]| {
            let scope = Scope { date, region: "us-east-1", service: "sqs" };
            sign(&scope, "a", secret, ("POST", path, ""), &[("host", "h"), ("x-amz-target", header)], payload)
        };
        let first = signed(SECRET, DATE, "/", "t", b"{}");
        for other in [
            signed("x", DATE, "/", "t", b"{}"),
            signed(SECRET, "20150830T123601Z", "/", "t", b"{}"),
            signed(SECRET, DATE, "/a", "t", b"{}"),
            signed(SECRET, DATE, "/", "u", b"{}"),
            signed(SECRET, DATE, "/", "t", b"[]"),
        ] {
            assert_ne!(first, other);
        }
    }
}
