//! Sources that fetch their messages themselves: a schedule, and a table, with the process killed in between.

use crate::program::{Program, eventually};
use crate::receiver::Receiver;
use rusqlite::Connection;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

fn application(server: &Program, url: &str) {
    assert_eq!(server.call("POST", "/app", json!({ "name": "Acme", "uid": "acme" })).0, 201);
    let endpoint = json!({ "url": url });
    assert_eq!(server.call("POST", "/app/acme/endpoint", endpoint).0, 201);
}

pub(crate) fn state(server: &Program, source: &str) -> Value {
    let (status, state) = server.call("GET", &format!("/source/{source}/state"), Value::Null);
    assert_eq!(status, 200, "{state}");
    state
}

/// All messages of the application, oldest first: event type and payload.
pub(crate) fn messages(server: &Program) -> Vec<(String, Value)> {
    let mut all = Vec::new();
    let mut from = String::new();
    loop {
        let (status, page) = server.call("GET", &format!("/app/acme/msg?limit=250{from}"), Value::Null);
        assert_eq!(status, 200, "{page}");
        for message in page["data"].as_array().unwrap() {
            all.push((message["eventType"].as_str().unwrap().to_owned(), message["payload"].clone()));
        }
        if page["done"] == json!(true) {
            all.reverse();
            return all;
        }
        from = format!("&iterator={}", page["iterator"].as_str().unwrap());
    }
}

#[test]
fn a_schedule_is_run_when_somebody_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::answering(&[200]);
    let server = Program::start(folder.path(), &[]);
    application(&server, &receiver.url());
    let source = json!({ "uid": "month", "appId": "acme", "eventType": "report.due",
        "cron": { "schedule": "0 18 L * *", "zone": "Europe/Berlin" } });
    assert_eq!(server.call("POST", "/source", source).0, 201);
    let (status, first) = server.call("POST", "/source/month/run", json!({}));
    assert_eq!((status, &first["eventType"]), (202, &json!("report.due")), "{first}");
    let arrival = receiver.next();
    assert_eq!(Some(arrival.headers["webhook-id"].as_str()), first["messageId"].as_str());
    let payload: Value = serde_json::from_slice(&arrival.body).unwrap();
    assert!(payload["previous"].as_str().is_some_and(|time| time.contains("T18:00:00+0")), "{payload}");
    // Each run is another message, and the schedule's own place is where it was.
    let output = crate::program::run(
        folder.path(),
        &["source", "run", "month", "--url", &format!("http://{}", server.address), "--api-token", &server.token],
    );
    let second = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    assert!(output.status.success() && second.starts_with("msg_"), "{output:?}");
    assert_eq!(receiver.next().headers["webhook-id"], second);
    assert_ne!(Some(second.as_str()), first["messageId"].as_str());
    assert_eq!(state(&server, "month").get("position"), None);
    let repeated = || {
        let (status, made) = server.raw(&format!(
            "POST /api/v1/source/month/run HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\nidempotency-key: k\r\n\
             connection: close\r\ncontent-length: 0\r\n\r\n",
            server.token
        ));
        assert_eq!(status, 202, "{made}");
        made
    };
    assert_eq!(repeated(), repeated());
    assert_eq!(messages(&server).len(), 3);

    assert_eq!(server.call("PATCH", "/source/month", json!({ "disabled": true })).0, 200);
    assert_eq!(server.call("POST", "/source/month/run", json!({})).0, 422);
    let http = json!({ "uid": "any", "appId": "acme", "preset": "none" });
    assert_eq!(server.call("POST", "/source", http).0, 201);
    let (status, answer) = server.call("POST", "/source/any/run", json!({}));
    assert_eq!((status, &answer["detail"][0]["loc"]), (422, &json!(["path", "source_id"])), "{answer}");
    assert_eq!(server.call("POST", "/source/none/run", json!({})).0, 404);
}

#[test]
fn a_schedule_makes_one_message_for_each_instant_also_over_a_crash() {
    let folder = tempfile::tempdir().unwrap();
    let receiver = Receiver::answering(&[200]);
    let mut server = Program::start(folder.path(), &[]);
    application(&server, &receiver.url());
    let source = json!({ "uid": "tick", "appId": "acme", "eventType": "tick",
        "cron": { "schedule": "* * * * * *", "missed": "all" } });
    let (status, made) = server.call("POST", "/source", source);
    assert_eq!(status, 201, "{made}");
    // By the instant, the messages that it made: a delivery may come again over a crash, a message may not.
    let mut seen: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for round in 0..2 {
        for _ in 0..2 {
            let arrival = receiver.next();
            let payload: Value = serde_json::from_slice(&arrival.body).unwrap();
            let time = payload["time"].as_str().unwrap().to_owned();
            let due: jiff::Timestamp = time.parse().unwrap();
            assert!(due <= jiff::Timestamp::now(), "{time} came before its time");
            seen.entry(time).or_default().insert(arrival.headers["webhook-id"].clone());
        }
        if round == 0 {
            server.kill();
            server = Program::start(folder.path(), &[]);
        }
    }
    for (time, ids) in &seen {
        assert_eq!(ids.len(), 1, "{time}: {ids:?}");
    }
    let known: Vec<String> =
        messages(&server).iter().map(|(_, payload)| payload["time"].as_str().unwrap().to_owned()).collect();
    let seconds: Vec<i64> = known.iter().map(|time| time.parse::<jiff::Timestamp>().unwrap().as_second()).collect();
    assert!(seconds.windows(2).all(|pair| pair[1] == pair[0] + 1), "none is missing and none came twice: {known:?}");
    let state_now = state(&server, "tick");
    assert_eq!((&state_now["running"], &state_now["failureCount"]), (&json!(true), &json!(0)), "{state_now}");
    assert!(state_now["next"].is_string() && state_now["position"]["through"].is_i64(), "{state_now}");

    // Changed and stopped while the server runs.
    assert_eq!(server.call("PATCH", "/source/tick", json!({ "disabled": true })).0, 200);
    assert_eq!(state(&server, "tick")["running"], json!(false));
    let silent = messages(&server).len();
    let change = json!({ "disabled": false, "cron": { "schedule": "0 0 1 1 *" } });
    assert_eq!(server.call("PATCH", "/source/tick", change).0, 200);
    eventually("it waits for the new year", || {
        state(&server, "tick")["next"].as_str().filter(|next| next.contains("-01-01T00:00:00")).map(drop)
    });
    assert_eq!(messages(&server).len(), silent);
    let wrong = json!({ "cron": { "schedule": "0 0 30 2 *", "zone": "Mars" } });
    let (status, told) = server.call("PATCH", "/source/tick", wrong);
    assert_eq!((status, &told["detail"][0]["loc"]), (422, &json!(["body", "cron", "zone"])));
    assert!(server.stop().success());
}

const ROWS: usize = 1_500;

fn insert(database: &mut Connection, numbers: std::ops::Range<usize>) {
    let transaction = database.transaction().unwrap();
    for n in numbers {
        let sql = "INSERT INTO outbox (event_type, payload) VALUES (?1, ?2)";
        transaction.execute(sql, (format!("row.{}", n % 3), json!({ "n": n }).to_string())).unwrap();
    }
    transaction.commit().unwrap();
}

fn read_over_crashes(then: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let mut database = Connection::open(&path).unwrap();
    database
        .execute_batch(
            "PRAGMA journal_mode = WAL; CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, event_type TEXT NOT NULL, \
             payload TEXT NOT NULL, processed_at TEXT)",
        )
        .unwrap();
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    let named = format!("shop=sqlite:{}", path.display());
    let environment = [("BELLWIRE_PLUGINS_DATABASES", named.as_str())];
    let start = |data: &Path| Program::start(data, &environment);
    let mut server = start(&data);
    let receiver = Receiver::answering(&[200]);
    application(&server, &receiver.url());
    let source = json!({ "uid": "rows", "appId": "acme",
        "outbox": { "connection": "shop", "then": then, "pollSeconds": 0.05 } });
    let (status, made) = server.call("POST", "/source", source);
    assert_eq!(status, 201, "{made}");
    for round in 0..3 {
        let rows = ROWS * round / 3..ROWS * (round + 1) / 3;
        let some = rows.start + 1;
        insert(&mut database, rows);
        // In the middle of it, as often as not.
        eventually("it has begun", || (messages(&server).len() >= some).then_some(()));
        server.kill();
        server = start(&data);
    }
    let done = eventually("every row is a message", || {
        let all = messages(&server);
        (all.len() >= ROWS).then_some(all)
    });
    let expected: Vec<_> = (0..ROWS).map(|n| (format!("row.{}", n % 3), json!({ "n": n }))).collect();
    assert!(done == expected, "in order, each once: {} messages", done.len());
    let left = || -> i64 {
        database.query_row("SELECT count(*) FROM outbox WHERE processed_at IS NULL", [], |row| row.get(0)).unwrap()
    };
    match then {
        "remember" => assert_eq!(left(), ROWS as i64),
        _ => eventually("what was read is marked or gone", || (left() == 0).then_some(())),
    }
    assert_eq!(state(&server, "rows")["failureCount"], json!(0));
    assert!(server.stop().success());
}

#[test]
fn a_table_is_read_in_order_and_once_over_crashes_and_remembered() {
    read_over_crashes("remember");
}

#[test]
fn a_table_is_read_in_order_and_once_over_crashes_and_marked() {
    read_over_crashes("mark");
}

#[test]
fn a_table_is_read_in_order_and_once_over_crashes_and_emptied() {
    read_over_crashes("delete");
}

#[test]
fn what_is_wrong_with_a_table_can_be_seen_and_put_right() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("shop.db");
    let database = Connection::open(&path).unwrap();
    let named = format!("shop=sqlite:{}", path.display());
    let server = Program::start(folder.path(), &[("BELLWIRE_PLUGINS_DATABASES", &named)]);
    let receiver = Receiver::answering(&[200]);
    application(&server, &receiver.url());
    let source = |outbox: Value| json!({ "uid": "rows", "appId": "acme", "outbox": outbox });
    for (outbox, place) in [
        (json!({ "connection": "other" }), "connection"),
        (json!({ "dsn": format!("sqlite:{}", path.display()) }), "dsn"),
        (json!({ "dsn": "mysql://h/d" }), "dsn"),
        (json!({ "dsn": "postgres:///d?host=/run/postgresql&user=u" }), "dsn"),
        (json!({ "connection": "shop", "notify": "x" }), "notify"),
    ] {
        let (status, told) = server.call("POST", "/source", source(outbox));
        assert_eq!((status, &told["detail"][0]["loc"]), (422, &json!(["body", "outbox", place])), "{told}");
    }
    let outbox = json!({ "connection": "shop", "then": "delete", "pollSeconds": 0.05 });
    assert_eq!(server.call("POST", "/source", source(outbox)).0, 201);
    let error = || state(&server, "rows")["lastError"]["message"].as_str().map(str::to_owned);
    let told = eventually("it says that there is no table", error);
    assert!(told.contains("there is no table outbox"), "{told}");
    let (_, metrics) = server.raw("GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    assert!(metrics.contains("bellwire_sources_failing 1"), "{metrics}");

    // A row that is too large stops it there; nothing overtakes.
    database
        .execute_batch(
            "CREATE TABLE outbox (id INTEGER PRIMARY KEY AUTOINCREMENT, event_type TEXT, payload BLOB); \
             INSERT INTO outbox (event_type, payload) VALUES ('a', '1'), ('a', zeroblob(40000000)), ('a', '3')",
        )
        .unwrap();
    let told = eventually("it says what is wrong with the row", || error().filter(|told| told.contains("row 2")));
    assert!(told.contains("this server takes at most"), "{told}");
    let payloads = || messages(&server).into_iter().map(|(_, payload)| payload).collect::<Vec<_>>();
    assert_eq!(payloads(), [json!({ "rawPayload": "1" })]);
    database.execute("DELETE FROM outbox WHERE id = 2", []).unwrap();
    eventually("it goes on", || {
        (payloads() == [json!({ "rawPayload": "1" }), json!({ "rawPayload": "3" })]).then_some(())
    });
    eventually("all is well", || (state(&server, "rows")["failureCount"] == json!(0)).then_some(()));
    assert!(server.stop().success());
}

#[test]
fn a_source_that_is_refused_on_the_command_line_leaves_nothing_behind() {
    let folder = tempfile::tempdir().unwrap();
    let server = Program::start(folder.path(), &[]);
    let url = format!("http://{}", server.address);
    let add = |arguments: &[&str]| {
        let arguments = [&["source", "add"], arguments, &["--url", &url, "--api-token", &server.token]].concat();
        let output = crate::program::run(folder.path(), &arguments);
        (output.status.success(), String::from_utf8(output.stderr).unwrap())
    };
    let applications = || server.call("GET", "/app", Value::Null).1["data"].as_array().unwrap().len();
    for refused in [
        &["pay", "--app", "shop", "--preset", "strip"][..],
        &["pay", "--app", "shop", "--preset", "none", "--path", "no path"],
        &["a b", "--app", "shop", "--preset", "none"],
    ] {
        let (done, told) = add(refused);
        assert!(!done && told.contains("refused with 422"), "{refused:?}: {told}");
        assert!(!told.contains("is made"), "{told}");
        assert_eq!(applications(), 0, "{refused:?}");
    }
    let (done, told) = add(&["pay", "--app", "shop", "--preset", "none"]);
    assert!(done && told.contains("the application shop is made"), "{told}");
    // A uid that is taken is found out last. An application that was there before stays whatever is refused.
    for app in ["other", "shop"] {
        let (done, told) = add(&["pay", "--app", app, "--preset", "none"]);
        assert!(!done && told.contains("refused with 409"), "{told}");
        assert_eq!(applications(), 1);
    }
}
