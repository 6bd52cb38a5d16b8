//! `docs/presets.md` is what the presets say.

use std::fmt::Write as _;

use bellwire_signature::source::{Algorithm, Handshake, Preset, Recipe, Supplied, Verifier, presets};

const HEAD: &str = "\
# Senders that are known

A source chooses its sender by `preset`; what has to be supplied with it stands here. Another sender needs a recipe of its own
([recipes.md](recipes.md)). Secrets have at least 16 bytes. *Once* says that the sender gives each event an id that stays the same when it
tries again, so that a repeat is known for one; all others are known by `webhook-id` or `Idempotency-Key`, if they come. *Handshake*:
questions of the sender that are answered by themselves.

This page is made from the presets.

";

#[test]
fn the_page_of_presets_is_up_to_date() {
    let mut page = HEAD.to_owned();
    let rows = [
        ["preset", "sender", "secret", "settings", "proof", "once", "handshake"].map(str::to_owned),
        ["---"; 7].map(str::to_owned),
    ];
    let rows = rows.into_iter().chain(presets().iter().map(row));
    for row in rows {
        writeln!(page, "| {} |", row.join(" | ")).expect("a line");
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/presets.md");
    if std::env::var_os("BELLWIRE_BLESS").is_some() {
        std::fs::write(path, &page).expect("the page");
    }
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert!(committed == page, "docs/presets.md is not what the presets say: run this test with BELLWIRE_BLESS=1");
}

/// The example of `docs/recipes.md` is a recipe, and every algorithm, handshake and kind of field is on the page.
#[test]
fn the_page_of_recipes_is_true() {
    let page = include_str!("../../../../docs/recipes.md");
    let example = page.split("```json").nth(1).and_then(|rest| rest.split("```").next()).expect("an example");
    let recipe: Recipe = serde_json::from_str(example).expect("a recipe");
    let supplied = Supplied { secrets: vec!["a long enough secret".to_owned().into()], ..Supplied::default() };
    Verifier::new(&recipe, &supplied).expect("a recipe without fault");
    for Preset { name, recipe } in presets() {
        let text = serde_json::to_value(recipe).expect("JSON");
        let words = recipe.verify.iter().enumerate().map(|(at, _)| text["verify"][at]["algorithm"].clone());
        for word in words.chain([text["handshake"].clone()]).filter(|word| !word.is_null()) {
            let word = word.as_str().expect("a word");
            assert!(page.contains(&format!("`{word}`")), "{name}: {word}");
        }
    }
}

fn row(preset: &Preset) -> [String; 7] {
    let recipe = &preset.recipe;
    let title =
        if recipe.docs.is_empty() { recipe.title.clone() } else { format!("[{}]({})", recipe.title, recipe.docs) };
    let settings = recipe.settings.iter().map(|(name, setting)| match setting.default.as_deref() {
        None => format!("`{name}`: {}", setting.title),
        Some("") => format!("`{name}`: {} (may be left out)", setting.title),
        Some(default) => format!("`{name}`: {} (`{default}` if left out)", setting.title),
    });
    let mut proofs: Vec<String> = recipe.verify.iter().map(|way| named(way.algorithm).to_owned()).collect();
    proofs.dedup();
    let tolerance = recipe.verify[0].timestamp.as_ref().map(|time| format!(", ±{} s", time.tolerance_s));
    [
        format!("`{}`", preset.name),
        title,
        recipe.secret.clone(),
        settings.collect::<Vec<_>>().join("; "),
        proofs.join(", ") + &tolerance.unwrap_or_default(),
        if recipe.dedupe.is_empty() { String::new() } else { "yes".to_owned() },
        recipe.handshake.map_or(String::new(), |handshake| answered(handshake).to_owned()),
    ]
}

fn named(algorithm: Algorithm) -> &'static str {
    match algorithm {
        Algorithm::None => "none",
        Algorithm::HmacSha1 => "HMAC-SHA1",
        Algorithm::HmacSha256 => "HMAC-SHA256",
        Algorithm::HmacSha384 => "HMAC-SHA384",
        Algorithm::HmacSha512 => "HMAC-SHA512",
        Algorithm::Sha256 => "SHA-256 with the secret",
        Algorithm::Ed25519 => "ed25519",
        Algorithm::EcdsaP256Sha256 => "ECDSA P-256",
        Algorithm::EcdsaP384Sha384 => "ECDSA P-384",
        Algorithm::RsaSha1 => "RSA-SHA1",
        Algorithm::RsaSha256 => "RSA-SHA256",
        Algorithm::RsaPssSha512 => "RSA-PSS-SHA512",
        Algorithm::StandardWebhooks => "Standard Webhooks `v1`, `v1a`",
        Algorithm::JwtHs256 => "JWT, HS256",
        Algorithm::JwtEs256 => "JWT, ES256",
        Algorithm::HttpSignature => "RFC 9421 with RFC 9530",
        Algorithm::Token => "token",
        Algorithm::Basic => "basic authentication",
    }
}

fn answered(handshake: Handshake) -> &'static str {
    match handshake {
        Handshake::Slack => "`url_verification`",
        Handshake::Meta => "`hub.verify_token`",
        Handshake::Websub => "`hub.mode`",
        Handshake::Zoom => "`endpoint.url_validation`",
        Handshake::X => "`crc_token`",
        Handshake::Dropbox => "`challenge`",
        Handshake::Okta => "`X-Okta-Verification-Challenge`",
        Handshake::AwsSns => "`SubscriptionConfirmation`",
        Handshake::Cloudevents => "`OPTIONS`",
        Handshake::EventGrid => "`SubscriptionValidation`",
        Handshake::MicrosoftGraph => "`validationToken`",
        Handshake::Discord => "PING",
        Handshake::Twitch => "`webhook_callback_verification`",
        Handshake::Notion => "`verification_token` becomes the secret",
        Handshake::Asana => "`X-Hook-Secret` becomes the secret",
        Handshake::Head => "`HEAD`",
        Handshake::Xero => "intent to receive",
        Handshake::Github => "`ping`",
    }
}
