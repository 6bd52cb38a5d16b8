//! What is amiss with one partition of a real Kafka, or with its leader, is no matter of the others.

use crate::cluster::{Cluster, Door};
use crate::kafka::{Keeping, Kept, numbers, payloads, plain, server, subscription, take};
use crate::wall;
use bellwire_queue::{Server, Start, consume};
use std::time::Duration;
use tokio::sync::watch;

/// Takes while `what` goes on, which is told how much was taken, and never begins anew.
async fn without_interruption(server: &Server, kept: &mut Kept, what: impl AsyncFnOnce(watch::Receiver<usize>)) {
    let from = kept.position.clone();
    let (enough, has) = watch::channel(kept.all.len());
    let mut keeping = Keeping { kept, enough };
    let (client, subscription) = (plain(), subscription(Start::Oldest));
    let done = tokio::select! {
        error = consume(&client, wall, server, (&subscription, from.as_deref()), &mut keeping) => panic!("{error}"),
        done = tokio::time::timeout(Duration::from_secs(90), what(has)) => done,
    };
    assert!(done.is_ok(), "taken: {:?}; amiss: {:?}", payloads(&kept.all), kept.amiss);
}

/// Two brokers: the first leads `events/0`, which has 0 to 2, the second `events/1`, which has 10 to 12.
fn two_leaders() -> Cluster {
    let mut real = Cluster::start(2, &Door::Plain);
    real.ask("placed events min.insync.replicas=1 1 2");
    real.ask("producer none");
    real.send("events", Some(0), numbers(0..3));
    real.send("events", Some(1), numbers(10..13));
    real
}

#[tokio::test]
#[ignore = "needs Kafka: scripts/test queues"]
async fn kafka_is_read_on_in_the_others_while_a_partition_is_spoilt() {
    let mut real = Cluster::start(1, &Door::Plain);
    real.ask("topic events 2 1");
    real.ask("producer none");
    // Each in a batch of its own.
    for text in ["good", "spoil me", "behind"] {
        real.send("events", Some(1), [text.to_owned()]);
    }
    real.spoil(0, "events-1", "spoil me");
    real.send("events", Some(0), numbers(0..5));
    let server = server("kafka", real.port(), None);
    let mut kept = Kept::default();
    without_interruption(&server, &mut kept, async |mut has| {
        has.wait_for(|has| *has >= 6).await.unwrap();
        real.send("events", Some(0), numbers(5..8));
        has.wait_for(|has| *has >= 9).await.unwrap();
    })
    .await;
    let mut all = payloads(&kept.all);
    all.sort_unstable();
    // Also what stands before what is spoilt.
    assert_eq!(all, [numbers(0..8), vec!["good".to_owned()]].concat());
    assert!(kept.is_amiss);
    let told = "a batch of events/1, at 1 or behind it, cannot be read: its checksum is wrong";
    assert_eq!(kept.amiss[0], told);

    // It is tried again by itself, and read when it can be.
    without_interruption(&server, &mut kept, async |mut has| {
        real.ask("forget events 1 2");
        has.wait_for(|has| *has >= 11).await.unwrap();
    })
    .await;
    let gone = kept.all[9].gone.as_deref().unwrap();
    assert!(gone.contains("events/1: records 1 to 1 were removed"), "{gone}");
    assert_eq!(payloads(&kept.all[10..]), ["behind"]);
    assert!(!kept.is_amiss);
}

#[tokio::test]
#[ignore = "needs Kafka: scripts/test queues"]
async fn kafka_is_read_on_in_the_others_while_a_leader_is_gone() {
    let mut real = two_leaders();
    let server = server("kafka", real.port(), None);
    let mut kept = Kept::default();
    without_interruption(&server, &mut kept, async |mut has| {
        has.wait_for(|has| *has >= 6).await.unwrap();
        real.kill(1);
        real.send("events", Some(0), numbers(3..6));
        has.wait_for(|has| *has >= 9).await.unwrap();
        real.start_again(1);
        real.send("events", Some(1), numbers(13..16));
        has.wait_for(|has| *has >= 12).await.unwrap();
    })
    .await;
    let mut all = payloads(&kept.all);
    all.sort_by_key(|number| number.parse::<usize>().unwrap());
    assert_eq!(all, [numbers(0..6), numbers(10..16)].concat());
    assert!(!kept.amiss.is_empty() && !kept.is_amiss, "{:?}", kept.amiss);
}

#[tokio::test]
#[ignore = "needs Kafka: scripts/test queues"]
async fn kafka_that_has_lost_what_was_taken_is_found_out_though_it_has_more_now() {
    let mut real = Cluster::start(3, &Door::Plain);
    real.ask("placed events unclean.leader.election.enable=true,min.insync.replicas=1 2,3");
    real.ask("producer none");
    real.send("events", Some(0), numbers(0..10));
    let server = server("kafka", real.port(), None);
    let mut kept = Kept::default();
    take(&server, Start::Oldest, &mut kept, 10).await;
    // Only the second broker has these, and it never comes back.
    real.kill(2);
    real.send("events", Some(0), numbers(10..20));
    take(&server, Start::Oldest, &mut kept, 20).await;
    real.kill(1);
    real.start_again(2);
    real.ask("producer none");
    real.send("events", Some(0), numbers(100..130));
    take(&server, Start::Oldest, &mut kept, 51).await;
    let gone = kept.all[20].gone.as_deref().unwrap();
    assert!(gone.contains("does not have 10 to 19 any more"), "{gone}");
    assert_eq!(payloads(&kept.all[21..]), numbers(100..130));
    // None of them is taken for one that was there before.
    let mut keys: Vec<String> = kept.all.iter().map(|taken| taken.key(None)).collect();
    keys.sort_unstable();
    keys.dedup();
    assert_eq!(keys.len(), kept.all.len());
}

#[tokio::test]
#[ignore = "needs Kafka: scripts/test queues"]
async fn kafka_is_read_on_in_the_others_while_a_leader_is_silent() {
    let mut real = two_leaders();
    let server = server("kafka", real.port(), None);
    real.signal(1, "STOP");
    let mut kept = Kept::default();
    without_interruption(&server, &mut kept, async |mut has| {
        // In less time than a broker has for its answer.
        let soon = Duration::from_secs(10);
        let is_soon = tokio::time::timeout(soon, has.wait_for(|has| *has >= 3)).await.is_ok();
        assert!(is_soon, "what the other leads is read at once");
        real.signal(1, "CONT");
        has.wait_for(|has| *has >= 6).await.unwrap();
    })
    .await;
    assert_eq!(payloads(&kept.all), [numbers(0..3), numbers(10..13)].concat());
    assert!(!kept.is_amiss, "{:?}", kept.amiss);
}
