//! Real components, built by `scripts/test wasm`: the examples, and one that does the harm that its event asks for.

mod figures;

use super::*;
use crate::event::tests::{message, received};
use crate::modules::ModuleError;
use bellwire_egress::{Egress, Guard, Settings};
use bellwire_model::{Message, Permissions, Timestamp};
use bellwire_shape::ScriptLimits;
use serde_json::{Value, json};
use std::cell::Cell;
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

const MEMORY_MAX: usize = 8 << 20;

/// A server's part, with the hostile component installed.
struct World {
    /// Shared by all, so that each component is compiled once.
    components: &'static Components,
    /// Lanes of its own begin here.
    lane: u32,
    modules: Arc<Modules>,
    client: Client,
    _folder: tempfile::TempDir,
}

fn built(name: &str) -> bytes::Bytes {
    #[expect(clippy::disallowed_methods, reason = "a setting of the tests, not of the server")]
    let folder = std::env::var_os("BELLWIRE_TEST_COMPONENTS").expect("`scripts/test wasm` says where they are");
    let file = PathBuf::from(folder).join(name).with_extension("wasm");
    std::fs::read(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())).into()
}

impl World {
    fn new() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let guard = Guard { allowed_networks: vec!["127.0.0.0/8".parse().expect("a network")], ..Guard::default() };
        static COMPONENTS: OnceLock<Components> = OnceLock::new();
        static WORLDS: AtomicU32 = AtomicU32::new(1);
        // A debug build on a busy machine is slow.
        let deadline = Duration::from_millis(400);
        let limits = ScriptLimits { deadline, heap_bytes_max: MEMORY_MAX, ..ScriptLimits::default() };
        let world = World {
            components: COMPONENTS.get_or_init(|| Components::new(limits)),
            lane: WORLDS.fetch_add(1, Ordering::Relaxed) * 100,
            modules: Arc::new(Modules::open(folder.path().to_owned()).expect("opens")),
            client: Egress::new(Settings { guard, ..Settings::default() }).expect("egress").client().expect("a client"),
            _folder: folder,
        };
        world.install("hostile", built("hostile")).expect("can be run");
        world.modules.grant("hostile", None).expect("granted");
        world
    }

    fn install(&self, name: &str, component: bytes::Bytes) -> Result<Arc<bellwire_model::Module>, ModuleError> {
        let inspect = |digest: &str, component| self.components.inspect(digest, component);
        self.modules.add_component(name, component, Timestamp::EPOCH, inspect)
    }

    async fn run(&self, key: u32, message: &Message, settings: Value) -> Ran {
        let wasm: Wasm = crate::settings::read(&settings).expect("settings");
        let environment = [("REGION".to_owned(), "north".to_owned()), ("HIDDEN".to_owned(), "x".to_owned())].into();
        let (event, lane) = (Event::new(message, 2), EndpointKey(self.lane + key));
        wasm.run(&event, lane, self.components, &self.modules, &environment, &self.client).await
    }

    async fn harm(&self, key: u32, what: &str) -> Ran {
        self.run(key, &message(json!(what).to_string(), "application/json"), json!({ "module": "hostile" })).await
    }
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

/// Answers every request with its line and whether it was authorised, `slow` ones never.
async fn echo() -> String {
    crate::echo::echo(|line, request| format!("{line} {}", request.contains("authorization: Bearer hush"))).await
}

#[test]
#[ignore = "needs components"]
fn what_harms_is_ended_and_says_so_and_the_next_one_runs() {
    let world = World::new();
    let check = |harm: &str, expected: &str| {
        let ran = block_on(world.harm(1, harm));
        let Answer::Broken(class, text) = &ran.answer else { panic!("{harm}: {ran:?}") };
        assert_eq!(*class, if harm == "loop" { FailureClass::Timeout } else { FailureClass::Plugin }, "{harm}");
        assert!(text.contains(expected), "{harm}: {text}");
        let output = String::from_utf8_lossy(&ran.output);
        assert!(output.starts_with(&format!("about to: {harm}\n")), "{harm}: {output}");
        output.into_owned()
    };
    check("loop", "computed for longer than 400ms");
    check("memory", "wanted to hold more than 8388608 bytes");
    check("stack", "used up its stack");
    assert!(check("trap", "`unreachable` instruction executed").contains("on purpose"));
    check("exit", "the component exited with");
    check("error", "the component failed: not today");
    check("text", "the component was ended");
    check("status 99", "status from 200 to 599, not 99");
    check("status 600", "status from 200 to 599, not 600");
    check("header", "the header \"a b\", which cannot be sent");
    check("body 1500000", "a body of 1500000 bytes");
    check("emit 101", "more than 100 times");
    check("emit-rubbish", "not JSON");
    assert_eq!(block_on(world.harm(1, "nothing")).answer, Answer::Ack);
    let flood = block_on(world.harm(1, "flood"));
    assert_eq!(flood.answer, Answer::Ack);
    let output = String::from_utf8_lossy(&flood.output);
    assert!(output.len() < CONSOLE_AND_MORE && output.contains("more bytes were not kept"), "{}", output.len());
}

const CONSOLE_AND_MORE: usize = bellwire_model::RESPONSE_BODY_MAX + 100;

#[test]
#[ignore = "needs components"]
fn one_that_loops_has_failed_before_twice_its_deadline_and_what_it_wrote_is_kept() {
    let world = World::new();
    let deadline = world.components.limits().deadline;
    // The best of three: what else the machine does is not meant.
    let best = (0..3).map(|_| {
        let begun = Instant::now();
        let ran = block_on(world.harm(1, "loop"));
        let took = begun.elapsed();
        let outcome = ran.outcome(Timestamp::EPOCH, took);
        assert_eq!(outcome.result, Err(FailureClass::Timeout), "{ran:?}");
        assert_eq!(outcome.body, "the component computed for longer than 400ms\nabout to: loop\n");
        took
    });
    let best = best.min().unwrap_or_default();
    assert!((deadline..deadline * 2).contains(&best), "{best:?}");
}

#[test]
#[ignore = "needs components"]
fn one_that_its_endpoint_waits_for_no_longer_computes_no_longer() {
    const COUNT: u32 = 20;
    let world = World::new();
    let message = message("\"loop\"", "application/json");
    block_on(async {
        let begun = Instant::now();
        let loops = || world.run(1, &message, json!({ "module": "hostile", "timeout_ms": 100 }));
        // All in one lane: one runs, the others wait.
        for ran in futures_util::future::join_all((0..COUNT).map(|_| loops())).await {
            let late = Answer::Broken(FailureClass::Timeout, "the component took longer than 100ms".to_owned());
            assert_eq!(ran.answer, late);
        }
        assert_eq!(world.harm(1, "nothing").await.answer, Answer::Ack);
        assert!(begun.elapsed() < world.components.limits().deadline * COUNT / 2, "{:?}", begun.elapsed());
    });
}

#[test]
#[ignore = "needs components"]
fn one_that_loops_costs_its_own_lane_only() {
    let world = World::new();
    block_on(async {
        let ended = Cell::new(0);
        let looping = futures_util::future::join_all((0..6).map(async |_| {
            world.harm(1, "loop").await;
            ended.set(ended.get() + 1);
        }));
        let healthy = async {
            for n in 0..10 {
                assert_eq!(world.harm(2 + n % 2, "nothing").await.answer, Answer::Ack);
            }
            ended.get()
        };
        let (_, ended) = futures_util::future::join(looping, healthy).await;
        assert!(ended < 6, "the healthy ones stood behind all that loop");
    });
}

#[test]
#[ignore = "needs components"]
fn there_is_nothing_but_what_was_granted() {
    let world = World::new();
    let said = |harm: &str| match block_on(world.harm(1, harm)).answer {
        Answer::Said(text) => text,
        other => panic!("{harm}: {other:?}"),
    };
    assert!(said("file").starts_with("Err("), "{}", said("file"));
    assert!(said("files").starts_with("Err("));
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    assert!(said(&format!("socket {address}")).starts_with("Err("));
    assert_eq!(said("environment"), r#"REGION=north Some("north") None"#);
    // A fresh instance for each message.
    assert_eq!((said("count"), said("count")), ("1".to_owned(), "1".to_owned()));
    block_on(async {
        let url = echo().await;
        let fetch = async |url: &str, settings: Value| {
            let message = message(json!(format!("fetch {url}")).to_string(), "application/json");
            match world.run(1, &message, settings).await.answer {
                Answer::Said(text) => text,
                other => panic!("{url}: {other:?}"),
            }
        };
        let plain = || json!({ "module": "hostile" });
        assert_eq!(fetch(&format!("{url}/a"), plain()).await, "201 GET /a false");
        assert!(fetch("http://example.com/", plain()).await.contains("wants and was granted"));
        let narrow = json!({ "module": "hostile", "fetch_hosts": ["example.com"] });
        assert!(fetch(&url, narrow).await.contains("fetch_hosts"));
        world
            .modules
            .grant("hostile", Some(Permissions { fetch: ["10.1.2.3".to_owned()].into(), ..Permissions::default() }))
            .expect("granted");
        // Granted, but not wanted.
        assert!(fetch("http://10.1.2.3/", plain()).await.contains("wants and was granted"));
    });
}

#[test]
#[ignore = "needs components"]
fn what_waits_holds_no_thread_and_is_cut_off_at_its_deadline() {
    let world = World::new();
    block_on(async {
        let url = echo().await;
        let waiting = message(json!(format!("fetch {url}/slow")).to_string(), "application/json");
        let late = world.run(1, &waiting, json!({ "module": "hostile", "timeout_ms": 300 })).await;
        assert!(matches!(late.answer, Answer::Broken(FailureClass::Timeout, _)), "{late:?}");
        assert!(late.output.starts_with(b"about to: fetch"));
        let asleep = message("\"sleep\"", "application/json");
        let late = world.run(1, &asleep, json!({ "module": "hostile", "timeout_ms": 300 })).await;
        assert!(matches!(late.answer, Answer::Broken(FailureClass::Timeout, _)), "{late:?}");
        assert_eq!(world.harm(1, "nap").await.answer, Answer::Said("slept".to_owned()));
        let ended = Cell::new(0);
        let crowd = futures_util::future::join_all((0..20).map(async |n| {
            world.run(n % 5, &waiting, json!({ "module": "hostile", "timeout_ms": 60_000 })).await;
            ended.set(ended.get() + 1);
        }));
        let quick = async {
            for n in 0..20 {
                assert_eq!(world.harm(10 + n % 2, "nothing").await.answer, Answer::Ack);
            }
        };
        tokio::select! {
            _ = crowd => panic!("nobody answers them"),
            () = quick => assert_eq!(ended.get(), 0),
        }
    });
}

#[test]
#[ignore = "needs components"]
fn a_component_answers() {
    let world = World::new();
    let retry = block_on(world.harm(1, "retry")).answer;
    assert_eq!(retry, Answer::Retry(Some(Duration::from_secs(9)), "busy".to_owned()));
    let ran = block_on(world.harm(1, "emit 2"));
    assert_eq!((ran.answer, ran.emitted.len()), (Answer::Ack, 2));
    assert_eq!((&*ran.emitted[0].event_type, &*ran.emitted[0].payload), ("made", "{}"));
    let Answer::Respond(response) = block_on(world.harm(1, "body 1000000")).answer else { panic!("it answers") };
    assert_eq!((response.status, response.body.len()), (200, 1_000_000));
}

#[test]
#[ignore = "needs components"]
fn the_example_in_rust_deploys_what_was_pushed() {
    let world = World::new();
    let module = world.install("deploy", built("deploy")).expect("can be run");
    assert_eq!(module.active, None);
    world.modules.grant("deploy", None).expect("granted");
    block_on(async {
        let settings = json!({ "module": "deploy", "variables": { "deploy_url": format!("{}/deploy", echo().await) },
            "secrets": { "deploy_key": "hush" } });
        let push = |reference: &str| json!({ "ref": reference, "after": "4f2a", "repository": { "full_name": "a/b" } });
        let main = push("refs/heads/main").to_string();
        let ran = world.run(1, &received(&main), settings.clone()).await;
        assert_eq!(ran.answer, Answer::Said("POST /deploy true".to_owned()), "{ran:?}");
        assert_eq!(ran.output, "deploying 4f2a of a/b\n");
        assert_eq!(ran.emitted[0].payload, r#"{"commit":"4f2a","repository":"a/b"}"#);
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("payload", &main).finish();
        let form = message(form, "application/x-www-form-urlencoded");
        assert_eq!(world.run(1, &form, settings.clone()).await.answer, ran.answer);
        let other = received(push("refs/heads/x").to_string());
        let dropped = world.run(1, &other, settings.clone()).await.answer;
        assert_eq!(dropped, Answer::Drop("refs/heads/x is not deployed".to_owned()));
        let mut issue = received(&main);
        issue.event_type = "issue".to_owned();
        issue.received = None;
        let dropped = world.run(1, &issue, settings.clone()).await.answer;
        assert_eq!(dropped, Answer::Drop("the filter said no".to_owned()));
        let rubbish = world.run(1, &received("[]"), settings).await.answer;
        assert!(matches!(&rubbish, Answer::Fail(why) if why.starts_with("no push can be read")), "{rubbish:?}");
        let bare = world.run(1, &received(&main), json!({ "module": "deploy" })).await.answer;
        assert!(matches!(&bare, Answer::Broken(_, why) if why.contains("no variable `deploy_url`")), "{bare:?}");
    });
}

#[test]
#[ignore = "needs components"]
fn the_example_in_c_allows_up_to_a_limit() {
    let world = World::new();
    world.install("limit", built("limit")).expect("can be run");
    world.modules.grant("limit", None).expect("granted");
    let run = |payload: &str, settings: Value| {
        block_on(world.run(1, &message(payload.as_bytes(), "application/json"), settings))
    };
    let settings = || json!({ "module": "limit", "variables": { "limit": "100" } });
    for (payload, expected, output) in [
        (r#"{"amount":100}"#, r#"{"allow":true}"#, "allowed\n"),
        (r#"{"amount": 101}"#, r#"{"allow":false}"#, "denied\n"),
    ] {
        let ran = run(payload, settings());
        let headers = vec![("content-type".to_owned(), "application/json".to_owned())];
        let response = Response { status: 200, headers, body: expected.into() };
        assert_eq!((ran.answer, &*ran.output), (Answer::Respond(response), output.as_bytes()), "{payload}");
    }
    assert_eq!(run("{}", settings()).answer, Answer::Fail("the payload has no whole number `amount`".to_owned()));
    let bare = run(r#"{"amount":1}"#, json!({ "module": "limit" })).answer;
    assert!(matches!(&bare, Answer::Broken(_, why) if why.contains("no variable `limit`")), "{bare:?}");
}

#[test]
#[ignore = "needs components"]
fn after_a_start_what_endpoints_run_is_compiled_before_any_message() {
    let folder = tempfile::tempdir().expect("a folder");
    let own = bellwire_model::OrganisationId::parse("org_own").expect("an organisation");
    let start = || {
        let installed = crate::Installed::open(folder.path().to_owned()).expect("opens");
        crate::Shared::new(crate::Limits::default(), crate::command::warden::Warden::default(), installed)
    };
    let shared = start();
    shared.add_component(&own, "limit", built("limit"), Timestamp::EPOCH).expect("can be run");
    shared.add_component(&own, "waiting", built("limit"), Timestamp::EPOCH).expect("can be run");
    shared.modules().of(&own).grant("limit", None).expect("granted");
    shared.modules().of(&own).add("text", "function handle() {}", Timestamp::EPOCH).expect("added");
    let plugin = |runs, module: &str| bellwire_model::Plugin::new(runs, json!({ "module": module }).to_string());
    let again = start();
    let none = [plugin(Runs::Wasm, "waiting"), plugin(Runs::Wasm, "lost"), plugin(Runs::Wasm, "text")];
    again.warm_up(none.iter().map(|plugin| (&own, plugin)));
    assert_eq!(again.components().kept().0, 0, "none of them runs");
    let all = [plugin(Runs::Wasm, "limit"), plugin(Runs::Javascript, "text"), plugin(Runs::Wasm, "limit")];
    again.warm_up(all.iter().map(|plugin| (&own, plugin)));
    let begun = Instant::now();
    while again.components().kept().0 == 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is not compiled");
        std::thread::yield_now();
    }
    assert_eq!(again.components().kept().0, 1);
}

#[test]
#[ignore = "needs components"]
fn what_is_no_component_is_not_installed() {
    let world = World::new();
    let refused = |bytes: &'static [u8]| world.install("wrong", bytes.into()).expect_err("is refused").to_string();
    assert!(refused(b"\0asm").contains("no component"), "{}", refused(b"\0asm"));
    assert!(refused(b"\0asm\x01\0\0\0").contains("this is a module, not a component"));
    // Empty, and so without `handle`.
    assert!(refused(b"\0asm\x0d\0\x01\0").contains("handle"), "{}", refused(b"\0asm\x0d\0\x01\0"));
    assert!(world.modules.get("wrong").is_none());
    // A section of its own that says what it wants: its name and its text after their lengths.
    let mut rubbish = built("limit").to_vec();
    rubbish.extend(b"\0\x20\x14bellwire.permissionswant it all");
    let why = world.install("wrong", rubbish.into()).expect_err("is refused").to_string();
    assert!(why.contains("bellwire.permissions, line "), "{why}");
    let message = message("{}", "application/json");
    let lost = block_on(world.run(1, &message, json!({ "module": "lost" }))).answer;
    assert!(matches!(&lost, Answer::Broken(_, why) if why.contains("not installed")), "{lost:?}");
    world.modules.add("text", "function handle() {}", Timestamp::EPOCH).expect("added");
    let text = block_on(world.run(1, &message, json!({ "module": "text" }))).answer;
    assert!(matches!(&text, Answer::Broken(_, why) if why.contains("`javascript`")), "{text:?}");
}

#[test]
#[ignore = "needs components, and a machine with nothing else to do"]
fn a_call_costs_little() {
    let world = World::new();
    let message = message("\"nothing\"", "application/json");
    let settings: Wasm = crate::settings::read(&json!({ "module": "hostile" })).expect("settings");
    block_on(async {
        let environment = BTreeMap::new();
        let event = Event::new(&message, 1);
        let run = async || {
            settings.run(&event, EndpointKey(1), world.components, &world.modules, &environment, &world.client).await
        };
        run().await;
        let begun = std::time::Instant::now();
        const CALLS: u32 = 2_000;
        for _ in 0..CALLS {
            assert_eq!(run().await.answer, Answer::Ack);
        }
        println!("{:?} per call", begun.elapsed() / CALLS);
    });
}
