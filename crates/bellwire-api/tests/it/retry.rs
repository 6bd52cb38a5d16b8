//! Trying again: what a resend and a recover hand to the store.

use crate::world::{START, World};
use bellwire_model::{DeliveryState, EndReason, Sequence, Trigger, Waiting};
use bellwire_store::{Change, Work};
use serde_json::json;
use std::time::Duration;

/// A message with one delivery that stands at `state` after `attempts`; the change that a resend of it makes.
async fn resent(stands: Option<(DeliveryState, u32)>) -> Option<(Waiting, bool)> {
    let world = World::new();
    world.application("a").await;
    let endpoint = world.endpoint("a").await;
    let message = world.message("a").await;
    let delivery = {
        let mut kept = world.kept();
        let delivery = *kept.deliveries.keys().next().unwrap();
        match stands {
            None => drop(kept.deliveries.remove(&delivery)),
            Some((state, attempts)) => {
                let row = kept.deliveries.get_mut(&delivery).unwrap();
                let state = match state {
                    DeliveryState::Waiting(waiting) => DeliveryState::Waiting(Waiting { delivery, ..waiting }),
                    other => other,
                };
                (row.state, row.attempts) = (state, attempts);
            }
        }
        kept.changes.clear();
        delivery
    };
    world.post(&format!("/api/v1/app/a/msg/{message}/endpoint/{endpoint}/resend"), json!({})).await.expect(202);
    let kept = world.kept();
    kept.changes.first().map(|change| match change {
        Change::Wait { waiting, owed } => {
            assert_eq!((waiting.delivery, waiting.due), (delivery, START));
            (*waiting, *owed)
        }
        other => panic!("{other:?}"),
    })
}

#[tokio::test]
async fn a_resend_of_an_ended_delivery_is_owed_once_more() {
    for state in [DeliveryState::Delivered, DeliveryState::Ended(EndReason::Exhausted)] {
        let (waiting, owed) = resent(Some((state, 3))).await.unwrap();
        assert_eq!((waiting.next, waiting.trigger, owed), (4, Trigger::Manual, true));
    }
    let (waiting, owed) = resent(None).await.unwrap();
    assert_eq!((waiting.next, waiting.trigger, owed), (1, Trigger::Manual, true), "an endpoint that had not matched");
}

#[tokio::test]
async fn a_resend_of_a_waiting_delivery_only_hastens_it() {
    let delivery = bellwire_model::Delivery { endpoint: bellwire_model::EndpointKey(0), message: Sequence::ZERO };
    let later = START.plus(Duration::from_secs(600));
    let row = Waiting { delivery, due: later, next: 3, trigger: Trigger::Scheduled };
    let (waiting, owed) = resent(Some((DeliveryState::Waiting(row), 2))).await.unwrap();
    assert_eq!(
        (waiting.next, waiting.trigger, owed),
        (3, Trigger::Scheduled, true),
        "counted only if it has ended meanwhile"
    );
    assert_eq!(resent(Some((DeliveryState::Fresh, 0))).await, None, "the engine has it in hand");
}

#[tokio::test]
async fn what_cannot_be_resent_is_refused() {
    let world = World { token: crate::world::organisation_token_for_ever(), ..World::new() };
    world.application("a").await;
    let endpoint = world.endpoint("a").await;
    let message = world.message("a").await;
    let path = |message: &str, endpoint: &str| format!("/api/v1/app/a/msg/{message}/endpoint/{endpoint}/resend");
    world.post(&path(&message, "nope"), json!({})).await.expect(404);
    world.post(&path("nope", &endpoint), json!({})).await.expect(404);
    world.post(&path("msg_0ujtsYcgvSTl8PAuAdqWYSMnLOv", &endpoint), json!({})).await.expect(404);
    world.pass(Duration::from_secs(90 * 24 * 3600));
    let refused = world.post(&path(&message, &endpoint), json!({})).await.expect(400);
    assert_eq!(refused["code"], "missing_payload");
}

#[tokio::test]
async fn a_recover_spans_what_was_asked_for() {
    let world = World::new();
    world.application("a").await;
    let endpoint = world.endpoint("a").await;
    let path = format!("/api/v1/app/a/endpoint/{endpoint}/recover");
    let body = json!({ "since": "2025-12-30T00:00:00Z", "until": "2025-12-31T00:00:00Z" });
    let out = world.post(&path, body).await.expect(202);
    assert!(out["id"].as_str().unwrap().starts_with("qtask_"));
    world.post(&path, json!({ "since": "2025-12-30T00:00:00Z" })).await.expect(202);
    let day = |text: &str| Sequence::first_at(text.parse().unwrap());
    let kept = world.kept();
    let tasks: Vec<_> =
        kept.changes.iter().filter_map(|c| if let Change::PutTask(task) = c { Some(task) } else { None }).collect();
    assert!(tasks.iter().all(|task| matches!(task.work, Work::Recover(_))));
    let spans: Vec<_> = tasks.iter().map(|task| (task.first, task.last)).collect();
    let end = |text: &str| Sequence::from_u64(day(text).as_u64() - 1);
    assert_eq!(spans[0], (day("2025-12-30T00:00:00Z"), end("2025-12-31T00:00:00.001Z")));
    let begun = tasks[1].id.sequence();
    assert_eq!(spans[1], (day("2025-12-30T00:00:00Z"), begun), "what is accepted later is not part of it");
}
