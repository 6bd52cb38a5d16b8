//! Bursts: a few notes by themselves, and then one that sums up the rest of the window.
//!
//! Those that are summed up are attempts that have not ended until the sum has been taken: they succeed and fail with it, and a crash loses
//! none. Meanwhile they rest: they take nobody's place in flight, so one sum holds a whole burst.

use super::Refused;
use crate::event::Root;
use crate::settings::{Fault, Millis};
use crate::template::Template;
use bellwire_model::EndpointKey;
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, timeout_at};

/// Lines of a sum's list; the rest is counted.
const LIST_MAX: usize = 50;
const LINE_BYTES_MAX: usize = 200;
/// Endpoints whose bursts are remembered.
const ENDPOINTS_MAX: usize = 16_384;

/// Settings of a digest.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Digest {
    window_ms: Millis<100, 60_000>,
    /// Notes by themselves in one window.
    at_most: u32,
    /// The sum, with `{{count}}` and `{{list}}`.
    #[serde(default = "text_default")]
    pub(super) text: Template,
}

fn text_default() -> Template {
    Template::parse("{{count}} more:\n{{list}}").expect("a template of ours")
}

impl Digest {
    pub(super) fn check(&self, faults: &mut Vec<Fault>) {
        if self.at_most == 0 || self.at_most > 1_000 {
            faults.push(Fault::new(&["digest", "at_most"], "expected notes from 1 to 1000"));
        }
        if !self.text.names(Root::Count) && !self.text.names(Root::List) {
            faults.push(Fault::new(&["digest", "text"], "a sum says {{count}} or {{list}}"));
        }
    }
}

/// The bursts of one shard's endpoints.
#[derive(Default)]
pub struct Bursts {
    all: RefCell<HashMap<EndpointKey, Rc<RefCell<Burst>>>>,
    /// Whether windows end at once.
    hurry: watch::Sender<bool>,
}

struct Burst {
    ends: Instant,
    alone: u32,
    sum: Option<Sum>,
}

/// Notes that are to be one.
#[derive(Default)]
pub(super) struct Sum {
    /// What the list shows of them.
    lines: Vec<String>,
    /// All but the first, who makes the sum.
    others: Vec<oneshot::Sender<Told>>,
}

type Told = Result<String, Refused>;

/// What becomes of a note.
pub(super) enum Place {
    /// It is said.
    Alone,
    /// It begins a sum, and whoever has it must see to that.
    First(Held),
    /// It is told what became of the sum.
    Held(oneshot::Receiver<Told>),
}

/// A sum to be made when the window ends.
pub(super) struct Held {
    burst: Rc<RefCell<Burst>>,
    hurry: watch::Receiver<bool>,
}

impl Bursts {
    /// Ends all windows, those that are to begin included: the server stops, and sums that wait would hold it up.
    pub(crate) fn hurry(&self) {
        self.hurry.send_replace(true);
    }

    /// Which of these a note is.
    pub(super) fn place(&self, endpoint: EndpointKey, digest: &Digest, line: &str) -> Place {
        let now = Instant::now();
        let mut all = self.all.borrow_mut();
        if all.len() >= ENDPOINTS_MAX && !all.contains_key(&endpoint) {
            all.retain(|_, burst| burst.borrow().ends > now);
        }
        let new = || Rc::new(RefCell::new(Burst { ends: now + digest.window_ms.0, alone: 0, sum: None }));
        let kept = all.entry(endpoint).or_insert_with(new);
        // One whose sum is still being waited for is not begun anew; its leader takes it out.
        if kept.borrow().ends <= now && kept.borrow().sum.is_none() {
            *kept = new();
        }
        let burst = &mut *kept.borrow_mut();
        match &mut burst.sum {
            None if burst.alone < digest.at_most => {
                burst.alone += 1;
                Place::Alone
            }
            None => {
                burst.sum.insert(Sum::default()).show(line);
                Place::First(Held { burst: Rc::clone(kept), hurry: self.hurry.subscribe() })
            }
            Some(sum) => {
                sum.show(line);
                let (sender, receiver) = oneshot::channel();
                sum.others.push(sender);
                Place::Held(receiver)
            }
        }
    }
}

impl Held {
    /// Waits for the window's end.
    pub(super) async fn wait(mut self) -> Sum {
        let ends = self.burst.borrow().ends;
        // Also when nobody is left to hurry it.
        let _ = timeout_at(ends, self.hurry.wait_for(|hurry| *hurry)).await;
        self.burst.borrow_mut().sum.take().unwrap_or_default()
    }
}

impl Drop for Held {
    /// Cut off before its end: those that were held hear nothing, which is a failure that is tried again.
    fn drop(&mut self) {
        self.burst.borrow_mut().sum = None;
    }
}

impl Sum {
    fn show(&mut self, text: &str) {
        if self.lines.len() < LIST_MAX {
            let line = text.lines().next().unwrap_or_default();
            self.lines.push(line[..line.floor_char_boundary(LINE_BYTES_MAX)].to_owned());
        }
    }

    /// How many notes it is of.
    pub(super) fn count(&self) -> usize {
        self.others.len() + 1
    }

    /// The first lines of the first notes, and how many more there are.
    pub(super) fn list(&self) -> String {
        let mut list = self.lines.join("\n");
        let more = self.count() - self.lines.len();
        if more > 0 {
            list.push_str(&format!("\n… and {more} more"));
        }
        list
    }

    /// What became of it, to those that it is of.
    pub(super) fn tell(self, told: &Told) {
        for other in self.others {
            // Who is gone was cut off.
            let _ = other.send(told.clone());
        }
    }
}
