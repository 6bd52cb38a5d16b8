//! A message at every instant of a schedule: one, also after a crash, and never before its time.

use super::hand::{Brought, Hand};
use super::schedule::{self, Due, Instant, Schedule};
use anyhow::Context;
use bellwire_model::{ContentType, Cron, KeptHeaders, Sequence, Timestamp};
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};
use std::convert::Infallible;
use std::time::Duration;

/// It looks at the wall clock at least so often: that may jump, and a machine may sleep.
const LOOK_AGAIN: Duration = Duration::from_secs(20);
/// What stands in the place of a payload that is not given.
const PAYLOAD: &str = r#"{"time":"{{time}}","previous":"{{previous}}"}"#;

/// How far a schedule has been seen to.
#[derive(Serialize, Deserialize)]
struct Position {
    /// The newest instant, in Unix seconds.
    through: i64,
}

pub(super) async fn run(hand: &Hand, cron: &Cron) -> anyhow::Result<Infallible> {
    let schedule = parse(cron).map_err(anyhow::Error::msg)?;
    let mut last = match hand.position().await? {
        Some(text) => {
            let position: Position = serde_json::from_str(&text).context("its position cannot be read")?;
            cron.since.max(Timestamp::from_seconds(position.through))
        }
        None => cron.since,
    };
    loop {
        let Due { instants, through, next } = schedule.due(last, hand.wall(), cron.missed);
        if let Some(through) = through {
            let template = cron.payload.as_deref().unwrap_or(PAYLOAD);
            let page = instants.iter().map(|instant| brought(cron, template, instant)).collect();
            let position = serde_json::to_string(&Position { through: through.as_seconds() })?;
            hand.bring(page, Some(position)).await?;
            last = through;
        }
        hand.ran(next, None);
        let wait = next.map_or(LOOK_AGAIN, |next| next.since(hand.wall()).min(LOOK_AGAIN));
        tokio::time::sleep(wait).await;
    }
}

/// A message beside the schedule's own, at `wall`. `sequence` tells it from all others.
///
/// # Errors
/// The schedule cannot be used, which is told when it is set.
pub(super) fn now(cron: &Cron, wall: Timestamp, sequence: Sequence) -> anyhow::Result<Brought> {
    let schedule = parse(cron).map_err(anyhow::Error::msg)?;
    let instant = schedule.instant(wall).context("the time has no place in the calendar")?;
    let template = cron.payload.as_deref().unwrap_or(PAYLOAD);
    Ok(Brought { key: format!("run {}", sequence.as_u64()), ..brought(cron, template, &instant) })
}

/// # Errors
/// What is wrong with the schedule or its zone, as a clause.
fn parse(cron: &Cron) -> Result<Schedule, String> {
    Schedule::parse(&cron.schedule, zone(&cron.zone)?)
}

fn zone(name: &str) -> Result<TimeZone, String> {
    TimeZone::get(name).map_err(|_| format!("{name:?} is no time zone; it is the IANA name, such as Europe/Berlin"))
}

fn brought(cron: &Cron, template: &str, instant: &Instant) -> Brought {
    let time = schedule::text(&instant.time);
    Brought {
        // In UTC: the same instant in every zone.
        key: schedule::timestamp(&instant.time).to_string(),
        event_type: None,
        channels: Vec::new(),
        payload: fill(template, &time, instant.previous.as_ref().map(schedule::text).as_deref()).into(),
        content_type: ContentType::Json,
        place: cron.schedule.clone(),
        headers: KeptHeaders::default(),
        hops: 0,
    }
}

/// The template with its times; without a previous one, a text that is nothing else becomes null.
fn fill(template: &str, time: &str, previous: Option<&str>) -> String {
    let text = template.replace("{{time}}", time);
    match previous {
        Some(previous) => text.replace("{{previous}}", previous),
        None => text.replace("\"{{previous}}\"", "null").replace("{{previous}}", ""),
    }
}

/// What is wrong with the settings: the field, and what would be right. `now` is the wall clock's.
pub(super) fn check(cron: &Cron, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut faults = Vec::new();
    match zone(&cron.zone) {
        Err(fault) => faults.push(("zone", fault)),
        Ok(zone) => match Schedule::parse(&cron.schedule, zone) {
            Err(fault) => faults.push(("schedule", format!("{:?} is no schedule: {fault}", cron.schedule))),
            Ok(schedule) if schedule.next(now).is_none() => {
                faults.push(("schedule", format!("{:?} is never due", cron.schedule)));
            }
            Ok(_) => {}
        },
    }
    if let Some(payload) = &cron.payload {
        let known = payload.replace("{{time}}", "").replace("{{previous}}", "");
        if let Some((_, rest)) = known.split_once("{{") {
            let name = rest.split("}}").next().unwrap_or_default();
            let name: String = name.chars().take(40).collect();
            faults
                .push(("payload", format!("there is no {{{{{name}}}}}; there are {{{{time}}}} and {{{{previous}}}}")));
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::Missed;

    fn cron(schedule: &str, zone: &str, payload: Option<&str>) -> Cron {
        let payload = payload.map(str::to_owned);
        let (schedule, zone) = (schedule.to_owned(), zone.to_owned());
        Cron { schedule, zone, payload, missed: Missed::Skip, since: Timestamp::EPOCH }
    }

    #[test]
    fn a_payload_gets_the_times() {
        for (template, previous, expected) in [
            (PAYLOAD, Some("P"), r#"{"time":"T","previous":"P"}"#),
            (PAYLOAD, None, r#"{"time":"T","previous":null}"#),
            (r#"{"text":"from {{previous}} to {{time}}, {{time}}"}"#, None, r#"{"text":"from  to T, T"}"#),
            ("1e400", Some("P"), "1e400"),
        ] {
            assert_eq!(fill(template, "T", previous), expected);
        }
    }

    #[test]
    fn a_run_has_the_time_of_now_and_the_last_instant_before_it() {
        let monthly = cron("0 18 L * *", "Europe/Berlin", None);
        let wall: Timestamp = "2026-03-15T09:30:00.5Z".parse().expect("a time");
        let made = now(&monthly, wall, Sequence::from_u64(7)).expect("a message");
        assert_eq!(made.key, "run 7");
        assert_eq!(made.payload, r#"{"time":"2026-03-15T10:30:00+01:00","previous":"2026-02-28T18:00:00+01:00"}"#);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_field() {
        let now = Timestamp::from_seconds(1_800_000_000);
        for (given, field) in [
            (cron("0 9 * * *", "Europe/Berlin", None), None),
            (cron("0 9 * * *", "UTC", Some(PAYLOAD)), None),
            (cron("0 9 * * *", "Berlin", None), Some("zone")),
            (cron("0 9 * *", "UTC", None), Some("schedule")),
            (cron("0 0 31 2 *", "UTC", None), Some("schedule")),
            (cron("0 9 * * *", "UTC", Some(r#"{"a":"{{tiem}}"}"#)), Some("payload")),
        ] {
            let faults = check(&given, now);
            assert_eq!(faults.first().map(|fault| fault.0), field, "{given:?}: {faults:?}");
        }
    }
}
