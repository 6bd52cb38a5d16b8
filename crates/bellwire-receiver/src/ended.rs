//! What still comes to the callback of a subscription that has ended with us. W3C WebSub §5.3 and §7.
//!
//! The hub asks whether the end is meant; that is answered whatever stands at the path now, but for this very topic only. What it goes on to
//! send to a source that is gone gets 410, which a hub may take for the end.

use crate::respond::Refusal;
use crate::{Backend, Outcome, handshake};
use axum::body::Body;
use bellwire_model::{EndedSubscription, Ending};
use bellwire_signature::source::HubWord;
use http::{Method, Response, StatusCode, Uri};
use std::sync::Arc;

/// Those whose hubs call at this path.
pub(crate) fn at(backend: &dyn Backend, path: &str) -> Vec<Arc<EndedSubscription>> {
    backend.catalogue().read().ended_subscriptions().at_path(path).cloned().collect()
}

/// The answer to a request, if it is about one of them. `vacant`: no source stands at the path any more.
pub(crate) async fn answer(
    backend: &dyn Backend,
    mut ended: Vec<Arc<EndedSubscription>>,
    (method, uri): (Method, Uri),
    vacant: bool,
) -> Option<Response<Body>> {
    let now = backend.wall();
    ended.retain(|ended| ended.lives(now));
    if ended.is_empty() {
        return None;
    }
    let path_and_query = uri.path_and_query().map_or("/", |text| text.as_str());
    // A hub that denies may mean what the source there wants now, under the same topic.
    let word = HubWord::read(method.as_str(), path_and_query)
        .filter(|word| vacant || matches!(word, HubWord::Unsubscribes { .. }));
    if let Some(word) = word {
        let of_topic = ended.iter().filter(|ended| ended.subscription.topic == word.topic());
        // Which hub asks is not said: rather one that has not yet.
        let meant = of_topic.min_by_key(|ended| matches!(ended.state, Ending::Confirmed { .. }))?;
        return Some(match backend.unsubscribed(meant.key).await {
            Ok(true) => {
                backend.count(Outcome::Handshake);
                handshake::respond(word.agree())
            }
            // Wanted again meanwhile.
            Ok(false) => plain(StatusCode::NOT_FOUND),
            Err(error) => {
                let refused: Refusal = handshake::refusal(error);
                tracing::warn!(source.id = %meant.source, reason = refused.reason, "a hub cannot be answered now");
                refused.respond().answer
            }
        });
    }
    (vacant && method == Method::POST).then(|| plain(StatusCode::GONE))
}

fn plain(status: StatusCode) -> Response<Body> {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = status;
    answer
}
