//! Reads `hooks.toml`, or the same as YAML: a tree, the line of everything in it, and secrets from where they are kept.

use serde_json::{Map, Number, Value};
use serde_saphyr::{MessageFormatter as _, UserMessageFormatter};
use std::collections::{BTreeMap, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use std::{fmt, fs};
use toml::de::{DeTable, DeValue};

const FILE_BYTES_MAX: u64 = 8 << 20;
/// Of a plugin; what it may have in the end says who installs it.
const PLUGIN_BYTES_MAX: u64 = 32 << 20;
/// Members whose own members have names of the user's choice, among which may be `env` and `file`.
const NAMED_FREELY: [&str; 5] = ["env", "metadata", "settings", "headers", "secrets"];
/// In the place of a secret that is not there, so that what refers to it is not wrong besides. Nothing is done of a file with faults.
const LOST: &str = "00000000000000000000000000000000";

/// One thing that is wrong with the file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Fault {
    /// Where, as it is written in the file: `sources.github.preset`. Empty: the file as a whole.
    pub(crate) place: String,
    /// From 1, if it is known.
    pub(crate) line: Option<usize>,
    /// What is wrong. Never a secret.
    pub(crate) text: String,
    /// What would be right.
    pub(crate) hint: Option<String>,
}

/// Everything that is wrong with a file; never empty.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Faults {
    pub(crate) file: PathBuf,
    pub(crate) all: Vec<Fault>,
}

impl Faults {
    /// In the order of the file, each once.
    pub(crate) fn new(file: &Path, faults: Vec<Fault>) -> Faults {
        let mut all: Vec<Fault> = Vec::with_capacity(faults.len());
        for fault in faults {
            // An endpoint with several sources says the same for each of their applications.
            if !all.contains(&fault) {
                all.push(fault);
            }
        }
        all.sort_by_key(|fault| fault.line);
        Faults { file: file.to_owned(), all }
    }
}

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, Fault { place, line, text, hint }) in self.all.iter().enumerate() {
            f.write_str(if at == 0 { "" } else { "\n" })?;
            write!(f, "{}", self.file.display())?;
            if let Some(line) = line {
                write!(f, ":{line}")?;
            }
            write!(f, ": ")?;
            if !place.is_empty() {
                write!(f, "{place}: ")?;
            }
            f.write_str(text)?;
            if let Some(hint) = hint {
                write!(f, "\n  hint: {hint}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// A file that was read.
#[derive(Debug)]
pub(crate) struct Document {
    pub(crate) path: PathBuf,
    /// With secrets in the place of references to them.
    pub(crate) value: Value,
    /// References that lead nowhere; an empty text is in their place, so that the rest can be looked at.
    pub(crate) lost: Vec<Fault>,
    /// What the files of plugins hold, by the plugin's name.
    pub(crate) plugins: BTreeMap<String, Vec<u8>>,
    /// The files that it names, as they were just before they were read.
    pub(crate) files: Vec<(PathBuf, Option<Seen>)>,
    lines: Lines,
}

/// What tells one state of a file from another without reading it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Seen {
    modified: Option<SystemTime>,
    length: u64,
}

impl Seen {
    /// `None` for one that is not there.
    pub(crate) fn of(path: &Path) -> Option<Seen> {
        let found = fs::metadata(path).ok()?;
        Some(Seen { modified: found.modified().ok(), length: found.len() })
    }
}

#[derive(Debug)]
enum Lines {
    /// By the way to a value, joined by dots.
    Known(HashMap<String, usize>),
    /// To be looked for in the text.
    Text(String),
}

impl Document {
    /// Reads a file; relative paths in it begin at its folder.
    ///
    /// # Errors
    /// Why it cannot be read: all that is wrong with how it is written.
    pub(crate) fn read(path: &Path, environment: &dyn Fn(&str) -> Option<String>) -> Result<Document, Faults> {
        let whole =
            |text: String| Faults::new(path, vec![Fault { place: String::new(), line: None, text, hint: None }]);
        match fs::metadata(path) {
            Ok(found) if found.len() > FILE_BYTES_MAX => return Err(whole("it has more than 8 MiB".to_owned())),
            _ => {}
        }
        let text = fs::read_to_string(path).map_err(|error| whole(format!("it cannot be read: {error}")))?;
        Document::parse(path, text, environment)
    }

    /// As [`Document::read`], of a text that was read.
    ///
    /// # Errors
    /// As [`Document::read`].
    pub(crate) fn parse(
        path: &Path,
        text: String,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Document, Faults> {
        let yaml = path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json");
        let read = if yaml { from_yaml(text) } else { from_toml(&text) };
        let (value, lines) = read.map_err(|all| Faults::new(path, all))?;
        let document = Document {
            path: path.to_owned(),
            value: Value::Null,
            lost: Vec::new(),
            plugins: BTreeMap::new(),
            files: Vec::new(),
            lines,
        };
        let mut resolver = Resolver {
            folder: path.parent().unwrap_or(Path::new("")),
            environment,
            document: &document,
            faults: Vec::new(),
            plugins: BTreeMap::new(),
            files: Vec::new(),
        };
        let value = resolver.resolved(value, &mut Vec::new());
        let Resolver { faults, plugins, files, .. } = resolver;
        Ok(Document { value, lost: faults, plugins, files, ..document })
    }

    /// The line of the value at this way, or of the nearest thing around it.
    pub(crate) fn line(&self, way: &[&str]) -> Option<usize> {
        match &self.lines {
            Lines::Known(lines) => (1..=way.len()).rev().find_map(|end| lines.get(&way[..end].join(".")).copied()),
            Lines::Text(text) => looked_for(text, way),
        }
    }

    /// A fault at this way.
    pub(crate) fn fault(&self, way: &[&str], text: impl Into<String>, hint: Option<String>) -> Fault {
        Fault { place: way.join("."), line: self.line(way), text: text.into(), hint }
    }
}

fn line_of(text: &str, span: Range<usize>) -> usize {
    text.get(..span.start).unwrap_or_default().matches('\n').count() + 1
}

fn from_toml(text: &str) -> Result<(Value, Lines), Vec<Fault>> {
    let (document, errors) = DeTable::parse_recoverable(text);
    if !errors.is_empty() {
        let fault = |error: toml::de::Error| {
            let what = error.span().and_then(|span| text.get(span)).filter(|_| error.message() == "duplicate key");
            let what = what.map_or_else(String::new, |name| format!(", {name}"));
            Fault {
                place: String::new(),
                line: error.span().map(|span| line_of(text, span)),
                text: format!("this is not TOML: {}{what}", error.message().trim_end()),
                hint: None,
            }
        };
        return Err(errors.into_iter().map(fault).collect());
    }
    let mut lines = HashMap::new();
    let value = table(text, document.get_ref(), &mut String::new(), &mut lines);
    Ok((value, Lines::Known(lines)))
}

fn table(text: &str, table: &DeTable<'_>, way: &mut String, lines: &mut HashMap<String, usize>) -> Value {
    let members = table.iter().map(|(name, value)| {
        let value = step(way, name.get_ref(), |way| {
            lines.insert(way.clone(), line_of(text, name.span()));
            plain(text, value.get_ref(), way, lines)
        });
        (name.get_ref().to_string(), value)
    });
    Value::Object(members.collect())
}

fn step<T>(way: &mut String, name: &str, inside: impl FnOnce(&mut String) -> T) -> T {
    let length = way.len();
    if length > 0 {
        way.push('.');
    }
    way.push_str(name);
    let done = inside(way);
    way.truncate(length);
    done
}

fn plain(text: &str, value: &DeValue<'_>, way: &mut String, lines: &mut HashMap<String, usize>) -> Value {
    match value {
        DeValue::String(text) => Value::String(text.to_string()),
        DeValue::Integer(number) => match i64::from_str_radix(number.as_str(), number.radix()) {
            Ok(number) => number.into(),
            Err(_) => number.as_str().into(),
        },
        DeValue::Float(number) => match number.as_str().parse().ok().and_then(Number::from_f64) {
            Some(number) => number.into(),
            None => number.as_str().into(),
        },
        DeValue::Boolean(switch) => (*switch).into(),
        DeValue::Datetime(time) => time.to_string().into(),
        DeValue::Array(values) => {
            let items = values.iter().enumerate().map(|(at, value)| {
                step(way, &at.to_string(), |way| {
                    lines.insert(way.clone(), line_of(text, value.span()));
                    plain(text, value.get_ref(), way, lines)
                })
            });
            Value::Array(items.collect())
        }
        DeValue::Table(inner) => table(text, inner, way, lines),
    }
}

fn from_yaml(text: String) -> Result<(Value, Lines), Vec<Fault>> {
    match serde_saphyr::from_str::<Value>(&text) {
        Ok(Value::Null) => Ok((Value::Object(Map::new()), Lines::Text(text))),
        Ok(value) => Ok((value, Lines::Text(text))),
        Err(error) => {
            let told = UserMessageFormatter.format_message(error.without_snippet());
            let line = error.location().map(|location| location.line() as usize);
            let text = format!("this is not YAML: {}", told.lines().next().unwrap_or_default());
            Err(vec![Fault { place: String::new(), line, text, hint: None }])
        }
    }
}

/// The line where the last of these names stands behind the others. In YAML written by people, that is its line.
fn looked_for(text: &str, way: &[&str]) -> Option<usize> {
    let mut found = None;
    let mut lines = text.lines().enumerate();
    for name in way {
        let is = |line: &str| {
            let line = line.trim_start().trim_start_matches("- ").trim_start_matches(['{', ' ', '"', '\'']);
            line.strip_prefix(name).is_some_and(|rest| rest.trim_start_matches(['"', '\'', ' ']).starts_with(':'))
        };
        match lines.by_ref().find(|(_, line)| is(line)) {
            Some((at, _)) => found = Some(at + 1),
            None => break,
        }
    }
    found
}

/// Puts what `{ env = "NAME" }` and `{ file = "PATH" }` refer to in their place.
struct Resolver<'a> {
    folder: &'a Path,
    environment: &'a dyn Fn(&str) -> Option<String>,
    document: &'a Document,
    faults: Vec<Fault>,
    plugins: BTreeMap<String, Vec<u8>>,
    files: Vec<(PathBuf, Option<Seen>)>,
}

impl Resolver<'_> {
    fn resolved(&mut self, value: Value, way: &mut Vec<String>) -> Value {
        match value {
            Value::Object(members) => {
                let freely = way.last().is_some_and(|name| NAMED_FREELY.contains(&name.as_str()));
                if let [section, plugin] = way.as_slice()
                    && section == "plugins"
                {
                    if let Some(Value::String(file)) = members.get("file") {
                        self.plugin(plugin, file);
                    }
                    return Value::Object(members);
                }
                if members.len() == 1
                    && !freely
                    && let Some((kind, Value::String(name))) = members.iter().next()
                    && (kind == "env" || kind == "file")
                {
                    return self.secret(kind, name, way);
                }
                let resolved = members.into_iter().map(|(name, member)| {
                    way.push(name);
                    let member = self.resolved(member, way);
                    (way.pop().unwrap_or_default(), member)
                });
                Value::Object(resolved.collect())
            }
            Value::Array(items) => {
                let resolved = items.into_iter().enumerate().map(|(at, item)| {
                    way.push(at.to_string());
                    let item = self.resolved(item, way);
                    way.pop();
                    item
                });
                Value::Array(resolved.collect())
            }
            plain => plain,
        }
    }

    /// The bytes of a file that is named, whatever they are.
    fn bytes(&mut self, name: &str) -> Result<Vec<u8>, (String, String)> {
        let path = self.folder.join(name);
        let lost =
            |why: String| (format!("{} {why}", path.display()), "the path begins at this file's folder".to_owned());
        let found = fs::metadata(&path).map_err(|error| lost(format!("cannot be read: {error}")))?;
        if found.is_file() {
            self.files.push((path.clone(), Seen::of(&path)));
        }
        if found.len() > PLUGIN_BYTES_MAX {
            return Err(lost("has more than 32 MiB".to_owned()));
        }
        fs::read(&path).map_err(|error| lost(format!("cannot be read: {error}")))
    }

    fn plugin(&mut self, name: &str, file: &str) {
        match self.bytes(file) {
            Ok(bytes) => drop(self.plugins.insert(name.to_owned(), bytes)),
            Err((text, hint)) => self.faults.push(self.document.fault(&["plugins", name, "file"], text, Some(hint))),
        }
    }

    fn secret(&mut self, kind: &str, name: &str, way: &[String]) -> Value {
        let found = if kind == "env" {
            (self.environment)(name).ok_or_else(|| {
                (format!("the environment variable {name} is not set"), format!("set {name} before the server starts"))
            })
        } else {
            self.bytes(name).and_then(|bytes| match String::from_utf8(bytes) {
                Ok(text) => Ok(text.strip_suffix('\n').unwrap_or(&text).to_owned()),
                Err(_) => Err((format!("{name} is not UTF-8"), "a text is expected here".to_owned())),
            })
        };
        match found {
            Ok(text) => Value::String(text),
            Err((text, hint)) => {
                let way: Vec<&str> = way.iter().map(String::as_str).collect();
                self.faults.push(self.document.fault(&way, text, Some(hint)));
                Value::String(LOST.to_owned())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(name: &str, text: &str) -> Result<Document, Faults> {
        let environment = |name: &str| (name == "SECRET").then(|| "from the environment".to_owned());
        Document::parse(Path::new(name), text.to_owned(), &environment)
    }

    #[test]
    fn toml_and_yaml_say_the_same_and_know_their_lines() {
        let toml = "# a comment\n[sources.github]\npreset = \"github\"\nsecret = { env = \"SECRET\" }\n\n[endpoints.build]\nfrom = \"github\"\n[endpoints.build.plugin]\nruns = \"command\"\nargs = [\n  \"a\",\n  \"b\",\n]\nenv = { env = \"stays\" }\n";
        let yaml = "# a comment\nsources:\n  github:\n    preset: github\n    secret: { env: SECRET }\nendpoints:\n  build:\n    from: github\n    plugin:\n      runs: command\n      args: [a, b]\n      env: { env: stays }\n";
        let expected = json!({
            "sources": { "github": { "preset": "github", "secret": "from the environment" } },
            "endpoints": { "build": { "from": "github", "plugin": { "runs": "command", "args": ["a", "b"], "env": { "env": "stays" } } } },
        });
        let (toml, yaml) = (read("hooks.toml", toml), read("hooks.yaml", yaml));
        let (toml, yaml) = (toml.unwrap_or_else(|f| panic!("{f}")), yaml.unwrap_or_else(|f| panic!("{f}")));
        assert_eq!((&toml.value, &yaml.value), (&expected, &expected));
        for (way, in_toml, in_yaml) in [
            (&["sources", "github", "preset"][..], 3, 4),
            (&["sources", "github", "nothing"], 2, 3),
            (&["endpoints", "build", "plugin", "runs"], 9, 10),
            (&["endpoints", "build", "plugin", "args", "1"], 12, 11),
        ] {
            assert_eq!((toml.line(way), yaml.line(way)), (Some(in_toml), Some(in_yaml)), "{way:?}");
        }
        assert_eq!(toml.line(&["nothing"]), None);
    }

    #[test]
    fn what_is_wrong_is_told_with_file_line_and_hint() {
        let check = |name: &str, text: &str, expected: &str| {
            let wrong = match read(name, text) {
                Ok(document) => Faults::new(&document.path, document.lost),
                Err(faults) => faults,
            };
            let told = wrong.to_string();
            assert!(told.starts_with(expected), "{told}");
        };
        check("hooks.toml", "[sources]\na = = 1\n", "hooks.toml:2: this is not TOML: ");
        check("hooks.toml", "[a.b]\nc = 1\n[a.b]\n", "hooks.toml:3: this is not TOML: duplicate key, b");
        check("hooks.yaml", "a: [1\n", "hooks.yaml:");
        check("hooks.yaml", "a:\n\tb: 1\n", "hooks.yaml:2: this is not YAML: tabs disallowed");
        check("hooks.yaml", "a: 1\na: 2\n", "hooks.yaml:2: this is not YAML: duplicate mapping key");
        check(
            "hooks.toml",
            "[sources.a]\nsecret = { env = \"GONE\" }\n",
            "hooks.toml:2: sources.a.secret: the environment variable GONE is not set\n  hint: set GONE before",
        );
        check("hooks.toml", "x = { file = \"gone/secret\" }", "hooks.toml:1: x: gone/secret cannot be read: ");
    }

    #[test]
    fn a_file_s_last_line_end_is_not_part_of_the_secret() {
        let folder = tempfile::tempdir().unwrap_or_else(|error| panic!("{error}"));
        fs::write(folder.path().join("secret"), "s\n\n").unwrap_or_else(|error| panic!("{error}"));
        let text = "x = { file = \"secret\" }".to_owned();
        let document = Document::parse(&folder.path().join("hooks.toml"), text, &|_| None);
        assert_eq!(document.unwrap_or_else(|f| panic!("{f}")).value, json!({ "x": "s\n" }));
    }
}
