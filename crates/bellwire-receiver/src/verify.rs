//! A source's recipe made ready, and kept ready until the source changes.

use bellwire_model::{DedupeFrom, EventTypeFrom, Recipe, Source, SourceKey, Timestamp};
use bellwire_signature::source::{self, Algorithm, Supplied, Verifier, preset};
use parking_lot::RwLock;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use zeroize::Zeroizing;

/// What is wrong with a source's settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The way down to the setting: `preset`, `recipe`, `settings`, `secrets`, `dedupe` or `eventTypeFrom`, and further.
    pub path: Vec<String>,
    /// What is wrong and what would be right. Holds no secret.
    pub text: String,
}

/// Whether the requests of a source can be verified as it says, at `now`.
///
/// # Errors
/// All that is wrong.
pub fn check(source: &Source, now: Timestamp) -> Result<(), Vec<Fault>> {
    Ready::new(source, now).map(drop)
}

/// A source that is ready to verify.
pub(crate) struct Ready {
    pub(crate) verifier: Verifier,
    /// Headers and query parameters that hold a secret as it is, in small letters: they are not kept.
    pub(crate) secret_headers: Vec<String>,
    pub(crate) secret_parameters: Vec<String>,
    /// Whether the sender asks questions that are answered, whatever the method.
    pub(crate) asks: bool,
    /// The event type of a message whose request does not say.
    pub(crate) event_type: String,
    /// When one of the secrets expires.
    until: Timestamp,
}

impl Ready {
    fn new(source: &Source, now: Timestamp) -> Result<Ready, Vec<Fault>> {
        let (recipe, place) = recipe(source)?;
        let words = |texts: &[String]| Some(vec![texts.join(" + ")]);
        let supplied = Supplied {
            secrets: source.secrets_at(now).map(|text| Zeroizing::new(text.to_owned())).collect(),
            settings: source.settings.clone(),
            url: source.url.clone(),
            dedupe: match &source.dedupe.key {
                DedupeFrom::Places(places) => words(places),
                DedupeFrom::Recipe | DedupeFrom::Body | DedupeFrom::Off => None,
            },
            event_type: match &source.event_type {
                EventTypeFrom::Place(place) => words(std::slice::from_ref(place)),
                EventTypeFrom::Recipe | EventTypeFrom::Fixed(_) => None,
            },
            ..Supplied::default()
        };
        let verifier = Verifier::new(&recipe, &supplied)
            .map_err(|faults| faults.into_iter().map(|fault| placed(source, place, fault)).collect::<Vec<_>>())?;
        let (secret_headers, secret_parameters) = secret_places(&recipe, &source.settings);
        let until = source.secrets.iter().filter_map(|secret| secret.expires_at).filter(|end| *end > now).min();
        Ok(Ready {
            verifier,
            secret_headers,
            secret_parameters,
            asks: recipe.handshake.is_some(),
            event_type: match &source.recipe {
                Recipe::Preset(name) => name.clone(),
                Recipe::Own(_) => "webhook".to_owned(),
            },
            until: until.unwrap_or(Timestamp::FAR_FUTURE),
        })
    }
}

/// The recipe, and what its place is called in the API.
fn recipe(source: &Source) -> Result<(std::borrow::Cow<'static, source::Recipe>, &'static str), Vec<Fault>> {
    let fault = |place: &str, text: String| vec![Fault { path: vec![place.to_owned()], text }];
    match &source.recipe {
        Recipe::Preset(name) => match preset(name) {
            Some(found) => Ok((std::borrow::Cow::Borrowed(&found.recipe), "preset")),
            None => Err(fault("preset", format!("there is no preset `{name}`; `bellwire source presets` lists them"))),
        },
        Recipe::Own(text) => match serde_json::from_str(text) {
            Ok(recipe) => Ok((std::borrow::Cow::Owned(recipe), "recipe")),
            Err(error) => Err(fault("recipe", format!("`recipe` cannot be read: {error}"))),
        },
    }
}

/// Where in the API's body a fault of the recipe, or of what was supplied with it, stands.
fn placed(source: &Source, recipe: &str, fault: source::Fault) -> Fault {
    let first = fault.field.split(['.', '[']).next().unwrap_or_default();
    let own_places = matches!(source.dedupe.key, DedupeFrom::Places(_));
    let own_type = matches!(source.event_type, EventTypeFrom::Place(_));
    let rest = || {
        let rest = fault.field[first.len()..].trim_start_matches('.');
        Some(rest.to_owned()).filter(|rest| !rest.is_empty())
    };
    let path: Vec<String> = match first {
        "secrets" | "settings" => std::iter::once(first.to_owned()).chain(rest()).collect(),
        "dedupe" if own_places => vec!["dedupe".to_owned(), "places".to_owned()],
        "event_type" if own_type => vec!["eventTypeFrom".to_owned()],
        _ => std::iter::once(recipe.to_owned()).chain(Some(fault.field.clone()).filter(|f| !f.is_empty())).collect(),
    };
    Fault { path, text: fault.text }
}

/// Where a secret stands in the request as it is.
fn secret_places(recipe: &source::Recipe, settings: &BTreeMap<String, String>) -> (Vec<String>, Vec<String>) {
    let (mut headers, mut parameters) = (Vec::new(), Vec::new());
    let plain = recipe.verify.iter().filter(|way| matches!(way.algorithm, Algorithm::Token | Algorithm::Basic));
    for place in plain.filter_map(|way| way.signature.as_ref()) {
        let mut field = place.field.clone();
        for (name, setting) in &recipe.settings {
            let value = settings.get(name).or(setting.default.as_ref()).map_or("", String::as_str);
            field = field.replace(&format!("{{setting:{name}}}"), value);
        }
        if let Some(name) = field.strip_prefix("header:") {
            headers.push(name.to_ascii_lowercase());
        } else if let Some(name) = field.strip_prefix("query:") {
            parameters.push(name.to_ascii_lowercase());
        }
    }
    (headers, parameters)
}

/// What is ready, of all sources that were asked for.
#[derive(Default)]
pub(crate) struct Prepared(RwLock<HashMap<SourceKey, Of>>);

/// The source that it was made of, and what was made.
type Of = (Arc<Source>, Arc<Ready>);

impl Prepared {
    /// The source, ready. It was checked when it was set up, but a later version may know better.
    pub(crate) fn get(&self, source: &Arc<Source>, now: Timestamp) -> Result<Arc<Ready>, Vec<Fault>> {
        if let Some((of, ready)) = self.0.read().get(&source.key)
            && Arc::ptr_eq(of, source)
            && now < ready.until
        {
            return Ok(Arc::clone(ready));
        }
        let ready = Arc::new(Ready::new(source, now)?);
        self.0.write().insert(source.key, (Arc::clone(source), Arc::clone(&ready)));
        Ok(ready)
    }

    /// Forgets the sources that are gone.
    pub(crate) fn forget(&self, exists: impl Fn(SourceKey) -> bool) {
        self.0.write().retain(|key, _| exists(*key));
    }
}
