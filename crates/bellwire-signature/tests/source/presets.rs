//! Every preset: what is signed as its sender signs is accepted; what is changed afterwards is not.

use std::sync::Arc;

use base64::{Engine, prelude::*};
use bellwire_signature::source::{
    Algorithm, KeyFormat, Keys, Preset, Recipe, Refusal, Sample, SampleError, Supplied, Verifier, preset, presets,
};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::{
    pair::{P256_DER, P256_FIXED, P384_FIXED, Pair, ecdsa, ed25519, rsa, rsa_pss},
    request::{Case, recipe},
};

const NOW: i64 = 1_700_000_000;

/// The sender's key, if it is not shared with us.
fn pair(preset: &Preset) -> Option<Pair> {
    let way = &preset.recipe.verify[0];
    Some(match (way.algorithm, way.key) {
        (Algorithm::RsaSha256, KeyFormat::X509) if preset.name == "paypal" => {
            rsa("messageverificationcerts.paypal.com")
        }
        (Algorithm::RsaSha256, _) => rsa("sns.us-east-1.amazonaws.com"),
        (Algorithm::EcdsaP256Sha256, _) => ecdsa(P256_DER),
        (Algorithm::JwtEs256, _) => ecdsa(P256_FIXED),
        (Algorithm::Ed25519, format) | (Algorithm::HttpSignature, format @ KeyFormat::Spki) => ed25519(format),
        _ => return None,
    })
}

fn secrets(preset: &Preset, pair: Option<&Pair>) -> Vec<String> {
    let way = &preset.recipe.verify[0];
    match (way.key, pair) {
        (KeyFormat::X509 | KeyFormat::Jwk, _) => Vec::new(),
        (_, Some(pair)) => vec![pair.public.clone()],
        (KeyFormat::Hex, None) => vec!["00112233445566778899AABBCCDDEEFF".to_owned()],
        (KeyFormat::Base64, None) => vec![BASE64_STANDARD.encode([9; 32])],
        (KeyFormat::Standard, None) => vec!["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned()],
        _ if way.algorithm == Algorithm::None => Vec::new(),
        _ if preset.name == "salesforce" => vec!["00D5g00000ABCdEAAX".to_owned()],
        _ => vec!["user:pass:word with colons".to_owned()],
    }
}

fn supplied(preset: &Preset, pair: Option<&Pair>) -> Supplied {
    let given = |name: &str| match name {
        "topic_arn" => "arn:aws:sns:us-east-1:1:orders",
        "host" => "sandbox.plaid.com",
        "header" => "X-Their-Header",
        _ => "something",
    };
    Supplied {
        secrets: secrets(preset, pair).into_iter().map(Into::into).collect(),
        settings: preset.recipe.settings.keys().map(|name| (name.clone(), given(name).to_owned())).collect(),
        ..Supplied::default()
    }
}

/// A request such as the sender makes, not yet signed.
fn sample(name: &str) -> Sample {
    let text = &preset(name).expect("a preset").recipe.sample;
    let body = match name {
        // Two items, of which each is signed; what is there already is not disturbed.
        "adyen" => {
            r#"{"notificationItems":[{"NotificationRequestItem":{"pspReference":"1","merchantAccountCode":"m","eventCode":"E","success":"true"}},{"NotificationRequestItem":{"pspReference":"2","merchantAccountCode":"m","amount":{"value":10,"currency":"EUR"},"eventCode":"E","success":"false"}}]}"#
        }
        "microsoft-graph" => r#"{"value":[{"changeType":"created","clientState":"?"},{"changeType":"updated"}]}"#,
        "aws-sns" => {
            r#"{"Type":"Notification","MessageId":"m","TopicArn":"arn:aws:sns:us-east-1:1:orders","Message":"{}","Timestamp":"2023-01-01T00:00:00Z","SignatureVersion":"2","SigningCertURL":"https://sns.us-east-1.amazonaws.com/SimpleNotificationService-1.pem"}"#
        }
        _ => &text.body,
    };
    let mut headers = vec![("Content-Type".to_owned(), text.content_type.clone())];
    headers.extend(text.headers.clone());
    if name == "paypal" {
        let url = "https://api.paypal.com/v1/notifications/certs/CERT-1";
        headers.push(("PayPal-Cert-Url".to_owned(), url.to_owned()));
    }
    let url = "https://hooks.example.com/in/k3?x=%2Fa".to_owned();
    Sample { method: "POST".to_owned(), url, headers, body: body.as_bytes().to_vec() }
}

struct Signed {
    case: Case,
    verifier: Verifier,
    pair: Option<Pair>,
}

impl Signed {
    fn new(preset: &'static Preset) -> Signed {
        Signed::of(preset, preset.recipe.clone())
    }

    /// With the preset's recipe, or a variant of it.
    fn of(preset: &'static Preset, recipe: Recipe) -> Signed {
        let pair = pair(preset);
        let supplied = supplied(preset, pair.as_ref());
        let verifier = Verifier::new(&recipe, &supplied).expect(&preset.name);
        let sample = sample(&preset.name);
        let signed = match &pair {
            Some(pair) => verifier.sign_with(&sample, "evt_1", NOW, Some(&pair.sign), pair),
            None => verifier.sign(&sample, "evt_1", NOW),
        };
        let signed = signed.unwrap_or_else(|error| panic!("{}: {error}", preset.name));
        let mut case = Case::new(&preset.name, recipe, "").url(&signed.url).body(signed.body).at(NOW);
        case.supplied = supplied;
        case.headers = signed.headers.into_iter().map(|(name, value)| (name, value.into_bytes())).collect();
        Signed { case, verifier, pair }
    }

    fn verify(&self, case: &Case) -> Result<(), Refusal> {
        let none = bellwire_signature::source::NoKeys;
        let keys: &dyn Keys = self.pair.as_ref().map_or(&none, |pair| pair);
        case.with_request(|request| self.verifier.verify(request, case.now_seconds, keys)).map(|_| ())
    }
}

#[test]
fn what_the_sender_signs_is_accepted_and_what_is_changed_is_not() {
    for preset in presets() {
        let signed = Signed::new(preset);
        let (name, case) = (&preset.name, &signed.case);
        assert_eq!(signed.verify(case), Ok(()), "{name}");
        let way = &preset.recipe.verify[0];
        if way.algorithm == Algorithm::None {
            continue;
        }
        // The body's last byte but two is within what everybody signs who signs the body as a whole.
        let is_whole = ["{body}", "{body_crc32}", "{form_sorted}"].iter().any(|part| way.signed.contains(part));
        let is_proof = !matches!(way.algorithm, Algorithm::Token | Algorithm::Basic);
        if (is_whole || way.body_sha256.is_some() || way.signed.is_empty()) && is_proof {
            let mut changed = case.clone();
            let at = changed.body.len() - 3;
            changed.body[at] ^= 1;
            assert!(signed.verify(&changed).is_err(), "{name}: a changed body");
        }
        let Some(field) = way.signature.as_ref().map(|place| place.field.replace("{setting:header}", "X-Their-Header"))
        else {
            continue;
        };
        let Some((_, header)) = field.split_once("header:").or_else(|| field.split_once("numbered:")) else { continue };
        let is_it = |other: &str| other.eq_ignore_ascii_case(header) || other == format!("{header}1");
        let at = case.headers.iter().position(|(other, _)| is_it(other)).expect(name);
        let value = case.headers[at].1.clone();
        let with = |value: Option<Vec<u8>>| {
            let mut changed = case.clone();
            match value {
                Some(value) => changed.headers[at].1 = value,
                None => drop(changed.headers.remove(at)),
            }
            signed.verify(&changed)
        };
        assert!(matches!(with(None), Err(Refusal::Missing { .. } | Refusal::NoWay)), "{name}: {:?}", with(None));
        assert!(with(Some(Vec::new())).is_err(), "{name}: empty");
        assert!(with(Some(value.repeat(500))).is_err(), "{name}: oversized");
        assert!(with(Some([b"x".as_slice(), &value].concat())).is_err(), "{name}: another prefix");
        for bit in 0..8 {
            let mut changed = value.clone();
            let middle = changed.len() * 3 / 4;
            changed[middle] ^= 1 << bit;
            let is_case = changed.eq_ignore_ascii_case(&value) && value[middle].is_ascii_hexdigit();
            assert!(with(Some(changed)).is_err() || is_case, "{name}: bit {bit}");
        }
    }
}

#[test]
fn stale_and_future_times_are_refused() {
    let mut timed = 0;
    for preset in presets() {
        let Some(time) = preset.recipe.verify[0].timestamp.as_ref() else { continue };
        let signed = Signed::new(preset);
        let seconds = i64::try_from(time.tolerance_s).expect("a tolerance");
        for (now_seconds, is_ok) in [
            (NOW + seconds, true),
            (NOW - seconds, true),
            (NOW + seconds + 1, false),
            (NOW - seconds - 1, false),
            (i64::MAX, false),
            (i64::MIN, false),
        ] {
            let verdict = signed.verify(&Case { now_seconds, ..signed.case.clone() });
            assert_eq!(verdict.is_ok(), is_ok, "{} at {now_seconds}: {verdict:?}", preset.name);
        }
        timed += 1;
    }
    assert!(timed > 15, "{timed}");
}

#[test]
fn the_second_secret_fits_and_another_does_not() {
    for preset in presets() {
        let signed = Signed::new(preset);
        let Some(secret) = signed.case.supplied.secrets.first().cloned() else { continue };
        if signed.pair.is_some() {
            continue;
        }
        // The next character but the last: still of the right form.
        let at = secret.len() - 3;
        let next = if secret.as_bytes()[at] == b'A' { "B" } else { "A" };
        let other: zeroize::Zeroizing<String> = format!("{}{next}{}", &secret[..at], &secret[at + 1..]).into();
        let mut case = signed.case.clone();
        case.supplied.secrets = vec![other.clone(), secret];
        assert!(case.verify().is_ok(), "{}", preset.name);
        case.supplied.secrets = vec![other];
        let verdict = case.verify();
        assert!(matches!(verdict, Err(Refusal::Mismatch | Refusal::Unexpected { .. })), "{}: {verdict:?}", preset.name);
    }
}

#[test]
fn upper_case_hexadecimal_is_the_same_signature() {
    let mut tried = 0;
    for preset in presets() {
        let signed = Signed::new(preset);
        let mut case = signed.case.clone();
        for (name, value) in &mut case.headers {
            let text = String::from_utf8(value.clone()).expect("text");
            let hex_at = text.len().saturating_sub(40);
            let is_hex = text.is_char_boundary(hex_at)
                && text.len() >= 40
                && text[hex_at..].bytes().all(|b| b.is_ascii_hexdigit());
            if is_hex && name.to_ascii_lowercase().contains("signature") {
                *value = format!("{}{}", &text[..hex_at], text[hex_at..].to_ascii_uppercase()).into_bytes();
                tried += 1;
            }
        }
        assert_eq!(signed.verify(&case), Ok(()), "{}", preset.name);
    }
    assert!(tried > 15, "{tried}");
}

#[test]
fn a_key_that_is_not_fetched_yet_is_asked_for() {
    let asked = |name: &str| {
        let signed = Signed::new(preset(name).expect("a preset"));
        match signed.case.verify() {
            Err(Refusal::NeedsKey(request)) => request,
            verdict => panic!("{name}: {verdict:?}"),
        }
    };
    assert_eq!(asked("paypal").url, "https://api.paypal.com/v1/notifications/certs/CERT-1");
    assert_eq!(asked("aws-sns").url, "https://sns.us-east-1.amazonaws.com/SimpleNotificationService-1.pem");
    let plaid = asked("plaid");
    assert_eq!(plaid.url, "https://sandbox.plaid.com/webhook_verification_key/get");
    let post = plaid.post.expect("a body");
    assert_eq!(*post, r#"{"client_id":"something","key_id":"evt_1","secret":"something"}"#);
}

#[test]
fn a_certificate_must_be_the_senders_and_valid() {
    let preset = preset("paypal").expect("a preset");
    let mut signed = Signed::new(preset);
    let at = |name: &str| signed.case.headers.iter().position(|(other, _)| other == name).expect(name);
    let mut elsewhere = signed.case.clone();
    elsewhere.headers[at("PayPal-Cert-Url")].1 = b"https://paypal.com.evil.example/v1/notifications/certs/1".to_vec();
    assert_eq!(signed.verify(&elsewhere), Err(Refusal::KeyAddress { field: "header:PayPal-Cert-Url".into() }));
    for now_seconds in [1_500_000_000, 2_000_000_000] {
        let verdict = signed.verify(&Case { now_seconds, ..signed.case.clone() });
        assert_eq!(verdict, Err(Refusal::Key { text: "the certificate is not valid now".into() }));
    }
    let case = signed.case.clone();
    signed.pair = Some(rsa("www.evil.example"));
    assert_eq!(signed.verify(&case), Err(Refusal::Key { text: "the certificate is made out to somebody else".into() }));
    let published = |bytes: &[u8]| Pair { published: Some(bytes.into()), ..rsa("x.paypal.com") };
    for bytes in [b"".as_slice(), b"<html>", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
        signed.pair = Some(published(bytes));
        assert!(matches!(signed.verify(&case), Err(Refusal::Key { .. })));
    }
}

#[test]
fn a_topic_of_somebody_else_is_refused() {
    let preset = preset("aws-sns").expect("a preset");
    let signed = Signed::new(preset);
    let mut supplied = signed.case.supplied.clone();
    supplied.settings.insert("topic_arn".to_owned(), "arn:aws:sns:us-east-1:2:orders".to_owned());
    let verifier = Verifier::new(&preset.recipe, &supplied).expect("a verifier");
    let keys = signed.pair.as_ref().expect("keys");
    let verdict = signed.case.with_request(|request| verifier.verify(request, NOW, keys));
    assert_eq!(verdict, Err(Refusal::Unexpected { field: "json:TopicArn".into() }));
}

#[test]
fn a_jwt_chooses_neither_its_algorithm_nor_its_body() {
    let signed = Signed::new(preset("netlify").expect("a preset"));
    let at = signed.case.headers.iter().position(|(name, _)| name == "X-Webhook-Signature").expect("a token");
    let token = String::from_utf8(signed.case.headers[at].1.clone()).expect("text");
    let claims = token.split('.').nth(1).expect("claims");
    for header in [r#"{"alg":"none"}"#, r#"{"alg":"ES256"}"#, r#"{"alg":"HS256","crit":["x"]}"#, "{}", "x"] {
        let header = BASE64_URL_SAFE_NO_PAD.encode(header);
        for signature in ["", token.rsplit('.').next().expect("a signature")] {
            let mut case = signed.case.clone();
            case.headers[at].1 = format!("{header}.{claims}.{signature}").into_bytes();
            assert!(matches!(signed.verify(&case), Err(Refusal::Malformed { .. })));
        }
    }
    let other = signed.case.clone().body("{}");
    assert_eq!(signed.verify(&other), Err(Refusal::BodyDigest { field: "claim:sha256".into() }));
}

#[test]
fn a_jwt_ends_when_it_says_and_begins_when_it_says() {
    let secret = "a long enough secret";
    let check = |claims: &str, now_seconds: i64| {
        let part = |text: &str| BASE64_URL_SAFE_NO_PAD.encode(text);
        let signed = format!("{}.{}", part(r#"{"alg":"HS256"}"#), part(claims));
        let mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key");
        let mac = mac.chain_update(&signed).finalize().into_bytes();
        let way = r#"{"algorithm":"jwt-hs256","signature":{"field":"header:Authorization","prefix":"Bearer "}}"#;
        let case = Case::new("a JWT", recipe(way), secret).at(now_seconds);
        case.header("authorization", &format!("bearer {signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(mac)))
            .verify()
            .map(|_| ())
    };
    assert_eq!(check("{}", NOW), Ok(()));
    assert_eq!(check(r#"{"exp":1700000000}"#, NOW + 60), Ok(()));
    assert_eq!(check(r#"{"exp":1700000000.5}"#, NOW + 61), Err(Refusal::TooOld { by_seconds: 61 }));
    assert_eq!(check(r#"{"nbf":1700000000}"#, NOW - 60), Ok(()));
    assert_eq!(check(r#"{"nbf":1700000000}"#, NOW - 61), Err(Refusal::TooNew { by_seconds: 61 }));
    assert!(matches!(check(r#"{"exp":"soon"}"#, NOW), Err(Refusal::Malformed { .. })));
}

#[test]
fn http_messages_are_signed_with_every_kind_of_key() {
    for (algorithm, pair) in [
        ("ed25519", ed25519(KeyFormat::Spki)),
        ("ecdsa-p256-sha256", ecdsa(P256_FIXED)),
        ("ecdsa-p384-sha384", ecdsa(P384_FIXED)),
        ("rsa-pss-sha512", rsa_pss()),
        ("rsa-v1_5-sha256", rsa("x")),
    ] {
        let with = |named: &str, expires: i64| {
            let input = format!(r#"("@method" "@authority" "@query");created={NOW};expires={expires};alg="{named}""#);
            let base = format!(
                "\"@method\": POST\n\"@authority\": hooks.example.com\n\"@query\": ?a=b\n\"@signature-params\": {input}"
            );
            let signature = BASE64_STANDARD.encode((pair.sign)(base.as_bytes()));
            let way = r#"{"algorithm":"http-signature","key":"spki","components":["@method"],"timestamp":{"field":"parameter:created"}}"#;
            let case =
                Case::new("HTTP", recipe(way), &pair.public).url("https://Hooks.example.com:443/x?a=b").at(NOW + 10);
            case.header("Signature-Input", &format!("s={input}"))
                .header("Signature", &format!("s=:{signature}:"))
                .verify()
        };
        assert!(with(algorithm, NOW + 10).is_ok(), "{algorithm}: {:?}", with(algorithm, NOW + 10));
        assert_eq!(with(algorithm, NOW + 9), Err(Refusal::TooOld { by_seconds: 1 }), "{algorithm}");
        for other in ["hmac-sha256", "none", ""] {
            assert!(matches!(with(other, NOW + 10), Err(Refusal::Malformed { .. })), "{algorithm} as {other}");
        }
        let other = if algorithm == "ed25519" { "rsa-pss-sha512" } else { "ed25519" };
        assert_eq!(with(other, NOW + 10), Err(Refusal::Mismatch), "{algorithm} as {other}");
    }
}

#[test]
fn a_retired_key_is_refused() {
    let mut signed = Signed::new(preset("plaid").expect("a preset"));
    let pair = signed.pair.as_mut().expect("keys");
    let jwk = String::from_utf8(pair.published.as_ref().expect("a key").to_vec()).expect("JSON");
    let case = signed.case.clone();
    for (from, to) in [("\"expired_at\":null", "\"expired_at\":1"), ("P-256", "P-384"), ("evt_1", "evt_2")] {
        signed.pair.as_mut().expect("keys").published = Some(jwk.replace(from, to).into_bytes().into());
        assert!(matches!(signed.verify(&case), Err(Refusal::Key { .. })), "{to}");
    }
    let list = jwk.replace("{\"key\":", "{\"key\":[{\"kid\":\"other\"},").replace("}}", "}]}");
    signed.pair.as_mut().expect("keys").published = Some(list.into_bytes().into());
    assert_eq!(signed.verify(&case), Ok(()));
}

#[test]
fn a_key_of_a_whole_set_needs_no_id() {
    let mut recipe = preset("plaid").expect("a preset").recipe.clone();
    recipe.verify[0].key_set.as_mut().expect("a key set").post.clear();
    let mut signed = Signed::of(preset("plaid").expect("a preset"), recipe);
    let pair = signed.pair.as_mut().expect("keys");
    let jwk = String::from_utf8(pair.published.as_ref().expect("a key").to_vec()).expect("JSON");
    let case = signed.case.clone();
    let mut check = |published: &str, fits: bool| {
        signed.pair.as_mut().expect("keys").published = Some(published.as_bytes().into());
        assert_eq!(signed.verify(&case).is_ok(), fits, "{published}");
    };
    let without = jwk.replace("\"kid\":\"evt_1\",", "");
    check(&jwk, true);
    check(&without, true);
    check(&without.replace("{\"key\":", "{\"key\":[{\"kty\":\"RSA\"},").replace("}}", "}]}"), true);
    check(&jwk.replace("evt_1", "evt_2"), false);
}

#[test]
fn a_token_that_names_no_key_is_tried_with_the_keys_of_its_algorithm() {
    let plaid = preset("plaid").expect("a preset");
    let mut recipe = plaid.recipe.clone();
    recipe.verify[0].key_set.as_mut().expect("a key set").post.clear();
    let jwk = |pair: &Pair| -> serde_json::Value {
        let published = pair.published.as_ref().expect("a key");
        serde_json::from_slice::<serde_json::Value>(published).expect("JSON")["key"].take()
    };
    // The same claims under a header that says nothing but the algorithm.
    let unnamed = |signed: &mut Signed| {
        let pair = signed.pair.as_ref().expect("keys");
        let of_token = |(name, _): &&mut (String, Vec<u8>)| name.eq_ignore_ascii_case("plaid-verification");
        let (_, token) = signed.case.headers.iter_mut().find(of_token).expect("a token");
        let claims = String::from_utf8(token.clone()).expect("a token").split('.').nth(1).expect("claims").to_owned();
        let text = format!("{}.{claims}", BASE64_URL_SAFE_NO_PAD.encode(r#"{"alg":"ES256"}"#));
        *token = format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode((pair.sign)(text.as_bytes()))).into_bytes();
    };
    let mut signed = Signed::of(plaid, recipe);
    unnamed(&mut signed);
    let case = signed.case.clone();
    let own = jwk(signed.pair.as_ref().expect("keys"));
    let other = jwk(&ecdsa(P256_FIXED));
    let rsa = serde_json::json!({"kty": "RSA", "kid": "r", "alg": "RS256", "n": "AQAB", "e": "AQAB"});
    let with = |name: &str, value: &str| {
        let mut changed = own.clone();
        changed[name] = value.into();
        changed
    };
    let mut check = |name: &str, keys: Vec<serde_json::Value>| {
        let published = serde_json::json!({ "key": keys }).to_string();
        signed.pair.as_mut().expect("keys").published = Some(published.into_bytes().into());
        (name.to_owned(), signed.verify(&case))
    };
    let several = |many: usize, key: &serde_json::Value| vec![key.clone(); many];
    for (name, keys) in [
        ("one", vec![own.clone()]),
        ("several", vec![rsa.clone(), other.clone(), own.clone(), other.clone()]),
        ("behind many of another algorithm", [several(40, &rsa), several(15, &other), vec![own.clone()]].concat()),
    ] {
        assert_eq!(check(name, keys), (name.to_owned(), Ok(())));
    }
    for (name, keys) in [
        ("others", vec![other.clone(), other.clone()]),
        ("more than are tried", [several(16, &other), vec![own.clone()]].concat()),
    ] {
        assert_eq!(check(name, keys), (name.to_owned(), Err(Refusal::Mismatch)));
    }
    for (name, keys) in [
        ("none", Vec::new()),
        ("of another algorithm alone", several(3, &rsa)),
        ("for encryption", vec![with("use", "enc")]),
        ("for key agreement", vec![with("alg", "ECDH-ES")]),
    ] {
        assert!(matches!(check(name, keys).1, Err(Refusal::Key { .. })), "{name}");
    }

    // Where each key is asked for by its id, there is none to ask for.
    let mut signed = Signed::new(plaid);
    unnamed(&mut signed);
    assert!(matches!(signed.verify(&signed.case), Err(Refusal::Malformed { .. })));
}

#[test]
fn who_has_no_key_makes_no_sample() {
    for name in ["discord", "paypal", "plaid", "kick", "http-message-signatures"] {
        let preset = preset(name).expect("a preset");
        let verifier = Verifier::new(&preset.recipe, &supplied(preset, pair(preset).as_ref())).expect("a verifier");
        assert_eq!(verifier.sign(&sample(name), "evt_1", NOW), Err(SampleError::NotOurs), "{name}");
    }
}

/// Signed with `openssl dgst`, as SNS signs.
#[test]
fn sns_notifications() {
    let certificate: Arc<[u8]> = include_bytes!("sns/certificate.pem").as_slice().into();
    let keys = Pair { public: String::new(), sign: Box::new(<[u8]>::to_vec), published: Some(certificate) };
    let preset = preset("aws-sns").expect("a preset");
    let mut supplied = supplied(preset, None);
    supplied.settings.insert("topic_arn".to_owned(), "arn:aws:sns:us-west-2:123456789012:MyTopic".to_owned());
    let verifier = Verifier::new(&preset.recipe, &supplied).expect("a verifier");
    let verify = |body: &str| {
        let case = Case::preset("aws-sns", "").body(body);
        case.with_request(|request| verifier.verify(request, 1_800_000_000, &keys))
    };
    for text in [
        include_str!("sns/notification-1.json"),
        include_str!("sns/notification-2.json"),
        include_str!("sns/confirmation.json"),
    ] {
        assert!(verify(text).is_ok(), "{:?}", verify(text));
        for (from, to) in
            [("\"Hello", "\"Hallo"), ("You have", "You had"), ("MyTopic\"", "Other\""), ("2012-0", "2013-0")]
        {
            if text.contains(from) {
                assert!(verify(&text.replace(from, to)).is_err(), "{to}");
            }
        }
        assert_eq!(verify(&text.replace("\"SignatureVersion\": \"", "\"SignatureVersion\": \"3")), Err(Refusal::NoWay));
        // The other hash's signature is no signature.
        let swapped = text.replace("\"SignatureVersion\": \"1", "\"SignatureVersion\": \"x");
        let swapped = swapped.replace("\"SignatureVersion\": \"2", "\"SignatureVersion\": \"1").replace("\"x", "\"2");
        assert_eq!(verify(&swapped), Err(Refusal::Mismatch));
    }
}

/// What is compared but not signed would only look like a check.
#[test]
fn what_has_no_effect_is_a_fault() {
    let faults = |way: &str| {
        let supplied = Supplied { secrets: vec!["a long enough secret".to_owned().into()], ..Supplied::default() };
        let faults = Verifier::new(&recipe(way), &supplied).expect_err(way);
        faults.into_iter().map(|fault| fault.field).collect::<Vec<_>>()
    };
    let signature = r#""signature":{"field":"header:X-S"}"#;
    let check = |way: &str, field: &str| {
        let way = format!("{{{}}}", way.replace("SIGNATURE", signature));
        assert_eq!(faults(&way)[0], field, "{way}");
    };
    check(r#""signed":"{body}",SIGNATURE,"timestamp":{"field":"header:X-T"}"#, "verify[0].timestamp.field");
    check(r#""signed":"{body}",SIGNATURE,"body_sha256":"query:x""#, "verify[0].body_sha256");
    check(r#""algorithm":"token",SIGNATURE,"timestamp":{"field":"header:X-T"}"#, "verify[0].timestamp.field");
    check(r#""algorithm":"jwt-hs256",SIGNATURE,"body_sha256":"header:x""#, "verify[0].body_sha256");
    check(r#""signed":"{body}",SIGNATURE,"url_variants":true"#, "verify[0].url_variants");
    check(r#""signed":"{body}",SIGNATURE,"components":["@method"]"#, "verify[0].components");
    check(r#""signed":"{secret}{body}",SIGNATURE"#, "verify[0].signed");
    check(r#""algorithm":"sha256","signed":"{body}",SIGNATURE"#, "verify[0].signed");
    check(r#""algorithm":"token","signed":"{body}",SIGNATURE"#, "verify[0].signed");
    check(r#""algorithm":"ed25519","signed":"{body}",SIGNATURE"#, "verify[0].key");
    check(r#""signed":"{body}","signature":{"field":"header:X-S","entry":"v1"}"#, "verify[0].signature.entry");
    check(r#""signed":"{body}""#, "verify[0].signature");
    let way = r#"{"signed":"{body}","signature":{"field":"header:X-S"}}"#;
    assert_eq!(faults(&format!("{way},{way}")), ["verify[0].when"]);
}

#[test]
fn every_sender_that_can_be_imitated_has_a_sample() {
    for preset in presets() {
        let pair = pair(preset);
        let verifier = Verifier::new(&preset.recipe, &supplied(preset, pair.as_ref())).expect("a verifier");
        let text = &preset.recipe.sample;
        let mut headers = vec![("Content-Type".to_owned(), text.content_type.clone())];
        headers.extend(text.headers.clone());
        let url = "https://hooks.example.com/in/k3".to_owned();
        let sample = Sample { method: "POST".to_owned(), url, headers, body: text.body.clone().into_bytes() };
        let signed = verifier.sign(&sample, "evt_1", NOW);
        assert!(signed.is_ok() || pair.is_some(), "{}: {signed:?}", preset.name);
        assert!(
            text.content_type != "application/json" || serde_json::from_str::<serde_json::Value>(&text.body).is_ok()
        );
    }
}
