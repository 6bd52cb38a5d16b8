//! What a plugin says when it is done, and what that is for the delivery.
//!
//! | answer | the delivery | the attempt in the log |
//! | --- | --- | --- |
//! | ack, respond | delivered | 200 |
//! | drop | ended as cancelled | `cancelled` |
//! | retry | waits, by the schedule or longer | `plugin` |
//! | fail | ended as aborted | `plugin` |
//! | broken: threw, was cut off, could not start | waits, by the schedule | `plugin`, `timeout` or why |

use bellwire_model::{
    Directive, FailureClass, Outcome, Phases, RESPONSE_BODY_MAX, RetryAfter, Timestamp, whole_characters,
};
use bytes::Bytes;
use std::time::Duration;

const EVENT_TYPE_MAX: usize = 256;
const CHANNELS_MAX: usize = 10;
const CHANNEL_MAX: usize = 128;

/// What a plugin says.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Done.
    Ack,
    /// Done, and this came of it.
    Said(String),
    /// Not for me: nothing more is to be tried, and nothing failed.
    Drop(String),
    /// Try again, not before this long if it says so.
    Retry(Option<Duration>, String),
    /// It will never work: end now.
    Fail(String),
    /// Done, and this is for whoever sent the message and waits.
    Respond(Response),
    /// It did not come to an answer.
    Broken(FailureClass, String),
}

impl Answer {
    /// Its name for people.
    pub fn name(&self) -> &'static str {
        match self {
            Answer::Ack | Answer::Said(_) => "ack",
            Answer::Drop(_) => "drop",
            Answer::Retry(..) => "retry",
            Answer::Fail(_) => "fail",
            Answer::Respond(_) => "respond",
            Answer::Broken(..) => "broken",
        }
    }
}

/// An HTTP answer of a plugin's making.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Response {
    /// 200 to 599.
    pub status: u16,
    /// Its headers.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Bytes,
}

impl Response {
    /// The first header that cannot be sent.
    pub(crate) fn unsendable(headers: &[(String, String)]) -> Option<&str> {
        let sendable = |(name, value): &&(String, String)| {
            http::HeaderName::try_from(name).is_ok() && http::HeaderValue::try_from(value).is_ok()
        };
        headers.iter().find(|header| !sendable(header)).map(|(name, _)| name.as_str())
    }
}

/// A message that a plugin wants to be sent on behalf of the same application.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Emitted {
    /// Its event type.
    pub event_type: String,
    /// The text of a JSON value.
    pub payload: String,
    /// Its channels.
    pub channels: Vec<String>,
}

impl Emitted {
    /// Whether it can be a message: by the API's rules for event types and channels.
    ///
    /// # Errors
    /// Why not.
    fn check(&self) -> Result<(), String> {
        let usual = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let Emitted { event_type, channels, .. } = self;
        if !(1..=EVENT_TYPE_MAX).contains(&event_type.len()) || !event_type.chars().all(usual) {
            return Err(format!(
                "the plugin emitted {event_type:?}, which is no event type: 1 to {EVENT_TYPE_MAX} letters, digits, dots, underscores and dashes"
            ));
        }
        let usual = |c: char| usual(c) || matches!(c, ':' | '+');
        let is_channel = |channel: &String| (1..=CHANNEL_MAX).contains(&channel.len()) && channel.chars().all(usual);
        if channels.len() > CHANNELS_MAX || !channels.iter().all(is_channel) {
            return Err(format!(
                "the plugin emitted {event_type} to channels that are none: at most {CHANNELS_MAX}, of 1 to {CHANNEL_MAX} letters, digits, - _ . : and +"
            ));
        }
        Ok(())
    }
}

/// A run from its beginning to its end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ran {
    /// What it said.
    pub answer: Answer,
    /// What it wants sent.
    pub emitted: Vec<Emitted>,
    /// What whoever waits is told though the run itself says nothing to them: of one that failed, for example.
    pub told: Option<Response>,
    /// What it wrote for its owner: console, standard output and standard error.
    pub output: Bytes,
}

impl Ran {
    /// Without output.
    pub(crate) fn quiet(answer: Answer) -> Ran {
        Ran { answer, emitted: Vec::new(), told: None, output: Bytes::new() }
    }

    /// It was not for the plugin.
    pub fn dropped(why: String) -> Ran {
        Ran::quiet(Answer::Drop(why))
    }

    /// It did not come to an answer.
    pub fn broken(class: FailureClass, text: impl Into<String>) -> Ran {
        Ran::quiet(Answer::Broken(class, text.into()))
    }

    /// The same run, had it failed at the end.
    pub fn failing(self, why: String) -> Ran {
        Ran { answer: Answer::Broken(FailureClass::Plugin, why), emitted: Vec::new(), ..self }
    }

    /// The same run, failed if something that it emitted cannot be a message.
    pub(crate) fn checked(self) -> Ran {
        match self.emitted.iter().find_map(|emitted| emitted.check().err()) {
            Some(why) => self.failing(why),
            None => self,
        }
    }

    /// What is for whoever sent the message and waits.
    pub fn response(&self) -> Option<&Response> {
        match &self.answer {
            Answer::Respond(response) => Some(response),
            _ => self.told.as_ref(),
        }
    }

    /// What it is for the delivery.
    pub fn outcome(&self, started_at: Timestamp, duration: Duration) -> Outcome {
        let (result, retry_after, directive, said): (_, _, _, &[u8]) = match &self.answer {
            Answer::Ack => (Ok(200), None, None, b""),
            Answer::Said(text) => (Ok(200), None, None, text.as_bytes()),
            Answer::Respond(response) => (Ok(200), None, None, &response.body),
            Answer::Drop(why) => (Err(FailureClass::Cancelled), None, None, why.as_bytes()),
            Answer::Retry(after, why) => (Err(FailureClass::Plugin), *after, None, why.as_bytes()),
            Answer::Fail(why) => (Err(FailureClass::Plugin), None, Some(Directive::AbortMessage), why.as_bytes()),
            Answer::Broken(class, why) => (Err(*class), None, None, why.as_bytes()),
        };
        Outcome {
            started_at,
            duration,
            url: None,
            phases: Phases::default(),
            result,
            body: joined(said, &self.output),
            retry_after: retry_after.map(RetryAfter::Wait),
            directive,
        }
    }
}

/// What it said, then what it wrote, up to what an attempt keeps, and that there was more.
fn joined(said: &[u8], output: &Bytes) -> Bytes {
    const CUT: &[u8] = b"\n[the rest was not kept]";
    if said.is_empty() && output.len() <= RESPONSE_BODY_MAX {
        return output.clone();
    }
    let between: &[u8] = if said.is_empty() || output.is_empty() { b"" } else { b"\n" };
    let mut body = [said, between, output].concat();
    if body.len() > RESPONSE_BODY_MAX {
        body.truncate(RESPONSE_BODY_MAX - CUT.len());
        body.truncate(whole_characters(&body).len());
        body.extend_from_slice(CUT);
    }
    body.into()
}

/// Collects what is written for the owner, up to a cap; what comes after it is counted, not kept.
#[derive(Clone, Debug)]
pub(crate) struct Console {
    kept: Vec<u8>,
    max: usize,
    dropped: usize,
}

impl Console {
    pub(crate) fn new(max: usize) -> Self {
        Console { kept: Vec::new(), max, dropped: 0 }
    }

    pub(crate) fn write(&mut self, bytes: &[u8]) {
        let room = self.max.saturating_sub(self.kept.len()).min(bytes.len());
        let (kept, dropped) = bytes.split_at(room);
        self.kept.extend_from_slice(kept);
        self.dropped += dropped.len();
    }

    pub(crate) fn into_bytes(mut self) -> Bytes {
        if self.dropped > 0 {
            let whole = whole_characters(&self.kept).len();
            self.dropped += self.kept.len() - whole;
            self.kept.truncate(whole);
            self.kept.extend_from_slice(format!("\n[{} more bytes were not kept]", self.dropped).as_bytes());
        }
        self.kept.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(answer: Answer, output: &'static str) -> Outcome {
        Ran { answer, emitted: Vec::new(), told: None, output: output.into() }.outcome(Timestamp::EPOCH, Duration::ZERO)
    }

    #[test]
    fn an_answer_decides_the_delivery() {
        assert!(outcome(Answer::Ack, "done").is_success());
        assert_eq!(outcome(Answer::Ack, "done").body, "done");
        assert!(outcome(Answer::Drop("not mine".into()), "").is_cancelled());
        let retry = outcome(Answer::Retry(Some(Duration::from_secs(9)), "busy".into()), "log");
        assert_eq!(retry.retry_after, Some(RetryAfter::Wait(Duration::from_secs(9))));
        assert_eq!((retry.result, &*retry.body), (Err(FailureClass::Plugin), &b"busy\nlog"[..]));
        let fail = outcome(Answer::Fail("bad data".into()), "");
        assert_eq!(fail.directive, Some(Directive::AbortMessage));
        assert!(!fail.is_outage() && !fail.is_overload());
        assert!(outcome(Answer::Broken(FailureClass::Timeout, String::new()), "").is_overload());
    }

    #[test]
    fn what_is_emitted_keeps_to_the_rules_for_messages() {
        let answer = |event_type: &str, channels: &[&str]| {
            let channels = channels.iter().map(|channel| (*channel).to_owned()).collect();
            let emitted = vec![Emitted { event_type: event_type.to_owned(), payload: "{}".to_owned(), channels }];
            Ran { emitted, ..Ran::quiet(Answer::Ack) }.checked().answer
        };
        assert_eq!(answer("a.b", &["x:y", "z+1"]), Answer::Ack);
        for (event_type, channels) in [
            ("a b", &[] as &[&str]),
            ("", &[]),
            (&*"a".repeat(257), &[]),
            ("a.b", &["x y"]),
            ("a.b", &[""]),
            ("a.b", &[&*"x".repeat(129)]),
            ("a.b", &["x"; 11]),
        ] {
            let answer = answer(event_type, channels);
            assert!(matches!(&answer, Answer::Broken(_, why) if why.contains("emitted")), "{event_type}: {answer:?}");
        }
    }

    #[test]
    fn no_character_is_cut_in_two() {
        let text = |bytes: &Bytes| std::str::from_utf8(bytes).map(str::to_owned);
        for before in ["", "x", "xx"] {
            let long = format!("{before}{}", "\u{20ac}".repeat(RESPONSE_BODY_MAX));
            assert!(
                text(&joined(long.as_bytes(), &Bytes::new())).is_ok_and(|text| text.contains("\u{20ac}\n[the rest"))
            );
            let mut console = Console::new(4);
            console.write(long.as_bytes());
            let (whole, rest) = long.split_at(long.floor_char_boundary(4));
            let kept = text(&console.into_bytes());
            assert_eq!(kept, Ok(format!("{whole}\n[{} more bytes were not kept]", rest.len())));
        }
        let mut console = Console::new(2);
        console.write(&[0xff; 4]);
        assert_eq!(&console.into_bytes()[..2], [0xff, 0xff]);
    }

    #[test]
    fn output_is_capped_and_says_so() {
        let mut console = Console::new(4);
        console.write(b"abc");
        console.write(b"defg");
        assert_eq!(console.into_bytes(), "abcd\n[3 more bytes were not kept]");
        let long = Bytes::from(vec![b'x'; RESPONSE_BODY_MAX * 2]);
        for said in ["", "why"] {
            let body = joined(said.as_bytes(), &long);
            assert!(body.len() <= RESPONSE_BODY_MAX && body.ends_with(b"xx\n[the rest was not kept]"), "{said}");
        }
        let mut console = Console::new(RESPONSE_BODY_MAX);
        console.write(&long);
        assert!(joined(b"", &console.into_bytes()).ends_with(b"xx\n[the rest was not kept]"));
    }
}
