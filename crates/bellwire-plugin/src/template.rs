//! Texts with places for parts of an event: `Build {{payload.repository.name}} at {{payload.after | json}}`.
//!
//! A part that is not there leaves nothing, or what stands behind `??`: `{{payload.title ?? "no title"}}`. `| json` writes a
//! part as JSON, `| url` so that it can stand in a URL. There are no loops and no conditions: that is what JavaScript is for.

use crate::event::{Event, Found, Path, Root};
use serde::de::{Deserialize, Deserializer, Error};

const PARTS_MAX: usize = 200;

/// A text with places in it, read once.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Template(Vec<Part>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Part {
    Text(String),
    Place { path: Path, written: Written, fallback: Option<String> },
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Written {
    Plain,
    Json,
    Url,
}

/// What only some templates can name beside the event.
#[derive(Clone, Copy, Default, Debug)]
pub(crate) struct Beside<'a> {
    /// `{{file}}`: where the payload lies as a file.
    pub(crate) file: Option<&'a str>,
    /// `{{count}}` and `{{list}}`: of a digest.
    pub(crate) digest: Option<(usize, &'a str)>,
}

/// Where in a text a value is to stand.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spot<'a> {
    /// What stands before it.
    pub(crate) before: &'a str,
    /// It was written so that it can stand in a URL.
    pub(crate) in_url: bool,
}

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// What is wrong with it, as a clause.
    pub(crate) fn parse(text: &str) -> Result<Template, String> {
        let mut parts = Vec::new();
        let mut rest = text;
        while let Some((before, place)) = rest.split_once("{{") {
            if !before.is_empty() {
                parts.push(Part::Text(before.to_owned()));
            }
            let (inside, after) = place.split_once("}}").ok_or_else(|| format!("{{{{{place} lacks its }}}}"))?;
            parts.push(place_of(inside.trim())?);
            rest = after;
        }
        if !rest.is_empty() {
            parts.push(Part::Text(rest.to_owned()));
        }
        if parts.len() > PARTS_MAX {
            return Err(format!("a template has at most {PARTS_MAX} places"));
        }
        Ok(Template(parts))
    }

    /// Whether it names this.
    pub(crate) fn names(&self, root: Root) -> bool {
        self.0.iter().any(|part| matches!(part, Part::Place { path, .. } if path.root == root))
    }

    /// The text with `placeholder` in each place, counted from 1.
    pub(crate) fn with_places(&self, placeholder: impl Fn(usize) -> String) -> String {
        let mut place = 0;
        let part = |part: &Part| match part {
            Part::Text(text) => text.clone(),
            Part::Place { .. } => {
                place += 1;
                placeholder(place)
            }
        };
        self.0.iter().map(part).collect()
    }

    /// What stands in each place.
    pub(crate) fn values<'e>(&self, event: &'e Event<'_>) -> impl Iterator<Item = Option<Found<'e>>> {
        self.0.iter().filter_map(|part| match part {
            Part::Text(_) => None,
            Part::Place { path, written, fallback } => {
                let found = event.find(path).filter(|found| fallback.is_none() || !found.text().is_empty());
                let found = found.or_else(|| fallback.clone().map(|text| Found::Text(text.into())));
                Some(match written {
                    Written::Plain => found,
                    other => found.map(|found| {
                        let mut text = String::new();
                        other.write(&found, &mut text);
                        Found::Text(text.into())
                    }),
                })
            }
        })
    }

    /// The text with what each place names.
    pub(crate) fn render(&self, event: &Event<'_>, beside: Beside<'_>) -> String {
        self.render_escaped(event, beside, |value, _| value)
    }

    /// The same in a language where what an event holds must not become markup: `escape` writes it so. What stands in the template itself
    /// is its owner's, and what is beside the event was made of such texts.
    pub(crate) fn render_escaped(
        &self,
        event: &Event<'_>,
        beside: Beside<'_>,
        escape: impl Fn(String, Spot<'_>) -> String,
    ) -> String {
        let mut text = String::new();
        for part in &self.0 {
            match part {
                Part::Text(part) => text.push_str(part),
                Part::Place { path, written, fallback } => {
                    let found = match (path.root, beside) {
                        (Root::File, Beside { file: Some(file), .. }) => Some(Found::Text(file.into())),
                        (Root::Count, Beside { digest: Some((count, _)), .. }) => {
                            Some(Found::Json(count.to_string().into()))
                        }
                        (Root::List, Beside { digest: Some((_, list)), .. }) => Some(Found::Text(list.into())),
                        _ => event.find(path),
                    };
                    let found = found.filter(|found| fallback.is_none() || !found.text().is_empty());
                    match (found, fallback) {
                        (Some(found), _) => {
                            let mut value = String::new();
                            written.write(&found, &mut value);
                            let is_ours = matches!(path.root, Root::File | Root::Count | Root::List);
                            let spot = Spot { before: &text, in_url: *written == Written::Url };
                            let value = if is_ours { value } else { escape(value, spot) };
                            text.push_str(&value);
                        }
                        (None, Some(fallback)) => written.write(&Found::Text(fallback.into()), &mut text),
                        (None, None) if *written == Written::Json => text.push_str("null"),
                        (None, None) => {}
                    }
                }
            }
        }
        text
    }
}

impl Written {
    fn write(self, found: &Found<'_>, to: &mut String) {
        match (self, found) {
            (Written::Plain, found) => to.push_str(found.text()),
            (Written::Json, Found::Json(json)) => to.push_str(json),
            (Written::Json, Found::Text(text)) => to.push_str(&serde_json::Value::from(&**text).to_string()),
            (Written::Url, found) => to.extend(form_urlencoded::byte_serialize(found.text().as_bytes())),
        }
    }
}

fn place_of(inside: &str) -> Result<Part, String> {
    let (inside, written) = match inside.rsplit_once('|') {
        Some((inside, "json" | " json")) => (inside.trim_end(), Written::Json),
        Some((inside, "url" | " url")) => (inside.trim_end(), Written::Url),
        Some((_, other)) if !other.contains('"') => {
            return Err(format!("{:?} is not a way to write a part; there are json and url", other.trim()));
        }
        _ => (inside, Written::Plain),
    };
    let (path, fallback) = match inside.split_once("??") {
        Some((path, fallback)) => {
            let fallback = serde_json::from_str::<String>(fallback.trim())
                .map_err(|_| format!("behind ?? stands a text in quotes, not {}", fallback.trim()))?;
            (path.trim_end(), Some(fallback))
        }
        None => (inside, None),
    };
    Ok(Part::Place { path: Path::parse(path)?, written, fallback })
}

impl<'de> Deserialize<'de> for Template {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Template::parse(&String::deserialize(deserializer)?).map_err(Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::tests::received;

    #[test]
    fn places_are_filled() {
        let message = received(r#"{"a":"x \"y\" é","n":1.50,"z":null,"t":"{{type}}"}"#);
        let event = Event::new(&message, 1);
        let check = |template: &str, expected: &str| {
            let template = Template::parse(template).expect(template);
            assert_eq!(template.render(&event, Beside { file: Some("/f"), digest: Some((3, "l")) }), expected);
        };
        check("plain } { text", "plain } { text");
        check("{{payload.a}}/{{ payload.n }}", "x \"y\" é/1.50");
        check("{{payload.a | json}}", r#""x \"y\" é""#);
        check("?q={{payload.a|url}}", "?q=x+%22y%22+%C3%A9");
        check("[{{payload.missing}}{{payload.z}}]", "[]");
        check("{{payload.t}}", "{{type}}");
        check("{{payload.missing | json}}", "null");
        check(r#"{{payload.missing ?? "no | name"}}"#, "no | name");
        check(r#"{{payload.z ?? "none" | json}}"#, "\"none\"");
        check("{{headers.x-github-event}} {{file}} {{count}} {{list}}", "push /f 3 l");
    }

    #[test]
    fn mistakes_are_told() {
        for (template, expected) in [
            ("{{payload.a", "lacks its }}"),
            ("{{bodyy}}", "no part of an event"),
            ("{{payload.a | upper}}", "not a way to write"),
            ("{{payload.a ?? none}}", "in quotes"),
        ] {
            let error = Template::parse(template).expect_err(template);
            assert!(error.contains(expected), "{error}");
        }
    }
}
