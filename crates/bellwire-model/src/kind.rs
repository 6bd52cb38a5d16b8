//! The kinds of endpoint: how what it is owed leaves us.
//!
//! Here stands only what the endpoint's owner said. What a plugin's settings mean is `bellwire-plugin`'s business, which also
//! keeps here, in [`Prepared`], what it made of them.

use crate::access::SecretText;
use crate::clock::Timestamp;
use crate::shape::Prepared;
use std::time::Duration;

/// How an endpoint gets its messages.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Kind {
    /// We post to its URL.
    #[default]
    Push,
    /// Code runs at the receiving end: here.
    Plugin(Plugin),
    /// The receiver keeps a channel open, or pulls pages. Its deliveries wait until they are acknowledged.
    Pipe(Pipe),
}

impl Kind {
    /// What stands in the place of the URL of an endpoint that has none: a URI that leads nowhere. `None`: it has its own.
    pub fn address(&self) -> Option<&'static str> {
        match self {
            Kind::Push => None,
            Kind::Plugin(plugin) => Some(plugin.runs.address()),
            Kind::Pipe(_) => Some(Pipe::ADDRESS),
        }
    }

    /// Attempts are made by us, as soon as they are due.
    pub fn is_attempted(&self) -> bool {
        !matches!(self, Kind::Pipe(_))
    }
}

/// Code that an endpoint runs.
#[derive(Clone, PartialEq, Debug)]
pub struct Plugin {
    /// What runs it.
    pub runs: Runs,
    /// Its settings: the text of a JSON object, which may hold passwords. Prints redacted, sealed at rest.
    pub settings: SecretText,
    /// What was made of the settings.
    pub prepared: Prepared,
}

impl Plugin {
    /// Nothing is made of it yet.
    pub fn new(runs: Runs, settings: String) -> Self {
        Plugin { runs, settings: SecretText::new(settings), prepared: Prepared::default() }
    }
}

/// What runs a plugin.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Runs {
    /// A script in JavaScript.
    Javascript,
    /// A WebAssembly component.
    Wasm,
    /// A program, without a shell.
    Command,
    /// Statements in a database.
    Sql,
    /// An e-mail or a note in a chat.
    Notify,
    /// A publication to a queue.
    Queue,
}

impl Runs {
    /// All of them, in the order of the documentation.
    pub const ALL: [Runs; 6] = [Runs::Javascript, Runs::Wasm, Runs::Command, Runs::Sql, Runs::Notify, Runs::Queue];

    /// Its name on the wire and in tables.
    pub fn name(self) -> &'static str {
        &self.address()["plugin:".len()..]
    }

    /// The one of this name.
    pub fn parse(name: &str) -> Option<Self> {
        Runs::ALL.into_iter().find(|runs| runs.name() == name)
    }

    fn address(self) -> &'static str {
        match self {
            Runs::Javascript => "plugin:javascript",
            Runs::Wasm => "plugin:wasm",
            Runs::Command => "plugin:command",
            Runs::Sql => "plugin:sql",
            Runs::Notify => "plugin:notify",
            Runs::Queue => "plugin:queue",
        }
    }
}

/// A channel that the receiver reads, or takes deliveries from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Pipe {
    /// For how long a delivery is handed out, unless its reader says otherwise.
    pub lease: Duration,
    /// So often a delivery is handed out; then it is exhausted.
    pub attempts_max: u16,
    /// So many deliveries are out at a time.
    pub in_flight_max: u16,
    /// A JSON pointer (RFC 6901) into the payload: deliveries with the same value there are handed out one after the other.
    pub ordering_key: Option<String>,
    /// When it is removed that nobody reads it; never if absent.
    pub expiry: Option<Expiry>,
}

impl Pipe {
    /// What stands in the place of a pipe's URL, and of its attempts'.
    pub const ADDRESS: &str = "pipe:";
}

impl Default for Pipe {
    fn default() -> Self {
        Pipe {
            lease: Duration::from_secs(30),
            attempts_max: 16,
            in_flight_max: 1_000,
            ordering_key: None,
            expiry: None,
        }
    }
}

/// The end of a pipe that nobody reads.
///
/// It is kept, so it holds over restarts. Reading moves it, in steps of a quarter, so that not every reading is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Expiry {
    /// The pipe is kept for at least so long after it was last read.
    pub after: Duration,
    /// Then it is removed, engine time, unless it is read before.
    pub at: Timestamp,
}

impl Expiry {
    /// Of a pipe that is made, or read, at `now`.
    pub fn new(after: Duration, now: Timestamp) -> Self {
        Expiry { after, at: now.plus(after + after / 4) }
    }

    /// As it is after the pipe was read at `now`; `None` if it can stay as it is.
    pub fn read(self, now: Timestamp) -> Option<Self> {
        (self.at < now.plus(self.after)).then(|| Expiry::new(self.after, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_that_is_read_is_kept_for_long_enough_and_that_is_seldom_written_down() {
        let (hour, begin) = (Duration::from_secs(3600), Timestamp::from_seconds(1_000));
        let (mut expiry, mut written) = (Expiry::new(hour, begin), 0);
        for minute in 0..600 {
            let now = begin.plus(Duration::from_secs(60) * minute);
            assert!(expiry.at > now);
            if let Some(renewed) = expiry.read(now) {
                (expiry, written) = (renewed, written + 1);
            }
            let left = expiry.at.since(now);
            assert!((hour..=hour + hour / 4).contains(&left), "{left:?}");
        }
        assert!(written <= 40, "{written} times in ten hours");
        // Also of one whose time is over, and that nobody has removed yet.
        let late = expiry.at.plus(hour);
        assert_eq!(expiry.read(late), Some(Expiry::new(hour, late)));
    }

    #[test]
    fn names_lead_back() {
        for runs in Runs::ALL {
            assert_eq!(Runs::parse(runs.name()), Some(runs));
        }
        assert_eq!(Runs::parse("shell"), None);
    }

    #[test]
    fn settings_do_not_print() {
        let kind = Kind::Plugin(Plugin::new(Runs::Sql, r#"{"dsn":"postgres://u:hidden@h/d"}"#.to_owned()));
        assert!(!format!("{kind:?}").contains("hidden"));
    }
}
