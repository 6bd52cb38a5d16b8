//! The functions that adnanh's `webhook` offers in a configuration with `-template`: `getenv`, `cat` and `credential`, with `js` behind
//! a bar. Everything else of Go's templates is refused, with its line.
//!
//! What they give is not written into our file if it can be helped: a text that is nothing but one of them becomes a reference.
//! Until the file is parsed, marks stand in their place.

use std::fmt;

/// Around a mark; nobody writes these.
const BEGIN: char = '\u{e000}';
const END: char = '\u{e001}';

/// Something that a template fetches.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Fetched {
    /// A variable of the environment.
    Variable(String),
    /// A file; one newline at its end is left out. Nothing if it is missing.
    File(String),
}

/// What is wrong with a template.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Unknown {
    /// From 1.
    pub(super) line: usize,
    /// What stands there.
    pub(super) text: String,
}

impl fmt::Display for Unknown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Unknown { line, text } = self;
        write!(
            f,
            "line {line}: only getenv, cat and credential can be taken over, with a text and perhaps `| js`; not {{{{{text}}}}}"
        )
    }
}

/// The text with marks in the place of its templates. `credentials` is the folder that systemd gave us, and says whether a file is there.
///
/// # Errors
/// All that cannot be taken over.
pub(super) fn mark(text: &str, credentials: &dyn Fn(&str) -> Option<String>) -> Result<String, Vec<Unknown>> {
    let mut marked = String::with_capacity(text.len());
    let (mut rest, mut line, mut unknown) = (text, 1, Vec::new());
    while let Some((before, template)) = rest.split_once("{{") {
        let (inside, after) = template.split_once("}}").unwrap_or((template, ""));
        line += before.matches('\n').count();
        let trims_before = inside.starts_with("- ");
        marked.push_str(if trims_before { before.trim_end() } else { before });
        let expression = inside.trim_start_matches("- ").trim_end_matches(" -").trim();
        if !(expression.starts_with("/*") && expression.ends_with("*/")) {
            match fetched(expression, credentials) {
                Some(Fetched::Variable(name)) => marked.push_str(&format!("{BEGIN}env:{name}{END}")),
                Some(Fetched::File(path)) => marked.push_str(&format!("{BEGIN}file:{path}{END}")),
                None => unknown.push(Unknown { line, text: inside.trim().chars().take(80).collect() }),
            }
        }
        line += inside.matches('\n').count();
        rest = if inside.ends_with(" -") { after.trim_start() } else { after };
    }
    marked.push_str(rest);
    if unknown.is_empty() { Ok(marked) } else { Err(unknown) }
}

fn fetched(expression: &str, credentials: &dyn Fn(&str) -> Option<String>) -> Option<Fetched> {
    let (call, filter) =
        expression.split_once('|').map_or((expression, None), |(call, filter)| (call, Some(filter.trim())));
    if !matches!(filter, None | Some("js")) {
        return None;
    }
    let (function, argument) = call.trim().split_once(char::is_whitespace)?;
    let argument = argument.trim();
    let quoted = |quote: char| argument.strip_prefix(quote)?.strip_suffix(quote).filter(|text| !text.contains(quote));
    let argument = quoted('`').or_else(|| quoted('"').filter(|text| !text.contains('\\')))?.to_owned();
    match function {
        "getenv" => Some(Fetched::Variable(argument)),
        "cat" => Some(Fetched::File(argument)),
        "credential" => Some(credentials(&argument).map_or(Fetched::Variable(argument), Fetched::File)),
        _ => None,
    }
}

/// What a text is after parsing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Text {
    /// Without templates.
    Plain(String),
    /// Nothing but a template.
    Reference(Fetched),
    /// Templates with text around them, fetched now.
    Fetched(String),
}

/// Reads a text with marks.
pub(super) fn read(text: &str, fetch: &dyn Fn(&Fetched) -> String) -> Text {
    if !text.contains(BEGIN) {
        return Text::Plain(text.to_owned());
    }
    let mut whole = String::new();
    let mut rest = text;
    let mut only = None;
    while let Some((before, mark)) = rest.split_once(BEGIN) {
        let (inside, after) = mark.split_once(END).unwrap_or((mark, ""));
        let fetched = match inside.split_once(':') {
            Some(("file", path)) => Fetched::File(path.to_owned()),
            Some((_, name)) => Fetched::Variable(name.to_owned()),
            None => Fetched::Variable(inside.to_owned()),
        };
        if before.is_empty() && after.is_empty() && whole.is_empty() {
            only = Some(fetched.clone());
        }
        whole.push_str(before);
        whole.push_str(&fetch(&fetched));
        rest = after;
    }
    whole.push_str(rest);
    only.map_or(Text::Fetched(whole), Text::Reference)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Text) {
        let credentials = |name: &str| (name == "kept").then(|| "/run/credentials/kept".to_owned());
        let marked = mark(text, &credentials).unwrap_or_else(|unknown| panic!("{unknown:?}"));
        let fetch = |fetched: &Fetched| match fetched {
            Fetched::Variable(name) => format!("<{name}>"),
            Fetched::File(path) => format!("<{path}>"),
        };
        assert_eq!(read(&marked, &fetch), expected, "{text}");
    }

    #[test]
    fn the_three_functions_are_understood() {
        let variable = |name: &str| Text::Reference(Fetched::Variable(name.to_owned()));
        let file = |path: &str| Text::Reference(Fetched::File(path.to_owned()));
        check("plain", Text::Plain("plain".into()));
        check(r#"{{ getenv "A" }}"#, variable("A"));
        check(r#"{{ getenv "A" | js }}"#, variable("A"));
        check("{{getenv `A`}}", variable("A"));
        check(r#"{{- cat "/etc/secret" -}}"#, file("/etc/secret"));
        check(r#"{{ credential "kept" }}"#, file("/run/credentials/kept"));
        check(r#"{{ credential "other" }}"#, variable("other"));
        check(r#"Bearer {{ getenv "A" }}!"#, Text::Fetched("Bearer <A>!".into()));
        check(r#"{{ getenv "A" }}{{ getenv "B" }}"#, Text::Fetched("<A><B>".into()));
        check(r#"a {{/* said */}}b"#, Text::Plain("a b".into()));
    }

    #[test]
    fn everything_else_is_refused_with_its_line() {
        for (text, line) in [
            ("{{ if .X }}", 1),
            ("a\nb {{ getenv \"A\" }}\n{{ env \"A\" }}", 3),
            ("{{ getenv }}", 1),
            ("{{ getenv \"A\" | printf }}", 1),
            ("{{ getenv \"A\" \"B\" }}", 1),
            ("{{ getenv \"A", 1),
        ] {
            let unknown = mark(text, &|_| None).expect_err(text);
            assert_eq!((unknown.len(), unknown[0].line), (1, line), "{text}");
        }
    }
}
