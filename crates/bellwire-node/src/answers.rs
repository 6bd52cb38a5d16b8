//! Who waits for what endpoints answer to a message: doors ask before it is committed, pumps tell as attempts end.
//!
//! Nobody waits for nearly all messages; then an attempt costs one look at a number. What is not taken in time is dropped: the
//! attempt log has it anyway.

use bellwire_api::backend::{EndpointAnswer, Listening};
use bellwire_model::Sequence;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// So many may wait at a time.
const WAITING_MAX: usize = 10_000;
/// Answers to one message that are not taken yet.
const ANSWERS_MAX: usize = 64;

/// Who waits.
#[derive(Default)]
pub(crate) struct Answers {
    waiting: AtomicUsize,
    by_message: Mutex<HashMap<Sequence, mpsc::Sender<EndpointAnswer>>>,
}

impl Answers {
    /// From now on, and until what is returned is dropped, answers to this message are heard. `None`: too many wait.
    ///
    /// To miss none, ask before anybody can commit the message.
    pub(crate) fn listen(self: &Arc<Self>, message: Sequence) -> Option<Listening> {
        let mut by_message = self.by_message.lock();
        if by_message.len() >= WAITING_MAX {
            return None;
        }
        let (sender, receiver) = mpsc::channel(ANSWERS_MAX);
        by_message.insert(message, sender);
        self.waiting.store(by_message.len(), Ordering::Release);
        Some(Listening::new(receiver, Box::new(Place { answers: Arc::clone(self), message })))
    }

    /// Whether anybody waits for an answer to this message.
    pub(crate) fn awaits(&self, message: Sequence) -> bool {
        self.waiting.load(Ordering::Acquire) > 0 && self.by_message.lock().contains_key(&message)
    }

    /// Tells who waits, if anybody still does.
    pub(crate) fn give(&self, message: Sequence, answer: EndpointAnswer) {
        if let Some(sender) = self.by_message.lock().get(&message) {
            let _ = sender.try_send(answer);
        }
    }
}

/// Given back when the waiting ends.
struct Place {
    answers: Arc<Answers>,
    message: Sequence,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut by_message = self.answers.by_message.lock();
        by_message.remove(&self.message);
        self.answers.waiting.store(by_message.len(), Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bellwire_model::EndpointKey;
    use bytes::Bytes;

    #[tokio::test]
    async fn answers_are_heard_until_nobody_listens() {
        let answers = Arc::new(Answers::default());
        let (one, other) = (Sequence::from_u64(1), Sequence::from_u64(2));
        let mut listening = answers.listen(one).expect("a place");
        assert!(answers.awaits(one) && !answers.awaits(other));
        let answer = EndpointAnswer {
            endpoint: EndpointKey(1),
            responds: true,
            status: Some(200),
            headers: Vec::new(),
            body: Bytes::new(),
        };
        answers.give(other, answer.clone());
        answers.give(one, EndpointAnswer { status: Some(201), ..answer });
        assert_eq!(listening.next().await.and_then(|answer| answer.status), Some(201));
        drop(listening);
        assert!(!answers.awaits(one));
    }
}
