//! What a file declares, as what the API is to be asked. Pure.
//!
//! Names in the file are the API's own, with underscores: `event_types` for `eventTypes`. A source has an application of its own
//! unless it names one; an endpoint gets what the sources in its `from` receive, in each of their applications.

use super::file::{Document, Fault};
use super::names::{ENDPOINT, ENDPOINT_SHAPE, NESTED, OWN, SOURCE, camel, is_name};
use bellwire_api::backend::NewCode;
use bellwire_api::event_type_fault;
use bellwire_config::did_you_mean;
use bellwire_model::{EventType, Module, Permissions};
use bellwire_signature::source::presets;
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// What uids begin with that are ours to remove.
pub(crate) const PREFIX: &str = "hooks.";
const SECTIONS: [&str; 4] = ["applications", "plugins", "sources", "endpoints"];
/// What every component and module of WebAssembly begins with.
const COMPONENT: &[u8] = b"\0asm";

/// One thing that is declared.
#[derive(Clone, PartialEq, Debug)]
pub(crate) struct Declared {
    /// Where in the file: section and name.
    pub(crate) way: [String; 2],
    /// Its own uid.
    pub(crate) uid: String,
    /// Its application's.
    pub(crate) application: String,
    /// As the API takes it.
    pub(crate) body: Map<String, Value>,
}

/// A module that is to be installed.
#[derive(Clone, Debug)]
pub(crate) struct DeclaredPlugin {
    pub(crate) name: String,
    pub(crate) code: NewCode,
    /// SHA-256 of the code, in hex.
    pub(crate) digest: String,
    /// What is granted to it.
    pub(crate) permissions: Permissions,
}

/// All that a file declares.
#[derive(Clone, Debug, Default)]
pub(crate) struct Plan {
    /// Uid, and the body for the API if the file says more than that it is there.
    pub(crate) applications: BTreeMap<String, Option<Declared>>,
    /// Event types that endpoints ask for, with the place of the first.
    pub(crate) event_types: BTreeMap<String, [String; 2]>,
    pub(crate) plugins: Vec<DeclaredPlugin>,
    pub(crate) sources: Vec<Declared>,
    pub(crate) endpoints: Vec<Declared>,
}

/// Reads the declarations of a file, and all that is wrong with how they hang together. What is wrong with each by itself says the API: what
/// belongs nowhere is planned as well, for an application of its own, so that the API can be asked. With faults, nothing of the plan may be
/// done but on a copy.
pub(crate) fn plan(document: &Document) -> (Plan, Vec<Fault>) {
    let mut reader = Reader {
        document,
        plan: Plan::default(),
        faults: Vec::new(),
        of_sources: BTreeMap::new(),
        of_paths: BTreeMap::new(),
    };
    let empty = Map::new();
    let whole = document.value.as_object().unwrap_or(&empty);
    for name in whole.keys().filter(|name| !SECTIONS.contains(&name.as_str())) {
        let hint = format!(
            "there are [applications.NAME], [plugins.NAME], [sources.NAME] and [endpoints.NAME]{}",
            did_you_mean(name, SECTIONS.into_iter())
        );
        reader.faults.push(document.fault(&[name], "this means nothing here", Some(hint)));
    }
    reader.each("applications", Reader::application);
    reader.each("plugins", Reader::plugin);
    reader.each("sources", Reader::source);
    reader.each("endpoints", Reader::endpoint);
    reader.shared_applications();
    let Reader { plan, faults, .. } = reader;
    (plan, faults)
}

struct Reader<'a> {
    document: &'a Document,
    plan: Plan,
    faults: Vec<Fault>,
    /// The application of each source.
    of_sources: BTreeMap<String, String>,
    /// The source of each path.
    of_paths: BTreeMap<String, String>,
}

impl Reader<'_> {
    fn fault(&mut self, way: &[&str], text: impl Into<String>, hint: &str) {
        let hint = (!hint.is_empty()).then(|| hint.to_owned());
        self.faults.push(self.document.fault(way, text, hint));
    }

    fn each(&mut self, section: &str, read: fn(&mut Self, &str, Map<String, Value>)) {
        let members = match self.document.value.get(section) {
            None => return,
            Some(Value::Object(members)) => members.clone(),
            Some(_) => return self.fault(&[section], "a table is expected", &format!("[{section}.NAME] begins one")),
        };
        for (name, body) in members {
            match body {
                _ if !is_name(&name) => {
                    self.fault(&[section, &name], "this is no name", "names have letters, digits, -, _ and .")
                }
                Value::Object(body) => read(self, &name, body),
                _ => self.fault(&[section, &name], "a table is expected", &format!("[{section}.{name}] begins one")),
            }
        }
    }

    fn application(&mut self, name: &str, body: Map<String, Value>) {
        let mut body = camel(body);
        body.entry("name").or_insert_with(|| name.into());
        let declared = Declared {
            way: ["applications".to_owned(), name.to_owned()],
            uid: name.to_owned(),
            application: name.to_owned(),
            body,
        };
        self.plan.applications.insert(name.to_owned(), Some(declared));
    }

    fn plugin(&mut self, name: &str, body: Map<String, Value>) {
        const MEMBERS: [&str; 2] = ["file", "permissions"];
        if let Err(why) = Module::check_name(name) {
            return self.fault(&["plugins", name], "this is no name", &why);
        }
        for member in body.keys().filter(|member| !MEMBERS.contains(&member.as_str())) {
            let hint = format!("there are {}{}", MEMBERS.join(", "), did_you_mean(member, MEMBERS.into_iter()));
            self.fault(&["plugins", name, member], "a plugin has nothing of this name", &hint);
        }
        if !body.get("file").is_some_and(Value::is_string) {
            self.fault(&["plugins", name, "file"], "a file is expected", "file = \"plugin.js\", or a component");
        }
        let permissions = self.permissions(name, body.get("permissions"));
        // What cannot be read is told already.
        let Some(bytes) = self.document.plugins.get(name) else { return };
        let digest = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let code = match std::str::from_utf8(bytes) {
            Ok(text) if !bytes.starts_with(COMPONENT) => NewCode::Text(text.to_owned()),
            _ => NewCode::Component(bytes.clone().into()),
        };
        self.plan.plugins.push(DeclaredPlugin { name: name.to_owned(), code, digest, permissions });
    }

    fn permissions(&mut self, name: &str, lines: Option<&Value>) -> Permissions {
        let Some(lines) = lines else { return Permissions::default() };
        let texts: Option<Vec<&str>> = lines.as_array().and_then(|all| all.iter().map(Value::as_str).collect());
        match texts
            .ok_or_else(|| "a list of texts is expected".to_owned())
            .and_then(|all| Permissions::listed(&all.join("\n")))
        {
            Ok(permissions) => permissions,
            Err(why) => {
                let hint = "permissions = [\"fetch api.example.com\", \"environment REGION\", \"respond\", \"emit\"]";
                self.fault(&["plugins", name, "permissions"], why, hint);
                Permissions::default()
            }
        }
    }

    fn source(&mut self, name: &str, mut body: Map<String, Value>) {
        let way = ["sources", name];
        let application = match body.remove("application") {
            None => format!("{PREFIX}{name}"),
            Some(Value::String(uid)) if is_name(&uid) => uid,
            Some(_) => {
                let hint = "uids have letters, digits, -, _ and .";
                self.fault(&["sources", name, "application"], "the uid of an application is expected", hint);
                format!("{PREFIX}{name}")
            }
        };
        let known = || ["application", "secret"].into_iter().chain(SOURCE);
        for member in body.keys().filter(|member| !known().chain(OWN).any(|known| known == *member)) {
            let names = known().collect::<Vec<_>>().join(", ");
            let hint = format!("there are {names}{}", did_you_mean(member, known()));
            let fault =
                self.document.fault(&["sources", name, member], "a source has nothing of this name", Some(hint));
            self.faults.push(fault);
        }
        if let Some(Value::String(preset)) = body.get("preset")
            && !presets().iter().any(|known| known.name == *preset)
        {
            let close = did_you_mean(preset, presets().iter().map(|known| known.name.as_str()));
            let hint = format!("`bellwire source presets` lists them{close}");
            self.fault(&["sources", name, "preset"], format!("there is no preset {preset}"), &hint);
        }
        if let Some(Value::String(path)) = body.get("path")
            && let Some(other) = self.of_paths.insert(path.clone(), name.to_owned())
        {
            let text = format!("the source {other} has this path");
            self.fault(&["sources", name, "path"], text, "each source has one of its own, or none");
            body.remove("path");
        }
        match (body.remove("secret"), body.contains_key("secrets")) {
            (Some(_), true) => self.fault(
                &["sources", name, "secret"],
                "there is `secrets` as well",
                "put all into `secrets`, newest first",
            ),
            (Some(secret), false) => drop(body.insert("secrets".to_owned(), json!([secret]))),
            (None, _) => {}
        }
        for own in OWN {
            if body.contains_key(own) {
                self.fault(
                    &["sources", name, own],
                    "this follows from the name of the table",
                    "leave it out; `application` names an application",
                );
            }
        }
        let mut body = camel(body);
        for nested in NESTED {
            if let Some(Value::Object(inner)) = body.get_mut(nested) {
                *inner = camel(std::mem::take(inner));
                if let Some(Value::Object(columns)) = inner.get_mut("columns") {
                    *columns = camel(std::mem::take(columns));
                }
            }
        }
        body.entry("name").or_insert_with(|| name.into());
        body.insert("appId".to_owned(), application.as_str().into());
        self.of_sources.insert(name.to_owned(), application.clone());
        self.plan.applications.entry(application.clone()).or_default();
        self.plan.sources.push(Declared {
            way: way.map(str::to_owned),
            uid: format!("{PREFIX}{name}"),
            application,
            body,
        });
    }

    fn endpoint(&mut self, name: &str, mut body: Map<String, Value>) {
        let way = ["endpoints", name];
        let applications = match (body.remove("from"), body.remove("application")) {
            (None, Some(Value::String(uid))) if is_name(&uid) => BTreeSet::from([uid]),
            (Some(from), None) => self.from(name, &from),
            (Some(_), Some(_)) => {
                self.fault(&["endpoints", name, "application"], "there is `from` as well", "one of them is enough");
                BTreeSet::new()
            }
            (None, _) => {
                self.fault(&way, "it does not say what it gets", "from = \"SOURCE\", or application = \"UID\"");
                BTreeSet::new()
            }
        };
        let nowhere = applications.is_empty().then(|| format!("{PREFIX}{name}"));
        let known = || ENDPOINT.into_iter().chain(ENDPOINT_SHAPE);
        for member in body.keys() {
            if !known().any(|known| known == member) {
                let hint = format!(
                    "there are from, application, {}{}",
                    known().collect::<Vec<_>>().join(", "),
                    did_you_mean(member, known())
                );
                self.faults.push(self.document.fault(
                    &["endpoints", name, member],
                    "an endpoint has nothing of this name",
                    Some(hint),
                ));
            }
        }
        self.event_types(name, body.get("event_types"));
        self.trust(&mut body);
        let body = camel(body);
        for application in applications.into_iter().chain(nowhere) {
            self.plan.applications.entry(application.clone()).or_default();
            let declared = Declared {
                way: way.map(str::to_owned),
                uid: format!("{PREFIX}{name}"),
                application,
                body: body.clone(),
            };
            self.plan.endpoints.push(declared);
        }
    }

    /// Notes which there must be. What is no name is told here, so that nobody is asked for it.
    fn event_types(&mut self, endpoint: &str, named: Option<&Value>) {
        for (at, named) in named.and_then(Value::as_array).into_iter().flatten().enumerate() {
            let Some(named) = named.as_str() else { continue };
            let Some(why) = event_type_fault(named) else {
                let way = ["endpoints", endpoint].map(str::to_owned);
                self.plan.event_types.entry(named.to_owned()).or_insert(way);
                continue;
            };
            let hint = match EventType::name_from(Some(named), "").as_str() {
                "" => "a name is such as invoice.paid".to_owned(),
                name => format!("what a sender calls so comes in as {name}"),
            };
            self.fault(&["endpoints", endpoint, "event_types", &at.to_string()], format!("an event type {why}"), &hint);
        }
    }

    /// The file is the operator's: the programs in it may run without being allowed elsewhere, and `./` is its folder.
    fn trust(&self, body: &mut Map<String, Value>) {
        let Some(Value::Object(plugin)) = body.get_mut("plugin") else { return };
        if plugin.get("runs").and_then(Value::as_str) != Some("command") {
            return;
        }
        let folder = self.document.path.parent().filter(|folder| *folder != "").unwrap_or(Path::new("."));
        let folder = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
        for name in ["program", "working_directory"] {
            if let Some(Value::String(path)) = plugin.get_mut(name)
                && (path.starts_with("./") || path.starts_with("../") || path == ".")
            {
                *path = folder.join(path.trim_start_matches("./")).to_string_lossy().into_owned();
            }
        }
        plugin.insert("trusted".to_owned(), true.into());
    }

    /// The applications of the sources that are named.
    fn from(&mut self, name: &str, from: &Value) -> BTreeSet<String> {
        let mut applications = BTreeSet::new();
        let names: Vec<Option<&str>> = match from {
            Value::Array(names) if names.is_empty() => {
                let hint = "name at least one source";
                self.fault(&["endpoints", name, "from"], "it does not say what it gets", hint);
                Vec::new()
            }
            Value::Array(names) => names.iter().map(Value::as_str).collect(),
            one => vec![one.as_str()],
        };
        for source in names {
            match source.and_then(|source| self.of_sources.get(source)) {
                Some(application) => drop(applications.insert(application.clone())),
                None => {
                    let known: Vec<&str> = self.of_sources.keys().map(String::as_str).collect();
                    let close = did_you_mean(source.unwrap_or_default(), known.iter().copied());
                    let hint = format!(
                        "there are {}{close}",
                        if known.is_empty() { "none".to_owned() } else { known.join(", ") }
                    );
                    let text = format!("there is no source {}", source.unwrap_or("of this kind"));
                    self.faults.push(self.document.fault(&["endpoints", name, "from"], text, Some(hint)));
                }
            }
        }
        applications
    }

    /// Two sources in one application cannot be told apart by `from`.
    fn shared_applications(&mut self) {
        let mut sources: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        self.of_sources.iter().for_each(|(source, application)| sources.entry(application).or_default().push(source));
        let endpoints = self.document.value.get("endpoints").and_then(Value::as_object).into_iter().flatten();
        let mut faults = Vec::new();
        for (name, body) in endpoints {
            let named: Vec<&str> = match &body["from"] {
                Value::Array(names) => names.iter().filter_map(Value::as_str).collect(),
                one => one.as_str().into_iter().collect(),
            };
            for together in sources.values().filter(|together| together.len() > 1) {
                let wanted = together.iter().filter(|source| named.contains(source)).count();
                if wanted > 0 && wanted < together.len() {
                    let text = format!(
                        "{} share an application, so this would get what all of them receive",
                        together.join(" and ")
                    );
                    let hint = "name all of them, or leave out their `application`".to_owned();
                    faults.push(self.document.fault(&["endpoints", name, "from"], text, Some(hint)));
                }
            }
        }
        self.faults.append(&mut faults);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hooks::file::Faults;

    fn document(text: &str) -> Document {
        Document::parse(Path::new("hooks.toml"), text.to_owned(), &|_| None).unwrap_or_else(|faults| panic!("{faults}"))
    }

    fn right(text: &str) -> Plan {
        let (plan, faults) = plan(&document(text));
        assert_eq!(faults, []);
        plan
    }

    const FILE: &str = r#"
[sources.github]
preset = "github"
secret = "a secret of the sender"
body_bytes_max = 1000
dedupe = { by = "body", window_seconds = 60 }

[sources.stripe]
preset = "stripe"
secrets = ["one", "two"]
application = "shop"

[endpoints.build]
from = ["github", "stripe"]
event_types = ["push"]
plugin = { runs = "command", program = "/bin/true" }

[endpoints.forward]
application = "shop"
url = "https://example.com"
throttle_rate = 5
"#;

    #[test]
    fn a_file_becomes_what_the_api_is_asked() {
        let plan = right(FILE);
        assert_eq!(plan.applications.keys().collect::<Vec<_>>(), ["hooks.github", "shop"]);
        assert_eq!(plan.event_types.keys().collect::<Vec<_>>(), ["push"]);
        let sources: Vec<_> = plan.sources.iter().map(|s| (s.uid.as_str(), Value::Object(s.body.clone()))).collect();
        let github = json!({
            "preset": "github", "bodyBytesMax": 1000, "secrets": ["a secret of the sender"],
            "dedupe": { "by": "body", "windowSeconds": 60 }, "name": "github", "appId": "hooks.github",
        });
        let stripe = json!({ "preset": "stripe", "secrets": ["one", "two"], "name": "stripe", "appId": "shop" });
        assert_eq!(sources, [("hooks.github", github), ("hooks.stripe", stripe)]);
        let endpoints: Vec<_> = plan.endpoints.iter().map(|e| (e.application.as_str(), e.uid.as_str())).collect();
        assert_eq!(endpoints, [("hooks.github", "hooks.build"), ("shop", "hooks.build"), ("shop", "hooks.forward")]);
        assert_eq!(plan.endpoints[2].body["throttleRate"], 5);
    }

    #[test]
    fn names_within_a_way_are_the_apis_too() {
        let file = "[sources.pay.queue]\nbroker = \"redis\"\nevent_type_from = \"body.type\"\n";
        let plan = right(file);
        let queue = json!({ "broker": "redis", "eventTypeFrom": "body.type" });
        assert_eq!(plan.sources[0].body["queue"], queue);
    }

    #[test]
    fn what_does_not_hang_together_is_told_with_its_line() {
        let check = |text: &str, expected: &str| {
            let (document, file) = (document(text), Path::new("hooks.toml"));
            let told = Faults::new(file, plan(&document).1).to_string();
            assert!(told.contains(expected), "{told}");
        };
        check(
            "[source.a]\n",
            "hooks.toml:1: source: this means nothing here\n  hint: there are [applications.NAME], [plugins.NAME], [sources.NAME] and [endpoints.NAME]; did you mean sources?",
        );
        check(
            "[sources.a]\npreset = \"x\"\n[endpoints.b]\nfrom = \"aa\"\n",
            "hooks.toml:4: endpoints.b.from: there is no source aa\n  hint: there are a; did you mean a?",
        );
        check("[endpoints.b]\nurl = \"x\"\n", "hooks.toml:1: endpoints.b: it does not say what it gets");
        check("[endpoints.b]\nfrom = []\n", "hooks.toml:2: endpoints.b.from: it does not say what it gets");
        check(
            "[sources.a]\npresett = \"x\"\n",
            "hooks.toml:2: sources.a.presett: a source has nothing of this name\n  hint: there are application, secret, ",
        );
        check(
            "[sources.a]\npreset = \"githb\"\n",
            "hooks.toml:2: sources.a.preset: there is no preset githb\n  hint: `bellwire source presets` lists them; did you mean github?",
        );
        check(
            "[sources.a]\npreset = \"none\"\nuid = \"b\"\n",
            "hooks.toml:3: sources.a.uid: this follows from the name",
        );
        check(
            "[endpoints.b]\napplication = \"x\"\nevent_typs = []\n",
            "hooks.toml:3: endpoints.b.event_typs: an endpoint has nothing of this name",
        );
        check(
            "[sources.a]\nsecret = \"x\"\nsecrets = []\n",
            "hooks.toml:2: sources.a.secret: there is `secrets` as well",
        );
        check(
            "[sources.a]\npath = \"/x\"\n[sources.b]\npath = \"/x\"\n",
            "hooks.toml:4: sources.b.path: the source a has this path\n  hint: each source has one of its own, or none",
        );
        check("[sources.\"a b\"]\n", "this is no name");
        check("[sources]\na = 1\n", "hooks.toml:2: sources.a: a table is expected");
        check(
            "[sources.a]\napplication = \"x\"\n[sources.b]\napplication = \"x\"\n[endpoints.c]\nfrom = \"a\"\n",
            "hooks.toml:6: endpoints.c.from: a and b share an application",
        );
    }
}
