//! Arbitrary input is refused, and nothing panics.

use std::sync::LazyLock;

use bellwire_signature::source::{NoKeys, ReceivedRequest, Recipe, Supplied, Verifier, presets};
use proptest::prelude::*;

/// A verifier for every preset but the one that takes everything.
static VERIFIERS: LazyLock<Vec<(&str, Verifier)>> = LazyLock::new(|| {
    let secrets = [
        "a long enough secret",
        "user:a long enough password",
        "00112233445566778899aabbccddeeff",
        "MDAxMTIyMzM0NDU1NjY3Nzg4OTlhYWJiY2NkZGVlZmY=",
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpiglSI8eNEc6wEA3F+g==",
        "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a",
        "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=",
    ];
    let mut verifiers = Vec::new();
    for preset in presets().iter().filter(|preset| preset.name != "none") {
        let settings = preset.recipe.settings.keys().map(|name| (name.clone(), "production.plaid.com".to_owned()));
        let mut supplied = Supplied { settings: settings.collect(), ..Supplied::default() };
        for secret in secrets {
            supplied.secrets =
                if preset.recipe.secret.is_empty() { Vec::new() } else { vec![secret.to_owned().into()] };
            if let Ok(verifier) = Verifier::new(&preset.recipe, &supplied) {
                verifiers.push((preset.name.as_str(), verifier));
                break;
            }
        }
    }
    assert!(verifiers.len() > 75, "{}", verifiers.len());
    verifiers
});

fn header_name() -> impl Strategy<Value = String> {
    let names: Vec<String> = presets()
        .iter()
        .flat_map(|preset| &preset.recipe.verify)
        .flat_map(|way| {
            let place = way.signature.as_ref().map(|place| place.field.clone());
            place.into_iter().chain(way.timestamp.as_ref().map(|time| time.field.clone()))
        })
        .filter_map(|field| field.strip_prefix("header:").map(str::to_owned))
        .chain(
            ["Signature", "Signature-Input", "Content-Digest", "Content-Type", "webhook-id", "X-DocuSign-Signature-1"]
                .map(str::to_owned),
        )
        .collect();
    prop_oneof![4 => proptest::sample::select(names), 1 => "[A-Za-z-]{1,12}"]
}

fn header_value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..80),
        "(sha1=|sha256=|v0=|v1,|Bearer |Basic )?[A-Za-z0-9+/=]{0,90}".prop_map(String::into_bytes),
        "(t|ts)=[0-9]{0,12}[,;](v1|h1)=[0-9a-f]{0,64}".prop_map(String::into_bytes),
        "[0-9]{0,20}".prop_map(String::into_bytes),
        r#"sig=\(("@?[a-z-]{0,12}"(;[a-z]{1,4}="?[a-z]{0,4}"?)? ?){0,3}\)(;created=[0-9]{1,12})?(;alg="[a-z0-9-]{0,18}")?"#
            .prop_map(String::into_bytes),
        "sig=:[A-Za-z0-9+/]{0,88}={0,2}:".prop_map(String::into_bytes),
        "[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}\\.[A-Za-z0-9_-]{0,60}".prop_map(String::into_bytes),
        Just(b"application/x-www-form-urlencoded".to_vec()),
    ]
}

fn body() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        proptest::collection::vec(any::<u8>(), 0..200),
        "[\\[\\]{}\":,a-z0-9.*]{0,120}".prop_map(String::into_bytes),
        r#"\{"(Type|SignatureVersion|signature|value|notificationItems)":("?[a-z0-9]{0,9}"?|\[\{"[a-zA-Z]{1,9}":[0-9]{1,30}\}\])\}"#
            .prop_map(String::into_bytes),
        "([a-z%=&+]|%[0-9A-F]{2}){0,80}".prop_map(String::into_bytes),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn arbitrary_requests_are_refused_without_a_panic(
        method in "(GET|POST|OPTIONS|HEAD|[A-Z]{0,4})",
        url in prop_oneof![any::<String>(), "https?://[a-z.:\\[\\]@]{0,12}(/[a-z%0-9]{0,9})?(\\?[a-zA-Z0-9=&%.+]{0,30})?"],
        target in "/[a-z]{0,5}(\\?(hub.mode|challenge|crc_token|validationToken|auth|bodySHA256)?=?[ -~]{0,30})?",
        headers in proptest::collection::vec((header_name(), header_value()), 0..6),
        body in body(),
        now in any::<i64>(),
    ) {
        let headers: Vec<(&str, &[u8])> =
            headers.iter().map(|(name, value)| (name.as_str(), value.as_slice())).collect();
        let (scheme, host) = url.split_once("://").unwrap_or(("", &url));
        let request = ReceivedRequest { method: &method, scheme, host, path_and_query: &target, headers: &headers, body: &body, body_type: None };
        for (name, verifier) in VERIFIERS.iter() {
            let verdict = verifier.verify(&request, now, &NoKeys);
            prop_assert!(verdict.is_err(), "{}: {:?}", name, verdict);
            for verified in [false, true] {
                if let Some(reply) = verifier.handshake(&request, verified) {
                    prop_assert!((200..500).contains(&reply.status));
                    prop_assert!(reply.headers.iter().all(|(_, value)| !value.contains(['\r', '\n'])));
                }
            }
        }
    }

    #[test]
    fn arbitrary_recipes_are_told_their_faults_without_a_panic(
        algorithm in "(hmac-sha256|token|basic|jwt-es256|http-signature|sha256|ed25519|none)",
        signed in "([{}a-z:?._]{0,8}|\\{(body|timestamp|secret|url|json:a\\.b|header:x)\\}){0,4}",
        field in "(header|json|query|entry|numbered|claim|xml)?:?[A-Za-z.*{}]{0,8}",
        separator in "[,; x]?",
        secret in any::<String>(),
    ) {
        let json = serde_json::json!({ "verify": [{
            "algorithm": algorithm, "signed": signed,
            "signature": { "field": field, "separator": separator.chars().next() },
            "timestamp": { "field": field },
        }], "dedupe": [signed], "event_type": [field] });
        let recipe: Recipe = serde_json::from_value(json).expect("a recipe");
        let supplied = Supplied { secrets: vec![secret.clone().into()], ..Supplied::default() };
        if let Err(faults) = Verifier::new(&recipe, &supplied) {
            prop_assert!(!faults.is_empty());
            let is_told = faults.iter().any(|fault| secret.len() > 20 && fault.text.contains(&secret));
            prop_assert!(!is_told, "a secret in {:?}", faults);
        }
    }
}
