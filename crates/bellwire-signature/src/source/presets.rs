//! The senders that we know. Their recipes stand in `presets.toml`; this only reads it.

use std::{collections::BTreeMap, sync::LazyLock};

use serde::Deserialize;

use super::recipe::Recipe;

/// A sender that we know.
#[derive(Clone, Debug, PartialEq)]
pub struct Preset {
    /// The name by which a source chooses it, such as `github`.
    pub name: String,
    /// How it signs. Its `title`, `docs`, `secret` and `settings` say what the operator has to know and to supply; an
    /// empty `secret` means that there is none to supply.
    pub recipe: Recipe,
}

/// All of them, by name.
pub fn presets() -> &'static [Preset] {
    &PRESETS
}

/// The one of this name.
pub fn preset(name: &str) -> Option<&'static Preset> {
    let at = PRESETS.binary_search_by(|preset| preset.name.as_str().cmp(name)).ok()?;
    PRESETS.get(at)
}

static PRESETS: LazyLock<Vec<Preset>> =
    LazyLock::new(|| read(include_str!("presets.toml")).expect("presets.toml is read by a test"));

/// An entry of the file: a recipe, or another name's with some of its words changed.
#[derive(Deserialize)]
#[serde(untagged)]
enum Entry {
    Like(Like),
    Own(Box<Recipe>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Like {
    like: String,
    title: String,
    docs: String,
    secret: Option<String>,
    dedupe: Option<Vec<String>>,
    event_type: Option<Vec<String>>,
}

fn read(text: &str) -> Result<Vec<Preset>, String> {
    let entries: BTreeMap<String, Entry> = toml::from_str(text).map_err(|error| error.to_string())?;
    let recipe = |entry: &Entry| match entry {
        Entry::Own(recipe) => Ok((**recipe).clone()),
        Entry::Like(like) => {
            let Some(Entry::Own(recipe)) = entries.get(&like.like) else {
                return Err(format!("there is no recipe `{}`", like.like));
            };
            let mut recipe = (**recipe).clone();
            (recipe.title, recipe.docs) = (like.title.clone(), like.docs.clone());
            recipe.secret = like.secret.clone().unwrap_or(recipe.secret);
            recipe.dedupe = like.dedupe.clone().unwrap_or(recipe.dedupe);
            recipe.event_type = like.event_type.clone().unwrap_or(recipe.event_type);
            Ok(recipe)
        }
    };
    entries.iter().map(|(name, entry)| Ok(Preset { name: name.clone(), recipe: recipe(entry)? })).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::{Algorithm, KeyFormat, Supplied, Verifier};

    static RSA: LazyLock<String> = LazyLock::new(|| {
        let algorithm = &rcgen::PKCS_RSA_SHA256;
        rcgen::KeyPair::generate_rsa_for(algorithm, rcgen::RsaKeySize::_2048).expect("a key").public_key_pem()
    });

    /// A secret of the right form for a recipe, and every setting.
    fn supplied(recipe: &Recipe) -> Supplied {
        let way = &recipe.verify[0];
        let secret = match way.key {
            KeyFormat::X509 | KeyFormat::Jwk => None,
            _ if way.algorithm == Algorithm::None => None,
            KeyFormat::Spki if way.algorithm == Algorithm::RsaSha256 => Some(RSA.as_str()),
            KeyFormat::Spki => Some(
                "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE83T4O/n84iotIvIW4mdBgQ/7dAfSmpqIM8kF9mN1flpVKS3GRqe62gw+2fNNRaINXvVpig\
                 lSI8eNEc6wEA3F+g==",
            ),
            KeyFormat::Hex => Some("d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"),
            KeyFormat::Base64 => Some("11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo="),
            KeyFormat::Standard => Some("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
            KeyFormat::Utf8 => Some("user:a long enough password"),
        };
        let settings = recipe.settings.keys().map(|name| (name.clone(), "X-Something".to_owned())).collect();
        Supplied {
            secrets: secret.map(|text| text.to_owned().into()).into_iter().collect(),
            settings,
            ..Supplied::default()
        }
    }

    #[test]
    fn every_preset_is_a_recipe_without_fault() {
        for Preset { name, recipe } in presets() {
            let mut supplied = supplied(recipe);
            if let Some(host) = supplied.settings.get_mut("host") {
                *host = "production.plaid.com".to_owned();
            }
            if let Err(faults) = Verifier::new(recipe, &supplied) {
                panic!("{name}: {faults:?}");
            }
            assert!(!recipe.title.is_empty() && (recipe.docs.starts_with("https://") || name == "none"), "{name}");
            assert!(recipe.settings.values().all(|setting| !setting.title.is_empty()), "{name}");
            assert_eq!(recipe.secret.is_empty(), supplied.secrets.is_empty(), "{name}");
        }
    }

    #[test]
    fn no_preset_takes_an_empty_or_a_short_secret() {
        for Preset { name, recipe } in presets() {
            if recipe.secret.is_empty() {
                continue;
            }
            for secret in ["", "short", "whsec_", "whsec_c2hvcnQ=", "u:", "00ff", "c2hvcnQ="] {
                let supplied = Supplied { secrets: vec![secret.to_owned().into()], ..supplied(recipe) };
                let faults = Verifier::new(recipe, &supplied).expect_err(name);
                assert!(faults.iter().any(|fault| fault.field == "secrets[0]"), "{name}, {secret}: {faults:?}");
            }
            let none = Supplied { secrets: Vec::new(), ..supplied(recipe) };
            let may_come = recipe.handshake.is_some_and(crate::source::Handshake::brings_secret);
            assert_eq!(Verifier::new(recipe, &none).is_ok(), may_come, "{name}");
        }
    }

    #[test]
    fn a_recipe_is_the_same_after_a_round_trip() {
        for Preset { name, recipe } in presets() {
            let json = serde_json::to_string(recipe).expect("JSON");
            assert_eq!(serde_json::from_str::<Recipe>(&json).ok().as_ref(), Some(recipe), "{name}");
        }
        assert!(serde_json::from_str::<Recipe>(r#"{"verify":[{"algoritm":"none"}]}"#).is_err());
        assert!(serde_json::from_str::<Recipe>(r#"{"verify":[{"algorithm":"md5"}]}"#).is_err());
    }

    #[test]
    fn what_is_like_nothing_is_a_fault() {
        let text = "[a]\nlike = \"b\"\ntitle = \"A\"\ndocs = \"\"\n";
        assert_eq!(read(text), Err("there is no recipe `b`".to_owned()));
    }
}
