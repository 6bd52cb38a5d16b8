//! How a message becomes what an endpoint gets: which messages it takes by their content, what a script makes of them, and
//! how they are written.
//!
//! Here stands only what the endpoint's owner said. What it means is `bellwire-shape`'s business, which also keeps here, in
//! [`Prepared`], what it made of the texts, so that nothing is compiled twice for one version of an endpoint.

use crate::application::Metadata;
use crate::clock::Timestamp;
use std::any::Any;
use std::fmt;
use std::sync::{Arc, OnceLock};

/// What an endpoint does to a message before it is sent. The default sends the payload as it was accepted.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Shape {
    /// Takes only messages for which this says yes; decided when a message is accepted.
    pub filter: Option<ContentFilter>,
    /// The script that makes of each message what is sent.
    pub transformation: Option<Transformation>,
    /// How the payload is written, after the script.
    pub format: Format,
    /// The `content-type` header, instead of the format's or the message's.
    pub content_type: Option<String>,
}

impl Shape {
    /// Something is to be done before each attempt.
    pub fn changes_what_is_sent(&self) -> bool {
        self.format != Format::Json
            || self.content_type.is_some()
            || self.transformation.as_ref().is_some_and(|transformation| transformation.active().is_some())
    }
}

/// How a payload is written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Format {
    /// The bytes that were accepted, or that a script returned.
    #[default]
    Json,
    /// As XML.
    Xml,
    /// As the fields of a form.
    Form,
}

/// A script of an endpoint's owner, in JavaScript.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Transformation {
    /// Its text; it defines `handler`.
    pub code: Option<Arc<str>>,
    /// Whether it is applied.
    pub enabled: bool,
    /// What it can read beside the message.
    pub variables: Metadata,
    /// When any of this was last changed.
    pub updated_at: Option<Timestamp>,
}

impl Transformation {
    /// The script, if it is to be applied.
    pub fn active(&self) -> Option<&Arc<str>> {
        self.code.as_ref().filter(|_| self.enabled)
    }
}

/// A condition on a message's content.
#[derive(Clone, PartialEq, Debug)]
pub struct ContentFilter {
    /// What its owner wrote.
    pub source: FilterSource,
    /// What was made of it.
    pub prepared: Prepared,
}

/// A condition as its owner wrote it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum FilterSource {
    /// An expression of the Common Expression Language.
    Cel(String),
    /// The JSON text of a filter of the CloudEvents Subscriptions API.
    CloudEvents(String),
}

impl ContentFilter {
    /// Nothing is made of it yet.
    pub fn new(source: FilterSource) -> Self {
        ContentFilter { source, prepared: Prepared::default() }
    }
}

/// What was compiled from a text that stands beside it: made at its first use, shared by all copies of that version, never
/// written down. All are equal, because the texts decide.
#[derive(Clone, Default)]
pub struct Prepared(OnceLock<Arc<dyn Any + Send + Sync>>);

impl Prepared {
    /// What was made, or makes it. Only one type may ever be kept in one place; another is made anew each time.
    pub fn get_or_make<T: Any + Send + Sync>(&self, make: impl FnOnce() -> T) -> Arc<T> {
        let mut make = Some(make);
        let kept = self.0.get_or_init(|| match make.take() {
            Some(make) => Arc::new(make()),
            None => Arc::new(()),
        });
        match (Arc::clone(kept).downcast(), make) {
            (Ok(kept), _) => kept,
            (Err(_), Some(make)) => Arc::new(make()),
            (Err(_), None) => unreachable!("what was just made is of its own type"),
        }
    }
}

impl PartialEq for Prepared {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl fmt::Debug for Prepared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.0.get().is_some() { "Prepared" } else { "Unprepared" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_made_is_shared_by_copies_and_makes_no_difference() {
        let filter = ContentFilter::new(FilterSource::Cel("true".to_owned()));
        let made = filter.prepared.get_or_make(|| 7_u32);
        let copy = filter.clone();
        assert!(Arc::ptr_eq(&made, &copy.prepared.get_or_make(|| 8_u32)));
        assert_eq!(*copy.prepared.get_or_make(|| "another type"), "another type");
        assert_eq!(filter, ContentFilter::new(FilterSource::Cel("true".to_owned())));
    }
}
