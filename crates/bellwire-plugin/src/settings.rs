//! Settings of plugins: JSON in, checked types or a list of faults out.

use serde::de::{Deserialize, DeserializeOwned, Deserializer, Error};
use serde_json::Value;
use serde_path_to_error::Segment;
use std::time::Duration;

/// What is wrong with a plugin's settings.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Fault {
    /// The way down to the setting.
    pub path: Vec<String>,
    /// What is wrong and what would be right.
    pub text: String,
}

impl Fault {
    /// About one setting.
    pub fn new(path: &[&str], text: impl Into<String>) -> Fault {
        Fault { path: path.iter().map(|&step| step.to_owned()).collect(), text: text.into() }
    }
}

/// Reads settings of one kind. Unknown names are faults.
///
/// # Errors
/// The first thing that does not fit, with its place.
pub(crate) fn read<T: DeserializeOwned>(settings: &Value) -> Result<T, Fault> {
    serde_path_to_error::deserialize(settings).map_err(|error| {
        let path = error.path().iter().filter_map(|step| match step {
            Segment::Seq { index } => Some(index.to_string()),
            Segment::Map { key } => Some(key.clone()),
            Segment::Enum { variant } => Some(variant.clone()),
            Segment::Unknown => None,
        });
        Fault { path: path.collect(), text: error.inner().to_string() }
    })
}

/// A duration in milliseconds with bounds, as `timeout_ms` has it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Millis<const LEAST: u64, const MOST: u64>(pub(crate) Duration);

impl<const LEAST: u64, const MOST: u64> Millis<LEAST, MOST> {
    /// Cut to its bounds.
    pub(crate) const fn new(millis: u64) -> Self {
        let millis = if millis < LEAST { LEAST } else { millis };
        Millis(Duration::from_millis(if millis > MOST { MOST } else { millis }))
    }
}

impl<'de, const LEAST: u64, const MOST: u64> Deserialize<'de> for Millis<LEAST, MOST> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u64::deserialize(deserializer) {
            Ok(millis) if (LEAST..=MOST).contains(&millis) => Ok(Millis(Duration::from_millis(millis))),
            _ => Err(Error::custom(format!("expected milliseconds from {LEAST} to {MOST}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[derive(serde::Deserialize, Debug)]
    #[serde(deny_unknown_fields)]
    #[expect(dead_code, reason = "only whether it reads matters")]
    struct Sample {
        timeout_ms: Millis<1, 100>,
        list: Vec<crate::template::Template>,
    }

    #[test]
    fn a_fault_names_its_place() {
        let check = |settings: Value, path: &[&str], text: &str| {
            let fault = read::<Sample>(&settings).expect_err("is wrong");
            assert_eq!(fault.path, path, "{fault:?}");
            assert!(fault.text.contains(text), "{fault:?}");
        };
        check(json!({ "timeout_ms": 0, "list": [] }), &["timeout_ms"], "from 1 to 100");
        check(json!({ "timeout_ms": "soon", "list": [] }), &["timeout_ms"], "from 1 to 100");
        check(json!({ "timeout_ms": 5, "list": ["a", "{{b}}"] }), &["list", "1"], "no part of an event");
        check(json!({ "timeout_ms": 5, "list": [], "lost": 1 }), &["lost"], "unknown field");
        check(json!({ "timeout_ms": 5 }), &[], "missing field `list`");
    }
}
