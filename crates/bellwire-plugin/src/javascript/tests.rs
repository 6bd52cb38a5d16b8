//! Handlers in real sandboxes, fetching from real sockets.

use super::*;
use crate::event::tests::received;
use bellwire_egress::{Egress, Guard, Settings};
use serde_json::{Value, json};
use std::cell::Cell;

fn handlers() -> Handlers {
    // A debug build on a busy machine is slow.
    let deadline = Duration::from_millis(400);
    Handlers::new(ScriptLimits { deadline, heap_bytes_max: 16 << 20, ..ScriptLimits::default() })
}

fn client() -> Client {
    let guard = Guard { allowed_networks: vec!["127.0.0.0/8".parse().expect("a network")], ..Guard::default() };
    Egress::new(Settings { guard, ..Settings::default() }).expect("egress").client().expect("a client")
}

fn block_on<T>(work: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(work)
}

async fn run_on(handlers: &Handlers, client: &Client, key: u32, settings: Value) -> Ran {
    run_with(&Modules::default(), handlers, client, key, settings).await
}

async fn run_with(modules: &Modules, handlers: &Handlers, client: &Client, key: u32, settings: Value) -> Ran {
    let script: Javascript = crate::settings::read(&settings).expect("settings");
    let message = received(r#"{"id":7,"name":"Ada"}"#);
    let environment = [("REGION".to_owned(), "north".to_owned()), ("HIDDEN".to_owned(), "x".to_owned())].into();
    script.run(&Event::new(&message, 2), EndpointKey(key), handlers, modules, &environment, client).await
}

fn run(script: &str) -> Ran {
    block_on(run_on(&handlers(), &client(), 1, json!({ "script": script })))
}

/// Answers every request with its own method, path and body, `slow` ones never.
async fn echo() -> String {
    crate::echo::echo(|line, request| format!("{{\"line\":\"{line}\",\"x\":{}}}", request.contains("x-a: 1"))).await
}

#[test]
fn a_handler_answers() {
    let check = |script: &str, expected: Answer| assert_eq!(run(script).answer, expected, "{script}");
    check("function handle(event) {}", Answer::Ack);
    check("export function handle(event) { return event.payload.name }", Answer::Said("Ada".into()));
    check(
        "export async function handle(event) { return [event.type, event.attempt] }",
        Answer::Said(r#"["push",2]"#.into()),
    );
    check("const handle = (e, ctx) => ctx.ack()", Answer::Ack);
    check("const handle = (e, ctx) => ctx.drop('no ' + e.headers['x-github-event'])", Answer::Drop("no push".into()));
    check(
        "const handle = (e, ctx) => { ctx.retry(1.5, 'busy') }",
        Answer::Retry(Some(Duration::from_millis(1500)), "busy".into()),
    );
    check("const handle = (e, ctx) => ctx.retry()", Answer::Retry(None, String::new()));
    check("const handle = (e, ctx) => ctx.retry('60')", Answer::Retry(Some(Duration::from_secs(60)), String::new()));
    check("const handle = (e, ctx) => ctx.fail('bad')", Answer::Fail("bad".into()));
    check(
        "function filter(e) { return e.payload.id > 7 } function handle() { throw 1 }",
        Answer::Drop("the filter said no".into()),
    );
    check(
        "function transform(e) { return { ...e, x: 9 } } function handle(e) { return e.x }",
        Answer::Said("9".into()),
    );
    let respond = Response {
        status: 201,
        headers: vec![("content-type".into(), "application/json".into())],
        body: r#"{"ok":true}"#.into(),
    };
    check("const handle = (e, ctx) => ctx.respond({ status: 201, body: { ok: true } })", Answer::Respond(respond));
}

#[test]
fn what_it_writes_and_emits_is_kept() {
    let ran = run(
        "const handle = (e, ctx) => { console.log('saw', e.payload, new Error('x')); console.error(1); ctx.emit('a.b', { n: 1 }, { channels: ['c'] }) }",
    );
    assert_eq!(ran.output, "saw {\"id\":7,\"name\":\"Ada\"} Error: x\nerror: 1\n");
    let emitted = Emitted { event_type: "a.b".into(), payload: r#"{"n":1}"#.into(), channels: vec!["c".into()] };
    assert_eq!((ran.answer, ran.emitted), (Answer::Ack, vec![emitted]));
    let flood = run("const handle = () => { for (let i = 0; i < 1e4; i++) console.log('x'.repeat(100)) }");
    assert!(flood.output.len() < CONSOLE_MAX + 200 && flood.answer == Answer::Ack);
}

#[test]
fn what_it_returns_is_kept_whatever_it_answers() {
    let kept = |script: &str| {
        let outcome = run(script).outcome(bellwire_model::Timestamp::EPOCH, Duration::ZERO);
        String::from_utf8_lossy(&outcome.body).into_owned()
    };
    assert_eq!(kept("const handle = (e, ctx) => { ctx.ack(); return { n: 1 } }"), r#"{"n":1}"#);
    assert_eq!(kept("const handle = (e, ctx) => { ctx.drop('no'); return { n: 1 } }"), "no\nreturned: {\"n\":1}\n");
    assert_eq!(kept("const handle = (e, ctx) => { console.log('a'); ctx.fail(); return 1 }"), "a\nreturned: 1\n");
}

#[test]
fn one_that_fetched_and_is_cut_off_is_told_what_it_may_compute_in_all() {
    block_on(async {
        let (handlers, client, url) = (handlers(), client(), echo().await);
        let busy = "const busy = (ms) => { const end = Date.now() + ms; while (Date.now() < end); }";
        let script =
            format!("{busy}; export async function handle() {{ busy(150); await fetch('{url}/'); for (;;) {{}} }}");
        let Ran { answer, .. } = run_on(&handlers, &client, 1, json!({ "script": script })).await;
        let text = "the handler computed for longer than 400ms".to_owned();
        assert_eq!(answer, Answer::Broken(FailureClass::Timeout, text));
    });
}

#[test]
fn what_is_fetched_and_not_waited_for_is_told() {
    let ran = run("async function handle() { fetch('http://127.0.0.1:1/'); return 1 }");
    assert_eq!(ran.answer, Answer::Said("1".into()));
    assert_eq!(
        ran.output,
        "warn: handle ended without waiting for a fetch, which was not made or cut off: it lacks an await\n"
    );
}

#[test]
fn a_module_may_stand_on_one_line_or_be_indented() {
    for script in ["function h() { return 7 }export{h as handle};", "  export function handle() {\n    return 7\n  }"] {
        assert_eq!(run(script).answer, Answer::Said("7".into()), "{script}");
    }
}

#[test]
fn a_handler_that_fails_says_where() {
    let check = |script: &str, expected: &str| {
        let ran = run(script);
        let Answer::Broken(FailureClass::Plugin, text) = &ran.answer else { panic!("{script}: {ran:?}") };
        assert!(text.contains(expected), "{script}: {text}");
    };
    check("function handle(e) {\n  return e.payload.missing.deep\n}", "line 2: TypeError");
    check("export async function handle(e) {\n  await 0\n  throw new Error('late')\n}", "line 3: Error: late");
    check("function handle() { throw { a: 1 } }", r#"thrown: {"a":1}"#);
    check("const handle = (e, ctx) => ctx.emit('a', {}, { channels: 'x' })", "ctx.emit takes channels as a list");
    check("let x = 1", "must define a function named handle");
    check("function handle( {", "SyntaxError");
    check("async function handle() { await new Promise(() => {}) }", "never comes");
    check("const handle = (e, ctx) => ctx.retry('soon')", "takes seconds");
    check("const handle = (e, ctx) => ctx.retry(-1)", "takes seconds");
    check("const handle = (e, ctx) => ctx.retry(Infinity)", "takes seconds");
    let unreadable = "throw Object.defineProperty(new Error(), 'message', { get() { throw 1 } })";
    check(&format!("function handle() {{ {unreadable} }}"), "throws when it is read");
    check("const handle = (e, ctx) => ctx.respond({ status: 99 })", "status from 200");
    check("const handle = (e, ctx) => ctx.respond({ headers: { 'a b': 'c' } })", "cannot be sent");
    check("import x from 'fs'; export function handle() {}", "");
    check("function transform() {} function handle() {}", "transform must return");
}

#[test]
fn a_hostile_handler_is_cut_off_and_the_next_one_runs() {
    let (handlers, client) = (handlers(), client());
    let hostile = |script: &str| {
        let ran = block_on(run_on(&handlers, &client, 1, json!({ "script": script })));
        let Answer::Broken(_, text) = ran.answer else { panic!("{script}: {ran:?}") };
        text
    };
    assert!(hostile("function handle() { for (;;) {} }").contains("computed for longer than 400ms"));
    assert!(hostile("async function handle() { for (;;) await 0 }").contains("computed for longer than 400ms"));
    // By its time or by its memory, whichever is used up first.
    hostile("const spin = () => Promise.resolve().then(spin); const handle = () => spin()");
    hostile("function handle() { const a = []; for (;;) a.push(new Uint8Array(1e6)) }");
    hostile("function handle() { return /^(a+)+$/.test('a'.repeat(40) + 'b') && x.y }");
    hostile("function handle() { return handle() }");
    let ran = block_on(run_on(&handlers, &client, 2, json!({ "script": "const handle = () => 1" })));
    assert_eq!(ran.answer, Answer::Said("1".into()));
}

#[test]
fn one_that_does_not_end_has_failed_before_twice_its_deadline_and_what_it_wrote_is_kept() {
    // Half of it is left for a busy machine.
    let deadline = Duration::from_secs(2);
    let harms = [
        "for (;;) {}",
        "for (;;) await 0",
        "/^(a+)+$/.test('a'.repeat(40) + 'b')",
        "[2, 1].sort(() => { for (;;) {} })",
        "JSON.stringify({ toJSON() { for (;;) {} } })",
        // The interpreter does not look at the clock in there. It ends after some seconds, so that other tests have their turn.
        "Array.prototype.join.call({ length: 4e8 }, '')",
        "Array.prototype.fill.call(Object.defineProperty(new Uint8Array(8), 'length', { value: 2e8 }), 1)",
        "'a'.repeat(4e5).indexOf('a'.repeat(2e5) + 'b')",
    ];
    let handlers = Handlers::new(ScriptLimits { deadline, threads: harms.len(), ..ScriptLimits::default() });
    let client = client();
    let check = async |harm: &str, key: u32, more: Value| {
        let script = format!("export async function handle() {{ console.log('before \\ud800'); {harm} }}");
        let mut settings = json!({ "script": script });
        settings.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
        let begun = Instant::now();
        let ran = run_on(&handlers, &client, key, settings).await;
        assert!(begun.elapsed() < deadline * 2, "{harm}: {:?}", begun.elapsed());
        let outcome = ran.outcome(bellwire_model::Timestamp::EPOCH, begun.elapsed());
        assert_eq!(outcome.result, Err(FailureClass::Timeout), "{harm}: {ran:?}");
        let text = String::from_utf8_lossy(&outcome.body).into_owned();
        assert!(text.ends_with("\nbefore \u{fffd}\n"), "{harm}: {text}");
        text
    };
    block_on(async {
        let all = harms.iter().zip(1..).map(|(harm, key)| check(harm, key, json!({})));
        for text in futures_util::future::join_all(all).await {
            assert!(text.contains("computed for longer than 2s") || text.contains("could not be stopped"), "{text}");
        }
    });
}

#[test]
fn one_that_its_endpoint_waits_for_no_longer_computes_no_longer() {
    let deadline = Duration::from_secs(10);
    let (handlers, client) = (Handlers::new(ScriptLimits { deadline, ..ScriptLimits::default() }), client());
    block_on(async {
        let begun = Instant::now();
        let loops =
            json!({ "script": "const handle = () => { console.log('before'); for (;;) {} }", "timeout_ms": 200 });
        // All in one lane: one runs, the others wait.
        for ran in futures_util::future::join_all((0..5).map(|_| run_on(&handlers, &client, 1, loops.clone()))).await {
            let late = Answer::Broken(FailureClass::Timeout, "the handler took longer than 200ms".to_owned());
            assert_eq!(ran.answer, late);
        }
        let next = run_on(&handlers, &client, 1, json!({ "script": "const handle = () => 1" })).await;
        assert_eq!(next.answer, Answer::Said("1".into()));
        assert!(begun.elapsed() < deadline / 2, "{:?}", begun.elapsed());
    });
}

#[test]
fn a_handler_starts_in_a_moment() {
    let (handlers, client) = (handlers(), client());
    // Each is new, and has a runtime of its own. The best of many: what else the machine does is not meant.
    let best = (1..=100).map(|n| {
        let script = json!({ "script": format!("const own = {n}; function handle() {{ return own }}") });
        let begun = std::time::Instant::now();
        assert_eq!(block_on(run_on(&handlers, &client, n, script)).answer, Answer::Said(n.to_string()));
        begun.elapsed()
    });
    let best = best.min().unwrap_or_default();
    // Measured: 0.8 ms in a debug build.
    assert!(best < Duration::from_millis(5), "{best:?}");
}

#[test]
fn a_handler_fetches_through_the_guard() {
    block_on(async {
        let (handlers, client, url) = (handlers(), client(), echo().await);
        let said = async |script: String, more: Value| {
            let mut settings = json!({ "script": script });
            settings.as_object_mut().expect("an object").extend(more.as_object().expect("an object").clone());
            run_on(&handlers, &client, 1, settings).await.answer
        };
        let script = format!(
            "export async function handle(e, ctx) {{
               const got = await fetch('{url}/a?b=1', {{ method: 'post', headers: {{ 'X-A': 1 }}, body: {{ n: 1 }} }});
               const [one, two] = await Promise.all([fetch('{url}/1'), fetch('{url}/2')]);
               return [got.status, got.ok, got.headers.get('X-B'), (await got.json()).x, await one.text(), (await two.json()).line, ctx.secrets.k];
             }}"
        );
        let expected = r#"[201,true,"2",true,"{\"line\":\"GET /1\",\"x\":false}","GET /2","s"]"#;
        assert_eq!(said(script, json!({ "secrets": { "k": "s" } })).await, Answer::Said(expected.into()));
        let caught = |what: &str| {
            format!(
                "export const handle = async () => {{ try {{ await fetch('{what}') }} catch (e) {{ return e.message }} }}"
            )
        };
        let Answer::Said(text) = said(caught("http://10.1.2.3/"), json!({})).await else { panic!("it answers") };
        assert!(text.contains("fetch failed"), "{text}");
        let Answer::Said(text) = said(caught("file:///etc/passwd"), json!({})).await else { panic!("it answers") };
        assert!(text.contains("not http"), "{text}");
        let Answer::Said(text) = said(caught(&url), json!({ "fetch_hosts": ["example.com"] })).await else {
            panic!("it answers")
        };
        assert!(text.contains("fetch_hosts"), "{text}");
        let many = format!("export const handle = async () => {{ for (let i = 0; i < 30; i++) await fetch('{url}') }}");
        assert!(matches!(said(many, json!({})).await, Answer::Broken(_, text) if text.contains("may fetch 20 times")));
        let slow = format!("export const handle = async () => {{ console.log('before'); await fetch('{url}/slow') }}");
        let late = run_on(&handlers, &client, 1, json!({ "script": slow, "timeout_ms": 300 })).await;
        assert!(matches!(late.answer, Answer::Broken(FailureClass::Timeout, _)), "{late:?}");
        assert_eq!(late.output, "before\n");
    });
}

#[test]
fn those_that_wait_for_an_answer_hold_no_thread() {
    block_on(async {
        let (handlers, client, url) = (handlers(), client(), echo().await);
        let waiting = json!({ "script": format!("export const handle = async () => {{ await fetch('{url}/slow') }}"), "timeout_ms": 60_000 });
        let ended = Cell::new(0);
        let crowd = futures_util::future::join_all((0..20).map(async |n| {
            run_on(&handlers, &client, n % 5, waiting.clone()).await;
            ended.set(ended.get() + 1);
        }));
        let quick = async {
            for n in 0..20 {
                let ran = run_on(&handlers, &client, 10 + n % 2, json!({ "script": "const handle = () => 1" })).await;
                assert_eq!(ran.answer, Answer::Said("1".into()));
            }
        };
        tokio::select! {
            _ = crowd => panic!("nobody answers them"),
            () = quick => assert_eq!(ended.get(), 0),
        }
    });
}

#[test]
fn nothing_of_one_endpoint_is_seen_by_another() {
    let (handlers, client) = (handlers(), client());
    let on = |key, script: &str| block_on(run_on(&handlers, &client, key, json!({ "script": script }))).answer;
    for key in 1..4 {
        on(
            key,
            "globalThis.kept = 1; Object.prototype.stolen = 1; JSON.stringify = () => 'mine'; const handle = () => {}",
        );
    }
    for key in 1..4 {
        let look = "const handle = () => [typeof kept, {}.stolen === undefined]";
        assert_eq!(on(key, look), Answer::Said(r#"["undefined",true]"#.into()));
    }
}

#[test]
fn a_module_reaches_what_it_was_granted_and_is_swapped_while_running() {
    block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (handlers, client, url) = (handlers(), client(), echo().await);
        let modules = Modules::open(folder.path().to_owned()).expect("opens");
        let add = |code: &str| modules.add("deploy", code, bellwire_model::Timestamp::EPOCH).expect("added");
        let run = async || run_with(&modules, &handlers, &client, 1, json!({ "module": "deploy" })).await.answer;
        assert!(matches!(run().await, Answer::Broken(_, why) if why.contains("not installed")));
        let fetching = format!(
            "// @permission fetch 127.0.0.1\n// @permission environment REGION\n\
             export async function handle(e, ctx) {{ return [(await fetch('{url}/x')).status, ctx.environment] }}"
        );
        add(&fetching);
        assert!(matches!(run().await, Answer::Broken(_, why) if why.contains("plugin grant deploy")));
        modules.grant("deploy", None).expect("granted");
        assert_eq!(run().await, Answer::Said(r#"[201,{"REGION":"north"}]"#.into()));
        add(&format!(
            "export const handle = async () => {{ try {{ await fetch('{url}') }} catch (e) {{ return e.message }} }}"
        ));
        assert!(matches!(run().await, Answer::Said(why) if why.contains("granted")));
        modules.roll_back("deploy", None).expect("goes back");
        assert!(matches!(run().await, Answer::Said(said) if said.starts_with("[201")));
    });
}

#[test]
fn what_a_module_was_not_granted_fails_and_says_what_to_ask_for() {
    block_on(async {
        let folder = tempfile::tempdir().expect("a folder");
        let (handlers, client, url) = (handlers(), client(), echo().await);
        let modules = Modules::open(folder.path().to_owned()).expect("opens");
        let fetching = format!("return (await fetch('{url}')).status");
        for (permission, code) in [
            ("respond", "ctx.respond({ body: 'x' })"),
            ("emit", "ctx.emit('a.b', {})"),
            ("environment REGION", "return ctx.environment.REGION"),
            ("fetch 127.0.0.1", &fetching),
        ] {
            let code = format!("export async function handle(e, ctx) {{ {code} }}");
            let add = |code: &str| modules.add("deploy", code, bellwire_model::Timestamp::EPOCH).expect("added");
            let run = async || run_with(&modules, &handlers, &client, 1, json!({ "module": "deploy" })).await;
            add(&code);
            let Ran { answer, emitted, .. } = run().await;
            let asks = format!("// @permission {permission}");
            assert!(matches!(&answer, Answer::Broken(FailureClass::Plugin, why) if why.contains(&asks)), "{answer:?}");
            assert_eq!(emitted, []);
            // Asking for it is not enough.
            add(&format!("{asks}\n{code}"));
            assert!(matches!(run().await.answer, Answer::Broken(..)), "{permission}");
            modules.grant("deploy", None).expect("granted");
            let Ran { answer, emitted, .. } = run().await;
            assert!(!matches!(answer, Answer::Broken(..)), "{answer:?}");
            assert_eq!(emitted.len(), usize::from(permission == "emit"));
            modules.remove("deploy").expect("removed");
        }
    });
}
