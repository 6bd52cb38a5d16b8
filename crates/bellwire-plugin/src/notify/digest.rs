//! Bursts: a few notes by themselves, and then one that sums up the rest of the window.
//!
//! Those that are summed up stay in flight until the sum has been taken: they succeed and fail with it, and a crash loses none.
//! How many one sum can hold is therefore what the endpoint's lane has in flight; in a longer burst each window has its own.

use super::Refused;
use crate::event::Root;
use crate::settings::{Fault, Millis};
use crate::template::Template;
use bellwire_model::EndpointKey;
use serde::Deserialize;
use std::cell::RefCell;
use std::collections::HashMap;
use std::rc::Rc;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep_until};

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
pub struct Bursts(RefCell<HashMap<EndpointKey, Rc<RefCell<Burst>>>>);

struct Burst {
    ends: Instant,
    alone: u32,
    held: Vec<(String, Option<oneshot::Sender<Told>>)>,
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
pub(super) struct Held(Rc<RefCell<Burst>>);

impl Bursts {
    /// Which of these a note is.
    pub(super) fn place(&self, endpoint: EndpointKey, digest: &Digest, line: &str) -> Place {
        let now = Instant::now();
        let mut all = self.0.borrow_mut();
        if all.len() >= ENDPOINTS_MAX && !all.contains_key(&endpoint) {
            all.retain(|_, burst| burst.borrow().ends > now);
        }
        let new = || Rc::new(RefCell::new(Burst { ends: now + digest.window_ms.0, alone: 0, held: Vec::new() }));
        let kept = all.entry(endpoint).or_insert_with(new);
        // One whose sum is still being waited for is not begun anew; its leader takes it out.
        if kept.borrow().ends <= now && kept.borrow().held.is_empty() {
            *kept = new();
        }
        let mut burst = kept.borrow_mut();
        if burst.held.is_empty() && burst.alone < digest.at_most {
            burst.alone += 1;
            return Place::Alone;
        }
        let mut line = line.lines().next().unwrap_or_default().to_owned();
        line.truncate(line.floor_char_boundary(LINE_BYTES_MAX));
        if burst.held.is_empty() {
            burst.held.push((line, None));
            return Place::First(Held(Rc::clone(kept)));
        }
        let (sender, receiver) = oneshot::channel();
        burst.held.push((line, Some(sender)));
        Place::Held(receiver)
    }
}

impl Held {
    /// Waits for the window's end, sums up, and tells the others.
    pub(super) async fn sum_up(self, say: impl AsyncFnOnce(usize, &str) -> Told) -> Told {
        let ends = self.0.borrow().ends;
        sleep_until(ends).await;
        let held = std::mem::take(&mut self.0.borrow_mut().held);
        let mut list: Vec<&str> = held.iter().take(LIST_MAX).map(|(line, _)| line.as_str()).collect();
        let rest = format!("… and {} more", held.len().saturating_sub(LIST_MAX));
        if held.len() > LIST_MAX {
            list.push(&rest);
        }
        let told = say(held.len(), &list.join("\n")).await;
        for sender in held.into_iter().filter_map(|(_, sender)| sender) {
            // Who is gone was cut off.
            let _ = sender.send(told.clone());
        }
        told
    }
}

impl Drop for Held {
    /// Cut off before its end: those that were held hear nothing, which is a failure that is tried again.
    fn drop(&mut self) {
        self.0.borrow_mut().held.clear();
    }
}
