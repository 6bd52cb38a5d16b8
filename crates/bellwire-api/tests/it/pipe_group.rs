//! Readers of a pipe that share its deliveries, and those of them that go without a word.

use crate::pipe::{Stream, numbers, receipts, world, world_with};
use crate::world::World;
use serde_json::{Value, json};
use std::time::Duration;

#[tokio::test]
async fn a_group_shares_what_there_is() {
    let world = world().await;
    world.send_n(0..6).await;
    let (_, mut first) = Stream::open(&world, "mode=group&limit=4", &[]).await;
    let four = first.until("a.b", 4).await;
    let (_, mut second) = Stream::open(&world, "mode=group", &[]).await;
    let two = second.until("a.b", 2).await;
    let seen: Vec<Value> = four.iter().chain(&two).map(|(_, data)| data.clone()).collect();
    assert_eq!(numbers(&seen), [0, 1, 2, 3, 4, 5]);
    assert_eq!(world.verb("ack", json!({ "receipts": receipts(&seen) })).await, [200; 6]);
    assert_eq!(world.statuses().await, [0; 6]);
}

#[tokio::test]
async fn a_group_is_refused_what_it_cannot_choose_by() {
    let world = world().await;
    world.send_n(0..1).await;
    for query in ["event_types=c.d", "channel=c", "from=now", "cursor=AQAAAAQFwNpWEsAAALvCbA"] {
        let (head, _) = Stream::open(&world, &format!("mode=group&{query}"), &[]).await;
        assert_eq!(head.status, 422, "{query}");
    }
    // What a browser sends by itself when it comes again is a receipt, and changes nothing.
    let (_, mut stream) = Stream::open(&world, "mode=group", &[("last-event-id", "AAAABAXA2lYSAAAAXTM")]).await;
    assert_eq!(stream.until("a.b", 1).await[0].1["payload"]["n"], 0);
}

/// The data of so many messages that a group's reader is sent.
async fn taken(world: &World, count: usize) -> (Stream, Vec<Value>) {
    let (_, mut stream) = Stream::open(world, "mode=group", &[]).await;
    let data = stream.until("a.b", count).await.into_iter().map(|(_, data)| data).collect();
    (stream, data)
}

#[tokio::test]
async fn what_a_reader_had_that_is_gone_goes_back_at_once_and_one_attempt_is_counted() {
    let world = world().await;
    world.send_n(0..100).await;
    let (stream, had) = taken(&world, 100).await;
    assert_eq!(world.verb("ack", json!({ "receipts": receipts(&had)[..2] })).await, [200; 2]);
    drop(stream);
    // The first that it had not answered is put off; all others are handed out as if they had never been.
    let next = world.receive(json!({ "limit": 1000 })).await;
    assert_eq!(numbers(&next), (3..100).collect::<Vec<_>>());
    assert!(next.iter().all(|one| one["attempt"] == 1));
    assert_eq!(world.verb("ack", json!({ "receipts": [receipts(&had)[3]] })).await, [409], "it is another's");
    world.pass(Duration::from_secs(2));
    let counted = world.receive(json!({ "wait": 30 })).await;
    assert_eq!((numbers(&counted), &counted[0]["attempt"]), (vec![2], &json!(2)));
    let attempts = world.get("/api/v1/app/acme/attempt/endpoint/pipe?limit=250&status=2").await.expect(200);
    let failed = attempts["data"].as_array().expect("a list");
    assert_eq!((failed.len(), &failed[0]["responseStatusCode"]), (1, &json!(0)));
    assert!(failed[0]["response"].as_str().expect("a text").contains("connection ended"), "{failed:?}");
}

#[tokio::test]
async fn a_message_that_its_readers_die_of_is_exhausted() {
    let world = world_with(json!({ "maxAttempts": 3 })).await;
    world.send_n(0..1).await;
    for attempt in 1..=3 {
        let (stream, had) = taken(&world, 1).await;
        assert_eq!(had[0]["attempt"], attempt);
        drop(stream);
        world.pass(Duration::from_secs(60));
    }
    while world.statuses().await != [2] {
        tokio::task::yield_now().await;
    }
    world.send_n(1..2).await;
    assert_eq!(numbers(&world.receive(json!({})).await), [1]);
}

#[tokio::test]
async fn a_request_that_is_given_up_before_its_answer_has_taken_nothing() {
    let script = "function handler(w) { for (; w.payload.n === 1;) {} return w }";
    let world = crate::pipe_shape::world(Duration::from_secs(2), script).await;
    world.send_n(0..2).await;
    let given_up = tokio::time::timeout(Duration::from_millis(300), world.receive(json!({}))).await;
    assert!(given_up.is_err(), "the second one's script runs on");
    let next = world.receive(json!({ "limit": 1 })).await;
    assert_eq!((numbers(&next), &next[0]["attempt"]), (vec![0], &json!(1)));
}

#[tokio::test]
async fn a_reader_that_is_sent_away_has_its_deliveries_until_their_leases_end() {
    let world = world().await;
    world.send_n(0..3).await;
    let (mut stream, had) = taken(&world, 3).await;
    world.backend.close_pipes();
    stream.until("reconnect", 1).await;
    drop(stream);
    assert!(world.receive(json!({})).await.is_empty());
    assert_eq!(world.verb("ack", json!({ "receipts": receipts(&had) })).await, [200; 3]);
}
