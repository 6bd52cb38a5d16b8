//! Each way in which an endpoint can be accessed, with every field set.

use bellwire_model::{Access, ClientAuthentication, Credentials, Oauth, SecretText, TlsAccess};
use bellwire_signature::HeaderHmac;
use bellwire_signature::header_hmac::{HashAlgorithm, MacEncoding, Template, TemplateUse};
use std::sync::Arc;
use zeroize::Zeroizing;

/// What must never be found in a file of a sealing store.
pub const ACCESS_SECRET: &str = "only the endpoint may know this";

/// One of each.
pub fn every_access() -> Vec<Access> {
    let secret = || SecretText::new(ACCESS_SECRET);
    let hmac = |algorithm, encoding| Credentials::Hmac {
        header: "X-Signature".to_owned(),
        timestamp_header: Some("X-Timestamp".to_owned()),
        hmac: HeaderHmac::new(
            algorithm,
            encoding,
            Template::parse("v0:{timestamp}:{body}", TemplateUse::Signed).expect("a template"),
            Template::parse("v0={signature}", TemplateUse::Header).expect("a template"),
            Zeroizing::new(ACCESS_SECRET.as_bytes().to_vec()),
        ),
    };
    let oauth = |method| {
        Credentials::Oauth(Arc::new(Oauth {
            token_url: "https://login.example.com/token".to_owned(),
            client_id: "bell".to_owned(),
            client_secret: secret(),
            method,
            scopes: vec!["hooks:write".to_owned()],
            parameters: vec![("audience".to_owned(), SecretText::new("https://receiver.example"))],
            headers: vec![("x-key".to_owned(), secret())],
        }))
    };
    let mut all: Vec<Access> = [
        Credentials::Basic { username: "bell".to_owned(), password: secret() },
        Credentials::Bearer { token: secret() },
        Credentials::Query { name: "token".to_owned(), value: secret() },
        hmac(HashAlgorithm::Sha1, MacEncoding::Hex),
        hmac(HashAlgorithm::Sha256, MacEncoding::Base64),
        hmac(HashAlgorithm::Sha512, MacEncoding::Hex),
        oauth(ClientAuthentication::Basic),
        oauth(ClientAuthentication::Post),
    ]
    .map(|credentials| Access { credentials: Some(credentials), ..Access::default() })
    .into();
    all.push(Access {
        credentials: None,
        tls: TlsAccess { identity: Some(secret()), authorities: Some("PEM".into()), unverified: true },
    });
    all
}
