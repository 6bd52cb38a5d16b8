//! Applications, endpoints, event types and tokens; and that an edit writes nothing of what was found out about an endpoint.

use super::SECOND;
use crate::testing::access::every_access;
use crate::testing::world::World;
use crate::{Batch, Change, RecoveredTokens};
use bellwire_model::{
    ActiveSecret, ApiToken, Application, ApplicationId, ApplicationKey, ApplicationSettings, ContentFilter, Cutoff,
    DisabledBy, Endpoint, EndpointId, EndpointKey, EventType, Expiry, FilterSource, Fingerprint, Format, Health, Kind,
    Limits, Logout, OrganisationId, PayloadValidation, Pipe, Plugin, RetrySchedule, Runs, Scope, Sequence, Shape,
    Timestamp, TokenChange, TokenId, Transformation,
};
use bellwire_signature::Secret;
use std::collections::BTreeMap;
use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

pub(super) fn organisation() -> OrganisationId {
    OrganisationId::parse("org_1").expect("an organisation")
}

pub(super) fn application(key: u32) -> Application {
    Application {
        key: ApplicationKey(key),
        id: ApplicationId::from_parts(Sequence::from_u64(u64::from(key) << 20), [1; 12]),
        organisation: organisation(),
        uid: Some("their own".to_owned()),
        name: "Näme".to_owned(),
        throttle_rate: NonZeroU16::new(9),
        settings: ApplicationSettings { payload_validation: PayloadValidation::Refuse },
        metadata: BTreeMap::from([("a".to_owned(), "b".to_owned())]),
        created_at: Timestamp::from_micros(1_700_000_000_000_001),
        updated_at: Timestamp::from_micros(1_700_000_000_000_002),
    }
}

pub(super) fn endpoint(key: u32, application: u32) -> Endpoint {
    let secret = |text| Secret::parse(text).expect("a secret");
    Endpoint {
        event_types: Some(vec!["invoice.paid".to_owned()]),
        limits: Limits { throttle_rate: NonZeroU16::new(7), fifo: true },
        secrets: vec![
            ActiveSecret { secret: secret("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"), expires_at: None },
            ActiveSecret {
                secret: secret("whsec_AAAQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"),
                expires_at: Some(Timestamp::from_seconds(5)),
            },
        ],
        headers: vec![("x-b".to_owned(), "2".to_owned()), ("x-a".to_owned(), "1".to_owned())],
        retry_schedule: RetrySchedule::new(vec![Duration::from_millis(1_500), SECOND]).ok(),
        shape: Shape {
            filter: Some(ContentFilter::new(FilterSource::Cel("payload.a == 1".to_owned()))),
            transformation: Some(Transformation {
                code: Some("handler = w => w".into()),
                enabled: true,
                variables: [("a".to_owned(), "b".to_owned())].into(),
                updated_at: Some(Timestamp::from_seconds(3)),
            }),
            format: Format::Form,
            content_type: Some("application/x-www-form-urlencoded; charset=utf-8".to_owned()),
        },
        updated_at: Timestamp::from_seconds(2),
        ..Endpoint::new(
            EndpointKey(key),
            ApplicationKey(application),
            EndpointId::from_parts(Sequence::from_u64(u64::from(key) << 20), [2; 12]),
            "https://user:pass@receiver.example/",
            Timestamp::from_seconds(1),
        )
    }
}

pub(super) fn configuration_comes_back_as_it_was(world: &mut World) {
    let first = Arc::new(application(1));
    let plain = Application { uid: None, throttle_rate: None, metadata: BTreeMap::new(), ..application(2) };
    let second = Arc::new(plain);
    let full = Arc::new(endpoint(3, 1));
    let bare = Arc::new(Endpoint {
        shape: Shape {
            filter: Some(ContentFilter::new(FilterSource::CloudEvents(r#"{"exact":{"type":"a"}}"#.to_owned()))),
            transformation: Some(Transformation::default()),
            format: Format::Xml,
            content_type: None,
        },
        uid: Some("e".to_owned()),
        disabled: Some(DisabledBy::User),
        event_types: None,
        channels: Some(Vec::new()),
        limits: Limits::default(),
        retry_schedule: None,
        ..endpoint(7, 2)
    });
    let event_type = Arc::new(EventType {
        organisation: organisation(),
        name: "invoice.paid".to_owned(),
        description: "paid".to_owned(),
        archived: true,
        deprecated: false,
        schemas: Some("{\"1\":{}}".to_owned()),
        feature_flags: vec!["beta".to_owned()],
        group_name: Some("billing".to_owned()),
        retry_schedule: RetrySchedule::new(vec![Duration::from_millis(250), SECOND]).ok(),
        created_at: Timestamp::from_seconds(3),
        updated_at: Timestamp::from_seconds(4),
    });
    let gone = Arc::new(EventType { name: "gone".to_owned(), ..EventType::clone(&event_type) });
    let changes = vec![
        Change::PutApplication(Arc::new(Application { name: "before".to_owned(), ..application(1) })),
        Change::PutApplication(Arc::clone(&first)),
        Change::PutApplication(Arc::clone(&second)),
        Change::PutEndpoint(Arc::clone(&full)),
        Change::PutEndpoint(Arc::clone(&bare)),
        Change::PutEventType(Arc::clone(&event_type)),
        Change::PutEventType(gone),
        Change::DeleteEventType(organisation(), "gone".to_owned()),
    ];
    world.commit(Batch { changes, ..Batch::default() });
    for _ in 0..2 {
        let recovered = world.store().recover().expect("recovers");
        assert_eq!(recovered.applications, [Arc::clone(&first), Arc::clone(&second)]);
        assert_eq!(recovered.endpoints, [Arc::clone(&full), Arc::clone(&bare)]);
        assert_eq!(recovered.event_types, [Arc::clone(&event_type)]);
        assert_eq!(recovered.last_key, 7);
        world.reopen();
    }
    world.change(Change::DeleteEndpoint(EndpointKey(7)));
    world.upkeep();
    let recovered = world.reopen();
    assert_eq!(recovered.endpoints, [full]);
    assert_eq!(recovered.last_key, 7, "keys are never used again");
}

pub(super) fn every_way_of_access_comes_back(world: &mut World) {
    let endpoints: Vec<_> =
        (1..).zip(every_access()).map(|(key, access)| Arc::new(Endpoint { access, ..endpoint(key, 1) })).collect();
    let changes = endpoints.iter().cloned().map(Change::PutEndpoint).collect();
    world.commit(Batch { changes, ..Batch::default() });
    assert_eq!(world.reopen().endpoints, endpoints);
    let open = Endpoint { access: Default::default(), ..Endpoint::clone(&endpoints[0]) };
    world.change(Change::PutEndpoint(Arc::new(open.clone())));
    assert_eq!(*world.reopen().endpoints[0], open, "what was taken away is gone");
}

pub(super) fn every_kind_of_endpoint_comes_back(world: &mut World) {
    let plugin = |runs: Runs| Kind::Plugin(Plugin::new(runs, format!(r#"{{"password":"{}"}}"#, runs.name())));
    let kinds = Runs::ALL.into_iter().map(plugin).chain([
        Kind::Pipe(Pipe::default()),
        Kind::Pipe(Pipe {
            lease: SECOND * 7,
            attempts_max: 3,
            in_flight_max: 9,
            ordering_key: Some("/customer/id".to_owned()),
            expiry: Some(Expiry::new(SECOND * 3_600, world.now)),
        }),
        Kind::Push,
    ]);
    let endpoints: Vec<_> =
        (1..).zip(kinds).map(|(key, kind)| Arc::new(Endpoint { kind, ..endpoint(key, 1) })).collect();
    let changes = endpoints.iter().cloned().map(Change::PutEndpoint).collect();
    world.commit(Batch { changes, ..Batch::default() });
    assert_eq!(world.reopen().endpoints, endpoints);
    let pushed = Endpoint { kind: Kind::Push, ..Endpoint::clone(&endpoints[0]) };
    world.change(Change::PutEndpoint(Arc::new(pushed.clone())));
    assert_eq!(*world.reopen().endpoints[0], pushed);
}

pub(super) fn health_changes_nothing_else(world: &mut World) {
    let before = endpoint(1, 1);
    let since = Some(Timestamp::from_seconds(77));
    let health = |failing_since, disable| Change::PutHealth { endpoint: EndpointKey(1), failing_since, disable };
    world.change(Change::PutEndpoint(Arc::new(before.clone())));
    world.change(health(since, None));
    let found = |world: &World| Endpoint::clone(&world.store().recover().expect("recovers").endpoints[0]);
    let failing = Health { failing_since: since, written: true };
    assert_eq!(found(world), Endpoint { health: failing, ..before.clone() });
    world.change(health(since, Some(DisabledBy::Failures)));
    world.change(health(None, None));
    assert_eq!(found(world), Endpoint { disabled: Some(DisabledBy::Failures), ..before });
}

pub(super) fn an_edit_leaves_alone_what_was_found_out_and_the_owner_has_the_last_word(world: &mut World) {
    let before = endpoint(1, 1);
    let since = Some(Timestamp::from_seconds(77));
    let edited = Endpoint { description: "edited".to_owned(), ..before.clone() };
    let edit = || Change::PutEndpoint(Arc::new(edited.clone()));
    let switch = |enabled| Change::SwitchEndpoint { endpoint: EndpointKey(1), enabled };
    let found_out =
        || Change::PutHealth { endpoint: EndpointKey(1), failing_since: since, disable: Some(DisabledBy::Failures) };
    let found = |world: &mut World| Endpoint::clone(&world.reopen().endpoints[0]);
    let failing = Health { failing_since: since, written: true };
    world.change(Change::PutEndpoint(Arc::new(before)));
    // The edit was made from a reading before the endpoint was disabled; in one batch or in two.
    world.changes(vec![found_out(), edit()]);
    assert_eq!(found(world), Endpoint { health: failing, disabled: Some(DisabledBy::Failures), ..edited.clone() });
    world.change(switch(false));
    assert_eq!(found(world).disabled, Some(DisabledBy::Failures), "our reason stays");
    world.changes(vec![found_out(), edit(), switch(true)]);
    assert_eq!(found(world), edited);
    world.changes(vec![switch(true), found_out()]);
    assert_eq!(found(world).disabled, Some(DisabledBy::Failures), "found out afterwards");
    world.change(switch(true));
    world.change(switch(false));
    assert_eq!(found(world), Endpoint { disabled: Some(DisabledBy::User), ..edited });
}

pub(super) fn what_is_kept_about_tokens_comes_back_as_it_was(world: &mut World) {
    let token = |n: u8, expires_at, last_used_at| {
        Arc::new(ApiToken {
            id: TokenId::from_parts(Sequence::from_u64(u64::from(n)), [n; 12]),
            organisation: organisation(),
            application: (n == 2).then(|| ApplicationId::from_parts(Sequence::ZERO, [2; 12])),
            name: (n == 1).then(|| "deploys".to_owned()),
            scopes: vec![Scope::ReadOnly, Scope::SendOnly],
            hint: "a-_z".to_owned(),
            created_at: Timestamp::from_micros(1_700_000_000_000_001),
            expires_at,
            last_used_at,
        })
    };
    let cutoff = |session: Option<&str>, before, from| Cutoff {
        application: ApplicationId::from_parts(Sequence::ZERO, [3; 12]),
        session: session.map(str::to_owned),
        issued_before: Sequence::from_u64(before),
        from: Timestamp::from_seconds(from),
    };
    let logout = |n| Logout { fingerprint: Fingerprint([n; 32]), until: Timestamp::from_seconds(9) };
    let second = Some(Timestamp::from_seconds(2));
    let changes = [
        TokenChange::Put(token(1, None, None)),
        TokenChange::Put(token(2, second, None)),
        TokenChange::Put(token(3, None, None)),
        TokenChange::Used(vec![
            (token(1, None, None).id, Timestamp::from_seconds(7)),
            (token(9, None, None).id, Timestamp::EPOCH),
        ]),
        // Replaced by who did not know of its last use.
        TokenChange::Put(token(1, second, None)),
        TokenChange::ForgetToken(token(3, None, None).id),
        TokenChange::Logout(logout(1)),
        TokenChange::Logout(logout(1)),
        TokenChange::Logout(logout(2)),
        TokenChange::ForgetLogout(Fingerprint([2; 32])),
        TokenChange::Cut(cutoff(None, 5, 50)),
        TokenChange::Cut(cutoff(None, 9, 90)),
        TokenChange::Cut(cutoff(None, 6, 50)),
        TokenChange::Cut(cutoff(Some("s"), 6, 50)),
        TokenChange::Cut(cutoff(Some("t"), 6, 50)),
        TokenChange::ForgetCutoff(cutoff(Some("t"), 6, 50)),
    ];
    let expected = RecoveredTokens {
        registered: vec![token(1, second, Some(Timestamp::from_seconds(7))), token(2, second, None)],
        logouts: vec![logout(1)],
        cutoffs: vec![cutoff(None, 6, 50), cutoff(None, 9, 90), cutoff(Some("s"), 6, 50)],
    };
    let changes = changes.into_iter().map(Change::Token).collect();
    world.commit(Batch { changes, ..Batch::default() });
    assert_eq!(world.store().recover().expect("recovers").tokens.sorted(), expected);
    assert_eq!(world.reopen().tokens.sorted(), expected);
}
