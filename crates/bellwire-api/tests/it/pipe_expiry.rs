//! Pipes that are removed when nobody reads them.

use crate::pipe::{PIPE, Stream, receipts, world_with};
use crate::world::{World, organisation_token_for_ever};
use bellwire_api::backend::Backend as _;
use bellwire_model::{Expiry, Kind};
use serde_json::{Value, json};
use std::time::Duration;

const MINUTE: Duration = Duration::from_secs(60);

impl World {
    /// The server's housekeeping comes round. Whether the pipe is still there.
    async fn keeps_the_pipe(&self) -> bool {
        self.api.remove_expired().await.expect("kept");
        self.get(PIPE).await.status == 200
    }

    /// That somebody read just now is written down beside what reads.
    async fn wrote_down_that_it_was_read(&self) {
        let expires = || {
            let recovered = self.backend.store().recover().expect("recovers");
            recovered.endpoints.into_iter().find_map(|endpoint| match &endpoint.kind {
                Kind::Pipe(pipe) => pipe.expiry,
                _ => None,
            })
        };
        while expires() != Some(Expiry::new(MINUTE * 60, self.backend.now())) {
            tokio::task::yield_now().await;
        }
    }
}

/// A world with a pipe that expires, or does not, and a token that does not.
async fn world(settings: Value) -> World {
    let mut world = world_with(settings).await;
    world.token = organisation_token_for_ever();
    world
}

async fn expiring() -> World {
    world(json!({ "expiresAfter": 3600 })).await
}

#[tokio::test]
async fn a_pipe_that_nobody_reads_is_removed_with_what_waits_there_and_no_other() {
    let world = expiring().await;
    world.post("/api/v1/app/acme/endpoint", json!({ "uid": "stays", "kind": "pipe" })).await.expect(201);
    assert_eq!(world.get(PIPE).await.expect(200)["pipe"]["expiresAfter"], 3600);
    let sent = json!({ "eventType": "a.b", "payload": { "n": 1 } });
    let message = world.post("/api/v1/app/acme/msg", sent).await.expect(202)["id"].clone();
    world.pass(MINUTE * 60);
    assert!(world.keeps_the_pipe().await, "for an hour at least");
    world.pass(MINUTE * 15);
    assert!(!world.keeps_the_pipe().await, "and for a quarter more at most");
    world.get("/api/v1/app/acme/endpoint/stays").await.expect(200);
    world.get(&format!("/api/v1/app/acme/msg/{}", message.as_str().expect("an id"))).await.expect(200);
}

#[tokio::test]
async fn reading_in_any_way_keeps_it() {
    let world = expiring().await;
    world.send_n(0..2).await;
    let held = world.receive(json!({ "limit": 1, "lease": 43_200 })).await;
    for round in 0..12 {
        world.pass(MINUTE * 50);
        match round % 6 {
            0 => drop(world.pull("").await),
            1 => drop(world.receive(json!({})).await),
            2 => drop(world.verb("extend", json!({ "receipts": receipts(&held), "lease": 43_200 })).await),
            3 => drop(Stream::open(&world, "from=now", &[]).await),
            4 => drop(world.get("/api/v1/app/acme/poller/pipe").await.expect(200)),
            _ => {
                let cursor = world.pull("limit=1").await["cursor"].clone();
                world.post(&format!("{PIPE}/pull/consumer/me/commit"), json!({ "cursor": cursor })).await.expect(200);
            }
        }
        world.wrote_down_that_it_was_read().await;
        assert!(world.keeps_the_pipe().await, "round {round}");
    }
    world.pass(MINUTE * 75);
    assert!(!world.keeps_the_pipe().await);
}

#[tokio::test]
async fn a_reader_that_is_there_keeps_it_however_quiet_it_is() {
    let world = expiring().await;
    let (_, mut stream) = Stream::open(&world, "", &[]).await;
    world.pass(MINUTE * 600);
    assert!(world.keeps_the_pipe().await);
    world.send_n(0..1).await;
    stream.until("a.b", 1).await;
    drop(stream);
    world.wrote_down_that_it_was_read().await;
    world.pass(MINUTE * 75);
    assert!(!world.keeps_the_pipe().await);
}

#[tokio::test]
async fn the_time_goes_on_over_a_restart() {
    let world = expiring().await;
    world.pass(MINUTE * 50);
    world.pull("").await;
    world.wrote_down_that_it_was_read().await;
    world.restart();
    world.pass(MINUTE * 60);
    assert!(world.keeps_the_pipe().await, "that it was read is kept");
    world.restart();
    world.pass(MINUTE * 15);
    assert!(!world.keeps_the_pipe().await);
    world.restart();
    world.get(PIPE).await.expect(404);
}

#[tokio::test]
async fn it_can_be_set_and_taken_back() {
    let world = world(json!({})).await;
    for seconds in [json!(59), json!(2_592_001), json!("1h")] {
        world.patch(PIPE, json!({ "pipe": { "expiresAfter": seconds } })).await.expect(422);
    }
    assert_eq!(world.get(PIPE).await.expect(200)["pipe"].get("expiresAfter"), None);
    let set = world.patch(PIPE, json!({ "pipe": { "expiresAfter": 3600 } })).await.expect(200);
    assert_eq!(set["pipe"]["expiresAfter"], 3600);
    world.patch(PIPE, json!({ "description": "as before" })).await.expect(200);
    world.pass(MINUTE * 60);
    world.patch(PIPE, json!({ "pipe": {} })).await.expect(200);
    world.pass(MINUTE * 600);
    assert!(world.keeps_the_pipe().await);
    world.patch(PIPE, json!({ "pipe": { "expiresAfter": 3600 } })).await.expect(200);
    world.patch(PIPE, json!({ "kind": "push", "url": "https://example.com" })).await.expect(200);
    world.pass(MINUTE * 600);
    assert!(world.keeps_the_pipe().await, "it is no pipe any more");
}
