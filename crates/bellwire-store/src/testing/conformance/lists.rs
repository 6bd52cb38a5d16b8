//! Lists, page by page and filtered.

use super::{SECOND, to};
use crate::testing::world::{APPLICATION, Draft, World, attempt_pages, attempt_query, message_query, pages};
use crate::{AttemptFilter, AttemptQuery, Batch, Span, StatusFilter};
use bellwire_model::{AfterAttempt, EndReason, EndpointKey, FailureClass};
use std::time::Duration;

pub(super) fn pages_meet_at_their_edges(world: &mut World) {
    let mut messages = Vec::new();
    for n in 0..25 {
        messages.push(world.accept(&Draft::to(&[1])));
        world.pass(Duration::from_millis(n % 2));
        if n == 12 {
            world.upkeep();
        }
    }
    let store = world.store();
    for ascending in [false, true] {
        for limit in [1, 7, 24, 25, 26] {
            let query = message_query(ascending, limit);
            let page = store.messages(APPLICATION, &query).expect("read");
            assert_eq!(page.done, limit >= 25, "limit {limit}");
            let all = pages(&query, |query| store.messages(APPLICATION, query).expect("read"), |m| m.sequence());
            assert_eq!(all.len(), 25);
        }
    }
    let mut query = message_query(true, 100);
    query.span = Span { first: messages[3], last: messages[20] };
    let page = store.messages(APPLICATION, &query).expect("read");
    let found: Vec<_> = page.items.iter().map(|m| m.sequence()).collect();
    assert_eq!(found, messages[3..=20], "both ends belong to a span");
    assert_eq!(store.count_deliveries(EndpointKey(1), query.span).expect("read").pending, 18);
    query.limit = 0;
    assert!(store.messages(APPLICATION, &query).expect("read").items.is_empty());
    query.with_payload = false;
    query.limit = 5;
    let page = store.messages(APPLICATION, &query).expect("read");
    assert!(page.items.iter().all(|message| message.payload.is_none()));
}

pub(super) fn lists_can_be_filtered(world: &mut World) {
    for round in 0..2 {
        for (n, event_type) in ["invoice.paid", "invoice.sent", "user.created"].into_iter().cycle().take(12).enumerate()
        {
            let channels = if n % 2 == 0 { vec!["north".to_owned()] } else { Vec::new() };
            let tags = if n % 4 == 0 { vec!["red".to_owned(), "blue".to_owned()] } else { Vec::new() };
            let message = world.accept(&Draft { event_type, channels, tags, ..Draft::to(&[1, 2]) });
            match n % 4 {
                0 => world.deliver(to(1, message)),
                1 => world.exhaust(to(1, message)),
                2 => world.postpone(to(1, message), SECOND),
                _ => world.record(to(1, message), 404, AfterAttempt::Ended(EndReason::Aborted)),
            };
        }
        if round == 0 {
            world.upkeep();
        }
    }
    let store = world.store();
    let count = |types: &[&str], channel: Option<&str>, tag: Option<&str>| {
        let mut query = message_query(false, 2);
        query.event_types = types.iter().map(|t| (*t).to_owned()).collect();
        (query.channel, query.tag) = (channel.map(str::to_owned), tag.map(str::to_owned));
        pages(&query, |query| store.messages(APPLICATION, query).expect("read"), |m| m.sequence()).len()
    };
    assert_eq!(count(&["invoice.paid"], None, None), 8);
    assert_eq!(count(&["invoice.paid", "user.created", "none"], None, None), 16);
    assert_eq!(count(&[], Some("north"), None), 12);
    assert_eq!(count(&[], Some("south"), None), 0);
    assert_eq!(count(&[], Some("north"), Some("blue")), 6);
    assert_eq!(count(&["invoice.sent"], Some("north"), Some("red")), 2);

    let attempts = |filter: AttemptFilter| {
        let mut query = attempt_query(false, 3);
        query.filter = filter;
        attempt_pages(&query, |query| store.attempts_of_endpoint(EndpointKey(1), query).expect("read")).len()
    };
    let filter = AttemptFilter::default;
    assert_eq!(attempts(filter()), 24);
    assert_eq!(attempts(AttemptFilter { status: Some(StatusFilter::Success), ..filter() }), 6);
    assert_eq!(attempts(AttemptFilter { status: Some(StatusFilter::Fail), ..filter() }), 18);
    assert_eq!(attempts(AttemptFilter { status_class: Some(500), ..filter() }), 12);
    assert_eq!(attempts(AttemptFilter { status_class: Some(400), ..filter() }), 6);
    assert_eq!(attempts(AttemptFilter { status_class: Some(0), ..filter() }), 0);
    assert_eq!(attempts(AttemptFilter { channel: Some("north".to_owned()), ..filter() }), 12);
    assert_eq!(attempts(AttemptFilter { event_types: vec!["invoice.paid".to_owned()], ..filter() }), 8);
    assert_eq!(attempts(AttemptFilter { endpoint: Some(EndpointKey(2)), ..filter() }), 0);

    let deliveries = |status| {
        let mut query = message_query(false, 3);
        query.status = Some(status);
        let read = |query: &_| store.deliveries_of_endpoint(EndpointKey(1), query).expect("read");
        pages(&query, read, |d| d.message.sequence()).len()
    };
    assert_eq!(deliveries(StatusFilter::Success), 6);
    assert_eq!(deliveries(StatusFilter::Fail), 6);
    assert_eq!(deliveries(StatusFilter::Sending), 6);
    assert_eq!(deliveries(StatusFilter::Canceled), 6);
    assert_eq!(deliveries(StatusFilter::Pending), 0);
    let mut query = message_query(false, 100);
    query.status = Some(StatusFilter::Pending);
    assert_eq!(store.deliveries_of_endpoint(EndpointKey(2), &query).expect("read").items.len(), 24);

    // An attempt that a script cancelled was cancelled; it did not fail.
    let message = world.accept(&Draft::to(&[3]));
    let mut attempt = world.attempt(to(3, message), 500, AfterAttempt::Ended(EndReason::Cancelled));
    attempt.outcome.as_mut().expect("an exchange").result = Err(FailureClass::Cancelled);
    world.commit(Batch { attempts: vec![attempt], ..Batch::default() });
    let attempts = |status| {
        let filter = AttemptFilter { status: Some(status), ..AttemptFilter::default() };
        let query = AttemptQuery { filter, ..attempt_query(false, 3) };
        world.store().attempts_of_endpoint(EndpointKey(3), &query).expect("read").items.len()
    };
    for (status, count) in [(StatusFilter::Fail, 0), (StatusFilter::Canceled, 1), (StatusFilter::FailOrCanceled, 1)] {
        assert_eq!(attempts(status), count, "{status:?}");
    }
}
