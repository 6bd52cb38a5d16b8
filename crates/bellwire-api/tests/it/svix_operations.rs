//! Which of Svix's operations are here: the page that says so, and what the others are answered with.

use crate::document::operations;
use crate::world::World;
use axum::body::Body;
use http::{Method, Request, StatusCode};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

/// One of Svix's operations.
struct Theirs {
    method: &'static str,
    path: &'static str,
    id: &'static str,
    public: bool,
    tag: &'static str,
    here: bool,
}

fn all() -> Vec<Theirs> {
    let document = bellwire_api::openapi_document();
    let here: BTreeSet<String> = operations(&document).into_iter().map(|(name, _)| name).collect();
    include_str!("../../src/svix_operations.txt")
        .lines()
        .map(|line| {
            let words: Vec<_> = line.split_ascii_whitespace().collect();
            let [method, path, id, kind, ..] = words[..] else { panic!("{line}") };
            let tag = line.split_once(kind).unwrap().1.trim();
            let here = here.contains(&format!("{method} {path}"));
            Theirs { method, path, id, public: kind == "public", tag, here }
        })
        .collect()
}

/// Why an operation is not here.
fn why(id: &str) -> &'static str {
    let lines = include_str!("../../src/svix_absent.txt").lines();
    let mut all = lines.map(|line| line.split_once('\t').unwrap_or_else(|| panic!("{line}")));
    all.find(|(beginning, _)| id.starts_with(beginning)).unwrap_or_else(|| panic!("nothing says why {id} is absent")).1
}

fn page() -> String {
    let all = all();
    let count = |public: bool, here: bool| all.iter().filter(|t| t.public == public && (t.here || !here)).count();
    let mut page = format!(
        "# Svix's operations\n\n\
         Of the {} public operations in Svix's SDK document (1.947.0), {} are here; of its {} internal ones (what its dashboard and its\n\
         portal call), {}. The others answer 501 with the code `not_implemented` and say why, after the token was checked. A path that is in\n\
         neither list is answered with 404. A test writes this page from the program's own table of operations.\n",
        count(true, false),
        count(true, true),
        count(false, false),
        count(false, true),
    );
    let mut tags: BTreeMap<&str, Vec<&Theirs>> = BTreeMap::new();
    for theirs in &all {
        tags.entry(theirs.tag).or_default().push(theirs);
    }
    for (tag, operations) in tags {
        write!(page, "\n## {tag}\n\n| operation | request | here |\n| --- | --- | --- |\n").unwrap();
        for Theirs { method, path, id, public, here, .. } in operations {
            let kind = if *public { "" } else { " (internal)" };
            let here = if *here { "yes".to_owned() } else { format!("501: {}", why(id)) };
            writeln!(page, "| `{id}`{kind} | `{method} {path}` | {here} |").unwrap();
        }
    }
    page
}

#[test]
fn the_page_of_svixs_operations_is_up_to_date() {
    crate::document::blessed("svix-operations.md", &page());
}

fn request(theirs: &Theirs, token: Option<&str>) -> Request<Body> {
    let filled: Vec<_> = theirs.path.split('/').map(|part| if part.starts_with('{') { "x" } else { part }).collect();
    let mut request =
        Request::builder().method(Method::from_bytes(theirs.method.as_bytes()).unwrap()).uri(filled.join("/"));
    if let Some(token) = token {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    request.body(Body::from("{}")).unwrap()
}

#[tokio::test]
async fn what_is_not_here_says_so_by_name_and_only_with_a_token() {
    let world = World::new();
    let mut absent = 0;
    for theirs in all() {
        let answer = world.send(request(&theirs, Some(&world.token))).await;
        if theirs.here {
            assert_ne!(answer.status, StatusCode::NOT_IMPLEMENTED, "{}", theirs.id);
            continue;
        }
        absent += 1;
        let error = answer.expect(501);
        assert_eq!(error["code"], "not_implemented");
        let detail = error["detail"].as_str().unwrap();
        assert!(detail.contains(theirs.id) && detail.contains(theirs.path), "{detail}");
        assert!(detail.contains(why(theirs.id)), "{detail}");
        world.send(request(&theirs, None)).await.expect(401);
    }
    assert!(absent > 50, "{absent}");
    world.get("/api/v1/nowhere").await.expect(404);
    world.get("/api/v1/stream/x/nowhere").await.expect(404);
}
