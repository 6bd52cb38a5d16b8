use super::super::{Method, Script, Scripts, Transformed, Webhook};
use super::given_up::THREADS_OF_ONE_MAX;
use super::*;
use bellwire_model::ApplicationKey;
use std::sync::mpsc::channel;

fn limits() -> ScriptLimits {
    // A debug build on a busy machine is slow.
    ScriptLimits { deadline: Duration::from_millis(400), heap_bytes_max: 8 * 1024 * 1024, ..ScriptLimits::default() }
}

fn webhook() -> Webhook {
    Webhook {
        url: "https://example.com/hook".to_owned(),
        payload: r#"{"id":7,"name":"Ada","big":12345678901234567890}"#.into(),
        event_type: "user.created".to_owned(),
        channels: vec!["north".to_owned()],
        variables: [("team".to_owned(), "red".to_owned())].into(),
        params: Some(r#"{"x":[1]}"#.into()),
    }
}

/// Of the application 1.
fn script(lane: u64, code: &str) -> Script {
    Script { lane, application: ApplicationKey(1), code: code.into(), webhook: Some(webhook()) }
}

fn run_on(scripts: &Scripts, lane: u64, code: &str) -> Result<Transformed, ScriptError> {
    let (sender, receiver) = channel();
    scripts.run(script(lane, code), move |done| drop(sender.send(done)));
    receiver.recv_timeout(Duration::from_secs(60)).expect("an answer").map(|done| done.expect("a message was given"))
}

#[test]
fn a_script_says_what_is_sent() {
    let scripts = Scripts::new(limits());
    let check = |code: &str, payload: &str| {
        let done = run_on(&scripts, 1, code).unwrap_or_else(|error| panic!("{code}: {error}"));
        assert_eq!(done.payload, payload, "{code}");
        done
    };
    let same = check("function handler(w) { return w }", r#"{"id":7,"name":"Ada","big":12345678901234567000}"#);
    assert_eq!(
        (same.method, &*same.url, same.cancel, same.is_json),
        (Method::Post, "https://example.com/hook", false, true)
    );
    check("const handler = w => ({ payload: { hello: w.payload.name } })", r#"{"hello":"Ada"}"#);
    check("async function handler(w) { w.payload = await Promise.resolve([1]); return w }", "[1]");
    check(
        "handler = w => ({ payload: [w.eventType, w.channels, w.variables.team, w.transformationsParams.x, w.method] })",
        r#"["user.created",["north"],"red",[1],"POST"]"#,
    );
    let raw = check("function handler(w) { w.payload = '<a>' + w.payload.id + '</a>'; return w }", "<a>7</a>");
    assert!(!raw.is_json);
    let moved = check(
        "function handler(w) { w.method = 'PUT'; w.url += '/7'; w.headers = {'x-a': '1'}; w.payload = {}; return w }",
        "{}",
    );
    assert_eq!((moved.method, &*moved.url), (Method::Put, "https://example.com/hook/7"));
    assert_eq!(moved.headers, [("x-a".to_owned(), "1".to_owned())]);
    assert!(check("function handler(w) { return { cancel: true } }", "null").cancel);
}

#[test]
fn what_a_script_gets_wrong_is_said_with_its_line() {
    let scripts = Scripts::new(limits());
    let check = |code: &str, expected: &str| {
        let error = run_on(&scripts, 1, code).expect_err(code);
        assert!(error.to_string().contains(expected), "{code}: {error}");
    };
    check("function handler(w) {\n  return w.payload.missing.deep\n}", "line 2: TypeError");
    check("function handler(w) {\n\n  throw new Error('no ' + w.payload.name)\n}", "line 3: Error: no Ada");
    check("function handler(w) { throw 'plain' }", "thrown: plain");
    check("async function handler(w) { throw new Error('later') }", "later");
    check("function handler(w) {\n return ((\n}", "SyntaxError");
    check("let a = 1", "must define a function named handler");
    check("function handler(w) {}", "returned undefined");
    check("function handler(w) { return 7 }", "returned");
    check("function handler(w) { return { payload: undefined } }", "has no payload");
    check("function handler(w) { return { payload: {}, method: 'GET' } }", "cannot be sent: unknown variant `GET`");
    check("function handler(w) { return { payload: {}, headers: ['x'] } }", "headers as an object of strings");
    check("function handler(w) { return { payload: {}, url: 7 } }", "cannot be sent");
    check("function handler(w) { w.payload = { w }; return w }", "circular");
    check("function handler(w) { return fetch('https://example.com') }", "fetch is not defined");
    check("function handler(w) { return require('fs') }", "require is not defined");
    check("import fs from 'fs'; function handler(w) { return w }", "SyntaxError");
    check("async function handler(w) { return await import('fs') }", "");
    check("async function handler(w) { return new Promise(() => {}) }", "");
}

#[test]
fn a_hostile_script_ends_and_the_next_one_runs() {
    let scripts = Scripts::new(limits());
    let hostile = |code: &str| run_on(&scripts, 1, code).expect_err(code).to_string();
    assert!(hostile("function handler(w) { for (;;) {} }").contains("took longer"));
    assert!(hostile("for (;;) {}").contains("took longer"));
    assert!(
        hostile("function handler(w) { try { for (;;) {} } catch (e) {} finally { for (;;) {} } }")
            .contains("took longer")
    );
    hostile("function handler(w) { let a = 'x'; for (;;) { a += a } }");
    hostile("function handler(w) { let a = []; for (;;) { a.push(new Uint8Array(1e6)) } }");
    hostile("function handler(w) { return handler(w) }");
    hostile("function handler(w) { let o = {}; for (let i = 0; i < 1e6; i++) { o = { o } } w.payload = o; return w }");
    hostile("function handler(w) { w.payload = { toJSON() { for (;;) {} } }; return w }");
    hostile("function handler(w) { w.payload = 'x'.repeat(3e6); return w }");
    hostile("function handler(w) { return new Proxy({}, { get() { for (;;) {} }, ownKeys() { for (;;) {} } }) }");
    hostile("function handler(w) { return /^(a+)+$/.test('a'.repeat(40) + 'b') && w.x.y }");
    assert!(run_on(&scripts, 1, "function handler(w) { return w }").is_ok());
}

#[test]
fn nothing_of_one_script_is_seen_by_another() {
    let scripts = Scripts::new(limits());
    let pollute = "Object.prototype.stolen = 'yes'; JSON.stringify = () => 'mine'; globalThis.kept = 1;\n\
                   Array.prototype.map = 7; function handler(w) { return { payload: {} } }";
    let look = "function handler(w) { return { payload: [typeof kept, {}.stolen === undefined, [1].map(n => n)] } }";
    for lane in 1..4 {
        run_on(&scripts, lane, pollute).expect("it may do that to itself");
    }
    for lane in 1..4 {
        assert_eq!(run_on(&scripts, lane, look).expect("runs").payload, r#"["undefined",true,[1]]"#);
    }
}

#[test]
fn a_lane_that_loops_waits_for_itself() {
    let scripts = Scripts::new(ScriptLimits { deadline: Duration::from_millis(50), ..limits() });
    let (sender, receiver) = channel();
    for n in 0..20 {
        let sender = sender.clone();
        scripts.run(script(1, "function handler(w) { for (;;) {} }"), move |done| {
            sender.send(("loops", n, done.is_ok())).unwrap_or(())
        });
    }
    for n in 0..20 {
        let sender = sender.clone();
        scripts.run(script(2, "function handler(w) { return w }"), move |done| {
            sender.send(("works", n, done.is_ok())).unwrap_or(())
        });
    }
    let order: Vec<_> = (0..40).map(|_| receiver.recv_timeout(Duration::from_secs(60)).expect("an answer")).collect();
    let last_of_healthy = order.iter().rposition(|(who, _, _)| *who == "works").expect("they ran");
    // Twenty that loop need a second; the healthy ones do not stand behind them.
    assert!(last_of_healthy < 32, "{order:?}");
    assert!(order.iter().all(|(who, _, ok)| *ok == (*who == "works")), "{order:?}");
}

/// A loop inside of the interpreter, which does not look at the clock there, for a few seconds.
const UNSTOPPABLE: &str = "function handler(w) { return Array.prototype.join.call({ length: 2e8 }, '') }";

#[test]
fn a_script_that_cannot_be_stopped_has_failed_before_twice_its_deadline_and_takes_one_thread_with_it() {
    let scripts = Scripts::new(ScriptLimits { deadline: Duration::from_secs(1), ..limits() });
    let (sender, receiver) = channel();
    let begun = Instant::now();
    // The others wait for the first one.
    for _ in 0..THREADS_MAX {
        let sender = sender.clone();
        scripts.run(script(1, UNSTOPPABLE), move |done| drop(sender.send(done)));
    }
    let late = ScriptError::Late("the script could not be stopped at its deadline".to_owned());
    for nth in 0..THREADS_MAX {
        let error = receiver.recv_timeout(Duration::from_secs(60)).expect("an answer").expect_err("too long");
        assert_eq!(error == late, nth == 0, "{nth}: {error}");
    }
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert_eq!(scripts.0.0.lock().given_up.threads(), 1);
    let again = run_on(&scripts, 1, UNSTOPPABLE).expect_err("it is not started");
    assert!(again.to_string().contains("could not be stopped before"), "{again}");
    assert!(run_on(&scripts, 1, "function handler(w) { return w }").is_ok());
}

/// How many of this process's threads for scripts have the lowest priority.
#[cfg(target_os = "linux")]
fn threads_that_yield() -> usize {
    let stat = |task: std::io::Result<std::fs::DirEntry>| std::fs::read_to_string(task.ok()?.path().join("stat")).ok();
    let tasks = std::fs::read_dir("/proc/self/task").expect("readable");
    let yields = |stat: &String| {
        // The name ends with the last bracket; `nice` is the 17th field after it.
        let (head, rest) = stat.rsplit_once(')').expect("a name");
        head.ends_with("(script") && rest.split_whitespace().nth(16) == Some("19")
    };
    tasks.filter_map(stat).filter(yields).count()
}

#[cfg(target_os = "linux")]
#[test]
fn a_thread_that_was_given_up_lets_all_others_go_first_and_another_takes_its_place() {
    let scripts = Scripts::new(ScriptLimits { deadline: Duration::from_millis(50), ..limits() });
    let endless = UNSTOPPABLE.replace("2e8", "2 ** 53");
    run_on(&scripts, 1, &endless).expect_err("too long");
    assert!(threads_that_yield() > 0);
    assert_eq!(scripts.0.0.lock().threads, scripts.limits().threads);
    assert!(run_on(&scripts, 2, "function handler(w) { return w }").is_ok());
}

#[test]
fn a_thread_that_was_given_up_may_come_back() {
    let scripts = Scripts::new(ScriptLimits { deadline: Duration::from_millis(50), ..limits() });
    let script = UNSTOPPABLE.replace("2e8", "2e7");
    let late = run_on(&scripts, 1, &script).expect_err("too long");
    assert!(late.to_string().contains("could not be stopped"), "{late}");
    let begun = Instant::now();
    while scripts.0.0.lock().given_up.threads() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "it is still there");
        std::thread::yield_now();
    }
    let again = run_on(&scripts, 1, &script).expect_err("it is as slow as before");
    assert!(!again.to_string().contains("before"), "{again}");
    assert_eq!(scripts.0.0.lock().threads, scripts.limits().threads);
}

#[test]
fn an_application_whose_scripts_cannot_be_stopped_stops_its_own() {
    let deadline = Duration::from_millis(100);
    let scripts = Scripts::new(ScriptLimits { deadline, ..limits() });
    let works = "function handler(w) { return w }";
    let (sender, receiver) = channel();
    // Whatever it changes of them, and at whatever endpoint.
    for lane in 1..=20 {
        let endless = UNSTOPPABLE.replace("2e8", &format!("2 ** 53 - {lane}"));
        let sender = sender.clone();
        scripts.run(script(lane, &endless), move |done| drop(sender.send(done.expect_err("too long"))));
    }
    let others = (0..20).map(|lane| Script { application: ApplicationKey(2), ..script(100 + lane, works) });
    for other in others {
        let (sender, receiver) = channel();
        scripts.run(other, move |done| drop(sender.send(done)));
        assert!(receiver.recv_timeout(Duration::from_secs(60)).expect("an answer").is_ok());
    }
    let told: Vec<_> = (0..20).map(|_| receiver.recv_timeout(Duration::from_secs(60)).expect("an answer")).collect();
    let late = told.iter().filter(|error| matches!(error, ScriptError::Late(_))).count();
    // One more may have been running when the bound was reached.
    assert!((THREADS_OF_ONE_MAX..=THREADS_OF_ONE_MAX + 1).contains(&late), "{told:?}");
    assert_eq!(scripts.0.0.lock().given_up.threads(), late);
    let own = run_on(&scripts, 1, works).expect_err("its application is at its bound");
    assert!(own.to_string().contains("none of them is started"), "{own}");
}

#[test]
fn what_nobody_wants_any_more_does_not_pile_up() {
    let scripts = Scripts::new(limits());
    let (sender, receiver) = channel();
    let script = |code| script(1, code);
    let told = sender.clone();
    scripts.run(script("function handler(w) { for (;;) {} }"), move |done| told.send(done.is_ok()).unwrap_or(()));
    let works = "function handler(w) { return w }";
    let told = sender.clone();
    scripts.run(script(works), move |done| told.send(done.is_ok()).unwrap_or(()));
    let asked_by = Arc::new(());
    scripts.run_for(&asked_by, script(works), move |done| sender.send(done.is_ok()).unwrap_or(()));
    for _ in 0..1_000 {
        // Each hangs up at once.
        scripts.run_for(&Arc::default(), script(works), |_| {});
    }
    let waiting = scripts.0.0.lock().lanes[&1].waiting.len();
    assert!(waiting <= UNWANTED_MAX + 1, "{waiting} wait");
    // They may tell it at the same time.
    let mut told: Vec<bool> = receiver.iter().collect();
    told.sort_unstable();
    assert_eq!(told, [false, true, true], "the one that loops, and those that are still wanted");
}
