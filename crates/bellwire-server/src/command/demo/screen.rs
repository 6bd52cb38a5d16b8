//! What the demo shows: short lines, aligned, at most 80 columns; colour only where a terminal wants it.

use super::receiver::Arrival;
use std::{fmt, time::Duration};

/// How text is set.
#[derive(Clone, Copy)]
pub(super) struct Screen {
    pub(super) colour: bool,
}

enum Tone {
    Bold,
    Good,
    Warning,
    Bad,
}

impl Screen {
    pub(super) fn title(self, text: &str) {
        println!("\n{}", self.paint(Tone::Bold, text));
    }

    pub(super) fn fact(self, name: &str, value: impl fmt::Display) {
        println!("  {name:<10}{value}");
    }

    pub(super) fn plain(self, text: &str) {
        println!("{text}");
    }

    pub(super) fn head(self) {
        println!("  {:<31}{:<8}{:>7}{:>12}", "event", "to", "attempt", "after");
    }

    /// One arrival: `attempt` counts from 1, `after` is since the message was sent.
    pub(super) fn arrival(self, arrival: &Arrival, event_type: &str, attempt: u32, after: Duration) {
        let verdict = match (&arrival.verified, arrival.answered, attempt) {
            (Err(error), ..) => self.paint(Tone::Bad, &format!("refused: {error}")),
            (Ok(()), 503, 1) => self.paint(Tone::Warning, "verified, but down: 503"),
            (Ok(()), 503, _) => self.paint(Tone::Warning, "still down: 503"),
            (Ok(()), _, 1) => self.paint(Tone::Good, "verified"),
            (Ok(()), _, _) => self.paint(Tone::Good, "verified, recovered"),
        };
        println!("  {event_type:<31}{:<8}{attempt:>7}{:>12}  {verdict}", arrival.endpoint, milliseconds(after));
    }

    pub(super) fn good(self, text: &str) {
        println!("  {}", self.paint(Tone::Good, text));
    }

    fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Bold => 1,
            Tone::Good => 32,
            Tone::Warning => 33,
            Tone::Bad => 31,
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

fn milliseconds(duration: Duration) -> String {
    let ms = duration.as_secs_f64() * 1e3;
    if ms < 100.0 { format!("{ms:.1} ms") } else { format!("{ms:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_short_and_exact_enough() {
        for (micros, text) in [(1_234, "1.2 ms"), (99_940, "99.9 ms"), (142_400, "142 ms"), (3_350_000, "3350 ms")] {
            assert_eq!(milliseconds(Duration::from_micros(micros)), text);
        }
    }

    #[test]
    fn without_colour_there_is_none() {
        assert_eq!(Screen { colour: false }.paint(Tone::Good, "verified"), "verified");
        assert_eq!(Screen { colour: true }.paint(Tone::Good, "verified"), "\x1b[32mverified\x1b[0m");
    }
}
