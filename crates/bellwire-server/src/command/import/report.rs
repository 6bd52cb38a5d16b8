//! What an import did, or would do: counts, and by name whatever cannot be brought, whole or in part.

use serde::Serialize;
use std::fmt;

/// See the module.
#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report {
    pub(super) event_types: Kind,
    pub(super) applications: Kind,
    pub(super) endpoints: Kind,
    /// Those that are still owed to somebody.
    pub(super) messages: Kind,
    /// To how many endpoints those are owed, all together.
    pub(super) deliveries: u64,
    /// Parts of what was brought that were not.
    left_out: Vec<Named>,
}

/// Of one kind.
#[derive(Default, Serialize)]
pub(super) struct Kind {
    brought: u64,
    there: u64,
    refused: Vec<Named>,
}

#[derive(Serialize)]
struct Named {
    id: String,
    why: String,
}

impl Kind {
    pub(super) fn brought(&mut self) {
        self.brought += 1;
    }

    pub(super) fn there<T>(&mut self) -> Option<T> {
        self.there += 1;
        None
    }

    pub(super) fn refuse<T>(&mut self, id: &str, why: String) -> Option<T> {
        self.refused.push(Named { id: id.to_owned(), why });
        None
    }
}

impl Report {
    pub(super) fn leave_out(&mut self, id: &str, what: String) {
        self.left_out.push(Named { id: id.to_owned(), why: what });
    }

    /// Everything was brought, or was there.
    pub(super) fn is_whole(&self) -> bool {
        self.kinds().iter().all(|(_, kind)| kind.refused.is_empty()) && self.left_out.is_empty()
    }

    fn kinds(&self) -> [(&'static str, &Kind); 4] {
        [
            ("event types", &self.event_types),
            ("applications", &self.applications),
            ("endpoints", &self.endpoints),
            ("messages", &self.messages),
        ]
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<14}{:>10}{:>16}{:>10}", "", "brought", "already there", "refused")?;
        for (name, kind) in self.kinds() {
            writeln!(f, "{name:<14}{:>10}{:>16}{:>10}", kind.brought, kind.there, kind.refused.len())?;
        }
        if self.deliveries > 0 {
            writeln!(f, "\n{} deliveries of these messages wait to be made", self.deliveries)?;
        }
        for (name, kind) in self.kinds() {
            for Named { id, why } in &kind.refused {
                writeln!(f, "refused, of the {name}: {id}: {why}")?;
            }
        }
        for Named { id, why } in &self.left_out {
            writeln!(f, "left out of {id}: {why}")?;
        }
        Ok(())
    }
}
