//! The sentences of an explanation: one fact each, from values alone.

use bellwire_model::{
    Application, Attempt, DeliveryState, DisabledBy, EndReason, Endpoint, FailureClass, Kind, Message, Outcome, Phases,
    Timestamp, Trigger, Waiting,
};
use bellwire_store::DeliveryOfMessage;
use std::fmt::Write as _;
use std::time::Duration;

/// Why an endpoint does not take a message, as far as can be told now.
pub(crate) enum Judgement {
    /// It did not exist yet.
    Later,
    EventType,
    Channels,
    Filter,
    Fault(String),
    /// It has a filter on content, and the content is gone.
    PayloadGone,
    /// It would take it now.
    Match,
}

/// Which endpoint it is, and how it gets its messages: its URL without what may be secret in it.
pub(crate) fn place_of(endpoint: &Endpoint) -> String {
    let name = match &endpoint.uid {
        Some(uid) => format!("{} ({uid})", endpoint.id),
        None => endpoint.id.to_string(),
    };
    match &endpoint.kind {
        Kind::Push => match called_at(&endpoint.url) {
            Some(place) => format!("The endpoint {name} is at {place}."),
            None => format!("The endpoint {name} has a URL that cannot be called."),
        },
        Kind::Pipe(_) => format!("The endpoint {name} is a pipe: what it is owed waits for whoever reads it."),
        Kind::Plugin(plugin) => format!("The endpoint {name} is a plugin: {} runs here.", plugin.runs.name()),
    }
}

fn called_at(url: &str) -> Option<String> {
    let url = url::Url::parse(url).ok()?;
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    Some(format!("{}://{}{port}{}", url.scheme(), url.host_str()?, url.path()))
}

/// About the message as a whole.
pub(crate) fn application_text(
    application: &Application,
    message: &Message,
    deliveries: &[DeliveryOfMessage],
    endpoints: usize,
    more: bool,
    now: Timestamp,
) -> Vec<String> {
    let accepted = message.sequence().time();
    let mut all = vec![format!(
        "The message {} of type {} was accepted at {accepted} for the application {} ({}).",
        message.id, message.event_type, application.id, application.name
    )];
    all.push(match (deliveries.len(), endpoints) {
        (0, 0) => "The application has no endpoints, so it goes nowhere.".to_owned(),
        (0, _) => format!("None of the application's {} takes it.", counted(endpoints, "endpoint")),
        (owed, _) => {
            let count = |wanted: fn(DeliveryState) -> bool| deliveries.iter().filter(|d| wanted(d.state)).count();
            let delivered = count(|state| state == DeliveryState::Delivered);
            let ended = count(|state| matches!(state, DeliveryState::Ended(_)));
            let pending = owed - delivered - ended;
            format!(
                "It is owed to {owed} of {}: {delivered} delivered, {pending} pending, {ended} ended undelivered.",
                counted(endpoints, "endpoint")
            )
        }
    });
    if let Some(at) = message.deliver_at.filter(|at| *at > now) {
        all.push(format!("Its sender asked for a delay: nothing is sent before {at}."));
    }
    if message.payload.is_none() {
        all.push("Its payload has expired or was removed, so it cannot be sent any more.".to_owned());
    }
    if more {
        all.push("It has more attempts than are told here; the newest ones are.".to_owned());
    }
    all
}

/// Why an endpoint was not sent the message.
pub(crate) fn not_matched_text(endpoint: &Endpoint, message: &Message, judgement: &Judgement) -> Vec<String> {
    let why = match judgement {
        Judgement::Later => {
            let text =
                format!("It was created later than the message, at {}, so it does not get it.", endpoint.created_at);
            return vec![text];
        }
        Judgement::EventType => {
            let types = endpoint.event_types.as_deref().unwrap_or_default();
            format!("It does not take the type {}, only {}.", message.event_type, listed(types))
        }
        Judgement::Channels => {
            let own = listed(endpoint.channels.as_deref().unwrap_or_default());
            match message.channels.as_slice() {
                [] => format!("It takes only messages on {own}, and the message is on no channel."),
                channels => format!("It takes only messages on {own}, and the message is on {}.", listed(channels)),
            }
        }
        Judgement::Filter => "Its filter on content does not take the message.".to_owned(),
        Judgement::Fault(why) => format!("Its filter on content could not say, which counts as no: {why}."),
        Judgement::PayloadGone => {
            "It has a filter on content, which cannot be asked again because the payload is gone.".to_owned()
        }
        Judgement::Match => {
            let text = "It did not take the message when that was accepted, although it would by its settings of now.";
            return vec![text.to_owned(), history(endpoint, message)];
        }
    };
    let changed = endpoint.updated_at > message.sequence().time();
    std::iter::once(why).chain(changed.then(|| history(endpoint, message))).collect()
}

/// What cannot be known is said.
fn history(endpoint: &Endpoint, message: &Message) -> String {
    if endpoint.updated_at > message.sequence().time() {
        let at = endpoint.updated_at;
        return format!(
            "This judges by its settings of now, which were last changed at {at}, after the message; those of then are not kept."
        );
    }
    "This judges by its settings of now; those of then are not kept.".to_owned()
}

/// Where the delivery stands, and what happens next.
pub(crate) fn state_text(
    endpoint: Option<&Endpoint>,
    delivery: &DeliveryOfMessage,
    message: &Message,
    now: Timestamp,
) -> Vec<String> {
    let attempts = delivery.attempts;
    match delivery.state {
        DeliveryState::Delivered => vec![format!("It was delivered by attempt {attempts}.")],
        DeliveryState::Ended(reason) => vec![ended_text(reason, attempts)],
        DeliveryState::Fresh => {
            let next = attempts + 1;
            paused(endpoint)
                .unwrap_or_else(|| vec![format!("Attempt {next} is being made, or waits its turn in memory.")])
        }
        DeliveryState::Waiting(waiting) => waiting_text(endpoint, waiting, message, now),
    }
}

fn waiting_text(endpoint: Option<&Endpoint>, waiting: Waiting, message: &Message, now: Timestamp) -> Vec<String> {
    let Waiting { due, next, trigger, .. } = waiting;
    let is_read = endpoint.is_some_and(|endpoint| matches!(endpoint.kind, Kind::Pipe(_)));
    let name = match trigger {
        Trigger::Scheduled => format!("Attempt {next}"),
        Trigger::Manual => format!("Attempt {next}, a resend,"),
    };
    let mut all = paused(endpoint).unwrap_or_default();
    let when = if due > now {
        format!("is due at {due}, in {}", rough(due.since(now)))
    } else {
        format!("has been due since {due} and waits its turn")
    };
    all.push(match (is_read, due > now) {
        (false, _) => format!("{name} {when}."),
        (true, true) => format!("It can be taken from {due} on, in {}, as attempt {next}.", rough(due.since(now))),
        (true, false) => format!(
            "It has been there to be taken since {due}, as attempt {next}: nobody has come for it, or who has it has not said yet what became of it."
        ),
    });
    if next == 1 && message.deliver_at.is_some_and(|at| at >= due && at > now) {
        all.push("That is the delay that the sender asked for.".to_owned());
    }
    let in_order = endpoint.is_some_and(|endpoint| endpoint.limits.fifo);
    if due <= now && (in_order || !is_read) && endpoint.is_some_and(|endpoint| endpoint.disabled.is_none()) {
        let order = if in_order {
            "The endpoint takes its messages in order: every earlier one must end first."
        } else {
            "Others to the same endpoint may be before it: its rate, its concurrency, or a pause after failures hold it back."
        };
        all.push(order.to_owned());
    }
    all
}

/// Nothing goes to a disabled endpoint.
fn paused(endpoint: Option<&Endpoint>) -> Option<Vec<String>> {
    let why = match endpoint?.disabled? {
        DisabledBy::User => "The endpoint is disabled, by its owner or the API.",
        DisabledBy::Receiver => "The endpoint is disabled, because it answered that it wants nothing more.",
        DisabledBy::Failures => "The endpoint is disabled, because every attempt failed for too long.",
    };
    Some(vec![why.to_owned(), "The delivery waits until the endpoint is enabled.".to_owned()])
}

fn ended_text(reason: EndReason, attempts: u32) -> String {
    let made = match attempts {
        0 => "No attempt was made".to_owned(),
        n => format!("{} made", if n == 1 { "1 attempt was".to_owned() } else { format!("{n} attempts were") }),
    };
    match reason {
        EndReason::Exhausted => {
            format!("{made}, and the retry schedule is used up: nothing more is sent unless it is resent or recovered.")
        }
        EndReason::Aborted => format!("{made}; the receiver answered that it never wants this message."),
        EndReason::Expired => format!("{made}; then the payload expired or was removed, and nothing more can be sent."),
        EndReason::EndpointDeleted => format!("{made}; then the endpoint was deleted."),
        EndReason::Cancelled => {
            format!("{made}; then it was cancelled, by the endpoint's own code or on somebody's word.")
        }
        EndReason::ResendFailed => {
            format!("{made}; the last was a resend, which is tried once, and it failed: nothing more is sent.")
        }
    }
}

/// What one attempt did.
pub(crate) fn attempt_text(attempt: &Attempt, outcome: &Outcome) -> String {
    let mut text = format!("Attempt {}", attempt.number);
    if attempt.trigger == Trigger::Manual {
        text.push_str(", a resend,");
    }
    let took = millis(outcome.duration);
    let _ = match outcome.result {
        Ok(status) => write!(text, " at {} was answered {status} after {took}", outcome.started_at),
        Err(FailureClass::Cancelled) => write!(
            text,
            " at {} was cancelled by the endpoint's own code after {took} ({})",
            outcome.started_at,
            reason(FailureClass::Cancelled, &outcome.body)
        ),
        Err(class) => write!(
            text,
            " at {} failed after {took} ({}: {})",
            outcome.started_at,
            class.name(),
            reason(class, &outcome.body)
        ),
    };
    let Phases { dns, connect, tls, first_byte } = outcome.phases;
    let parts = [("DNS", dns), ("connection", connect), ("TLS", tls), ("first byte after", first_byte)];
    let mut parts: Vec<_> =
        parts.iter().filter_map(|(name, part)| Some(format!("{name} {}", millis((*part)?)))).collect();
    if dns.is_none() && connect.is_none() && first_byte.is_some() {
        parts.insert(0, "connection already open".to_owned());
    }
    if !parts.is_empty() {
        let _ = write!(text, ": {}", parts.join(", "));
    }
    text.push('.');
    text
}

/// The text that was kept instead of a response: ours, or what the endpoint's code wrote, of which the lines stay apart.
fn reason(class: FailureClass, body: &[u8]) -> String {
    let text = String::from_utf8_lossy(body);
    let lines: Vec<&str> = text.split(char::is_control).map(str::trim).filter(|line| !line.is_empty()).collect();
    let text: String = lines.join("; ").chars().take(300).collect();
    if text.is_empty() { format!("no more is known of this {}", class.name()) } else { text }
}

fn millis(duration: Duration) -> String {
    let micros = duration.as_micros();
    format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100)
}

fn rough(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => "less than a second".to_owned(),
        1..120 => counted(seconds as usize, "second"),
        120..7_200 => format!("about {}", counted((seconds / 60) as usize, "minute")),
        7_200..172_800 => format!("about {}", counted((seconds / 3_600) as usize, "hour")),
        _ => format!("about {}", counted((seconds / 86_400) as usize, "day")),
    }
}

fn counted(n: usize, noun: &str) -> String {
    if n == 1 { format!("1 {noun}") } else { format!("{n} {noun}s") }
}

/// Not more than fits a sentence.
fn listed(names: &[String]) -> String {
    const SHOWN: usize = 8;
    let mut shown: Vec<&str> = names.iter().take(SHOWN).map(String::as_str).collect();
    let more = format!("{} more", names.len().saturating_sub(SHOWN));
    if names.len() > SHOWN {
        shown.push(&more);
    }
    match shown.split_last() {
        None => "none".to_owned(),
        Some((last, [])) => (*last).to_owned(),
        Some((last, rest)) => format!("{} and {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_and_lists_read_well() {
        let seconds = Duration::from_secs;
        for (wait, text) in [
            (Duration::from_millis(5), "less than a second"),
            (seconds(1), "1 second"),
            (seconds(119), "119 seconds"),
            (seconds(300), "about 5 minutes"),
            (seconds(36_000), "about 10 hours"),
            (seconds(200_000), "about 2 days"),
        ] {
            assert_eq!(rough(wait), text);
        }
        let names = |n: usize| (0..n).map(|n| n.to_string()).collect::<Vec<_>>();
        assert_eq!(listed(&[]), "none");
        assert_eq!(listed(&names(1)), "0");
        assert_eq!(listed(&names(3)), "0, 1 and 2");
        assert_eq!(listed(&names(10)), "0, 1, 2, 3, 4, 5, 6, 7 and 2 more");
        assert_eq!(millis(Duration::from_micros(1_550)), "1.5 ms");
        let wrote = b"line 1: Error: unlucky\nsaw 13\n\x1b[2J".as_slice();
        assert_eq!(reason(FailureClass::Plugin, wrote), "line 1: Error: unlucky; saw 13; [2J");
        assert_eq!(reason(FailureClass::Timeout, b"\n"), "no more is known of this timeout");
    }
}
