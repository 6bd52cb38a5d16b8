//! Keys as senders have them: private ones that sign, and what they give out of them.

use std::sync::{Arc, LazyLock};

use aws_lc_rs::{
    rand::SystemRandom,
    signature::{
        ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair,
        EcdsaSigningAlgorithm, KeyPair, RSA_PKCS1_SHA256, RSA_PSS_SHA512, RsaEncoding, RsaKeyPair,
    },
};
use base64::{Engine, prelude::*};
use bellwire_signature::source::{KeyFormat, KeyRequest, Keys};
use ed25519_dalek::{Signer, SigningKey};
use rcgen::PublicKeyData;

pub(crate) type Sign = dyn Fn(&[u8]) -> Vec<u8>;

/// A sender's key pair, and how it signs.
pub(crate) struct Pair {
    pub(crate) public: String,
    pub(crate) sign: Box<Sign>,
    /// What is fetched, for those who publish their keys.
    pub(crate) published: Option<Arc<[u8]>>,
}

impl Keys for Pair {
    fn fetched(&self, _: &KeyRequest) -> Option<Arc<[u8]>> {
        self.published.clone()
    }
}

static RSA: LazyLock<rcgen::KeyPair> = LazyLock::new(|| {
    rcgen::KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).expect("a key")
});

/// Signs as PKCS #1 v1.5 with SHA-256, and has a certificate for `name`.
pub(crate) fn rsa(name: &str) -> Pair {
    let mut parameters = rcgen::CertificateParams::new(vec![name.to_owned()]).expect("parameters");
    parameters.not_before = rcgen::date_time_ymd(2020, 1, 1);
    parameters.not_after = rcgen::date_time_ymd(2030, 1, 1);
    let certificate = parameters.self_signed(&*RSA).expect("a certificate").pem();
    Pair { published: Some(certificate.into_bytes().into()), ..rsa_with(&RSA_PKCS1_SHA256) }
}

/// Signs as PSS with SHA-512.
pub(crate) fn rsa_pss() -> Pair {
    rsa_with(&RSA_PSS_SHA512)
}

fn rsa_with(encoding: &'static dyn RsaEncoding) -> Pair {
    let key = RsaKeyPair::from_pkcs8(&RSA.serialize_der()).expect("a key");
    let sign = move |text: &[u8]| {
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(encoding, &SystemRandom::new(), text, &mut signature).expect("signed");
        signature
    };
    Pair { public: RSA.public_key_pem(), sign: Box::new(sign), published: None }
}

/// A curve, and how the signature's two numbers are written.
pub(crate) type Curve = (&'static rcgen::SignatureAlgorithm, &'static EcdsaSigningAlgorithm);

pub(crate) const P256_DER: Curve = (&rcgen::PKCS_ECDSA_P256_SHA256, &ECDSA_P256_SHA256_ASN1_SIGNING);
pub(crate) const P256_FIXED: Curve = (&rcgen::PKCS_ECDSA_P256_SHA256, &ECDSA_P256_SHA256_FIXED_SIGNING);
pub(crate) const P384_FIXED: Curve = (&rcgen::PKCS_ECDSA_P384_SHA384, &ECDSA_P384_SHA384_FIXED_SIGNING);

/// Publishes a JSON Web Key of the id `evt_1`.
pub(crate) fn ecdsa((curve, algorithm): Curve) -> Pair {
    let rcgen_key = rcgen::KeyPair::generate_for(curve).expect("a key");
    let key = EcdsaKeyPair::from_pkcs8(algorithm, &rcgen_key.serialize_der()).expect("a key");
    let point = key.public_key().as_ref().to_vec();
    let coordinate = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
    let jwk = serde_json::json!({ "key": {
        "alg": "ES256", "crv": "P-256", "kid": "evt_1", "kty": "EC", "use": "sig", "expired_at": null,
        "x": coordinate(&point[1..33]), "y": coordinate(&point[33..]),
    }});
    let sign = move |text: &[u8]| key.sign(&SystemRandom::new(), text).expect("signed").as_ref().to_vec();
    Pair {
        public: BASE64_STANDARD.encode(rcgen_key.subject_public_key_info()),
        sign: Box::new(sign),
        published: Some(jwk.to_string().into_bytes().into()),
    }
}

pub(crate) fn ed25519(format: KeyFormat) -> Pair {
    let key = SigningKey::from_bytes(&[7; 32]);
    let public = key.verifying_key().to_bytes();
    let spki = [&[0x30, 0x2a, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 3, 0x21, 0], public.as_slice()].concat();
    let public = match format {
        KeyFormat::Hex => public.iter().map(|byte| format!("{byte:02X}")).collect(),
        KeyFormat::Spki => BASE64_STANDARD.encode(spki),
        _ => BASE64_STANDARD.encode(public),
    };
    Pair { public, sign: Box::new(move |text| key.sign(text).to_bytes().to_vec()), published: None }
}
