//! Resends, and background tasks in slices.

use super::configuration::{application, endpoint, organisation};
use super::{SECOND, to};
use crate::testing::world::{APPLICATION, Draft, TAKES, World, message_query};
use crate::{
    Advanced, Batch, Broadcast, BroadcastMessage, Broadcasted, Change, Found, ReplayFilter, Span, StatusFilter, Target,
    Task, TaskKind, TaskQuery, TaskStatus, Work,
};
use bellwire_model::{
    AfterAttempt, Application, ApplicationKey, Delivery, EndReason, Endpoint, EndpointKey, OrganisationId, Sequence,
    TaskId, Trigger, Waiting,
};
use bytes::Bytes;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn manual(world: &World, delivery: Delivery) -> Waiting {
    Waiting { delivery, due: world.now, next: world.model.number(delivery) + 1, trigger: Trigger::Manual }
}

pub(super) fn a_resend_is_owed_once(world: &mut World) {
    let message = world.accept(&Draft::to(&[1]));
    world.exhaust(to(1, message));
    let waiting = manual(world, to(1, message));
    for _ in 0..2 {
        world.change(Change::Wait { waiting, owed: true });
        world.check();
    }
    world.reopen();
    world.check();
    world.record(to(1, message), 500, AfterAttempt::Ended(EndReason::ResendFailed));
    world.check();
    world.change(Change::Wait { waiting: manual(world, to(1, message)), owed: true });
    world.deliver(to(1, message));
    world.check();
    assert_eq!(world.store().ledger().expect("read").matched, 3);
}

pub(super) fn a_resend_to_an_endpoint_that_had_not_matched_is_a_delivery(world: &mut World) {
    for indexed in [false, true] {
        let message = world.accept(&Draft::to(&[1]));
        if indexed {
            world.upkeep();
        }
        assert!(world.store().delivery(to(5, message)).expect("read").is_none());
        world.change(Change::Wait { waiting: manual(world, to(5, message)), owed: true });
        world.check();
        world.upkeep();
        world.check();
        world.deliver(to(5, message));
        world.check();
        world.reopen();
        world.upkeep();
        world.check();
    }
}

pub(super) fn recover_takes_each_failed_delivery_once(world: &mut World) {
    let mut messages = Vec::new();
    for n in 0..30 {
        let message = world.accept(&Draft::to(&[1, 2]));
        messages.push(message);
        match n % 5 {
            0 => world.deliver(to(1, message)),
            1 | 2 => world.exhaust(to(1, message)),
            3 => world.postpone(to(1, message), SECOND),
            _ => continue,
        };
        if n == 17 {
            world.upkeep();
        }
    }
    world.change(Change::ExpungePayload(messages[11]));
    let last = world.attempt(to(1, messages[29]), 500, AfterAttempt::Ended(EndReason::Exhausted));
    world.commit(Batch { attempts: vec![last], ..Batch::default() });
    let span = Span { first: messages[6], last: messages[29] };
    let task = world.run_task(Work::Recover(target(1)), span);
    world.check();
    let waiting = world.store().lease_due(EndpointKey(1), false, world.now, 100).expect("read");
    assert_eq!(waiting.len(), 9 + 1, "two of every five but the first two and the expunged one, and the last");
    assert_eq!((task.progress.touched, task.progress.scanned), (10, 24));
    assert!(waiting.iter().all(|(waiting, _)| waiting.trigger == Trigger::Manual && waiting.next == 2));
    let task = world.run_task(Work::Recover(target(1)), span);
    assert_eq!(task.progress.touched, 0, "nothing is left");
    let recovered = world.reopen();
    world.check_recovered(&recovered);
    for (waiting, _) in waiting {
        world.deliver(waiting.delivery);
    }
    world.check();
}

pub(super) fn target(endpoint: u32) -> Target {
    Target { application: APPLICATION, endpoint: EndpointKey(endpoint) }
}

pub(super) fn a_task_goes_on_where_it_stopped_whatever_happens_meanwhile(world: &mut World) {
    let messages: Vec<_> = (0..40).map(|_| world.accept(&Draft::to(&[1]))).collect();
    for message in &messages {
        world.exhaust(to(1, *message));
    }
    let task = world.task(Work::Recover(target(1)), Span::ALL);
    let mut sent: BTreeMap<Sequence, u32> = BTreeMap::new();
    for turn in 0.. {
        // Between two slices messages come and fail, what was sent again fails again, somebody resends, the process ends.
        let late = world.accept(&Draft::to(&[1]));
        world.exhaust(to(1, late));
        if turn == 1 {
            world.store().commit(&Batch::default()).expect("nothing to commit");
            let waiting = Waiting { next: 9, ..manual(world, to(1, messages[39])) };
            world
                .store()
                .commit(&Batch { changes: vec![Change::Wait { waiting, owed: true }], ..Batch::default() })
                .expect("commits");
        }
        let advanced = world.slice().expect("a running task");
        let rows = world.store().lease_due(EndpointKey(1), false, world.now, 100).expect("read");
        for (row, _) in rows.iter().filter(|(row, _)| row.next != 9) {
            *sent.entry(row.delivery.message).or_default() += 1;
            let again = world.attempt(row.delivery, 500, AfterAttempt::Ended(EndReason::ResendFailed));
            world.store().commit(&Batch { attempts: vec![again], ..Batch::default() }).expect("commits");
        }
        if turn % 3 == 0 {
            world.reopen();
        }
        if advanced.task.is_some_and(|task| task.status == TaskStatus::Finished) {
            break;
        }
        assert!(turn < 1_000, "it does not come to an end");
    }
    let expected: Vec<_> = messages[..39].iter().map(|message| (*message, 1)).collect();
    assert_eq!(
        sent.into_iter().collect::<Vec<_>>(),
        expected,
        "each once; the resent one waits; later ones are not part"
    );
    let found = world.store().task(task.id).expect("read").expect("a task");
    assert_eq!((found.progress.touched, found.progress.scanned), (39, 40));
    let ledger = world.store().ledger().expect("read");
    assert!(ledger.balances(), "{ledger:?}");
    assert!(!world.store().has_tasks() && world.slice().is_none());
}

pub(super) fn a_replay_takes_what_the_endpoint_never_got(world: &mut World) {
    let mut missing = Vec::new();
    for n in 0..30 {
        let draft = match n % 5 {
            0 => Draft::to(&[1, 5]),
            1 => Draft { event_type: "user.created", ..Draft::to(&[1]) },
            2 => Draft { payload: Some(Bytes::new()), ..Draft::to(&[1]) },
            3 => Draft { application: 2, ..Draft::to(&[]) },
            _ => Draft::to(&[1]),
        };
        let message = world.accept(&draft);
        match n {
            // One was resent to it already, one is just being.
            4 => {
                world.change(Change::Wait { waiting: manual(world, to(5, message)), owed: true });
                world.exhaust(to(5, message));
            }
            9 => world.change(Change::Wait { waiting: manual(world, to(5, message)), owed: true }),
            14 => world.change(Change::ExpungePayload(message)),
            15 => world.upkeep(),
            _ if n % 5 == 4 => missing.push(message),
            _ => {}
        }
    }
    let task = world.run_task(Work::Replay(target(5)), Span::ALL);
    world.check();
    assert_eq!(task.progress.touched, missing.len() as u64);
    for message in &missing {
        world.deliver(to(5, *message));
    }
    world.upkeep();
    world.check();
    let task = world.run_task(Work::Replay(target(5)), Span::ALL);
    assert_eq!(task.progress.touched, 0, "it has them now");
    world.check();
}

pub(super) fn a_bulk_replay_takes_what_its_filter_lets_through(world: &mut World) {
    for n in 0..36 {
        let mut draft = Draft::to(&[1]);
        draft.event_type = ["invoice.paid", "user.created"][n % 2];
        draft.channels = if n % 3 == 0 { vec!["north".to_owned()] } else { Vec::new() };
        draft.tags = if n % 4 == 0 { vec!["red".to_owned()] } else { Vec::new() };
        let message = world.accept(&draft);
        match n % 5 {
            0 => drop(world.deliver(to(1, message))),
            1 => drop(world.exhaust(to(1, message))),
            2 => drop(world.record(to(1, message), 404, AfterAttempt::Ended(EndReason::Aborted))),
            3 => drop(world.postpone(to(1, message), SECOND)),
            _ => {}
        }
        if n == 20 {
            world.upkeep();
        }
    }
    let filters = [
        ReplayFilter { status_class: Some(400), ..ReplayFilter::default() },
        ReplayFilter { status: Some(StatusFilter::Success), tag: Some("red".to_owned()), ..ReplayFilter::default() },
        ReplayFilter { status: Some(StatusFilter::Fail), channel: Some("north".to_owned()), ..ReplayFilter::default() },
        ReplayFilter { event_types: vec!["user.created".to_owned()], ..ReplayFilter::default() },
        ReplayFilter { status: Some(StatusFilter::FailOrCanceled), ..ReplayFilter::default() },
        ReplayFilter::default(),
    ];
    for filter in filters {
        let task = world.run_task(Work::BulkReplay(target(1), filter), Span::ALL);
        assert!(task.progress.touched > 0, "{task:?}");
        world.check();
    }
}

pub(super) fn a_purge_takes_the_payloads_up_to_its_creation(world: &mut World) {
    world.change(Change::PutApplication(Arc::new(application(1))));
    for n in 0..20 {
        world.accept(&Draft { application: 1 + n % 2, ..Draft::to(&[1]) });
        if n == 9 {
            world.upkeep();
        }
    }
    let task = world.task(Work::PurgeContent(APPLICATION), Span::ALL);
    let later = world.accept(&Draft::to(&[1]));
    assert_eq!(world.model.finish(&task, world.now, &TAKES), 10);
    world.advance();
    world.check();
    assert!(world.store().message(later, true).expect("read").is_some_and(|message| message.payload.is_some()));
}

pub(super) fn a_task_can_be_cancelled_and_one_whose_endpoint_is_gone_is(world: &mut World) {
    world.change(Change::PutApplication(Arc::new(application(1))));
    let messages: Vec<_> = (0..4_000).map(|_| world.draft(&Draft::to(&[1, 2]))).collect();
    let last = messages[3_999].message.sequence();
    world.store().commit(&Batch { accepted: messages, ..Batch::default() }).expect("commits");
    let attempts: Vec<_> = {
        let all = world.store().messages(APPLICATION, &message_query(true, 4_000)).expect("read").items;
        let ended = AfterAttempt::Ended(EndReason::Exhausted);
        let both = all.iter().flat_map(|m| [to(1, m.sequence()), to(2, m.sequence())]);
        both.collect::<Vec<_>>().into_iter().map(|delivery| world.attempt(delivery, 500, ended)).collect()
    };
    world.store().commit(&Batch { attempts, ..Batch::default() }).expect("commits");
    let span = Span { first: Sequence::ZERO, last };
    let (one, two) = (world.task(Work::Recover(target(1)), span), world.task(Work::Recover(target(2)), span));
    let purge = world.task(Work::PurgeContent(APPLICATION), span);
    // Each has its turn, and none does more than a slice in it.
    let turns: Vec<_> = (0..3).map(|_| world.slice().and_then(|advanced| advanced.task).expect("a slice")).collect();
    assert_eq!(turns.iter().map(|task| task.id).collect::<Vec<_>>(), [one.id, two.id, purge.id]);
    assert!(
        turns.iter().all(|task| task.status == TaskStatus::Running && (1..=1_000).contains(&task.progress.touched))
    );
    let waiting = world.store().ledger().expect("read").pending;
    assert_eq!(waiting, turns[0].progress.touched + turns[1].progress.touched);
    let at = world.now.plus(SECOND);
    world.change(Change::CancelTask { task: one.id, at });
    world.change(Change::DeleteEndpoint(EndpointKey(2)));
    world.change(Change::DeleteApplication(APPLICATION));
    world.pass(SECOND);
    world.reopen();
    world.advance();
    world.upkeep();
    for task in [&one, &two, &purge] {
        let found = world.store().task(task.id).expect("read").expect("a task");
        assert_eq!((found.status, found.updated_at), (TaskStatus::Cancelled, at));
        assert!(found.progress.touched <= 1_000);
        world.change(Change::CancelTask { task: task.id, at: at.plus(SECOND) });
        assert_eq!(world.store().task(task.id).expect("read").expect("a task").updated_at, at, "it had ended");
    }
    assert!(world.store().ledger().expect("read").balances());
}

pub(super) fn a_task_that_was_cancelled_is_answered_once(world: &mut World) {
    let task = world.task(Work::EventTypes, Span::ALL);
    let at = world.now;
    world.change(Change::CancelTask { task: task.id, at });
    let answered = world.slice().and_then(|advanced| advanced.task).expect("its end");
    assert_eq!((answered.id, answered.status), (task.id, TaskStatus::Cancelled));
    assert!(!world.store().has_tasks());
    world.change(Change::CancelTask { task: task.id, at });
    assert!(world.slice().is_none());
}

pub(super) fn the_end_of_a_task_is_answered_after_each_start_until_it_is_told(world: &mut World) {
    let (cancelled, finished) =
        (world.task(Work::EventTypes, Span::ALL).id, world.task(Work::EventTypes, Span::ALL).id);
    let at = world.now;
    // The process ends before anybody has looked.
    world.change(Change::CancelTask { task: cancelled, at });
    for _ in 0..2 {
        world.reopen();
        let ends: Vec<_> = std::iter::from_fn(|| world.slice()).filter_map(|advanced| advanced.task).collect();
        let ends: Vec<_> = ends.iter().map(|task| (task.id, task.status)).collect();
        assert_eq!(ends, [(cancelled, TaskStatus::Cancelled), (finished, TaskStatus::Finished)]);
        assert!(!world.store().has_tasks());
    }
    world.changes([cancelled, finished].map(Change::TaskTold).to_vec());
    let running = world.task(Work::EventTypes, Span::ALL).id;
    // It has not ended, so nobody can have been told.
    world.change(Change::TaskTold(running));
    world.reopen();
    let end = world.slice().and_then(|advanced| advanced.task).expect("its end");
    assert_eq!((end.id, end.status), (running, TaskStatus::Finished));
    assert!(!world.store().has_tasks() && world.slice().is_none());
}

fn broadcast(world: &World) -> Work {
    Work::Broadcast(Some(Arc::new(Broadcast {
        event_type: "news.published".to_owned(),
        event_id: Some("ours".to_owned()),
        channels: vec!["all".to_owned()],
        payload: r#"{"ü": 1.0}"#.into(),
        expires_at: world.now.plus(SECOND * 3_600),
    })))
}

/// Sends to the next applications, at most two of them, as whoever asked for the slice does.
fn send_page(world: &mut World, task: &Task, to: &[ApplicationKey]) {
    let to = &to[..to.len().min(2)];
    let accepted: Vec<_> = to.iter().map(|key| world.draft(&Draft { application: key.0, ..Draft::to(&[]) })).collect();
    let sent = to
        .iter()
        .zip(&accepted)
        .map(|(key, accepted)| BroadcastMessage { application: application(key.0).id, message: accepted.message.id });
    let page = Broadcasted {
        task: task.id,
        next: ApplicationKey(to[to.len() - 1].0 + 1),
        reached: application(to[to.len() - 1].0).id.sequence(),
        scanned: to.len() as u64,
        sent: sent.collect(),
        at: world.now,
    };
    world.commit(Batch { accepted, changes: vec![Change::Broadcasted(page)], ..Batch::default() });
}

pub(super) fn a_broadcast_reaches_each_application_once_whatever_happens(world: &mut World) {
    for n in 1..=7 {
        let mut one = application(n);
        one.uid = None;
        if n == 4 {
            one.organisation = OrganisationId::parse("org_other").expect("an organisation");
        }
        world.change(Change::PutApplication(Arc::new(one)));
    }
    let work = broadcast(world);
    let task = world.task(work.clone(), Span::ALL);
    for turn in 0.. {
        assert!(turn < 100, "it does not come to an end");
        let Advanced { task: Some(found), look_again: None, to } = world.slice().expect("a running task") else {
            panic!("a broadcast is about no endpoint")
        };
        if to.is_empty() {
            assert_eq!(found.status, TaskStatus::Finished);
            break;
        }
        assert_eq!((found.status, &found.work), (TaskStatus::Running, &work));
        match turn % 3 {
            // The process ends before the page is durable, or after.
            1 => drop(world.reopen()),
            2 => {
                send_page(world, &task, &to);
                world.reopen();
            }
            _ => send_page(world, &task, &to),
        }
    }
    world.check();
    world.reopen();
    let found = world.store().task(task.id).expect("read").expect("a task");
    assert_eq!((found.progress.touched, found.progress.scanned, found.percent()), (6, 6, 100));
    assert_eq!(
        found.work,
        Work::Broadcast(None),
        "what was sent is kept with the messages, and no longer than they are"
    );
    let Found::Messages(all) = found.progress.found else { panic!("it lists what it sent") };
    let keys = [1, 2, 3, 5, 6, 7];
    assert_eq!(all.iter().map(|one| one.application).collect::<Vec<_>>(), keys.map(|key| application(key).id));
    for (key, one) in keys.iter().zip(all) {
        let query = message_query(true, 10);
        let messages = world.store().messages(ApplicationKey(*key), &query).expect("read").items;
        assert_eq!(messages.iter().map(|message| message.id).collect::<Vec<_>>(), [one.message]);
    }
}

pub(super) fn a_broadcast_that_was_cancelled_goes_no_further_and_forgets_its_message(world: &mut World) {
    for n in 1..=5 {
        world.change(Change::PutApplication(Arc::new(Application { uid: None, ..application(n) })));
    }
    let task = world.task(broadcast(world), Span::ALL);
    let to = world.slice().expect("a running task").to;
    send_page(world, &task, &to);
    let listed = TaskQuery {
        organisation: organisation(),
        application: None,
        status: vec![TaskStatus::Running],
        kind: Some(TaskKind::Broadcast),
        span: Span::ALL,
        ascending: true,
        limit: 10,
    };
    let listed = world.store().tasks(&listed).expect("read").items;
    assert_eq!(listed.iter().map(|task| &task.work).collect::<Vec<_>>(), [&Work::Broadcast(None)], "not in lists");
    let at = world.now;
    world.change(Change::CancelTask { task: task.id, at });
    let end = world.slice().and_then(|advanced| advanced.task).expect("its end");
    assert_eq!((end.id, end.status), (task.id, TaskStatus::Cancelled));
    assert!(!world.store().has_tasks());
    let found = world.store().task(task.id).expect("read").expect("a task");
    assert_eq!((found.progress.touched, found.work), (2, Work::Broadcast(None)));
}

pub(super) fn tasks_can_be_listed(world: &mut World) {
    let organisation = organisation();
    let mut all = Vec::new();
    for n in 0..6 {
        let work = [Work::Recover(target(1)), Work::EventTypes][n % 2].clone();
        all.push(world.task(work, Span::ALL).id);
        if n == 2 {
            world.advance();
        }
    }
    let query = TaskQuery {
        organisation: organisation.clone(),
        application: None,
        status: Vec::new(),
        kind: None,
        span: Span::ALL,
        ascending: true,
        limit: 100,
    };
    let list = |world: &World, query: &TaskQuery| {
        let page = world.store().tasks(query).expect("read");
        (page.items.iter().map(|task| task.id).collect::<Vec<_>>(), page.done)
    };
    world.reopen();
    assert_eq!(list(world, &query), (all.clone(), true));
    assert_eq!(list(world, &TaskQuery { limit: 2, ..query.clone() }), (all[..2].to_vec(), false));
    let newest = TaskQuery { ascending: false, limit: 2, ..query.clone() };
    assert_eq!(list(world, &newest), (vec![all[5], all[4]], false));
    let span = Span { first: all[1].sequence().next(), last: all[4].sequence() };
    assert_eq!(list(world, &TaskQuery { span, ..query.clone() }), (all[2..5].to_vec(), true));
    let running = TaskQuery { status: vec![TaskStatus::Running], ..query.clone() };
    assert_eq!(list(world, &running), (all[3..].to_vec(), true));
    let ended = vec![TaskStatus::Finished, TaskStatus::Cancelled];
    assert_eq!(list(world, &TaskQuery { status: ended, ..query.clone() }), (all[..3].to_vec(), true));
    let recovers = TaskQuery { kind: Some(TaskKind::Recover), ..query.clone() };
    assert_eq!(list(world, &recovers), (vec![all[0], all[2], all[4]], true));
    let own = TaskQuery { application: Some(APPLICATION), ..query.clone() };
    assert_eq!(list(world, &own), (vec![all[0], all[2], all[4]], true));
    let other = OrganisationId::parse("org_other").expect("an organisation");
    assert_eq!(list(world, &TaskQuery { organisation: other, ..query }), (Vec::new(), true));
    let unknown = TaskId::from_parts(all[0].sequence(), [0; 12]);
    assert_eq!(world.store().task(unknown).expect("read"), None);
    // They are forgotten in the end; one that runs is not.
    world.pass(Duration::from_secs(91 * 24 * 3600));
    world.upkeep();
    if world.kept_for().is_some() {
        assert_eq!(world.store().task(all[0]).expect("read"), None);
    }
    assert!(world.store().task(all[3]).expect("read").is_some());
}

pub(super) fn statistics_count_what_was_owed_and_say_who_takes_what(world: &mut World) {
    let id = |key: u32| application(key).id;
    for key in 1..=9 {
        world.change(Change::PutApplication(Arc::new(application(key))));
    }
    let other = OrganisationId::parse("org_other").expect("an organisation");
    world.change(Change::PutApplication(Arc::new(Application { organisation: other, ..application(10) })));
    for (key, types) in [(1, Some(vec!["b", "a"])), (2, Some(vec!["a", "c"])), (3, None)] {
        let event_types = types.map(|types: Vec<_>| types.into_iter().map(str::to_owned).collect());
        world.change(Change::PutEndpoint(Arc::new(Endpoint { event_types, ..endpoint(key, 1 + key / 3) })));
    }
    let before = world.accept(&Draft::to(&[1]));
    world.pass(SECOND);
    let mut first = Sequence::MAX;
    for n in 0..20 {
        let message = world.accept(&Draft { application: 1 + n % 2, ..Draft::to(&[1, 2, 3]) });
        first = first.min(message);
        if n == 8 {
            world.upkeep();
            world.change(Change::Wait { waiting: manual(world, to(6, message)), owed: true });
        }
    }
    let destinations = |world: &mut World, only, span| {
        let task = world.run_task(Work::ApplicationStats(only), span);
        let Found::Destinations(all) = task.progress.found else { panic!("{task:?}") };
        all.iter().map(|one| (one.application, one.uid.is_some(), one.destinations)).collect::<Vec<_>>()
    };
    let since = Span { first, last: Sequence::MAX };
    assert_eq!(destinations(world, None, since), [(id(1), true, 31), (id(2), true, 30)], "none that has nothing");
    let all = Span { first: before, last: Sequence::MAX };
    let only = Some(vec![ApplicationKey(3), ApplicationKey(1), ApplicationKey(77), ApplicationKey(10)]);
    assert_eq!(destinations(world, only, all), [(id(1), true, 32), (id(3), true, 0)], "those that were asked for");
    let task = world.run_task(Work::EventTypes, Span::ALL);
    let Found::EventTypes(all) = task.progress.found else { panic!("{task:?}") };
    assert_eq!(all.len(), 9);
    let takes = |n: usize| (all[n].application, all[n].event_types.join(" "), all[n].catch_all);
    assert_eq!(takes(0), (id(1), "a b c".to_owned(), false));
    assert_eq!(takes(1), (id(2), String::new(), true));
    assert_eq!(takes(2), (id(3), String::new(), false));
}
