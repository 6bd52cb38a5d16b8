//! When a schedule is due: pure, so that every edge of the calendar can be tried.
//!
//! Instants are those of the wall clock in the schedule's time zone. Where the clock goes forward, an instant with a fixed time that falls into
//! the gap comes right after it, and one that repeats by the minute or hour leaves the gap out; where it goes back, the
//! former comes once, the first time, and the latter comes in both passes. That is how cron has long done it.

use bellwire_model::{Missed, Timestamp};
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::Zoned;
use jiff::tz::TimeZone;
use std::time::Duration;

/// An instant that is later than this has been missed.
pub(super) const GRACE: Duration = Duration::from_secs(60);

/// A schedule in its time zone.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    cron: Cron,
    zone: TimeZone,
}

/// What is due.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Due {
    /// Each makes a message, oldest first.
    pub(super) instants: Vec<Instant>,
    /// The newest instant that has passed, whether it makes a message or not. `None`: none has since the last time.
    pub(super) through: Option<Timestamp>,
    /// The first one to come; `None` if none ever will.
    pub(super) next: Option<Timestamp>,
}

/// An instant of a schedule, never before its time.
#[derive(Clone, PartialEq, Debug)]
pub(super) struct Instant {
    pub(super) time: Zoned,
    /// The one before it by the schedule.
    pub(super) previous: Option<Zoned>,
}

impl Schedule {
    /// # Errors
    /// What is wrong with the schedule, as a clause.
    pub(super) fn parse(schedule: &str, zone: TimeZone) -> Result<Schedule, String> {
        let fields = schedule.split_whitespace().count();
        if !(schedule.trim_start().starts_with('@') && fields == 1) && fields != 5 && fields != 6 {
            return Err(format!("it has {fields} fields; it must have five, or six with the seconds first"));
        }
        match parser().parse(schedule) {
            Ok(cron) => Ok(Schedule { cron, zone }),
            Err(error) => Err(wrong(schedule).unwrap_or_else(|| error.to_string())),
        }
    }

    fn zoned(&self, at: Timestamp) -> Option<Zoned> {
        Some(jiff::Timestamp::from_second(at.as_seconds()).ok()?.to_zoned(self.zone.clone()))
    }

    /// `at` as if it were an instant, in whole seconds.
    pub(super) fn instant(&self, at: Timestamp) -> Option<Instant> {
        let time = self.zoned(at)?;
        let previous = self.cron.find_previous_occurrence(&time, false).ok();
        Some(Instant { time, previous })
    }

    /// The first instant after `after`.
    pub(super) fn next(&self, after: Timestamp) -> Option<Timestamp> {
        self.cron.find_next_occurrence(&self.zoned(after)?, false).ok().map(|at| timestamp(&at))
    }

    /// What is due at `now`, if everything up to `last` has been seen to.
    pub(super) fn due(&self, last: Timestamp, now: Timestamp, missed: Missed) -> Due {
        let next = self.next(now.max(last));
        let Some(seconds) = self.zoned(now) else { return Due { instants: Vec::new(), through: None, next } };
        let previous = |at: &Zoned, inclusive| self.cron.find_previous_occurrence(at, inclusive).ok();
        let mut found = previous(&seconds, true);
        let (mut instants, mut through, mut late) = (Vec::new(), None, 0);
        let late_max = match missed {
            Missed::Skip => 0,
            Missed::One => 1,
            Missed::All(most) => most,
        };
        // From the newest backwards, so that a year of them costs no more than those that count.
        while let Some(time) = found.filter(|time| timestamp(time) > last) {
            let at = timestamp(&time);
            through = through.or(Some(at));
            if now.since(at) > GRACE {
                late += 1;
                if late > late_max {
                    break;
                }
            }
            let before = previous(&time, false);
            instants.push(Instant { time, previous: before.clone() });
            found = before;
        }
        instants.reverse();
        Due { instants, through, next }
    }
}

fn parser() -> CronParser {
    CronParser::builder().seconds(Seconds::Optional).year(Year::Disallowed).build()
}

/// The first field that can be none, whatever the others are, with what it can be.
fn wrong(schedule: &str) -> Option<String> {
    const FIELDS: [(&str, &str); 6] = [
        ("second", "0 to 59"),
        ("minute", "0 to 59"),
        ("hour", "0 to 23"),
        ("day of the month", "1 to 31, L, or a day with W behind it"),
        ("month", "1 to 12, or JAN to DEC"),
        ("day of the week", "0 to 7, or SUN to SAT, perhaps with L or #1 to #5 behind it"),
    ];
    let given: Vec<&str> = schedule.split_whitespace().collect();
    if let [name] = given.as_slice() {
        return Some(format!("there is no {name}; there are @hourly, @daily, @weekly, @monthly and @yearly"));
    }
    let fields = FIELDS.get(FIELDS.len().checked_sub(given.len())?..)?;
    given.iter().zip(fields).enumerate().find_map(|(at, (field, (name, range)))| {
        let alone: Vec<&str> = (0..given.len()).map(|other| if other == at { *field } else { "*" }).collect();
        let is_wrong = parser().parse(&alone.join(" ")).is_err();
        is_wrong.then(|| format!("{field:?} cannot be the {name}, which is {range}"))
    })
}

pub(super) fn timestamp(at: &Zoned) -> Timestamp {
    Timestamp::from_seconds(at.timestamp().as_second())
}

/// RFC 3339, with the zone's offset.
pub(super) fn text(at: &Zoned) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S%:z").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn schedule(schedule: &str, zone: &str) -> Schedule {
        Schedule::parse(schedule, TimeZone::get(zone).expect("a zone")).expect("a schedule")
    }

    fn times(due: &Due) -> Vec<String> {
        due.instants.iter().map(|instant| text(&instant.time)).collect()
    }

    /// All instants in `(from, to]`, seen to second by second as a server would that looks often, and all at once.
    fn all(of: &Schedule, from: &str, to: &str) -> Vec<String> {
        let (from, to) = (at(from), at(to));
        let mut seen = Vec::new();
        let (mut last, mut now) = (from, from);
        while now < to {
            now = of.next(now).unwrap_or(to).min(to);
            let due = of.due(last, now, Missed::Skip);
            seen.extend(times(&due));
            last = due.through.unwrap_or(last);
        }
        assert_eq!(times(&of.due(from, to, Missed::All(10_000))), seen, "backwards finds what forwards finds");
        seen
    }

    #[test]
    fn the_end_of_the_month_is_its_last_day_whatever_the_month() {
        let report = schedule("0 18 L * *", "Europe/Berlin");
        assert_eq!(
            all(&report, "2027-12-31T18:00:00Z", "2028-05-31T15:59:59Z"),
            [
                "2028-01-31T18:00:00+01:00",
                "2028-02-29T18:00:00+01:00",
                "2028-03-31T18:00:00+02:00",
                "2028-04-30T18:00:00+02:00",
            ]
        );
    }

    #[test]
    fn nothing_is_due_before_its_time_and_each_instant_once() {
        let minutes = schedule("*/5 * * * *", "UTC");
        let five = at("2026-03-01T12:05:00Z");
        let before = Timestamp::from_micros(five.as_micros() - 1);
        let last = at("2026-03-01T12:00:00Z");
        let due = minutes.due(last, before, Missed::All(9));
        assert_eq!((due.instants.len(), due.through, due.next), (0, None, Some(five)));
        let due = minutes.due(last, five, Missed::Skip);
        assert_eq!((times(&due), due.through), (vec!["2026-03-01T12:05:00+00:00".to_owned()], Some(five)));
        assert_eq!(due.instants[0].previous.as_ref().map(timestamp), Some(last));
        let due = minutes.due(five, Timestamp::from_micros(five.as_micros() + 999_999), Missed::All(9));
        assert_eq!((due.instants.len(), due.through), (0, None));
        // The clock went back: what was seen to stays so.
        let due = minutes.due(five, last, Missed::All(9));
        assert_eq!((due.instants.len(), due.next), (0, Some(at("2026-03-01T12:10:00Z"))));
    }

    #[test]
    fn what_was_missed_is_left_out_or_made_up_for() {
        let hourly = schedule("0 * * * *", "UTC");
        let (last, now) = (at("2026-03-01T12:00:00Z"), at("2026-03-01T17:30:00Z"));
        for (missed, expected) in [
            (Missed::Skip, &[][..]),
            (Missed::One, &["17"]),
            (Missed::All(3), &["15", "16", "17"]),
            (Missed::All(100), &["13", "14", "15", "16", "17"]),
        ] {
            let due = hourly.due(last, now, missed);
            let hours: Vec<_> = times(&due).iter().map(|time| time[11..13].to_owned()).collect();
            assert_eq!(hours, expected, "{missed:?}");
            assert_eq!(due.through, Some(at("2026-03-01T17:00:00Z")), "it is seen to whatever becomes of it");
        }
        // What is only just late is not missed: a store that was busy for a moment leaves nothing out.
        let due = hourly.due(last, at("2026-03-01T17:01:00Z"), Missed::Skip);
        assert_eq!(times(&due), ["2026-03-01T17:00:00+00:00"]);
        // Years of seconds cost no more than those that count.
        let seconds = schedule("* * * * * *", "UTC");
        let due = seconds.due(Timestamp::EPOCH, now, Missed::All(5));
        assert_eq!(due.instants.len(), 5 + 61);
    }

    #[test]
    fn where_the_clock_goes_forward() {
        // In Berlin, 02:00 became 03:00 on 29 March 2026.
        let (from, to) = ("2026-03-29T00:00:00Z", "2026-03-29T04:00:00Z");
        let fixed = schedule("30 2 * * *", "Europe/Berlin");
        assert_eq!(all(&fixed, from, to), ["2026-03-29T03:00:00+02:00"], "right after the gap, and once");
        let often = schedule("30 * * * *", "Europe/Berlin");
        assert_eq!(
            all(&often, from, to),
            ["01:30:00+01:00", "03:30:00+02:00", "04:30:00+02:00", "05:30:00+02:00"].map(|t| format!("2026-03-29T{t}"))
        );
    }

    #[test]
    fn where_the_clock_goes_back() {
        // In Berlin, 03:00 became 02:00 again on 25 October 2026.
        let (from, to) = ("2026-10-24T23:00:00Z", "2026-10-25T02:59:59Z");
        let fixed = schedule("30 2 * * *", "Europe/Berlin");
        assert_eq!(all(&fixed, from, to), ["2026-10-25T02:30:00+02:00"], "the first time, and once");
        let often = schedule("30 * * * *", "Europe/Berlin");
        assert_eq!(
            all(&often, from, to),
            ["01:30:00+02:00", "02:30:00+02:00", "02:30:00+01:00", "03:30:00+01:00"].map(|t| format!("2026-10-25T{t}"))
        );
    }

    #[test]
    fn a_zone_may_have_any_offset() {
        let nine = schedule("0 9 * * MON-FRI", "Asia/Kathmandu");
        assert_eq!(
            all(&nine, "2026-03-06T00:00:00Z", "2026-03-09T12:00:00Z"),
            ["2026-03-06T09:00:00+05:45", "2026-03-09T09:00:00+05:45"]
        );
    }

    #[test]
    fn what_is_wrong_with_a_schedule_is_told_with_its_field() {
        for (bad, told) in [
            ("61 * * * *", "\"61\" cannot be the minute, which is 0 to 59"),
            ("0 0 24 * * *", "\"24\" cannot be the hour, which is 0 to 23"),
            ("0 9 * FOO *", "\"FOO\" cannot be the month, which is 1 to 12, or JAN to DEC"),
            ("*/0 * * * *", "\"*/0\" cannot be the minute, which is 0 to 59"),
            ("0 9 * * MON#6", "\"MON#6\" cannot be the day of the week"),
            ("@reboot", "there is no @reboot; there are @hourly"),
            ("0 9 * *", "it has 4 fields"),
        ] {
            let fault = Schedule::parse(bad, TimeZone::UTC).expect_err(bad);
            assert!(fault.starts_with(told), "{bad}: {fault}");
        }
        let either = schedule("0 9 1 * MON", "UTC");
        let days = all(&either, "2026-05-30T00:00:00Z", "2026-06-09T00:00:00Z");
        assert_eq!(days.iter().map(|time| &time[..10]).collect::<Vec<_>>(), ["2026-06-01", "2026-06-08"]);
        let days = all(&either, "2026-06-30T00:00:00Z", "2026-07-07T00:00:00Z");
        assert_eq!(days.iter().map(|time| &time[..10]).collect::<Vec<_>>(), ["2026-07-01", "2026-07-06"]);
    }

    #[test]
    fn schedules_have_five_or_six_fields_or_a_name() {
        for good in ["0 9 * * *", "*/10 * * * * *", "@daily", "0 0 L * *", "0 0 15W * *", "0 9 * * MON#1", "0 9 * * 5L"]
        {
            assert!(Schedule::parse(good, TimeZone::UTC).is_ok(), "{good}");
        }
        for bad in ["", "0 9 * *", "0 0 9 * * * 2027", "61 * * * *", "every day", "@reboot", "@daily 3", "0 9 * * FOO"]
        {
            assert!(Schedule::parse(bad, TimeZone::UTC).is_err(), "{bad}");
        }
        let never = Schedule::parse("0 0 30 2 *", TimeZone::UTC).expect("can be read");
        assert_eq!(never.next(Timestamp::EPOCH), None);
    }
}
