//! From a recipe and what was supplied to a [`Verifier`], or to everything that is wrong with them.

use std::collections::BTreeMap;

use self::way::Context;
use super::{
    fetched::AllowList,
    handshake::{Handshake, Handshaker},
    identity::Identity,
    mac::{Hash, MacKey},
    recipe::{KeyFormat, Recipe},
    refusal::Fault,
    rules::Rules,
    verifier::{Supplied, Verifier},
};

mod way;

/// A source has at most so many secrets, ways and settings.
const SECRETS_MAX: usize = 16;
const WAYS_MAX: usize = 16;
const SETTING_BYTES_MAX: usize = 2048;

/// Who asks and is not let in by the rules is forbidden to.
const UNSATISFIED_STATUS: u16 = 403;

/// Five minutes are usual; a day is as far as clocks and queues may reasonably go.
const TOLERANCE_SECONDS_MAX: u64 = 24 * 60 * 60;

pub(super) fn compile(recipe: &Recipe, supplied: &Supplied) -> Result<Verifier, Vec<Fault>> {
    let mut faults = Faults(Vec::new());
    let settings = settings(recipe, supplied, &mut faults);
    let rules = rules(recipe, &settings, &mut faults);
    if recipe.rules.is_none() && (recipe.verify.is_empty() || recipe.verify.len() > WAYS_MAX) {
        faults.tell("verify", format!("there must be 1 to {WAYS_MAX} ways to verify"));
    }
    for (at, _) in recipe.verify.iter().enumerate().rev().skip(1).filter(|(_, way)| way.when.is_none()) {
        faults.tell(format!("verify[{at}].when"), "it is missing: the ways after this one would never be taken");
    }
    check_secrets(recipe, supplied, &mut faults);
    check_tolerance(recipe, supplied, &mut faults);
    let mut ways = Vec::new();
    for (at, way) in recipe.verify.iter().enumerate() {
        let context = Context { way, settings: &settings, supplied, at };
        ways.extend(context.way(&mut faults));
    }
    let dedupe = supplied.dedupe.as_ref().unwrap_or(&recipe.dedupe);
    let event_type = supplied.event_type.as_ref().unwrap_or(&recipe.event_type);
    let identity = Identity::parse(dedupe, event_type).unwrap_or_else(|found| {
        found.into_iter().for_each(|(field, text)| faults.tell(field, text));
        Identity::default()
    });
    if supplied.url.as_ref().is_some_and(|url| !is_http_url(url)) {
        faults.tell("url", "it must begin with https:// or http://");
    }
    let handshaker = handshaker(recipe, supplied, &settings, &mut faults);
    if faults.0.is_empty() {
        let unsatisfied_status = recipe.unsatisfied_status.unwrap_or(UNSATISFIED_STATUS);
        Ok(Verifier { ways, rules, unsatisfied_status, identity, handshaker, url: supplied.url.clone() })
    } else {
        Err(faults.0)
    }
}

/// The tree of conditions with settings in their places.
fn rules(recipe: &Recipe, settings: &BTreeMap<String, String>, faults: &mut Faults) -> Option<Rules> {
    if recipe.unsatisfied_status.is_some_and(|status| !(200..600).contains(&status)) {
        faults.tell("unsatisfied_status", "it must be from 200 to 599");
    }
    let Some(rule) = &recipe.rules else {
        if recipe.unsatisfied_status.is_some() {
            faults.tell("unsatisfied_status", "only `rules` can be unsatisfied");
        }
        return None;
    };
    if !recipe.verify.is_empty() {
        faults.tell("rules", "a recipe has either `rules` or `verify`");
    }
    let mut rule = rule.clone();
    if let Err(name) = rule.fill(settings) {
        faults.tell("rules", format!("the recipe has no setting {name}"));
    }
    match Rules::new(&rule) {
        Ok(rules) => Some(rules),
        Err(found) => {
            for fault in found {
                let at = if fault.path.is_empty() { String::new() } else { format!(".{}", fault.path) };
                faults.tell(format!("rules{at}"), fault.text);
            }
            None
        }
    }
}

struct Faults(Vec<Fault>);

impl Faults {
    fn tell(&mut self, field: impl Into<String>, text: impl Into<String>) {
        self.0.push(Fault::new(field, text));
    }

    fn take<T>(&mut self, field: impl Into<String>, result: Result<T, String>) -> Option<T> {
        result.map_err(|text| self.tell(field, text)).ok()
    }
}

fn settings(recipe: &Recipe, supplied: &Supplied, faults: &mut Faults) -> BTreeMap<String, String> {
    for name in supplied.settings.keys().filter(|name| !recipe.settings.contains_key(*name)) {
        let known: Vec<&str> = recipe.settings.keys().map(String::as_str).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        faults.tell(format!("settings.{name}"), format!("the recipe has no such setting; it has {known}"));
    }
    let mut settings = BTreeMap::new();
    for (name, setting) in &recipe.settings {
        let field = format!("settings.{name}");
        let Some(value) = supplied.settings.get(name).or(setting.default.as_ref()) else {
            faults.tell(field, format!("it must be set: {}", setting.title));
            continue;
        };
        if value.len() > SETTING_BYTES_MAX || value.chars().any(char::is_control) {
            faults.tell(field, format!("it has at most {SETTING_BYTES_MAX} bytes and no control characters"));
        } else if value.is_empty() && setting.default.as_deref() != Some("") {
            faults.tell(field, format!("it must not be empty: {}", setting.title));
        }
        settings.insert(name.clone(), value.clone());
    }
    settings
}

fn check_secrets(recipe: &Recipe, supplied: &Supplied, faults: &mut Faults) {
    let needs = recipe.verify.iter().any(|way| way.needs_secret());
    if !needs && !supplied.secrets.is_empty() {
        faults.tell("secrets", "this sender shares no secret with its receivers; leave it out");
    }
    let may_come = recipe.handshake.is_some_and(Handshake::brings_secret);
    if needs && supplied.secrets.is_empty() && !may_come {
        let what = if recipe.secret.is_empty() { "the secret to verify with" } else { recipe.secret.as_str() };
        faults.tell("secrets", format!("there must be one: {what}"));
    }
    if supplied.secrets.len() > SECRETS_MAX {
        faults.tell("secrets", format!("there may be {SECRETS_MAX}"));
    }
}

fn check_tolerance(recipe: &Recipe, supplied: &Supplied, faults: &mut Faults) {
    let Some(seconds) = supplied.tolerance_seconds else { return };
    if recipe.verify.iter().all(|way| way.timestamp.is_none()) {
        faults.tell("tolerance", "this sender signs no time that could be compared; leave it out");
    } else if seconds > TOLERANCE_SECONDS_MAX {
        faults.tell("tolerance", format!("it is at most {TOLERANCE_SECONDS_MAX} s"));
    }
}

fn handshaker(
    recipe: &Recipe,
    supplied: &Supplied,
    settings: &BTreeMap<String, String>,
    faults: &mut Faults,
) -> Option<Handshaker> {
    let kind = recipe.handshake?;
    for name in kind.settings().iter().filter(|name| !recipe.settings.contains_key(**name)) {
        faults.tell("handshake", format!("it needs a setting `{name}` in the recipe"));
    }
    let key = supplied.secrets.first().map(|secret| MacKey::new(Hash::Sha256, secret.as_bytes()));
    if kind.needs_key() && recipe.verify.iter().any(|way| way.key != KeyFormat::Utf8) {
        faults.tell("handshake", "it signs with the secret's text; `key` must be utf8");
    }
    let place = recipe.verify.iter().find_map(|way| way.certificate.as_ref());
    let allowed = place.map(|place| AllowList {
        hosts: place.hosts.clone(),
        path_prefix: "/".into(),
        path_suffix: String::new(),
    });
    if kind == Handshake::AwsSns && allowed.is_none() {
        faults.tell("handshake", "it fetches from the hosts in `certificate`, and there is none");
    }
    let key = key.filter(|_| kind.needs_key());
    Some(Handshaker { kind, settings: settings.clone(), key, has_secret: !supplied.secrets.is_empty(), allowed })
}

fn is_http_url(url: &str) -> bool {
    (url.starts_with("https://") || url.starts_with("http://")) && url.len() <= SETTING_BYTES_MAX
}
