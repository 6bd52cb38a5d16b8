//! The layers of settings, each over the one before it, and where every value came from.

use super::{
    mistake::{Mistake, Mistakes, Origin, did_you_mean},
    svix,
    value::{Expected, Read, Value},
};
use std::{cell::RefCell, collections::BTreeMap, ffi::OsString, ops::Range, path::Path, sync::Arc};
use toml::de::{DeTable, DeValue};

/// `config.default.toml`: the first layer, and the list of all settings that there are.
pub(crate) const DEFAULTS: &str = include_str!("../../../config.default.toml");

/// Variables that are not settings: the file to read, and what the commands that talk to a server take.
const OTHER_VARIABLES: [&str; 3] = ["BELLWIRE_CONFIG", "BELLWIRE_URL", "BELLWIRE_TOKEN"];

/// Short names of variables, for what is set most.
const SHORT_VARIABLES: [(&str, &str); 4] = [
    ("BELLWIRE_DATA", "server.data"),
    ("BELLWIRE_LISTEN", "server.listen"),
    ("BELLWIRE_JWT_SECRET", "auth.jwt_secret"),
    ("BELLWIRE_MAIN_SECRET", "auth.main_secret"),
];

/// Settings whose values may hold something secret. They are never shown.
const HIDDEN: &[&str] = &[
    "server.metrics_token",
    "auth.jwt_secret",
    "auth.old_jwt_secrets",
    "auth.main_secret",
    "auth.old_main_secrets",
    "egress.proxy",
    "plugins.databases",
    "plugins.smtp",
    "traces.headers",
];

/// Settings that an empty variable means something for: an empty list. Elsewhere it is a mistake.
const LISTS: &[&str] = &[
    "auth.old_jwt_secrets",
    "auth.old_main_secrets",
    "delivery.retry_schedule",
    "egress.allow",
    "egress.deny_ports",
    "egress.no_proxy",
    "egress.name_servers",
    "plugins.commands",
    "plugins.databases",
    "plugins.command_environment",
    "traces.headers",
];

struct Given {
    value: Value,
    origin: Origin,
}

/// One setting as it stands in force.
pub struct Effective {
    /// `section.name`.
    pub name: String,
    /// In our notation, wherever it came from.
    pub value: Value,
    /// Where it came from.
    pub origin: Origin,
    /// Who else gave one, in vain; the defaults left out.
    pub overridden: Vec<Origin>,
    /// Whether it may hold a secret, and must not be shown.
    pub secret: bool,
}

/// Everything that was given for every setting, the weakest first.
pub(crate) struct Layers {
    settings: BTreeMap<String, Vec<Given>>,
    /// Behind a cell, so that a section reads its settings in one expression.
    mistakes: RefCell<Vec<Mistake>>,
    notes: Vec<String>,
}

impl Layers {
    /// The defaults alone.
    pub(crate) fn defaults() -> Layers {
        let mut layers = Layers { settings: BTreeMap::new(), mistakes: RefCell::default(), notes: Vec::new() };
        let (document, errors) = DeTable::parse_recoverable(DEFAULTS);
        debug_assert!(errors.is_empty(), "config.default.toml is TOML: {errors:?}");
        for (name, value, _) in flatten(document.get_ref()) {
            let given = Given { value, origin: Origin::Default };
            layers.settings.insert(name, vec![given]);
        }
        layers
    }

    /// The user's file.
    pub(crate) fn add_file(&mut self, path: &Path, text: &str) {
        let path: Arc<Path> = path.into();
        let at = |span: Option<Range<usize>>| {
            let before = text.get(..span.map_or(0, |span| span.start)).unwrap_or_default();
            Origin::File { path: Arc::clone(&path), line: before.matches('\n').count() + 1 }
        };
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            self.mistake(None, at(error.span()), format!("not TOML: {}", error.message().trim_end()));
        }
        if !errors.is_empty() {
            return;
        }
        for (name, value, span) in flatten(document.get_ref()) {
            self.add(&name, value, at(Some(span)));
        }
    }

    /// The variables of Svix, then our own.
    pub(crate) fn add_environment(&mut self, environment: impl Iterator<Item = (OsString, OsString)>) {
        let (mut theirs, mut ours) = (Vec::new(), Vec::new());
        let environment: Vec<_> = environment.collect();
        if environment.iter().any(|(name, _)| name.as_encoded_bytes().starts_with(b"SVIX_")) {
            self.note_neighbours(&environment);
        }
        for (name, value) in environment {
            let Some(name) = name.to_str() else { continue };
            let of = match name {
                name if name.starts_with("SVIX_") => &mut theirs,
                name if name.starts_with("BELLWIRE_") => &mut ours,
                _ => continue,
            };
            match value.into_string() {
                Ok(value) if is_service_link(name, &value) => {}
                Ok(value) => of.push((name.to_owned(), value)),
                Err(_) => self.mistake(None, Origin::Variable(name.into()), "the value is not UTF-8".into()),
            }
        }
        theirs.sort();
        ours.sort();
        for (name, value) in theirs {
            self.add_svix(&name, &value);
        }
        for (name, value) in ours {
            self.add_variable(&name, value);
        }
    }

    /// What only a Svix server would read, where the environment is one's: told, since somebody may rely on it.
    fn note_neighbours(&mut self, environment: &[(OsString, OsString)]) {
        let given = |wanted: &str| environment.iter().any(|(name, value)| name == wanted && !value.is_empty());
        for (name, why) in svix::NEIGHBOURS {
            if given(name) {
                self.note(format!("{name} is not used: {why}"));
            }
        }
    }

    /// What stands in force for every setting, by name.
    pub(crate) fn effective(&self) -> Vec<Effective> {
        let in_force = self.settings.iter().filter_map(|(name, given)| {
            let (last, before) = given.split_last()?;
            let secret = HIDDEN.contains(&name.as_str());
            let value =
                if LISTS.contains(&name.as_str()) { last.value.clone().into_list() } else { last.value.clone() };
            let overridden =
                before.iter().map(|given| given.origin.clone()).filter(|o| *o != Origin::Default).collect();
            Some(Effective { name: name.clone(), value, origin: last.origin.clone(), overridden, secret })
        });
        in_force.collect()
    }

    /// A flag, if it was given.
    pub(crate) fn add_flag(&mut self, flag: &'static str, setting: &str, value: Option<Value>) {
        if let Some(value) = value {
            self.add(setting, value, Origin::Flag(flag));
        }
    }

    /// What is told to the operator although it is no mistake.
    pub(crate) fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub(crate) fn mistake(&self, setting: Option<&str>, origin: Origin, problem: String) {
        self.mistakes.borrow_mut().push(Mistake { setting: setting.map(str::to_owned), origin, problem });
    }

    /// The value of a setting. Every layer's value must have a meaning, also one that another layer overrides; where one
    /// has none, that is a mistake, and the value returned is a stand-in that never leaves [`Layers::finish`].
    pub(crate) fn take<T>(&self, setting: &'static str, read: impl Fn(&Value) -> Read<T>) -> T {
        let given = self.settings.get(setting).expect("config.default.toml names every setting; a test sees to it");
        let mut taken = None;
        for Given { value, origin } in given {
            match read(value) {
                Ok(value) => taken = Some(value),
                Err(Expected(what)) => {
                    let found = if HIDDEN.contains(&setting) { String::new() } else { format!(", found {value}") };
                    self.mistake(Some(setting), origin.clone(), format!("expected {what}{found}"));
                }
            }
        }
        taken.expect("the defaults can be read; a test sees to it")
    }

    /// A mistake that shows only when settings are seen together; it is the one's that was set last.
    pub(crate) fn refuse(&self, setting: &'static str, problem: String) {
        if let Some(given) = self.settings.get(setting).and_then(|given| given.last()) {
            self.mistake(Some(setting), given.origin.clone(), problem);
        }
    }

    /// What was made of the settings, and the notes; or everything that is wrong.
    pub(crate) fn finish<T>(self, config: impl FnOnce(Vec<String>) -> T) -> Result<T, Mistakes> {
        match self.mistakes.into_inner() {
            none if none.is_empty() => Ok(config(self.notes)),
            mistakes => Err(Mistakes(mistakes)),
        }
    }

    /// All names, `section.name`.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.settings.keys().map(String::as_str)
    }

    fn add(&mut self, setting: &str, value: Value, origin: Origin) {
        if let Some(given) = self.settings.get_mut(setting) {
            given.push(Given { value, origin });
            return;
        }
        let meant = did_you_mean(setting, self.names());
        self.mistake(None, origin, format!("there is no setting {setting}{meant}"));
    }

    fn add_variable(&mut self, name: &str, value: String) {
        if OTHER_VARIABLES.contains(&name) {
            return;
        }
        let origin = Origin::Variable(name.into());
        let short = SHORT_VARIABLES.iter().find(|(short, _)| *short == name).map(|(_, setting)| (*setting).to_owned());
        let Some(setting) = short.or_else(|| self.names().find(|known| variable(known) == name).map(str::to_owned))
        else {
            let mut known: Vec<String> = self.names().map(variable).collect();
            known.extend(SHORT_VARIABLES.map(|(short, _)| short.to_owned()));
            known.extend(OTHER_VARIABLES.map(str::to_owned));
            let meant = did_you_mean(name, known.iter().map(String::as_str));
            self.mistake(None, origin, format!("there is no such setting{meant}"));
            return;
        };
        if value.trim().is_empty() && !LISTS.contains(&setting.as_str()) {
            self.mistake(Some(&setting), origin, "the variable is empty; remove it, or give it a value".into());
            return;
        }
        self.add(&setting, Value::Text(value), origin);
    }

    fn add_svix(&mut self, name: &str, text: &str) {
        let origin = || Origin::Variable(name.into());
        match svix::read(name, text) {
            svix::Reading::Setting { setting, .. } if text.trim().is_empty() && !LISTS.contains(&setting) => {
                self.mistake(Some(setting), origin(), "the variable is empty; remove it, or give it a value".into());
            }
            svix::Reading::Setting { setting, value: Ok(value) } => self.add(setting, value, origin()),
            svix::Reading::Setting { setting, value: Err(Expected(what)) } => {
                self.mistake(Some(setting), origin(), format!("expected {what}, found {text:?}"));
            }
            svix::Reading::Understood => {}
            svix::Reading::Refused(problem) => self.mistake(None, origin(), problem),
            svix::Reading::Unused(why) => self.note(format!("{name} is not used: {why}")),
            svix::Reading::Unknown => self.note(format!("{name} is not used: we do not know it")),
        }
    }
}

/// The long name of a setting's variable.
fn variable(setting: &str) -> String {
    format!("BELLWIRE_{}", setting.to_ascii_uppercase().replace('.', "_"))
}

/// Whether Kubernetes or Docker put the variable there, for a service that happens to bear our name:
/// `BELLWIRE_SERVICE_HOST`, `BELLWIRE_PORT_8071_TCP_ADDR` and their like.
fn is_service_link(name: &str, value: &str) -> bool {
    let mut behind_port = name.split("_PORT_").skip(1);
    name.ends_with("_SERVICE_HOST")
        || name.contains("_SERVICE_PORT")
        || (name.ends_with("_PORT") && value.contains("://"))
        || behind_port.any(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// Every value of a document with its full name and the place of its key.
fn flatten(document: &DeTable<'_>) -> Vec<(String, Value, Range<usize>)> {
    let mut all = Vec::new();
    for (section, inner) in document {
        match inner.get_ref() {
            DeValue::Table(table) => all.extend(table.iter().map(|(name, value)| {
                (format!("{}.{}", section.get_ref(), name.get_ref()), plain(value.get_ref()), name.span())
            })),
            value => all.push((section.get_ref().to_string(), plain(value), section.span())),
        }
    }
    all
}

fn plain(value: &DeValue<'_>) -> Value {
    match value {
        DeValue::String(text) => Value::Text(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => Value::Integer(number),
            Err(_) => Value::Text(number.as_str().to_owned()),
        },
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Float(number),
            Err(_) => Value::Text(number.as_str().to_owned()),
        },
        DeValue::Boolean(switch) => Value::Switch(*switch),
        DeValue::Datetime(time) => Value::Text(time.to_string()),
        DeValue::Array(values) => Value::List(values.iter().map(|value| plain(value.get_ref())).collect()),
        DeValue::Table(_) => Value::Table,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_orchestrator_puts_there_is_passed_over() {
        for (name, value) in [
            ("BELLWIRE_SERVICE_HOST", "10.0.0.1"),
            ("BELLWIRE_SERVER_SERVICE_PORT_HTTP", "8071"),
            ("BELLWIRE_PORT", "tcp://10.0.0.1:8071"),
            ("BELLWIRE_PORT_8071_TCP_ADDR", "10.0.0.1"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        assert!(!is_service_link("BELLWIRE_PORT", "8071"));
        assert!(!is_service_link("BELLWIRE_EGRESS_DENY_PORTS", "80"));
    }
}
