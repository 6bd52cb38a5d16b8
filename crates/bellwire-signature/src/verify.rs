//! Whether a webhook was signed with one of our keys, just now. A receiver asks before it looks at anything else, so
//! everything here is input of a stranger.

use std::time::Duration;

use subtle::{Choice, ConstantTimeEq};

use crate::{
    scheme::{
        ed25519,
        standard_webhooks::{SIGNATURES_MAX, Signature, id_is_valid, signed_content},
    },
    secret::{Proof, VerifyKey},
};

/// How far a webhook's timestamp may be from the receiver's clock, either way, unless set otherwise: five minutes, as
/// in every Standard Webhooks library.
pub const TOLERANCE_DEFAULT: Duration = Duration::from_secs(5 * 60);

/// The three headers of a webhook, as they came.
#[derive(Clone, Copy, Debug)]
pub struct SignedHeaders<'a> {
    /// `webhook-id`.
    pub id: &'a str,
    /// `webhook-timestamp`: Unix seconds, nothing but decimal digits.
    pub timestamp: &'a str,
    /// `webhook-signature`: `version,base64` words with spaces between.
    pub signature: &'a str,
}

/// Why a webhook is refused.
///
/// For the receiver's own eyes: the sender gets the same answer whichever it was.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// There is nothing to verify with. Nothing is accepted then.
    #[error("there is no key to verify with")]
    NoKey,
    /// The id is empty or contains a full stop, which could shift bytes from one signed field into the next.
    #[error("the webhook's id is empty or contains a full stop")]
    Id,
    /// The timestamp is not a number of seconds.
    #[error("the webhook's timestamp is not a whole number of Unix seconds in decimal digits")]
    Timestamp,
    /// The timestamp lies too far back: a replay, or a clock that is wrong.
    #[error("the webhook's timestamp is {by_seconds} s in the past, more than the tolerance")]
    TooOld {
        /// The timestamp's distance from `now_seconds`.
        by_seconds: u64,
    },
    /// The timestamp lies too far ahead.
    #[error("the webhook's timestamp is {by_seconds} s in the future, more than the tolerance")]
    TooNew {
        /// The timestamp's distance from `now_seconds`.
        by_seconds: u64,
    },
    /// More signatures than any sender has secrets.
    #[error("the webhook has more than {SIGNATURES_MAX} signatures")]
    TooManySignatures,
    /// No whole signature of a version that we know.
    #[error("the webhook has no `v1,…` or `v1a,…` signature of the right length")]
    NoSignature,
    /// There are signatures, but none fits: another secret, or something was changed on the way.
    #[error("none of the webhook's signatures fits its content and our keys")]
    Mismatch,
}

/// `Ok` if one of the signatures is one of the keys', over exactly this id, timestamp and payload, and the timestamp
/// is at most `tolerance` from `now_seconds`, in either direction.
///
/// Every signature is tried with every key, also after one has fitted, and compared in constant time. Whether the
/// same id came before is the caller's question. `payload` is the body as received, before any parsing.
///
/// # Errors
/// [`VerifyError`] for anything else. Malformed input is an error, never a panic.
///
/// Standard Webhooks, "Verifying webhook authenticity".
pub fn verify(
    keys: &[VerifyKey],
    headers: &SignedHeaders<'_>,
    payload: &[u8],
    now_seconds: i64,
    tolerance: Duration,
) -> Result<(), VerifyError> {
    if keys.is_empty() {
        return Err(VerifyError::NoKey);
    }
    if !id_is_valid(headers.id) {
        return Err(VerifyError::Id);
    }
    check_time(headers.timestamp, now_seconds, tolerance)?;
    let signatures = Signature::parse_all(headers.signature).ok_or(VerifyError::TooManySignatures)?;
    if signatures.is_empty() {
        return Err(VerifyError::NoSignature);
    }
    // The timestamp is signed as it was written, not as we read it.
    let content = signed_content(headers.id, headers.timestamp, payload);
    let fits = keys.iter().fold(Choice::from(0), |fits, key| fits | any_fits(key, &content, &signatures));
    if fits.into() { Ok(()) } else { Err(VerifyError::Mismatch) }
}

/// Digits only: other libraries read `123abc` or `123.7` as a number, and would then verify another text than was sent.
fn check_time(timestamp: &str, now_seconds: i64, tolerance: Duration) -> Result<(), VerifyError> {
    if !timestamp.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(VerifyError::Timestamp);
    }
    let timestamp: i64 = timestamp.parse().map_err(|_| VerifyError::Timestamp)?;
    let by_seconds = now_seconds.abs_diff(timestamp);
    if by_seconds <= tolerance.as_secs() {
        Ok(())
    } else if timestamp < now_seconds {
        Err(VerifyError::TooOld { by_seconds })
    } else {
        Err(VerifyError::TooNew { by_seconds })
    }
}

fn any_fits(key: &VerifyKey, content: &[&[u8]], signatures: &[Signature]) -> Choice {
    match key.proof() {
        Proof::Hmac(key) => {
            let expected = key.mac(content);
            signatures.iter().fold(Choice::from(0), |fits, signature| match signature {
                Signature::Hmac(mac) => fits | expected.ct_eq(mac),
                Signature::Ed25519(_) => fits,
            })
        }
        // Nothing secret is compared here; `Choice` only keeps the two kinds alike.
        Proof::Ed25519(key) => signatures.iter().fold(Choice::from(0), |fits, signature| match signature {
            Signature::Hmac(_) => fits,
            Signature::Ed25519(signature) => fits | Choice::from(u8::from(ed25519::is_signed(key, content, signature))),
        }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha20Rng;

    use super::*;
    use crate::{Secret, sign};

    const ID: &str = "msg_p5jXN8AQM9LWM0D4loKWxJek";
    const NOW: i64 = 1_614_265_330;
    const PAYLOAD: &[u8] = br#"{"test": 2432232314}"#;

    fn secrets() -> [Secret; 2] {
        let rng = &mut ChaCha20Rng::seed_from_u64(5);
        [Secret::generate_symmetric(rng), Secret::generate_ed25519(rng)]
    }

    fn keys_of(secrets: &[Secret]) -> Vec<VerifyKey> {
        secrets.iter().map(VerifyKey::from).collect()
    }

    fn signature_of(secret: &Secret) -> String {
        sign(&[secret], ID, NOW, PAYLOAD).expect("signed")
    }

    /// Verifies as received at `NOW`.
    fn check(
        keys: &[VerifyKey],
        id: &str,
        timestamp: &str,
        signature: &str,
        payload: &[u8],
    ) -> Result<(), VerifyError> {
        verify(keys, &SignedHeaders { id, timestamp, signature }, payload, NOW, TOLERANCE_DEFAULT)
    }

    #[test]
    fn what_we_sign_verifies_with_the_public_text() {
        for secret in secrets() {
            let keys = [VerifyKey::parse(&secret.public_text()).expect("a key")];
            assert_eq!(check(&keys, ID, &NOW.to_string(), &signature_of(&secret), PAYLOAD), Ok(()));
        }
    }

    #[test]
    fn one_changed_bit_anywhere_is_refused() {
        for secret in secrets() {
            let keys = keys_of(std::slice::from_ref(&secret));
            let signature = signature_of(&secret);
            let timestamp = NOW.to_string();
            let flip = |bytes: &[u8], bit: usize| {
                let mut bytes = bytes.to_vec();
                bytes[bit / 8] ^= 1 << (bit % 8);
                bytes
            };
            for bit in 0..PAYLOAD.len() * 8 {
                let changed = flip(PAYLOAD, bit);
                assert_eq!(check(&keys, ID, &timestamp, &signature, &changed), Err(VerifyError::Mismatch), "{bit}");
            }
            for (part, text) in [("id", ID), ("timestamp", &timestamp), ("signature", &signature)] {
                for bit in 0..text.len() * 8 {
                    let Ok(changed) = String::from_utf8(flip(text.as_bytes(), bit)) else { continue };
                    let verdict = match part {
                        "id" => check(&keys, &changed, &timestamp, &signature, PAYLOAD),
                        "timestamp" => check(&keys, ID, &changed, &signature, PAYLOAD),
                        _ => check(&keys, ID, &timestamp, &changed, PAYLOAD),
                    };
                    assert!(verdict.is_err(), "{part}, bit {bit}: {changed}");
                }
            }
            // Of the key's text, bits that base64 does not know give an error of their own.
            let text = secret.public_text();
            for bit in "whsec_".len() * 8..text.len() * 8 {
                let Ok(changed) = String::from_utf8(flip(text.as_bytes(), bit)) else { continue };
                let Ok(key) = VerifyKey::parse(&changed) else { continue };
                assert!(check(&[key], ID, &timestamp, &signature, PAYLOAD).is_err(), "key, bit {bit}: {changed}");
            }
        }
    }

    /// RUSTSEC-2024-0010: the `svix` crate compared only as many bytes as the shorter of the two had.
    #[test]
    fn a_prefix_of_a_valid_signature_is_refused() {
        for secret in secrets() {
            let keys = keys_of(std::slice::from_ref(&secret));
            let whole = signature_of(&secret);
            for length in 0..whole.len() {
                let verdict = check(&keys, ID, &NOW.to_string(), &whole[..length], PAYLOAD);
                assert_eq!(verdict, Err(VerifyError::NoSignature), "{}", &whole[..length]);
            }
            for longer in [format!("{whole}A"), format!("{whole}="), format!("{whole}AAAA"), format!("{whole},")] {
                assert!(check(&keys, ID, &NOW.to_string(), &longer, PAYLOAD).is_err(), "{longer}");
            }
        }
    }

    #[test]
    fn one_valid_signature_among_others_is_enough() {
        // The headers of the reference libraries' rotation tests.
        let secrets = secrets();
        let wrong = "v1,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc= v2,Ceo5qEr07ixe2NLpvHk3FH9bwy/WavXrAFQ/9tdO6mc=";
        for secret in &secrets {
            let right = signature_of(secret);
            for header in [
                format!("{wrong} {right} {wrong}"),
                format!("{right} {wrong}"),
                format!("v1a,!!! word {right}"),
                format!("  {right} "),
            ] {
                assert_eq!(check(&keys_of(&secrets), ID, &NOW.to_string(), &header, PAYLOAD), Ok(()), "{header}");
            }
            assert_eq!(check(&keys_of(&secrets), ID, &NOW.to_string(), wrong, PAYLOAD), Err(VerifyError::Mismatch));
        }
    }

    #[test]
    fn a_signature_of_one_version_is_none_of_the_other() {
        let [symmetric, ed25519] = secrets();
        let signature = signature_of(&symmetric);
        assert_eq!(check(&keys_of(&[ed25519]), ID, &NOW.to_string(), &signature, PAYLOAD), Err(VerifyError::Mismatch));
        assert_eq!(
            check(&keys_of(&[symmetric]), ID, &NOW.to_string(), &signature.replace("v1,", "v1a,"), PAYLOAD),
            Err(VerifyError::NoSignature)
        );
    }

    #[test]
    fn without_a_key_nothing_verifies() {
        let [symmetric, _] = secrets();
        let verdict = check(&[], ID, &NOW.to_string(), &signature_of(&symmetric), PAYLOAD);
        assert_eq!(verdict, Err(VerifyError::NoKey));
    }

    #[test]
    fn the_timestamp_may_be_off_by_the_tolerance_but_no_more() {
        let [secret, _] = secrets();
        let keys = keys_of(std::slice::from_ref(&secret));
        let at = |timestamp: i64, now: i64| {
            let signature = sign(&[&secret], ID, timestamp, PAYLOAD).expect("signed");
            let headers = SignedHeaders { id: ID, timestamp: &timestamp.to_string(), signature: &signature };
            verify(&keys, &headers, PAYLOAD, now, TOLERANCE_DEFAULT)
        };
        for ok in [0, 299, 300, -299, -300] {
            assert_eq!(at(NOW + ok, NOW), Ok(()), "{ok}");
        }
        assert_eq!(at(NOW - 301, NOW), Err(VerifyError::TooOld { by_seconds: 301 }));
        assert_eq!(at(NOW + 301, NOW), Err(VerifyError::TooNew { by_seconds: 301 }));
        assert_eq!(at(i64::MAX, i64::MIN), Err(VerifyError::TooNew { by_seconds: u64::MAX }));
        assert_eq!(at(i64::MAX, i64::MAX), Ok(()));
    }

    #[test]
    fn a_timestamp_is_decimal_digits_only() {
        let [secret, _] = secrets();
        let (keys, signature) = (keys_of(std::slice::from_ref(&secret)), signature_of(&secret));
        for timestamp in [
            "",
            "hello",
            "1614265330.0",
            "+1614265330",
            "-1614265330",
            " 1614265330",
            "1614265330abc",
            "١٦",
            "9".repeat(20).as_str(),
        ] {
            assert_eq!(check(&keys, ID, timestamp, &signature, PAYLOAD), Err(VerifyError::Timestamp), "{timestamp}");
        }
        // The same number in another writing is another text.
        assert_eq!(check(&keys, ID, "01614265330", &signature, PAYLOAD), Err(VerifyError::Mismatch));
    }

    #[test]
    fn bytes_do_not_move_from_one_field_to_the_next() {
        let [secret, _] = secrets();
        let keys = keys_of(std::slice::from_ref(&secret));
        let signature = sign(&[&secret], "msg_1", NOW, b"1614265330.{}").expect("signed");
        assert_eq!(check(&keys, "msg_1.1614265330", "1614265330", &signature, b"{}"), Err(VerifyError::Id));
        assert_eq!(check(&keys, "", "1614265330", &signature, b"{}"), Err(VerifyError::Id));
    }

    #[test]
    fn a_header_full_of_signatures_is_refused() {
        let [secret, _] = secrets();
        let header = vec![signature_of(&secret); SIGNATURES_MAX + 1].join(" ");
        let verdict = check(&keys_of(&[secret]), ID, &NOW.to_string(), &header, PAYLOAD);
        assert_eq!(verdict, Err(VerifyError::TooManySignatures));
    }

    proptest! {
        #[test]
        fn arbitrary_headers_are_refused_without_a_panic(
            id in any::<String>(),
            timestamp in prop_oneof![any::<String>(), any::<i64>().prop_map(|seconds| seconds.to_string())],
            signature in prop_oneof![
                any::<String>(),
                "(v1a?,[A-Za-z0-9+/]{0,90}={0,3} ?){0,4}",
                "v1,[A-Za-z0-9+/]{43}=",
                "v1a,[A-Za-z0-9+/]{86}==",
            ],
            payload in any::<Vec<u8>>(),
            now in any::<i64>(),
            tolerance in any::<u64>(),
        ) {
            let headers = SignedHeaders { id: &id, timestamp: &timestamp, signature: &signature };
            let verdict = verify(&keys_of(&secrets()), &headers, &payload, now, Duration::from_secs(tolerance));
            prop_assert!(verdict.is_err());
        }

        #[test]
        fn arbitrary_texts_are_parsed_without_a_panic(text in prop_oneof![any::<String>(), "wh(sec|sk|pk)_\\PC*"]) {
            let _ = Secret::parse(&text);
            let _ = VerifyKey::parse(&text);
        }

        #[test]
        fn whatever_is_signed_verifies(
            id in "[^.]{1,40}",
            timestamp in 0..i64::MAX,
            payload in any::<Vec<u8>>(),
        ) {
            let secrets = secrets();
            let signature = sign(&secrets, &id, timestamp, &payload).expect("signed");
            let headers = SignedHeaders { id: &id, timestamp: &timestamp.to_string(), signature: &signature };
            for key in keys_of(&secrets) {
                prop_assert_eq!(verify(&[key], &headers, &payload, timestamp, Duration::ZERO), Ok(()));
            }
        }
    }
}
