//! Sources, what is kept of their requests, and their cursors.

use super::configuration::application;
use crate::Change;
use crate::testing::source;
use crate::testing::world::{APPLICATION, World};
use bellwire_model::{EndedSubscription, Ending, Timestamp};
use std::sync::Arc;

pub(super) fn a_source_comes_back_as_it_was_and_goes_with_its_application(world: &mut World) {
    let sources = source::every_source();
    let applications = [Arc::new(application(1)), Arc::new(application(2))];
    world.changes(applications.into_iter().map(Change::PutApplication).collect());
    world.changes(sources.iter().cloned().map(Arc::new).map(Change::PutSource).collect());
    let there = |recovered: crate::Recovered| -> Vec<_> {
        let mut sources: Vec<_> =
            recovered.sources.iter().map(|source| bellwire_model::Source::clone(source)).collect();
        sources.sort_by_key(|source| source.key);
        sources
    };
    let recovered = world.reopen();
    assert_eq!(recovered.last_key, sources.iter().map(|source| source.key.0).max().unwrap_or_default());
    assert_eq!(there(recovered), sources);
    let changed = bellwire_model::Source { name: "other".into(), disabled: true, ..sources[0].clone() };
    world.change(Change::PutSource(Arc::new(changed.clone())));
    world.change(Change::DeleteSource(sources[1].key));
    let of_two: Vec<_> = sources[2..].iter().filter(|s| s.application != APPLICATION).cloned().collect();
    assert!(!of_two.is_empty());
    let mut expected = vec![changed];
    expected.extend(sources[2..].iter().cloned());
    assert_eq!(there(world.reopen()), expected);
    world.change(Change::DeleteApplication(APPLICATION));
    assert_eq!(there(world.reopen()), of_two);
}

pub(super) fn the_newest_requests_of_a_source_are_kept(world: &mut World) {
    use bellwire_model::KeptRequest;
    let sources = source::every_source();
    world.change(Change::PutApplication(Arc::new(application(1))));
    world.changes(sources[..2].iter().cloned().map(Arc::new).map(Change::PutSource).collect());
    let [one, other] = [sources[0].key, sources[1].key];
    let mut all = Vec::new();
    for n in 0..KeptRequest::COUNT_MAX + 20 {
        let (sequence, body) = (world.sequence(), vec![b'x'; n]);
        let request = source::kept_request(one, sequence, n, body);
        world.change(Change::KeepRequest(Arc::new(request.clone())));
        all.push(request);
    }
    let stranger = source::kept_request(bellwire_model::SourceKey(99), world.sequence(), 1, Vec::new());
    world.change(Change::KeepRequest(Arc::new(stranger)));
    all.reverse();
    all.truncate(KeptRequest::COUNT_MAX);
    let read = |world: &World, source, before, limit| world.store().kept_requests(source, before, limit).expect("read");
    for _ in 0..2 {
        let page = read(world, one, None, 500);
        assert!(page.done);
        assert_eq!(page.items, all);
        let first = read(world, one, None, 7);
        assert!(!first.done);
        assert_eq!(first.items, all[..7]);
        let rest = read(world, one, Some(first.items[6].id.sequence()), 500);
        assert_eq!(rest.items, all[7..]);
        assert!(read(world, other, None, 7).items.is_empty());
        assert!(read(world, bellwire_model::SourceKey(99), None, 7).items.is_empty());
        world.reopen();
    }
    for n in 0..KeptRequest::BYTES_MAX / KeptRequest::BODY_MAX + 5 {
        let request = source::kept_request(other, world.sequence(), n, vec![b'y'; KeptRequest::BODY_MAX]);
        world.change(Change::KeepRequest(Arc::new(request)));
    }
    assert_eq!(read(world, other, None, 500).items.len(), KeptRequest::BYTES_MAX / KeptRequest::BODY_MAX);
    assert_eq!(read(world, one, None, 500).items.len(), KeptRequest::COUNT_MAX, "each source has its own room");
    world.change(Change::DeleteSource(one));
    assert!(read(world, one, None, 7).items.is_empty());
}

pub(super) fn a_source_goes_on_where_its_cursor_stands(world: &mut World) {
    use bellwire_model::SourceCursor;
    let sources = source::every_source();
    world.change(Change::PutApplication(Arc::new(application(1))));
    world.changes(sources[..2].iter().cloned().map(Arc::new).map(Change::PutSource).collect());
    let [one, other] = [sources[0].key, sources[1].key];
    let cursor = |source, position: &str, second| SourceCursor {
        source,
        position: position.into(),
        moved_at: Timestamp::from_seconds(second),
    };
    let read = |world: &World, source| world.store().source_cursor(source).expect("read");
    assert_eq!(read(world, one), None);
    for n in [1, 2] {
        let moved = cursor(one, &format!("{{\"n\":{n}}}"), n);
        world.change(Change::PutSourceCursor(moved.clone()));
        assert_eq!(read(world, one), Some(moved.clone()));
        world.reopen();
        assert_eq!((read(world, one), read(world, other)), (Some(moved), None));
    }
    // An edit of the source leaves it where it is; its deletion takes it along, and it does not come back late.
    world.change(Change::PutSource(Arc::new(bellwire_model::Source { name: "other".into(), ..sources[0].clone() })));
    assert!(read(world, one).is_some());
    world.change(Change::DeleteSource(one));
    world.change(Change::PutSourceCursor(cursor(one, "late", 3)));
    assert_eq!(read(world, one), None);
}

pub(super) fn an_ended_subscription_outlives_its_source_and_a_restart(world: &mut World) {
    let sources = source::every_source();
    world.change(Change::PutApplication(Arc::new(application(1))));
    world.change(Change::PutSource(Arc::new(sources[0].clone())));
    let ended = [source::ended_subscription(&sources[0], 500), source::ended_subscription(&sources[0], 501)];
    // In one commit with what ends it, whatever comes first in it.
    let put = |ended: &EndedSubscription| Change::PutEndedSubscription(Arc::new(ended.clone()));
    world.changes(vec![put(&ended[0]), Change::DeleteSource(sources[0].key), put(&ended[1])]);
    let there = |recovered: crate::Recovered| -> Vec<EndedSubscription> {
        recovered.ended_subscriptions.iter().map(|ended| EndedSubscription::clone(ended)).collect()
    };
    let recovered = world.reopen();
    assert!(recovered.sources.is_empty());
    assert_eq!(recovered.last_key, 501, "its key is never given out again");
    assert_eq!(there(recovered), ended);
    let confirmed = ended[0].confirmed(Timestamp::from_seconds(1_800_000_100));
    assert_eq!(confirmed.state, Ending::Confirmed { at: Timestamp::from_seconds(1_800_000_100) });
    world.changes(vec![put(&confirmed), Change::DeleteEndedSubscription(ended[1].key)]);
    world.change(Change::DeleteApplication(APPLICATION));
    assert_eq!(there(world.reopen()), std::slice::from_ref(&confirmed));
    world.change(Change::DeleteEndedSubscription(confirmed.key));
    world.change(Change::DeleteEndedSubscription(confirmed.key));
    assert!(there(world.reopen()).is_empty());
}
