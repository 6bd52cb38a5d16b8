//! From hooks to `hooks.toml`, and what is not the same there. Pure but for what is asked by [`World`].

use super::hook::{Argument, Hook, rule};
use super::template::{Fetched, Text, read};
use bellwire_signature::source::{Condition, Rule, Rules};
use serde_json::Value;
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// What ours takes; adnanh's takes whatever comes.
const METHODS: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];
const TIMEOUT_MS: u64 = 3_600_000;
const BODY_BYTES_MAX: u64 = 1 << 20;
/// So much of a command's output is answered, the most that there is.
const OUTPUT_BYTES_MAX: u64 = 1 << 20;
/// So long a sender can wait for it, the most that there is.
const WAIT_MS: u64 = 30_000;
/// What adnanh's tells of a command that failed.
const FAILED: &str = "Error occurred while executing the hook's command. Please check your logs for more details.";

/// The machine that the hooks ran on.
pub(super) trait World {
    /// Where a program without a path is found.
    fn program(&self, name: &str) -> Option<PathBuf>;
    /// Where relative paths begin.
    fn folder(&self) -> PathBuf;
    /// What a template fetches.
    fn fetch(&self, fetched: &Fetched) -> String;
}

/// How the old program was started.
#[derive(Default)]
pub(super) struct Started {
    /// `-urlprefix`, without slashes around it.
    pub(super) prefix: String,
    /// `-http-methods`.
    pub(super) methods: Vec<String>,
    /// `-header`, by name.
    pub(super) headers: Vec<(String, String)>,
}

/// Something to be told of a hook.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Note {
    /// Which one; empty for all.
    pub(super) hook: String,
    /// Whether it cannot be taken over as it was, and somebody has to look at it.
    pub(super) is_lost: bool,
    /// What.
    pub(super) text: String,
}

/// A file of ours, and what is to be told of it.
#[derive(Debug, Default)]
pub(super) struct Converted {
    pub(super) toml: String,
    pub(super) notes: Vec<Note>,
    /// How many hooks are in it.
    pub(super) count: usize,
}

/// Writes our file.
pub(super) fn convert(hooks: &[Hook], started: &Started, world: &dyn World) -> Converted {
    let mut converted = Converted::default();
    let mut names = BTreeSet::new();
    let mut ids = BTreeSet::new();
    for hook in hooks {
        let mut writer = Writer { hook, started, world, notes: Vec::new(), secrets: Vec::new() };
        if hook.id.is_empty() || !ids.insert(hook.id.as_str()) {
            writer.lost("it has no id, or that of another one, and is left out");
        } else if let Some(text) = writer.text(&mut names) {
            converted.toml.push_str(&text);
            converted.count += 1;
        }
        converted.notes.append(&mut writer.notes);
    }
    if converted.count > 0 {
        converted.notes.extend(for_all());
    }
    converted
}

/// What is otherwise for every hook, on purpose.
fn for_all() -> impl Iterator<Item = Note> {
    [
        "a request is kept before it is answered, and the command runs after the answer, once (retry_schedule = []); one that fails is kept with its output, and can be resent",
        "a wrong or missing signature is answered with 401 and nothing else, not with 500 or 200; HMACs are compared as bytes, so upper-case hexadecimal fits",
        "signatures are checked over the raw body whatever its content type is; adnanh's signs nothing of a multipart body",
        "a body that its content type calls JSON and that is none is answered with 400 once a rule has let it in, and no command runs; adnanh's runs it without a payload (a request without a body is let in as before)",
        "what a request lacks makes its condition false, wherever it stands; `or` tries all its branches, as with trigger-signature-soft-failures",
        "a file in a multipart body is an object with its name and content, not left out; of a multipart name that comes several times arguments and rules see a list, not the first",
        "a body of more than 1 MiB is answered with 413 (body_bytes_max), a command is ended after an hour (timeout_ms), and the server's bounds hold for how many run at a time",
        "a command gets only the variables that are named here, and PATH; adnanh's hands its own environment on (inherit, plugins.command_environment)",
        "a path that no hook has is answered with 404 and no text, not with `Hook not found.`, and so is / (adnanh's says OK there)",
    ]
    .into_iter()
    .map(|text| Note { hook: String::new(), is_lost: false, text: text.to_owned() })
}

struct Writer<'a> {
    hook: &'a Hook,
    started: &'a Started,
    world: &'a dyn World,
    notes: Vec<Note>,
    /// Names of settings, with TOML of their values.
    secrets: Vec<(String, String)>,
}

impl Writer<'_> {
    fn note(&mut self, text: impl Into<String>) {
        self.notes.push(Note { hook: self.hook.id.clone(), is_lost: false, text: text.into() });
    }

    fn lost(&mut self, text: impl Into<String>) {
        self.notes.push(Note { hook: self.hook.id.clone(), is_lost: true, text: text.into() });
    }

    /// The two tables of a hook. `None`: it cannot be one of ours.
    fn text(&mut self, names: &mut BTreeSet<String>) -> Option<String> {
        let hook = self.hook;
        let path = match self.started.prefix.as_str() {
            "" => format!("/{}", hook.id),
            prefix => format!("/{prefix}/{}", hook.id),
        };
        let plain =
            |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.~".contains(&b));
        if !path[1..].split('/').all(plain) {
            self.lost(format!("its path {path} has characters that a source's path cannot have; it is left out"));
            return None;
        }
        let name = name_for(&hook.id, names);
        let program = self.program()?;
        let recipe = self.recipe()?;
        let mut text = String::new();
        let mut line = |name: &str, value: String| text.push_str(&format!("{name} = {value}\n"));
        line("path", quoted(&path));
        let methods = self.methods();
        line("methods", list(&methods));
        if let Some(content_type) = self.content_type() {
            line("content_type", quoted(content_type));
        }
        recipe.iter().for_each(|(name, value)| line(name, value.clone()));
        if !self.secrets.is_empty() {
            let settings = self.secrets.iter().map(|(name, value)| format!("{name} = {value}")).collect::<Vec<_>>();
            line("settings", format!("{{ {} }}", settings.join(", ")));
        }
        line("event_type", quoted(&name));
        line("dedupe", "{ by = \"off\" }".to_owned());
        line("body_bytes_max", BODY_BYTES_MAX.to_string());
        line("answer", self.answer());

        let mut endpoint = String::new();
        let mut line = |name: &str, value: String| endpoint.push_str(&format!("{name} = {value}\n"));
        line("runs", quoted("command"));
        line("program", quoted(&program.to_string_lossy()));
        let args: Vec<String> = hook.pass_arguments_to_command.iter().map(|argument| self.template(argument)).collect();
        if !args.is_empty() {
            line("args", list(&args));
        }
        let environment = self.environment();
        if !environment.is_empty() {
            line("env", format!("{{ {} }}", environment.join(", ")));
        }
        let files = self.files();
        if !files.is_empty() {
            line("files", format!("{{ {} }}", files.join(", ")));
        }
        line("stdin", quoted("none"));
        let folder = self.plain(&hook.command_working_directory);
        line("working_directory", quoted(&folder_of(self.world, &folder).to_string_lossy()));
        line("timeout_ms", TIMEOUT_MS.to_string());
        if hook.include_command_output_in_response {
            line("output_bytes_max", OUTPUT_BYTES_MAX.to_string());
            line("respond", self.respond());
        }
        self.tell_the_rest();
        Some(format!(
            "# {}\n[sources.{key}]\n{text}\n[endpoints.{key}]\nfrom = {}\nretry_schedule = []\n\n[endpoints.{key}.plugin]\n{endpoint}\n",
            hook.id.replace('\n', " "),
            quoted(&name),
            key = key(&name),
        ))
    }

    fn program(&mut self) -> Option<PathBuf> {
        let command = self.plain(&self.hook.execute_command);
        if command.is_empty() {
            self.lost("it has no execute-command, and is left out");
            return None;
        }
        if command.starts_with('/') {
            return Some(command.into());
        }
        if command.contains('/') {
            let folder = folder_of(self.world, &self.plain(&self.hook.command_working_directory));
            let program = folder.join(command.trim_start_matches("./"));
            self.note(format!("its command {command} is taken to be {}", program.display()));
            return Some(program);
        }
        match self.world.program(&command) {
            Some(program) => {
                self.note(format!("its command {command} is taken to be {}", program.display()));
                Some(program)
            }
            None => {
                self.lost(format!("its command {command} is found nowhere in PATH; it is left out"));
                None
            }
        }
    }

    fn methods(&mut self) -> Vec<String> {
        let wanted = if self.hook.http_methods.is_empty() { &self.started.methods } else { &self.hook.http_methods };
        let wanted: Vec<String> = wanted
            .iter()
            .map(|method| method.trim().to_ascii_uppercase())
            .filter(|method| !method.is_empty())
            .collect();
        if wanted.is_empty() {
            self.note(
                "it is triggered by every method, GET included, but for HEAD and OPTIONS: `methods` could be narrower",
            );
            return METHODS.map(str::to_owned).to_vec();
        }
        let (known, other): (Vec<String>, Vec<String>) =
            wanted.into_iter().partition(|method| METHODS.contains(&method.as_str()));
        if !other.is_empty() {
            self.lost(format!("sources take no {}", other.join(", ")));
        }
        known
    }

    /// What its bodies are read as, whatever they call themselves.
    fn content_type(&mut self) -> Option<&'static str> {
        // As adnanh's: the first of these that is in it.
        const READ: [(&str, &str); 3] = [
            ("json", "application/json"),
            ("x-www-form-urlencoded", "application/x-www-form-urlencoded"),
            ("xml", "application/xml"),
        ];
        let wanted = self.hook.incoming_payload_content_type.as_str();
        let read = READ.iter().find(|(part, _)| wanted.contains(part)).map(|(_, content_type)| *content_type);
        match (wanted, read) {
            ("", _) => None,
            (_, Some(content_type)) => Some(content_type),
            (wanted, None) if wanted.starts_with("multipart/form-data") => {
                self.lost(format!(
                    "incoming-payload-content-type: {wanted} says nothing of where parts begin; the request's own content type counts"
                ));
                None
            }
            (wanted, None) => {
                self.note(format!(
                    "incoming-payload-content-type: {wanted} is not read, as before; the payload is the raw body"
                ));
                Some("application/octet-stream")
            }
        }
    }

    /// What verifies its requests.
    fn recipe(&mut self) -> Option<Vec<(&'static str, String)>> {
        let hook = self.hook;
        let Some(written) = &hook.trigger_rule else {
            self.note("it has no trigger rule: whoever knows its path runs its command");
            return Some(vec![("preset", quoted("none"))]);
        };
        let mut rule = match rule(written) {
            Ok(rule) => rule,
            Err(error) => {
                self.lost(format!("its trigger rule is not understood ({error}); it is left out"));
                return None;
            }
        };
        self.conceal(&mut rule);
        if let Err(faults) = Rules::new(&rule) {
            for fault in &faults {
                self.lost(format!("its trigger rule cannot be used ({fault}); it is left out"));
            }
            return None;
        }
        let status = self.status(hook.trigger_rule_mismatch_http_response_code);
        if hook.trigger_rule_mismatch_http_response_code == 0 {
            self.note("requests that its rule does not let in are answered with 200, as before; 403 would be better (unsatisfied_status)");
        }
        let settings: Vec<String> = (self.secrets.iter())
            .map(|(name, _)| {
                format!("{name} = {{ title = {}, confidential = true }}", quoted(&format!("A secret of {}", hook.id)))
            })
            .collect();
        let settings =
            if settings.is_empty() { String::new() } else { format!("settings = {{ {} }}, ", settings.join(", ")) };
        let rules = inline(&serde_json::to_value(&rule).unwrap_or_default());
        Some(vec![("recipe", format!("{{ {settings}unsatisfied_status = {status}, rules = {rules} }}"))])
    }

    /// Takes secrets, and values of headers and queries that may be some, out of the rule.
    fn conceal(&mut self, rule: &mut Rule) {
        let inner = rule.and.iter_mut().flatten().chain(rule.or.iter_mut().flatten());
        for rule in inner.chain(rule.not.as_deref_mut()) {
            self.conceal(rule);
        }
        let Some(condition) = &mut rule.condition else { return };
        let Condition { secret, value, parameter, .. } = condition;
        let is_token = parameter.as_ref().is_some_and(|p| matches!(p.source.as_str(), "header" | "url" | "query"));
        if let Some(secret) = secret.as_mut().filter(|secret| !secret.is_empty()) {
            *secret = self.setting("secret", secret);
        }
        if let Some(parameter) = parameter
            && parameter.json.is_none()
            && let Some((outer, inner)) = self.parsed(&parameter.source, &parameter.name)
        {
            (parameter.json, parameter.name) = (Some(inner.to_owned()), outer.to_owned());
        }
        if let Some(value) = value {
            *value = if is_token { self.setting("token", value) } else { self.plain(value) };
        }
        for text in [&mut condition.regex, &mut condition.ip_range].into_iter().flatten() {
            *text = self.plain(text);
        }
    }

    /// A setting with this value: its name, as rules refer to it.
    fn setting(&mut self, kind: &str, value: &str) -> String {
        let value = match read(value, &|fetched| self.world.fetch(fetched)) {
            Text::Plain(text) => {
                self.note(format!("a {kind} stands in the file as it stood in yours; {{ env = \"NAME\" }} or {{ file = \"PATH\" }} would be better"));
                quoted(&text)
            }
            Text::Reference(Fetched::Variable(name)) => format!("{{ env = {} }}", quoted(&name)),
            Text::Reference(Fetched::File(path)) => {
                format!("{{ file = {} }}", quoted(&self.world.folder().join(path).to_string_lossy()))
            }
            Text::Fetched(text) => {
                self.note(format!("a {kind} was made by a template and stands in the file as it is now"));
                quoted(&text)
            }
        };
        if let Some((name, _)) = self.secrets.iter().find(|(name, other)| *other == value && name.ends_with(kind)) {
            return format!("{{setting:{name}}}");
        }
        let count = self.secrets.iter().filter(|(name, _)| name.ends_with(kind)).count();
        let name = if count == 0 { kind.to_owned() } else { format!("n{}_{kind}", count + 1) };
        self.secrets.push((name.clone(), value));
        format!("{{setting:{name}}}")
    }

    /// A text in which templates are fetched now, which is told.
    fn plain(&mut self, text: &str) -> String {
        let fetched = RefCell::new(Vec::new());
        let read = read(text, &|one| {
            let value = self.world.fetch(one);
            fetched.borrow_mut().push((one.clone(), value.is_empty()));
            value
        });
        for (one, is_lost) in fetched.into_inner() {
            let what = match one {
                Fetched::Variable(name) => format!("the variable {name}"),
                Fetched::File(path) => format!("the file {path}"),
            };
            let text = match is_lost {
                true => format!(
                    "{what}, which a template puts into a text, is not there or empty, and nothing stands in its place"
                ),
                false => format!("what {what} holds now stands in the file, in the place of its template"),
            };
            let note = Note { hook: self.hook.id.clone(), is_lost, text };
            if !self.notes.contains(&note) {
                self.notes.push(note);
            }
        }
        match read {
            Text::Plain(text) | Text::Fetched(text) => text,
            Text::Reference(fetched) => self.world.fetch(&fetched),
        }
    }

    /// An argument as a template of ours.
    fn template(&mut self, argument: &Argument) -> String {
        let name = self.plain(&argument.name);
        let name = if argument.source == "header" { lower_name(&name) } else { name };
        let parsed = self.parsed(&argument.source, &name);
        let place = |root: &str, dots: bool| match &parsed {
            None => format!("{{{{{root}{}}}}}", steps(&name, dots)),
            Some((outer, "")) => format!("{{{{{root}{}[json]}}}}", steps(outer, dots)),
            Some((outer, inner)) => format!("{{{{{root}{}[json]{}}}}}", steps(outer, dots), steps(inner, true)),
        };
        match (argument.source.as_str(), name.as_str()) {
            ("payload", _) => place("payload", true),
            ("header", _) => place("headers", false),
            ("url" | "query", _) => place("query", false),
            ("request", "method") => "{{method}}".to_owned(),
            ("request", _) => {
                self.note("remote-addr: the address without a port; behind a proxy in `trusted_proxies`, the sender's");
                "{{remote}}".to_owned()
            }
            ("raw-request-body", _) => "{{payload}}".to_owned(),
            ("entire-payload", _) => {
                self.note("entire-payload: JSON stays as it was written; a list is not put under `root`");
                "{{payload[json]}}".to_owned()
            }
            ("entire-headers", _) => {
                self.note("entire-headers: names are in small letters, x-github-event for X-Github-Event, and host is among them");
                "{{headers}}".to_owned()
            }
            ("entire-query", _) => {
                self.note("entire-query: a name that comes several times has a list, not the first value");
                "{{query}}".to_owned()
            }
            ("string", _) if name.contains("{{") => {
                self.lost(format!("the text {name:?} cannot be written in a template; an empty one is passed"));
                String::new()
            }
            ("string", _) => name,
            (other, _) => {
                self.lost(format!("there is no source {other:?}; an empty text is passed"));
                String::new()
            }
        }
    }

    /// The parameter of `parse-parameters-as-json` that this name is, or is a part of, and which part.
    fn parsed<'n>(&self, source: &str, name: &'n str) -> Option<(&'n str, &'n str)> {
        let same_source = |other: &str| other == source || is_query(other) && is_query(source);
        let inside = |parsed: &Argument| {
            let start = name.get(..parsed.name.len())?;
            let is_it =
                if source == "header" { start.eq_ignore_ascii_case(&parsed.name) } else { start == parsed.name };
            match name.get(parsed.name.len()..).filter(|_| is_it && !start.is_empty())? {
                "" => Some((start, "")),
                rest => rest.strip_prefix('.').map(|inner| (start, inner)),
            }
        };
        let parsed = self.hook.parse_parameters_as_json.iter().filter(|parsed| same_source(&parsed.source));
        parsed.filter_map(inside).max_by_key(|(outer, _)| outer.len())
    }

    fn environment(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for argument in &self.hook.pass_environment_to_command {
            let name =
                if argument.envname.is_empty() { format!("HOOK_{}", argument.name) } else { argument.envname.clone() };
            let value = self.template(argument);
            all.push(format!("{} = {}", key(&name), quoted(&value)));
        }
        for argument in &self.hook.pass_file_to_command {
            let name = file_variable(argument);
            if argument.source == "raw-request-body" && !argument.base64decode {
                all.push(format!("{} = \"{{{{file}}}}\"", key(&name)));
            }
        }
        all
    }

    /// Files that are not the whole body as it is.
    fn files(&mut self) -> Vec<String> {
        let mut all = Vec::new();
        for argument in &self.hook.pass_file_to_command {
            if argument.source == "raw-request-body" && !argument.base64decode {
                continue;
            }
            let content = quoted(&self.template(argument));
            let base64 = if argument.base64decode { ", base64 = true" } else { "" };
            all.push(format!("{} = {{ content = {content}{base64} }}", key(&file_variable(argument))));
        }
        if !all.is_empty() {
            self.note("pass-file-to-command: a file of what a request lacks is there and empty; what is no base64 where it should be ends the run");
        }
        all
    }

    /// As adnanh's writes it: 200 for what HTTP does not know.
    fn status(&mut self, status: u16) -> u16 {
        match (status, http::StatusCode::from_u16(status)) {
            (0, _) => 200,
            (200..=599, Ok(known)) if known.canonical_reason().is_some() => status,
            _ => {
                self.note(format!("{status} is no status that could be answered; it is 200"));
                200
            }
        }
    }

    /// What a sender is told that waits for the command.
    fn respond(&mut self) -> String {
        let status = self.status(self.hook.success_http_response_code);
        let error = match self.hook.include_command_output_in_response_on_error {
            true => String::new(),
            false => format!(", error_body = {}", quoted(FAILED)),
        };
        self.note(format!(
            "include-command-output-in-response: the sender waits for at most {} s, then it is answered with 202 while the command goes on; the output is kept with the attempt, too",
            WAIT_MS / 1_000
        ));
        format!("{{ status = {status}, error_status = 500{error} }}")
    }

    fn answer(&mut self) -> String {
        let message = self.plain(&self.hook.response_message);
        let own = &self.hook.response_headers;
        let is_own = |name: &str| own.iter().any(|header| header.name.eq_ignore_ascii_case(name));
        let of_all = self.started.headers.iter().filter(|(name, _)| !is_own(name));
        let headers: Vec<String> = of_all
            .map(|(name, value)| format!("{} = {}", key(name), quoted(value)))
            .chain(own.iter().map(|header| format!("{} = {}", key(&header.name), quoted(&self.plain(&header.value)))))
            .collect();
        let headers =
            if headers.is_empty() { String::new() } else { format!(", headers = {{ {} }}", headers.join(", ")) };
        if self.hook.include_command_output_in_response {
            return format!("{{ status = 202, wait_ms = {WAIT_MS}{headers} }}");
        }
        let status = self.status(self.hook.success_http_response_code);
        if !(200..300).contains(&status) {
            self.note(format!(
                "what is taken is answered with {status}, as before; senders may take that for a failure and send again"
            ));
        }
        format!("{{ status = {status}, body = {}{headers} }}", quoted(&message))
    }

    fn tell_the_rest(&mut self) {
        let hook = self.hook;
        if hook.include_command_output_in_response_on_error && !hook.include_command_output_in_response {
            self.note("include-command-output-in-response-on-error has no effect alone, as before");
        }
        for parsed in &hook.parse_parameters_as_json {
            if parsed.source != "payload" && parsed.source != "header" && !is_query(&parsed.source) {
                self.note(format!("parse-parameters-as-json: {:?} has no effect, as before", parsed.source));
            }
        }
        let arguments =
            [&hook.pass_arguments_to_command, &hook.pass_environment_to_command, &hook.pass_file_to_command];
        let whole = |argument: &Argument| {
            matches!(argument.source.as_str(), "entire-payload" | "entire-query" | "entire-headers")
        };
        if !hook.parse_parameters_as_json.is_empty() && arguments.iter().any(|all| all.iter().any(whole)) {
            self.note("parse-parameters-as-json: in the entire payload, query or headers, a parameter stays the text that it is");
        }
        if hook.trigger_signature_soft_failures {
            self.note("trigger-signature-soft-failures: always so here");
        }
        let unknown: Vec<&str> = hook.unknown.keys().map(String::as_str).collect();
        if !unknown.is_empty() {
            self.note(format!("adnanh's does not know {}, nor do we", unknown.join(", ")));
        }
    }
}

/// Where a command runs: in the old program's folder, unless the hook says otherwise.
fn folder_of(world: &dyn World, named: &str) -> PathBuf {
    if named.is_empty() { world.folder() } else { world.folder().join(named) }
}

/// The way down to a name in a template: by its dots, or to it as it is.
fn steps(name: &str, dots: bool) -> String {
    let step = |step: &str| match step.contains(|c: char| c.is_whitespace() || c == '[' || c == '}') {
        true => format!("[\"{step}\"]"),
        false => format!(".{step}"),
    };
    match dots && name.split('.').all(|step| !step.is_empty()) {
        true => name.split('.').map(step).collect(),
        false => format!("[\"{name}\"]"),
    }
}

/// A header's name in small letters; what may follow its first dot is a path into it.
fn lower_name(name: &str) -> String {
    match name.split_once('.') {
        Some((header, path)) => format!("{}.{path}", header.to_ascii_lowercase()),
        None => name.to_ascii_lowercase(),
    }
}

fn is_query(source: &str) -> bool {
    matches!(source, "url" | "query")
}

/// The variable that names a file.
fn file_variable(argument: &Argument) -> String {
    match argument.envname.as_str() {
        "" => format!("HOOK_{}", argument.name.to_uppercase()),
        name => name.to_owned(),
    }
}

/// The id where it can be a name; else something like it that nobody has.
fn name_for(id: &str, names: &mut BTreeSet<String>) -> String {
    let base: String =
        id.chars().map(|c| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' }).collect();
    let mut name = base.clone();
    let mut count = 1;
    while !names.insert(name.clone()) {
        count += 1;
        name = format!("{base}-{count}");
    }
    name
}

fn quoted(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(texts: &[String]) -> String {
    format!("[{}]", texts.iter().map(|text| quoted(text)).collect::<Vec<_>>().join(", "))
}

/// A name as a key.
fn key(name: &str) -> String {
    let bare = !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b));
    if bare { name.to_owned() } else { quoted(name) }
}

/// As inline TOML.
fn inline(value: &Value) -> String {
    match value {
        Value::Null => "\"\"".to_owned(),
        Value::String(text) => quoted(text),
        Value::Array(items) => format!("[{}]", items.iter().map(inline).collect::<Vec<_>>().join(", ")),
        Value::Object(members) => {
            let members: Vec<String> =
                members.iter().map(|(name, value)| format!("{} = {}", key(name), inline(value))).collect();
            format!("{{ {} }}", members.join(", "))
        }
        other => other.to_string(),
    }
}

/// Whether `program` is a file that somebody may run, in one of the folders of a `PATH`.
pub(super) fn find_program(path: &str, program: &str) -> Option<PathBuf> {
    path.split(':')
        .filter(|folder| folder.starts_with('/'))
        .map(|folder| Path::new(folder).join(program))
        .find(|p| p.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::import::adnanh::hook;

    struct Machine;

    impl World for Machine {
        fn program(&self, name: &str) -> Option<PathBuf> {
            (name == "deploy").then(|| "/usr/bin/deploy".into())
        }

        fn folder(&self) -> PathBuf {
            "/srv".into()
        }

        fn fetch(&self, fetched: &Fetched) -> String {
            if *fetched == Fetched::Variable("UNSET".to_owned()) { String::new() } else { format!("{fetched:?}") }
        }
    }

    fn converted(text: &str) -> Converted {
        let hooks = hook::read(text).unwrap_or_else(|error| panic!("{error}"));
        convert(&hooks, &Started { prefix: "hooks".to_owned(), ..Started::default() }, &Machine)
    }

    #[test]
    fn a_hook_becomes_a_source_and_an_endpoint() {
        let Converted { toml, notes, count } = converted(
            r#"[{
              "id": "redeploy-webhook",
              "execute-command": "deploy",
              "command-working-directory": "/home/app",
              "response-message": "Redeploying",
              "http-methods": ["post "],
              "pass-arguments-to-command": [
                { "source": "payload", "name": "head_commit.id" },
                { "source": "payload", "name": "a b" },
                { "source": "header", "name": "X-GitHub-Event" },
                { "source": "url", "name": "token" },
                { "source": "string", "name": "-v" },
                { "source": "request", "name": "remote-addr" },
              ],
              "pass-environment-to-command": [
                { "source": "payload", "name": "ref" },
                { "source": "entire-payload", "envname": "ALL" },
                { "source": "raw-request-body", "envname": "RAW" },
              ],
              "trigger-rule": { "and": [
                { "match": { "type": "payload-hmac-sha1", "secret": "mysecret", "parameter": { "source": "header", "name": "X-Hub-Signature" } } },
                { "match": { "type": "value", "value": "refs/heads/master", "parameter": { "source": "payload", "name": "ref" } } },
              ] },
            }]"#,
        );
        assert_eq!(count, 1);
        let expected = r#"# redeploy-webhook
[sources.redeploy-webhook]
path = "/hooks/redeploy-webhook"
methods = ["POST"]
recipe = { settings = { secret = { title = "A secret of redeploy-webhook", confidential = true } }, unsatisfied_status = 200, rules = { and = [{ match = { type = "payload-hmac-sha1", secret = "{setting:secret}", parameter = { source = "header", name = "X-Hub-Signature" } } }, { match = { type = "value", value = "refs/heads/master", parameter = { source = "payload", name = "ref" } } }] } }
settings = { secret = "mysecret" }
event_type = "redeploy-webhook"
dedupe = { by = "off" }
body_bytes_max = 1048576
answer = { status = 200, body = "Redeploying" }

[endpoints.redeploy-webhook]
from = "redeploy-webhook"
retry_schedule = []

[endpoints.redeploy-webhook.plugin]
runs = "command"
program = "/usr/bin/deploy"
args = ["{{payload.head_commit.id}}", '{{payload["a b"]}}', '{{headers["x-github-event"]}}', '{{query["token"]}}', "-v", "{{remote}}"]
env = { HOOK_ref = "{{payload.ref}}", ALL = "{{payload[json]}}", RAW = "{{payload}}" }
stdin = "none"
working_directory = "/home/app"
timeout_ms = 3600000

"#;
        assert_eq!(toml, expected);
        assert!(notes.iter().all(|note| !note.is_lost), "{notes:?}");
        assert!(notes.iter().any(|note| note.text.starts_with("a secret stands in the file")), "{notes:?}");
    }

    #[test]
    fn answers_and_files_are_taken_over() {
        let Converted { toml, notes, .. } = converted(
            r#"[
              { "id": "a", "execute-command": "deploy", "success-http-response-code": 302, "response-message": "gone",
                "response-headers": [{ "name": "Location", "value": "/b" }], "trigger-rule": { "or": [] },
                "trigger-rule-mismatch-http-response-code": 503 },
              { "id": "b", "execute-command": "deploy", "include-command-output-in-response": true, "success-http-response-code": 299,
                "pass-file-to-command": [
                  { "source": "payload", "name": "file", "base64decode": true },
                  { "source": "raw-request-body", "envname": "ALL" }, { "source": "entire-payload", "envname": "READ" } ] },
              { "id": "c", "execute-command": "deploy", "include-command-output-in-response": true,
                "include-command-output-in-response-on-error": true },
            ]"#,
        );
        for line in [
            r#"answer = { status = 302, body = "gone", headers = { Location = "/b" } }"#,
            "recipe = { unsatisfied_status = 503, rules = { or = [] } }",
            "answer = { status = 202, wait_ms = 30000 }",
            r#"respond = { status = 200, error_status = 500, error_body = "Error occurred while executing the hook's command. Please check your logs for more details." }"#,
            r#"files = { HOOK_FILE = { content = "{{payload.file}}", base64 = true }, READ = { content = "{{payload[json]}}" } }"#,
            r#"working_directory = "/srv""#,
            r#"env = { ALL = "{{file}}" }"#,
            "respond = { status = 200, error_status = 500 }",
        ] {
            assert!(toml.lines().any(|other| other == line), "{line} in {toml}");
        }
        assert!(notes.iter().all(|note| !note.is_lost), "{notes:?}");
        assert!(notes.iter().any(|note| note.hook == "b" && note.text.contains("299 is no status")), "{notes:?}");
    }

    #[test]
    fn headers_of_all_hooks_stand_with_each_and_give_way_to_its_own() {
        let text = r#"[{ id: a, execute-command: /bin/a, response-headers: [{ name: Location, value: /b }] }, { id: b, execute-command: /bin/b }]"#;
        let hooks = hook::read(text).unwrap_or_else(|error| panic!("{error}"));
        let headers = [("X-Served-By", "hooks"), ("location", "/")].map(|(name, value)| (name.into(), value.into()));
        let started = Started { headers: headers.to_vec(), ..Started::default() };
        let toml = convert(&hooks, &started, &Machine).toml;
        for headers in [r#"{ X-Served-By = "hooks", Location = "/b" }"#, r#"{ X-Served-By = "hooks", location = "/" }"#]
        {
            let line = format!(r#"answer = {{ status = 200, body = "", headers = {headers} }}"#);
            assert!(toml.lines().any(|other| other == line), "{line} in {toml}");
        }
    }

    #[test]
    fn parameters_that_are_json_have_parts_and_bodies_are_read_as_they_are_said_to_be() {
        let Converted { toml, notes, .. } = converted(
            r#"[{
              "id": "a", "execute-command": "deploy", "incoming-payload-content-type": "application/json; charset=utf-8",
              "parse-parameters-as-json": [
                { "source": "payload", "name": "payload" }, { "source": "header", "name": "X-Data" }, { "source": "url", "name": "q" },
                { "source": "payload", "name": "file one" },
              ],
              "pass-arguments-to-command": [
                { "source": "payload", "name": "payload.ref" },
                { "source": "payload", "name": "payload" },
                { "source": "payload", "name": "payloads.ref" },
                { "source": "header", "name": "x-data.id" },
                { "source": "query", "name": "q.0.a b" },
                { "source": "payload", "name": "file one.x" },
              ],
              "trigger-rule": { "match": { "type": "value", "value": "main", "parameter": { "source": "payload", "name": "payload.ref" } } },
            }]"#,
        );
        for line in [
            r#"content_type = "application/json""#,
            r#"args = ["{{payload.payload[json].ref}}", "{{payload.payload[json]}}", "{{payload.payloads.ref}}", '{{headers["x-data"][json].id}}', '{{query["q"][json].0["a b"]}}', '{{payload["file one"][json].x}}']"#,
            r#"recipe = { unsatisfied_status = 200, rules = { match = { type = "value", value = "main", parameter = { source = "payload", name = "payload", json = "ref" } } } }"#,
        ] {
            assert!(toml.lines().any(|other| other == line), "{line} in {toml}");
        }
        assert!(notes.iter().all(|note| !note.is_lost), "{notes:?}");
        let other = converted("[{ id: a, execute-command: /bin/true, incoming-payload-content-type: text/plain }]");
        assert!(other.toml.contains("content_type = \"application/octet-stream\""), "{}", other.toml);
    }

    #[test]
    fn what_is_lost_is_told() {
        let check = |hook: &str, text: &str, count: usize| {
            let converted = converted(&match hook.contains("execute-command") {
                true => format!("[{{ {hook} }}]"),
                false => format!("[{{ id: a, execute-command: /bin/true, {hook} }}]"),
            });
            let lost: Vec<_> =
                converted.notes.iter().filter(|note| note.is_lost).map(|note| note.text.as_str()).collect();
            assert!(lost.iter().any(|told| told.contains(text)), "{hook}: {lost:?}");
            assert_eq!(converted.count, count, "{hook}");
        };
        check("http-methods: [HEAD, POST]", "sources take no HEAD", 1);
        check("incoming-payload-content-type: multipart/form-data", "where parts begin", 1);
        check("pass-arguments-to-command: [{ source: context, name: x }]", "no source", 1);
        check("trigger-rule: { match: { type: valu } }", "cannot be used", 0);
        check("trigger-rule: { match: { typ: value } }", "not understood", 0);
        check("id: a, execute-command: deploi", "found nowhere", 0);
        check("id: a b, execute-command: /bin/a", "characters that a source's path cannot have", 0);
        let twice = converted("[{ id: a, execute-command: /bin/a }, { id: a, execute-command: /bin/b }]");
        assert_eq!(twice.count, 1);
        assert!(twice.notes.iter().any(|note| note.is_lost && note.text.contains("that of another one")));
    }

    #[test]
    fn what_a_template_puts_into_a_text_is_told() {
        let text = super::super::template::mark(
            "[{ id: a, execute-command: '/bin/{{ getenv \"CMD\" }}', response-message: 'by {{ getenv \"UNSET\" }}', command-working-directory: '{{ cat \"d\" }}' }]",
            &|_| None,
        );
        let Converted { toml, notes, .. } = converted(&text.unwrap_or_else(|unknown| panic!("{unknown:?}")));
        assert!(toml.contains("answer = { status = 200, body = \"by \""), "{toml}");
        for (is_lost, told) in [
            (false, "what the variable CMD holds now stands in the file"),
            (false, "what the file d holds now stands in the file"),
            (true, "the variable UNSET, which a template puts into a text, is not there or empty"),
        ] {
            let all: Vec<_> = notes.iter().filter(|note| note.text.contains(told)).collect();
            assert!(matches!(all.as_slice(), [note] if note.is_lost == is_lost), "{told}: {notes:?}");
        }
    }

    #[test]
    fn names_and_templates() {
        let text = super::super::template::mark(
            "[{ id: team/x, execute-command: ./run.sh, trigger-rule: { or: [{ match: { type: value, value: '{{ getenv \"TK\" | js }}', parameter: { source: url, name: t } } }, { match: { type: payload-hmac-sha256, secret: '{{ cat \"key\" }}', parameter: { source: header, name: S } } }] } }, { id: team-x, execute-command: /bin/b }]",
            &|_| None,
        );
        let Converted { toml, count, .. } = converted(&text.unwrap_or_else(|unknown| panic!("{unknown:?}")));
        assert_eq!(count, 2);
        for line in [
            "[sources.team-x]",
            "[sources.team-x-2]",
            "path = \"/hooks/team/x\"",
            "settings = { token = { env = \"TK\" }, secret = { file = \"/srv/key\" } }",
            "program = \"/srv/run.sh\"",
            "preset = \"none\"",
            "methods = [\"GET\", \"POST\", \"PUT\", \"PATCH\", \"DELETE\"]",
        ] {
            assert!(toml.lines().any(|other| other == line), "{line} in {toml}");
        }
        // What we write, we read.
        let document: Result<toml::Table, _> = toml.parse();
        assert!(document.is_ok(), "{document:?}");
    }
}
