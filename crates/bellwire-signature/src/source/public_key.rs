//! Public keys of others, and the signatures they verify. RSA and ECDSA by aws-lc, which the workspace's TLS uses too.

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_FIXED,
    RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, RSA_PKCS1_2048_8192_SHA256, RSA_PSS_2048_8192_SHA512,
    UnparsedPublicKey, VerificationAlgorithm,
};
use ed25519_dalek::VerifyingKey;
use x509_parser::{extensions::GeneralName, pem::Pem, prelude::FromDer, time::ASN1Time, x509::SubjectPublicKeyInfo};

use super::{fetched::host_matches, place::decode_hex, recipe::Encoding};
use crate::scheme::ed25519;

const RSA: &str = "1.2.840.113549.1.1.1";
const RSA_PSS: &str = "1.2.840.113549.1.1.10";

// The `AlgorithmIdentifier`s of those keys whose whole encoding is compared, in DER: RFC 5480 §2.1.1, RFC 8410 §3.
const P256: &[u8] = &[0x30, 19, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const P384: &[u8] = &[0x30, 16, 6, 7, 0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1, 6, 5, 0x2b, 0x81, 4, 0, 0x22];
const ED25519: &[u8] = &[0x30, 5, 6, 3, 0x2b, 0x65, 0x70];

/// A public key, of a kind that we can verify with.
#[derive(Clone, PartialEq)]
pub(crate) enum PublicKey {
    Ed25519(Box<VerifyingKey>),
    /// The uncompressed point.
    P256(Vec<u8>),
    /// Likewise.
    P384(Vec<u8>),
    /// PKCS #1, `RSAPublicKey`.
    Rsa(Vec<u8>),
}

/// How a signature was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum SignatureAlgorithm {
    Ed25519,
    /// In DER.
    EcdsaP256,
    /// Both numbers at full length, one after the other.
    EcdsaP256Fixed,
    /// In DER.
    EcdsaP384,
    /// As [`SignatureAlgorithm::EcdsaP256Fixed`].
    EcdsaP384Fixed,
    RsaSha1,
    RsaSha256,
    RsaPssSha512,
}

impl PublicKey {
    /// Whether `signature` is this key's over the parts' concatenation. A key of another kind never fits.
    pub(crate) fn is_signed<P: AsRef<[u8]>>(
        &self,
        algorithm: SignatureAlgorithm,
        parts: &[P],
        signature: &[u8],
    ) -> bool {
        let (algorithm, key): (&'static dyn VerificationAlgorithm, _) = match (algorithm, self) {
            (SignatureAlgorithm::Ed25519, PublicKey::Ed25519(key)) => {
                let parts: Vec<&[u8]> = parts.iter().map(AsRef::as_ref).collect();
                return signature.try_into().is_ok_and(|signature| ed25519::is_signed(key, &parts, signature));
            }
            (SignatureAlgorithm::EcdsaP256, PublicKey::P256(key)) => (&ECDSA_P256_SHA256_ASN1, key),
            (SignatureAlgorithm::EcdsaP256Fixed, PublicKey::P256(key)) => (&ECDSA_P256_SHA256_FIXED, key),
            (SignatureAlgorithm::EcdsaP384, PublicKey::P384(key)) => (&ECDSA_P384_SHA384_ASN1, key),
            (SignatureAlgorithm::EcdsaP384Fixed, PublicKey::P384(key)) => (&ECDSA_P384_SHA384_FIXED, key),
            (SignatureAlgorithm::RsaSha1, PublicKey::Rsa(key)) => (&RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY, key),
            (SignatureAlgorithm::RsaSha256, PublicKey::Rsa(key)) => (&RSA_PKCS1_2048_8192_SHA256, key),
            (SignatureAlgorithm::RsaPssSha512, PublicKey::Rsa(key)) => (&RSA_PSS_2048_8192_SHA512, key),
            _ => return false,
        };
        let message: Vec<u8> = parts.iter().flat_map(AsRef::as_ref).copied().collect();
        UnparsedPublicKey::new(algorithm, key).verify(&message, signature).is_ok()
    }

    /// Whether keys of this kind make such signatures.
    pub(crate) fn makes(&self, algorithm: SignatureAlgorithm) -> bool {
        use SignatureAlgorithm::{
            EcdsaP256, EcdsaP256Fixed, EcdsaP384, EcdsaP384Fixed, RsaPssSha512, RsaSha1, RsaSha256,
        };
        match self {
            PublicKey::Ed25519(_) => algorithm == SignatureAlgorithm::Ed25519,
            PublicKey::P256(_) => matches!(algorithm, EcdsaP256 | EcdsaP256Fixed),
            PublicKey::P384(_) => matches!(algorithm, EcdsaP384 | EcdsaP384Fixed),
            PublicKey::Rsa(_) => matches!(algorithm, RsaSha1 | RsaSha256 | RsaPssSha512),
        }
    }

    /// A key as operators paste it: PEM of a public key or a certificate, or the base64 of its DER.
    pub(crate) fn from_spki_text(text: &str) -> Result<PublicKey, String> {
        const WANTED: &str = "a public key is PEM (-----BEGIN PUBLIC KEY-----) or the base64 of its DER";
        if text.contains("-----BEGIN") {
            let pem = Pem::iter_from_buffer(text.as_bytes()).next().and_then(Result::ok).ok_or(WANTED)?;
            return match pem.label.as_str() {
                "PUBLIC KEY" => PublicKey::from_spki(&pem.contents),
                "CERTIFICATE" => PublicKey::from_spki(pem.parse_x509().map_err(|_| WANTED)?.public_key().raw),
                _ => Err(format!("{WANTED}, not `{}`", pem.label)),
            };
        }
        let text: String = text.split_ascii_whitespace().collect();
        PublicKey::from_spki(&Encoding::Base64.decode(&text).ok_or(WANTED)?)
    }

    /// A `SubjectPublicKeyInfo` in DER.
    pub(crate) fn from_spki(der: &[u8]) -> Result<PublicKey, String> {
        let (rest, key) = SubjectPublicKeyInfo::from_der(der).map_err(|_| "it is no public key in DER")?;
        if !rest.is_empty() {
            return Err("there is something after the public key".to_owned());
        }
        let bytes = key.subject_public_key.data.as_ref();
        if matches!(key.algorithm.algorithm.to_id_string().as_str(), RSA | RSA_PSS) {
            return Ok(PublicKey::Rsa(bytes.to_vec()));
        }
        // The parser overlooks a flipped tag or an odd count of unused bits; a key is these bytes and no others.
        let is_of = |algorithm: &[u8]| der == spki(algorithm, bytes);
        // The hybrid form of a point, which RFC 5480 §2.2 forbids, would be one more way to write the same key.
        let is_point = || matches!(bytes.first(), Some(2..=4));
        if is_of(P256) && is_point() {
            Ok(PublicKey::P256(bytes.to_vec()))
        } else if is_of(P384) && is_point() {
            Ok(PublicKey::P384(bytes.to_vec()))
        } else if is_of(ED25519) {
            PublicKey::from_ed25519(bytes)
        } else {
            Err("it is neither RSA, ECDSA on P-256 or P-384, nor ed25519".to_owned())
        }
    }

    /// The 32 bytes of an ed25519 public key.
    pub(crate) fn from_ed25519(bytes: &[u8]) -> Result<PublicKey, String> {
        let key = <&[u8; 32]>::try_from(bytes).ok().and_then(ed25519::public_key);
        key.map(|key| PublicKey::Ed25519(Box::new(key)))
            .ok_or_else(|| "an ed25519 public key has 32 bytes; this is not one, or a weak one".to_owned())
    }

    /// The same in hexadecimal.
    pub(crate) fn from_ed25519_hex(text: &str) -> Result<PublicKey, String> {
        PublicKey::from_ed25519(&decode_hex(text.trim()).ok_or("it is not hexadecimal")?)
    }

    /// The first certificate of a fetched chain, if it is valid now and made out to one of `names`.
    ///
    /// That it comes from an authority was verified by who fetched it, over TLS, from a host on the recipe's list
    /// ([`KeyRequest::certificate`](super::KeyRequest)).
    pub(crate) fn from_certificates(pem: &[u8], names: &[String], now_seconds: i64) -> Result<PublicKey, String> {
        let first = Pem::iter_from_buffer(pem).next().and_then(Result::ok).filter(|pem| pem.label == "CERTIFICATE");
        let first = first.ok_or("it is no certificate in PEM")?;
        let certificate = first.parse_x509().map_err(|_| "it is no certificate in PEM")?;
        let now = ASN1Time::from_timestamp(now_seconds).map_err(|_| "our clock is out of a certificate's range")?;
        if !certificate.validity().is_valid_at(now) {
            return Err("the certificate is not valid now".to_owned());
        }
        let is_named = |name: &str| {
            let name = name.to_ascii_lowercase();
            names.iter().any(|pattern| host_matches(pattern, &name))
        };
        let common = certificate.subject().iter_common_name().any(|name| name.as_str().is_ok_and(is_named));
        let alternative = || {
            certificate.subject_alternative_name().ok().flatten().is_some_and(|names| {
                names
                    .value
                    .general_names
                    .iter()
                    .any(|name| matches!(name, GeneralName::DNSName(name) if is_named(name)))
            })
        };
        if !names.is_empty() && !common && !alternative() {
            return Err("the certificate is made out to somebody else".to_owned());
        }
        PublicKey::from_spki(certificate.public_key().raw)
    }

    /// A point on P-256 by its coordinates, as a JSON Web Key has it.
    pub(crate) fn from_p256_coordinates(x: &[u8], y: &[u8]) -> Option<PublicKey> {
        (x.len() == 32 && y.len() == 32).then(|| PublicKey::P256([&[4], x, y].concat()))
    }
}

/// The DER of a key whose encoding is so short that each length is one byte; empty if it is longer.
fn spki(algorithm: &[u8], bytes: &[u8]) -> Vec<u8> {
    let inner = algorithm.len() + bytes.len() + 3;
    match (u8::try_from(bytes.len() + 1), u8::try_from(inner)) {
        (Ok(string), Ok(sequence @ ..0x80)) => [&[0x30, sequence], algorithm, &[3, string, 0], bytes].concat(),
        _ => Vec::new(),
    }
}
