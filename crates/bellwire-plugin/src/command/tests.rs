//! Real programs: those of `/bin`, which every machine has.

use super::*;
use crate::event::tests::{message, received};
use serde_json::{Value, json};

fn allowed() -> Allowed {
    Allowed { programs: vec!["/bin".into()], environment: [("GIVEN".to_owned(), "yes".to_owned())].into() }
}

fn faults(settings: Value, trusted: bool) -> Vec<Fault> {
    match crate::settings::read::<Command>(&settings) {
        Ok(command) => {
            let mut faults = Vec::new();
            command.check(&allowed(), trusted, &mut faults);
            faults
        }
        Err(fault) => vec![fault],
    }
}

fn run(settings: Value, payload: &str) -> Ran {
    assert_eq!(faults(settings.clone(), false), [], "{settings}");
    let command: Command = crate::settings::read(&settings).expect("checked");
    let message = received(payload);
    let event = Event::new(&message, 2);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(command.run(&event, &allowed(), false, &Warden::default()))
}

fn shell(script: &str) -> Value {
    json!({ "program": "/bin/sh", "args": ["-c", script] })
}

#[test]
fn only_what_the_operator_allows_is_run() {
    let check = |settings: Value, path: &str, text: &str| {
        let found = faults(settings.clone(), false);
        assert!(
            found.iter().any(|fault| fault.path.first().is_some_and(|p| p == path) && fault.text.contains(text)),
            "{settings}: {found:?}"
        );
    };
    check(json!({ "program": "sh" }), "program", "absolute");
    check(json!({ "program": "/usr/sbin/../../etc/passwd" }), "program", "not among plugins.commands");
    check(json!({ "program": "/nowhere" }), "program", "not among plugins.commands");
    check(json!({ "program": "/bin" }), "program", "not a file");
    check(json!({ "program": "/bin/true", "inherit": ["HOME"] }), "inherit", "HOME is not among");
    check(json!({ "program": "/bin/true", "env": { "A=B": "" } }), "env", "no =");
    check(json!({ "program": "/bin/true", "args": ["{{lost}}"] }), "args", "no part");
    check(json!({ "program": "/bin/true", "uid": 0 }), "uid", "");
    check(json!({ "program": "/bin/true", "timeout_ms": 1 }), "timeout_ms", "from 10 to");
    check(json!({ "program": "/bin/true", "shell": true }), "shell", "unknown field");
    assert_eq!(faults(json!({ "program": "/etc/passwd" }), true), []);
}

#[test]
fn another_user_is_not_in_roots_group() {
    // Only root can make a program another user's.
    if rustix::process::geteuid().is_root() {
        let settings = json!({ "program": "/bin/sh", "args": ["-c", "id -u; id -g; id -G"], "uid": 65534 });
        assert_eq!(run(settings, "{}").output, "65534\n65534\n65534\n");
    }
}

#[test]
fn a_folder_that_is_not_there_is_named() {
    let settings = json!({ "program": "/bin/true", "working_directory": "/nowhere" });
    let Answer::Broken(_, why) = run(settings, "{}").answer else { panic!("it does not start") };
    assert_eq!(why, "/bin/true could not be started: there is no folder /nowhere to run it in");
}

#[test]
fn a_program_that_is_done_is_not_waited_for() {
    let run = || {
        let begun = std::time::Instant::now();
        assert_eq!(run(shell("exec >&- 2>&-; sleep 0.05"), "{}").answer, Answer::Ack);
        begun.elapsed()
    };
    // A busy machine is slow now and then, not every time.
    let fastest = (0..5).map(|_| run()).min().expect("five runs");
    assert!(fastest < DRAIN, "{fastest:?}");
}

#[test]
fn an_event_reaches_a_program() {
    let payload = r#"{"repository":{"name":"$(id) ; \"x\""},"n":12345678901234567890.10}"#;
    let ran = run(
        json!({
            "program": "/bin/sh",
            "args": ["-c", "printf '%s|' \"$@\"; printf '%s|' \"$N\" \"$GIVEN\" \"$HOME\" \"$BELLWIRE_ATTEMPT\"; cat; cat \"$FILE\" >&2", "sh",
                     "{{payload.repository.name}}", "{{headers.x-github-event}}", "{{payload.missing}}"],
            "env": { "N": "{{payload.n}}", "FILE": "{{file}}" },
            "inherit": ["GIVEN"],
        }),
        payload,
    );
    assert_eq!(ran.answer, Answer::Ack);
    let expected = format!("$(id) ; \"x\"|push||12345678901234567890.10|yes||2|{payload}{payload}");
    assert_eq!(ran.output, expected);
}

#[test]
fn parts_of_an_event_are_handed_on_as_files() {
    let files = json!({
        "ONE": { "content": "{{payload.text}}" },
        "TWO": { "content": "{{payload.file}}", "base64": true },
        "NONE": { "content": "{{payload.missing}}" },
    });
    let script = r#"cat "$ONE" "$TWO" "$NONE"; echo; echo "$ONE" "$TWO""#;
    let settings = json!({ "program": "/bin/sh", "args": ["-c", script], "files": files });
    let ran = run(settings.clone(), r#"{"text":"a b\n","file":"Yw0K"}"#);
    let output = String::from_utf8(ran.output.to_vec()).expect("text");
    let (content, paths) = output.split_once("\n\n").expect(&output);
    assert_eq!(content.trim_end(), "a b\nc");
    for path in paths.split_whitespace() {
        assert!(!Path::new(path).exists(), "{path} is still there");
    }
    let ran = run(settings, r#"{"file":"not base64!"}"#);
    assert!(matches!(&ran.answer, Answer::Fail(why) if why.contains("the file TWO")), "{:?}", ran.answer);
    for (files, path) in [
        (json!({ "A=B": { "content": "" } }), ["files", "A=B"].as_slice()),
        (json!({ "A": { "content": "{{file}}" } }), &["files", "A", "content"]),
        (json!({ "A": { "content": "", "mode": 7 } }), &["files", "A", "mode"]),
    ] {
        let faults = faults(json!({ "program": "/bin/true", "files": files }), false);
        assert_eq!(faults.first().map(|fault| fault.path.clone()).unwrap_or_default(), path, "{faults:?}");
    }
}

#[test]
fn a_sender_that_waits_is_told_what_was_written() {
    let respond = json!({ "status": 201, "headers": { "x-a": "b" } });
    let told = |script: &str, respond: &Value| {
        let ran = run(json!({ "program": "/bin/sh", "args": ["-c", script], "respond": respond }), "{}");
        let response = ran.response().cloned().expect("something is told");
        let output = ran.outcome(bellwire_model::Timestamp::EPOCH, Duration::ZERO);
        (response.status, String::from_utf8_lossy(&response.body).into_owned(), output)
    };
    let (status, body, outcome) = told("echo out; echo err >&2", &respond);
    assert!(status == 201 && body.contains("out\n") && body.contains("err\n"), "{status} {body}");
    assert!(outcome.is_success() && outcome.body == body, "kept once: {outcome:?}");
    let (status, body, outcome) = told("echo out; exit 3", &respond);
    assert_eq!((status, body.as_str()), (500, "out\n"));
    assert!(!outcome.is_success() && outcome.body.ends_with(b"out\n"), "{outcome:?}");
    let (status, body, _) = told("echo out; exit 3", &json!({ "error_status": 503, "error_body": "no" }));
    assert_eq!((status, body.as_str()), (503, "no"));
    let faults =
        faults(json!({ "program": "/bin/true", "respond": { "status": 99, "headers": { "a b": "" } } }), false);
    assert_eq!(
        faults.iter().map(|fault| fault.path.join(".")).collect::<Vec<_>>(),
        ["respond.status", "respond.headers.a b"]
    );
}

#[test]
fn the_exit_status_decides() {
    let check = |code: u8, expected: fn(&Answer) -> bool| {
        let ran = run(shell(&format!("echo out; echo err >&2; exit {code}")), "{}");
        assert!(expected(&ran.answer), "{code}: {:?}", ran.answer);
        // Two pipes have no order between them.
        assert!(ran.output == "out\nerr\n" || ran.output == "err\nout\n", "{:?}", ran.output);
    };
    check(0, |answer| *answer == Answer::Ack);
    check(75, |answer| matches!(answer, Answer::Retry(None, _)));
    check(65, |answer| matches!(answer, Answer::Fail(_)));
    check(78, |answer| matches!(answer, Answer::Fail(_)));
    check(1, |answer| matches!(answer, Answer::Broken(FailureClass::Plugin, why) if why.contains("exited with 1")));
    let killed = run(shell("kill -9 $$"), "{}");
    assert!(matches!(killed.answer, Answer::Broken(_, why) if why.contains("signal 9")));
}

#[test]
fn a_program_need_not_read_and_may_write_without_end() {
    let payload = format!("\"{}\"", "x".repeat(1 << 20));
    assert_eq!(run(json!({ "program": "/bin/true" }), &payload).answer, Answer::Ack);
    let mut settings = shell("head -c 3000000 /dev/zero");
    settings["output_bytes_max"] = 100.into();
    let ran = run(settings, "{}");
    assert_eq!(ran.answer, Answer::Ack);
    assert!(ran.output.ends_with(b"[2999900 more bytes were not kept]"), "{:?}", ran.output.len());
}

/// Process ids that a script printed, all of which must be gone.
fn gone(output: &[u8]) -> bool {
    let text = String::from_utf8_lossy(output);
    let ids: Vec<i32> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    assert!(!ids.is_empty(), "{text}");
    let alive = |id: i32| {
        // A zombie that its new parent has not looked at yet does not run.
        std::fs::read_to_string(format!("/proc/{id}/stat"))
            .is_ok_and(|stat| !stat.rsplit(')').next().unwrap_or_default().trim_start().starts_with(['Z', 'X']))
    };
    // SIGKILL is sent, not awaited.
    (0..2_000).any(|_| {
        std::thread::yield_now();
        let still = ids.iter().any(|id| alive(*id));
        if still {
            std::thread::park_timeout(Duration::from_millis(1));
        }
        !still
    })
}

#[test]
fn at_the_deadline_the_whole_group_ends_even_if_it_will_not() {
    let mut settings =
        shell("trap '' TERM; sleep 600 & echo $!; (trap '' TERM; sleep 600; sleep 600) & echo $!; wait; sleep 600");
    settings["timeout_ms"] = 1_000.into();
    settings["grace_ms"] = 100.into();
    let begun = std::time::Instant::now();
    let ran = run(settings, "{}");
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    assert!(
        matches!(&ran.answer, Answer::Broken(FailureClass::Timeout, why) if why.contains("1s")),
        "{:?}",
        ran.answer
    );
    assert!(gone(&ran.output));
}

#[test]
fn what_a_program_leaves_behind_ends_with_it() {
    let ran = run(shell("sleep 600 & echo $!"), "{}");
    assert_eq!(ran.answer, Answer::Ack);
    assert!(gone(&ran.output));
}

#[test]
fn a_run_that_is_dropped_ends_its_group() {
    let settings: Command = crate::settings::read(&shell("sleep 600 & echo $! >&2; sleep 600")).expect("settings");
    let message = message("{}", "application/json");
    let event = Event::new(&message, 1);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let leader = runtime.block_on(async {
        let Ok(mut started) = settings.start(&event, &allowed(), &Warden::default()) else { panic!("it starts") };
        let mut line = [0; 16];
        let read = started.stderr.read(&mut line).await.expect("it writes");
        assert!(read > 0);
        format!("{} {}", started.child.id(), String::from_utf8_lossy(&line[..read]))
    });
    assert!(gone(leader.as_bytes()));
}

#[test]
fn what_no_program_can_be_given_is_said() {
    let ran = run(json!({ "program": "/bin/true", "args": ["{{payload.a}}"] }), r#"{"a":"x\u0000y"}"#);
    assert!(matches!(ran.answer, Answer::Fail(why) if why.contains("argument 0 holds a NUL")));
    let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(200_000));
    let ran = run(json!({ "program": "/bin/true", "args": ["{{payload.a}}"] }), &long);
    assert!(matches!(ran.answer, Answer::Fail(why) if why.contains("has 200000 bytes")));
}
