//! What is counted: where messages went, and what endpoints ask for.

use super::super::codec::{self, integer};
use super::super::fault::Fault;
use super::super::message_log::{self, array};
use super::super::writer::Writer;
use super::Budget;
use crate::{ApplicationDestinations, ApplicationEventTypes, Found, Span, Task};
use bellwire_model::{ApplicationId, ApplicationKey, Ksuid, OrganisationId, Sequence};
use rusqlite::{Connection, params};
use std::collections::BTreeSet;

impl Writer {
    /// A slice of statistics: goes from application to application, and within one from message to message.
    pub(super) fn count_destinations(
        &mut self,
        task: &mut Task,
        only: Option<&[ApplicationKey]>,
    ) -> Result<bool, Fault> {
        let mut budget = Budget::new(self.settings.slice);
        let progress = &mut task.progress;
        let mut all = match std::mem::take(&mut progress.found) {
            Found::Destinations(all) => all,
            _ => Vec::new(),
        };
        let mut done = false;
        while budget.is_left() {
            let next = next_application(&self.connection, &task.organisation, progress.application, only)?;
            let Some((key, id, uid)) = next else {
                done = true;
                break;
            };
            let begun = key == progress.application && all.last().is_some_and(|last| last.application == id);
            if !begun {
                (progress.application, progress.cursor) = (key, task.first);
                all.push(ApplicationDestinations { application: id, uid, destinations: 0 });
                // An application costs something, too.
                budget.scanned -= 1;
            }
            let mut counted = 0;
            let span = Span { first: progress.cursor, last: task.last };
            let snapshot = self.messages_of(key)?;
            let through = snapshot.walk_application(key, span, |candidate| {
                if !budget.is_left() {
                    return Ok(false);
                }
                budget.scan(progress);
                progress.cursor = candidate.at.next();
                counted += destinations(&self.connection, candidate.at)?;
                Ok(true)
            })?;
            if let Some(last) = all.last_mut() {
                last.destinations += counted;
            }
            if through {
                if only.is_none() {
                    all.pop_if(|last| last.destinations == 0);
                }
                (progress.application, progress.cursor) = (ApplicationKey(key.0.saturating_add(1)), task.first);
            }
        }
        if done {
            progress.cursor = task.last;
        }
        progress.found = Found::Destinations(all);
        Ok(done)
    }

    /// A slice of applications and what their endpoints ask for.
    pub(super) fn collect_event_types(&mut self, task: &mut Task) -> Result<bool, Fault> {
        let mut budget = Budget::new(self.settings.slice);
        let progress = &mut task.progress;
        let mut all = match std::mem::take(&mut progress.found) {
            Found::EventTypes(all) => all,
            _ => Vec::new(),
        };
        let mut done = false;
        while budget.is_left() {
            let Some((key, application, _)) =
                next_application(&self.connection, &task.organisation, progress.application, None)?
            else {
                done = true;
                break;
            };
            let (mut event_types, mut catch_all) = (BTreeSet::new(), false);
            let mut of = self.connection.prepare_cached("SELECT event_types FROM endpoint WHERE application = ?1")?;
            let mut rows = of.query([key.0])?;
            while let Some(row) = rows.next()? {
                match row.get::<_, Option<String>>(0)? {
                    None => catch_all = true,
                    Some(text) => event_types.extend(codec::from_json::<Vec<String>>("an endpoint", &text)?),
                }
            }
            let event_types: Vec<String> = event_types.into_iter().collect();
            budget.bytes = budget.bytes.saturating_sub(event_types.iter().map(String::len).sum());
            all.push(ApplicationEventTypes { application, event_types, catch_all });
            budget.scan(progress);
            progress.application = ApplicationKey(key.0.saturating_add(1));
        }
        progress.found = Found::EventTypes(all);
        Ok(done)
    }
}

/// How many endpoints a message was or is to be sent to.
fn destinations(connection: &Connection, at: Sequence) -> Result<u64, Fault> {
    let matched = message_log::find_fan_out(connection, at)?.map_or(0, |fan_out| fan_out.len() as u64);
    let mut added = connection.prepare_cached("SELECT count(*) FROM added_delivery WHERE message = ?1")?;
    Ok(matched + added.query_one([integer(at)], |row| row.get::<_, i64>(0))? as u64)
}

/// The first application of an organisation with a key of `from` or above: of all, or of some.
pub(super) fn next_application(
    connection: &Connection,
    organisation: &OrganisationId,
    from: ApplicationKey,
    only: Option<&[ApplicationKey]>,
) -> Result<Option<(ApplicationKey, ApplicationId, Option<String>)>, Fault> {
    let mut statement = connection.prepare_cached(
        "SELECT key, id, uid FROM application INDEXED BY application_by_organisation \
         WHERE organisation = ?1 AND key BETWEEN ?2 AND ?3 ORDER BY key LIMIT 1",
    )?;
    let mut find = |first: ApplicationKey, last: u32| -> Result<_, Fault> {
        let mut rows = statement.query(params![organisation.as_str(), first.0, last])?;
        let Some(row) = rows.next()? else { return Ok(None) };
        Ok(Some((ApplicationKey(row.get(0)?), ApplicationId(Ksuid::from_bytes(array(row, 1)?)), row.get(2)?)))
    };
    let Some(only) = only else { return find(from, u32::MAX) };
    for key in only.iter().filter(|key| **key >= from) {
        // One that was deleted meanwhile is left out.
        if let Some(found) = find(*key, key.0)? {
            return Ok(Some(found));
        }
    }
    Ok(None)
}
