//! Others' word on what we sign: published vectors, and the reference library for Rust in both directions.

use std::time::{SystemTime, UNIX_EPOCH};

use bellwire_signature::{
    ID_HEADER, SIGNATURE_HEADER, Secret, SignedHeaders, Signer, TIMESTAMP_HEADER, TOLERANCE_DEFAULT, VerifyError,
    VerifyKey, sign, verify,
};
use http::HeaderMap;
use rand::SeedableRng;
use rand_chacha::ChaCha20Rng;
use standardwebhooks::Webhook;

struct Vector {
    source: &'static str,
    id: &'static str,
    timestamp_seconds: i64,
    payload: &'static str,
    /// `None` where the secret is too short for us to sign with.
    secret: Option<&'static str>,
    key: &'static str,
    signature: &'static str,
}

const VECTORS: [Vector; 4] = [
    Vector {
        source: "standard-webhooks/standard-webhooks, libraries/rust/src/lib.rs; svix-bridge",
        id: "msg_27UH4WbU6Z5A5EzD8u03UvzRbpk",
        timestamp_seconds: 1_649_367_553,
        payload: r#"{"email":"test@example.com","username":"test_user"}"#,
        secret: Some("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"),
        key: "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
        signature: "v1,tZ1I4/hDygAJgO5TYxiSd6Sd0kDW6hPenDe+bTa3Kkw=",
    },
    Vector {
        source: "standard-webhooks/standard-webhooks, libraries/{python,javascript,go,…}; svix-server",
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp_seconds: 1_614_265_330,
        payload: r#"{"test": 2432232314}"#,
        secret: Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
        key: "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        signature: "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
    },
    Vector {
        source: "svix-docs, \"How to verify webhooks manually\"",
        id: "msg_loFOjxBNrRLzqYUf",
        timestamp_seconds: 1_731_705_121,
        payload: r#"{"event_type":"ping","data":{"success":true}}"#,
        secret: None,
        key: "whsec_plJ3nmyCDGBKInavdOK15jsl",
        signature: "v1,rAvfW3dJ/X/qxhsaXPOyyCGmRKsaKWcsNccKXlIktD0=",
    },
    Vector {
        source: "svix-server, worker.rs; the signature is also the specification's example of a header",
        id: "msg_p5jXN8AQM9LWM0D4loKWxJek",
        timestamp_seconds: 1_614_265_330,
        payload: r#"{"test": 2432232314}"#,
        secret: Some("whsk_6Xb/dCcHpPea21PS1N9VY/NZW723CEc77N4rJCubMbfVKIDij2HKpMKkioLlX0dRqSKJp4AJ6p9lMicMFs6Kvg=="),
        key: "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4=",
        signature: "v1a,hnO3f9T8Ytu9HwrXslvumlUpqtNVqkhqw/enGzPCXe5BdqzCInXqYXFymVJaA7AZdpXwVLPo3mNl8EM+m7TBAg==",
    },
];

fn secret(text: &str) -> Secret {
    Secret::parse(text).expect("a secret")
}

/// Verifies as received one second after it was sent.
fn check(vector: &Vector, keys: &[VerifyKey], signature: &str) -> Result<(), VerifyError> {
    let timestamp = vector.timestamp_seconds.to_string();
    let headers = SignedHeaders { id: vector.id, timestamp: &timestamp, signature };
    verify(keys, &headers, vector.payload.as_bytes(), vector.timestamp_seconds + 1, TOLERANCE_DEFAULT)
}

#[test]
fn published_vectors_are_signed_and_verified() {
    for vector in &VECTORS {
        if let Some(text) = vector.secret {
            let signed = sign(&[secret(text)], vector.id, vector.timestamp_seconds, vector.payload.as_bytes());
            assert_eq!(signed.as_deref(), Ok(vector.signature), "{}", vector.source);
        }
        let key = VerifyKey::parse(vector.key).expect("a key");
        assert_eq!(check(vector, &[key], vector.signature), Ok(()), "{}", vector.source);
    }
}

/// The values that the reference libraries' tests use for signatures that must not verify.
#[test]
fn published_wrong_signatures_are_refused() {
    let wrong = [
        "v1,R3PTzyfHASBKHH98a7yexTwaJ4yNIcGhFQc1yuN+BPU=",
        "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=",
        "v2,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
        "v1,",
        "v1,g0hM9",
        "v1,tZ1I4",
        "",
    ];
    for vector in &VECTORS {
        let keys = [VerifyKey::parse(vector.key).expect("a key")];
        for signature in wrong {
            assert!(check(vector, &keys, signature).is_err(), "{}: {signature}", vector.source);
        }
    }
}

/// The header of the reference libraries' test "multi-sig payload is valid".
#[test]
fn the_published_rotation_header_verifies() {
    let vector = &VECTORS[1];
    let header = [
        "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=",
        "v2,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=",
        vector.signature,
        "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=",
    ]
    .join(" ");
    assert_eq!(check(vector, &[VerifyKey::parse(vector.key).expect("a key")], &header), Ok(()));
}

#[test]
fn the_reference_library_accepts_what_we_sign() {
    let rng = &mut ChaCha20Rng::seed_from_u64(7);
    let (new, old, other) =
        (Secret::generate_symmetric(rng), Secret::generate_symmetric(rng), Secret::generate_ed25519(rng));
    let now = now_seconds();
    let payload = "{\"name\":\"Ærøskøbing\"}".as_bytes();
    let signature = Signer::new(&[&other, &new, &old]).sign("msg_1", now, payload).expect("signed");

    let mut headers = HeaderMap::new();
    for (name, value) in [(ID_HEADER, "msg_1"), (TIMESTAMP_HEADER, &now.to_string()), (SIGNATURE_HEADER, &signature)] {
        headers.insert(name, value.parse().expect("a header value"));
    }
    for secret in [&new, &old] {
        let theirs = Webhook::new(&secret.public_text()).expect("their reading of our secret");
        theirs.verify(payload, &headers).expect("their verdict on our signature");
        assert!(theirs.verify(b"{}", &headers).is_err());
    }
    let stranger = Secret::generate_symmetric(rng);
    assert!(Webhook::new(&stranger.public_text()).expect("a secret").verify(payload, &headers).is_err());
}

#[test]
fn we_accept_what_the_reference_library_signs() {
    let secret = Secret::generate_symmetric(&mut ChaCha20Rng::seed_from_u64(8));
    let theirs = Webhook::new(&secret.public_text()).expect("their reading of our secret");
    for payload in ["", "{}", "a.b.c", "{\"name\":\"Ærøskøbing\"}"] {
        let signature = theirs.sign("msg_1", 1_614_265_330, payload.as_bytes()).expect("their signature");
        assert_eq!(sign(&[&secret], "msg_1", 1_614_265_330, payload.as_bytes()).as_ref(), Ok(&signature));
        let headers = SignedHeaders { id: "msg_1", timestamp: "1614265330", signature: &signature };
        let keys = [VerifyKey::from(&secret)];
        assert_eq!(
            verify(&keys, &headers, payload.as_bytes(), 1_614_265_000, TOLERANCE_DEFAULT),
            Err(VerifyError::TooNew { by_seconds: 330 })
        );
        assert_eq!(verify(&keys, &headers, payload.as_bytes(), 1_614_265_330, TOLERANCE_DEFAULT), Ok(()));
    }
}

#[allow(clippy::disallowed_methods, reason = "the reference library verifies against the wall clock only")]
fn now_seconds() -> i64 {
    let since_epoch = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    i64::try_from(since_epoch.as_secs()).expect("a clock before the end of time")
}
