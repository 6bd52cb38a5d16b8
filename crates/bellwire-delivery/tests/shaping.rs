//! A script waits for as long as somebody waits for it: readers who hang up again and again leave nothing behind, and those who stay get theirs.

use bellwire_delivery::reshape;
use bellwire_model::{
    ApplicationKey, Endpoint, EndpointId, EndpointKey, Message, MessageId, Sequence, Shape, Timestamp, Transformation,
};
use bellwire_shape::{ScriptLimits, Scripts};
use bytes::Bytes;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Waker};
use std::time::Duration;

fn endpoint(code: &str) -> Endpoint {
    let id = EndpointId::from_parts(Sequence::ZERO, [0; 12]);
    let transformation =
        Transformation { code: Some(code.into()), enabled: true, variables: Default::default(), updated_at: None };
    Endpoint {
        shape: Shape { transformation: Some(transformation), ..Shape::default() },
        ..Endpoint::new(EndpointKey(2), ApplicationKey(1), id, "", Timestamp::EPOCH)
    }
}

/// Counts itself as long as it is kept.
struct Payload(#[expect(dead_code, reason = "counted")] Arc<()>);

impl AsRef<[u8]> for Payload {
    fn as_ref(&self) -> &[u8] {
        b"{}"
    }
}

fn message(kept: &Arc<()>) -> Message {
    let payload = Bytes::from_owner(Payload(Arc::clone(kept)));
    Message::new(MessageId::from_parts(Sequence::ZERO, [7; 12]), ApplicationKey(1), "a", payload, Timestamp::FAR_FUTURE)
}

/// Asks, and does not hear the answer yet.
fn begin<F: Future>(asking: F) -> Pin<Box<F>> {
    let mut asking = Box::pin(asking);
    assert!(asking.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
    asking
}

#[tokio::test]
async fn scripts_wait_for_readers_who_stay_and_for_no_others() {
    let scripts = Scripts::new(ScriptLimits { deadline: Duration::from_secs(2), ..ScriptLimits::default() });
    let (busy, works) = (endpoint("function handler(w) { for (;;) {} }"), endpoint("function handler(w) { return w }"));
    let (kept, stays) = (Arc::new(()), message(&Arc::default()));
    // Of the same lane, in which one runs at a time.
    let first = begin(reshape(&busy, &stays, &scripts));
    let staying: Vec<_> = (0..40).map(|_| begin(reshape(&works, &stays, &scripts))).collect();
    for _ in 0..300 {
        drop(begin(reshape(&works, &message(&kept), &scripts)));
    }
    let left = Arc::strong_count(&kept) - 1;
    assert!(left <= 16, "{left} messages are kept for nobody");
    for reader in staying {
        assert!(reader.await.expect("it was run").is_some());
    }
    assert!(first.await.is_err(), "it has no end");
}
