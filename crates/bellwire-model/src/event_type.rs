//! An event type: a dotted name such as `invoice.paid`, with what its payloads look like.

use crate::application::OrganisationId;
use crate::clock::Timestamp;
use crate::retry::RetrySchedule;

/// An event type as it is kept; its natural key is organisation and name.
#[derive(Clone, PartialEq, Debug)]
pub struct EventType {
    /// Who it belongs to.
    pub organisation: OrganisationId,
    /// `^[a-zA-Z0-9\-_.]+$`, at most 256 bytes.
    pub name: String,
    /// For people.
    pub description: String,
    /// Hidden from lists and refused for endpoints, but messages of it are still accepted.
    pub archived: bool,
    /// Shown as discouraged.
    pub deprecated: bool,
    /// JSON Schemas by version, as JSON text; checked to be an object when accepted.
    pub schemas: Option<String>,
    /// Application tokens see it only if they carry one of these flags; for all if empty.
    pub feature_flags: Vec<String>,
    /// The group it is shown in.
    pub group_name: Option<String>,
    /// When failed attempts of its messages are repeated, for endpoints without a schedule of their own.
    pub retry_schedule: Option<RetrySchedule>,
    /// When it was created.
    pub created_at: Timestamp,
    /// When it was last changed.
    pub updated_at: Timestamp,
}

impl EventType {
    /// A name has no more bytes.
    pub const NAME_MAX: usize = 256;

    /// What somebody else calls an event, as a name. In the letters of names it stays as it is; else each run of others, and of `_`, becomes
    /// one `_`, and none of them, nor a full stop, stands at an end. It is `default` if nothing is left. What is too long is cut.
    pub fn name_from(given: Option<&str>, default: &str) -> String {
        let given = given.unwrap_or_default();
        let is_usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !given.is_empty() && given.chars().all(is_usual) {
            return given[..given.len().min(Self::NAME_MAX)].to_owned();
        }
        let mut name = String::new();
        for c in given.chars().map(|c| if is_usual(c) { c } else { '_' }) {
            if name.len() < Self::NAME_MAX && !(c == '_' && name.ends_with('_')) {
                name.push(c);
            }
        }
        let trimmed = name.trim_matches(['_', '.']);
        if trimmed.is_empty() { default.to_owned() } else { trimmed.to_owned() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_call_an_event_is_put_into_the_letters_of_names() {
        for (given, expected) in [
            (Some("push"), "push"),
            (Some("invoice.paid"), "invoice.paid"),
            (Some("orders/create"), "orders_create"),
            (Some("com.example: it's  new!"), "com.example_it_s_new"),
            (Some("$page_view"), "page_view"),
            (Some("a__b"), "a__b"),
            (Some("_private."), "_private."),
            (Some("☂"), "github"),
            (Some("/"), "github"),
            (Some(""), "github"),
            (None, "github"),
        ] {
            assert_eq!(EventType::name_from(given, "github"), expected, "{given:?}");
        }
        for long in ["x".repeat(300), format!("/{}", "x".repeat(300))] {
            assert!((255..=256).contains(&EventType::name_from(Some(&long), "").len()));
        }
    }
}
