//! Each way in which an endpoint can be accessed, with every field set.

use bellwire_model::{
    Access, AssertionAlgorithm, ClientAssertion, ClientAuthentication, Credentials, Oauth, OauthGrant, RefreshToken,
    SecretText, TlsAccess,
};
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
    let jwt = |algorithm, key_id| {
        ClientAuthentication::Jwt(ClientAssertion { algorithm, key: secret(), key_id, lifetime_seconds: 300 })
    };
    let oauth = |grant, method| {
        Credentials::Oauth(Arc::new(Oauth {
            token_url: "https://login.example.com/token".to_owned(),
            grant,
            client_id: "bell".to_owned(),
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
        oauth(OauthGrant::ClientCredentials, ClientAuthentication::Basic(secret())),
        oauth(OauthGrant::RefreshToken(RefreshToken::new(secret())), ClientAuthentication::Post(secret())),
        oauth(
            OauthGrant::RefreshToken(RefreshToken { token: secret(), before: Some(SecretText::new("before")) }),
            ClientAuthentication::Post(secret()),
        ),
        oauth(OauthGrant::ClientCredentials, jwt(AssertionAlgorithm::Rs256, Some("k".to_owned()))),
        oauth(OauthGrant::ClientCredentials, jwt(AssertionAlgorithm::Hs256, None)),
    ]
    .map(|credentials| Access { credentials: Some(credentials), ..Access::default() })
    .into();
    all.push(Access {
        credentials: None,
        tls: TlsAccess { identity: Some(secret()), authorities: Some("PEM".into()), unverified: true },
    });
    all
}
