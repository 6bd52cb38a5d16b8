//! What `bellwire listen` shows: a line for each webhook, aligned, in colour where a terminal wants it; or an object of JSON.

use super::forward::Went;
use super::pipe::Delivery;
use serde_json::json;
use std::io::{self, Write as _};
use std::time::Duration;

/// Of an answer that is not a success, so much is shown.
const DETAIL_MAX: usize = 200;

/// How it is shown.
#[derive(Clone, Copy)]
pub(super) struct Screen {
    pub(super) colour: bool,
    pub(super) json: bool,
}

/// One webhook and what became of it.
pub(super) struct Line<'a> {
    pub(super) delivery: &'a Delivery,
    pub(super) size: usize,
    pub(super) went: Option<&'a Went>,
    /// The server makes no further attempt.
    pub(super) is_last: bool,
    /// Why the server could not be told.
    pub(super) told: Option<&'a str>,
}

#[derive(Clone, Copy)]
enum Tone {
    Bold,
    Dim,
    Good,
    Warning,
    Bad,
}

impl Screen {
    pub(super) fn begin(self, application: &str, endpoint: &str, forward: Option<&str>) {
        if self.json {
            return;
        }
        let to = forward.map_or_else(String::new, |url| format!(", passed on to {}", self.paint(Tone::Bold, url)));
        eprintln!("Listening to {} at {endpoint}{to}. Ctrl-C ends it.", self.paint(Tone::Bold, application));
    }

    /// What a local program verifies with.
    pub(super) fn secret(self, secret: &str) {
        if !self.json {
            eprintln!("Signed with {}; --secret chooses another.", self.paint(Tone::Bold, secret));
        }
    }

    /// Something that is no webhook.
    pub(super) fn note(self, text: &str) {
        eprintln!("{}", self.paint(Tone::Warning, &clean(text)));
    }

    /// # Errors
    /// Nobody reads what is shown.
    pub(super) fn line(self, line: &Line<'_>) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{}", if self.json { line.json() } else { self.text(line) })?;
        if let Some(why) = line.told.filter(|_| !self.json) {
            self.note(&format!("          the server could not be told, it will send this one again: {why}"));
        }
        Ok(())
    }

    fn text(self, line: &Line<'_>) -> String {
        let Delivery { id, event_type, timestamp, attempt, .. } = line.delivery;
        // Of `2026-01-31T09:30:00.123456Z`, the time of day.
        let time = timestamp.get(11..19).unwrap_or(timestamp);
        let mut detail = None;
        let (tone, what, took) = match line.went {
            None => (Tone::Good, "shown".to_owned(), String::new()),
            Some(Went::Answered { status, took, body }) => {
                detail = (!(200..300).contains(status)).then(|| short(body)).filter(|body| !body.is_empty());
                let tone = match status {
                    200..=299 => Tone::Good,
                    300..=499 => Tone::Warning,
                    _ => Tone::Bad,
                };
                (tone, status.to_string(), duration(*took))
            }
            Some(Went::Absent(why) | Went::Nowhere(why)) => {
                let then = if line.is_last { "that was its last attempt" } else { "it comes again" };
                detail = Some(format!("{}; {then}", short(why)));
                (Tone::Bad, "none".to_owned(), String::new())
            }
        };
        let attempt = if *attempt > 1 { format!(" (attempt {attempt})") } else { String::new() };
        let detail = detail.map_or_else(String::new, |detail| format!("\n          {}", self.paint(tone, &detail)));
        format!(
            "{}  {:<32} {:>9}  {} {took:>8}  {}{detail}",
            self.paint(Tone::Dim, time),
            clean(event_type),
            size(line.size),
            self.paint(tone, &format!("{what:<5}")),
            self.paint(Tone::Dim, &format!("{id}{attempt}")),
        )
    }

    fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Bold => 1,
            Tone::Dim => 2,
            Tone::Good => 32,
            Tone::Warning => 33,
            Tone::Bad => 31,
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }
}

impl Line<'_> {
    fn json(&self) -> String {
        let Delivery { id, event_type, timestamp, attempt, payload, headers, .. } = self.delivery;
        let (status, response, duration_ms, error) = match self.went {
            None => (None, None, None, None),
            Some(Went::Answered { status, body, took }) => {
                (Some(*status), Some(body.as_str()), Some(took.as_secs_f64() * 1e3), None)
            }
            Some(Went::Absent(why) | Went::Nowhere(why)) => (None, None, None, Some(why.as_str())),
        };
        let shown = json!({
            "id": id, "eventType": event_type, "timestamp": timestamp, "attempt": attempt, "bytes": self.size,
            "payload": payload, "headers": headers, "status": status, "response": response,
            "durationMs": duration_ms, "error": error.or(self.told),
        });
        shown.to_string()
    }
}

/// A sender decides what stands in it, and a terminal would obey.
fn clean(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).collect()
}

/// The beginning, in one line.
fn short(text: &str) -> String {
    let words: Vec<_> = text.split_whitespace().map(clean).collect();
    words.join(" ").chars().take(DETAIL_MAX).collect()
}

fn size(bytes: usize) -> String {
    match bytes {
        0..1_000 => format!("{bytes} B"),
        1_000..1_000_000 => format!("{:.1} kB", bytes as f64 / 1e3),
        _ => format!("{:.1} MB", bytes as f64 / 1e6),
    }
}

fn duration(took: Duration) -> String {
    match took.as_millis() {
        0..10_000 => format!("{} ms", took.as_millis()),
        _ => format!("{:.1} s", took.as_secs_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_what_happened_and_obeys_nobody() {
        let text = r#"{"receipt":"r","attempt":2,"id":"msg_1","eventType":"invoice.paid","timestamp":"2026-01-31T09:30:01.5Z",
            "headers":{},"payload":{"a":1}}"#;
        let delivery: Delivery = serde_json::from_str(text).expect("a delivery");
        let went = Went::Answered { status: 201, body: "ok".to_owned(), took: Duration::from_millis(12) };
        let line = Line { delivery: &delivery, size: 1_234, went: Some(&went), is_last: false, told: None };
        let screen = Screen { colour: false, json: false };
        assert_eq!(
            screen.text(&line),
            "09:30:01  invoice.paid                        1.2 kB  201      12 ms  msg_1 (attempt 2)"
        );
        let json: serde_json::Value = serde_json::from_str(&line.json()).expect("JSON");
        assert_eq!((&json["status"], &json["payload"]["a"]), (&json!(201), &json!(1)));
        let went = Went::Nowhere("\u{1b}[2Jconnection refused".to_owned());
        let line = Line { went: Some(&went), ..line };
        assert!(!screen.text(&line).contains('\u{1b}'));
        assert!(screen.text(&line).ends_with("\n          [2Jconnection refused; it comes again"));
        let line = Line { is_last: true, ..line };
        assert!(screen.text(&line).ends_with("connection refused; that was its last attempt"));
        let went = Went::Answered { status: 500, body: "Traceback:\n  KeyError".to_owned(), took: Duration::ZERO };
        let line = Line { went: Some(&went), ..line };
        assert!(screen.text(&line).ends_with("msg_1 (attempt 2)\n          Traceback: KeyError"));
    }
}
