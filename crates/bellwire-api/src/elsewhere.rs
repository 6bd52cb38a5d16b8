//! Svix's operations that are not here: they are answered with 501 and say so, so that nobody looks for a typing error.
//!
//! `svix_operations.txt` lists all that Svix's SDK document has, one to a line: method, path, id, whether it is public, and its tag.
//! `svix_absent.txt` says why, by the beginnings of their ids; the first line that fits counts.
//!
//! What is in [`crate::operations`] is here; the rest gets a route from this table. So an operation that is added leaves the
//! table's answer by itself, and a path that is in neither stays unknown.

use crate::Api;
use crate::call::Unchecked;
use crate::error::Error;
use crate::operation::{Access, Operation, filter};
use crate::permission::Permission;
use axum::Router;
use axum::routing::on;
use http::{Method, StatusCode};
use std::collections::HashSet;

const TABLE: &str = include_str!("svix_operations.txt");
const WHY: &str = include_str!("svix_absent.txt");

/// One of Svix's operations.
struct Theirs {
    method: Method,
    path: &'static str,
    id: &'static str,
}

/// Adds a route for each of Svix's operations that is not in `here`.
pub(crate) fn routes(mut routes: Router<Api>, here: &HashSet<(Method, &'static str)>) -> Router<Api> {
    for Theirs { method, path, id } in theirs().filter(|theirs| !here.contains(&(theirs.method.clone(), theirs.path))) {
        let why = why(id).map(|why| format!(": {why}")).unwrap_or_default();
        let detail = format!(
            "{id} ({method} {path}) is an operation of Svix's hosted service that Bellwire does not have{why}. \
             docs/svix-operations.md lists those that it has."
        );
        let answer = move |unchecked: Unchecked| {
            let refused = unchecked.check(Access::Reader, Permission::Own).map(|_| not_implemented(detail.clone()));
            std::future::ready(match refused {
                Ok(error) | Err(error) => error,
            })
        };
        routes = routes.route(path, on(filter(&method), answer));
    }
    routes
}

/// What is here, as [`routes`] wants it.
pub(crate) fn here(operations: &[Operation]) -> HashSet<(Method, &'static str)> {
    operations.iter().map(|operation| (operation.method.clone(), operation.path)).collect()
}

/// Why an operation is not here.
fn why(id: &str) -> Option<&'static str> {
    let mut all = WHY.lines().filter_map(|line| line.split_once('\t'));
    all.find(|(beginning, _)| id.starts_with(beginning)).map(|(_, why)| why)
}

fn not_implemented(detail: String) -> Error {
    Error::refused(StatusCode::NOT_IMPLEMENTED, "not_implemented", detail)
}

fn theirs() -> impl Iterator<Item = Theirs> {
    TABLE.lines().map(|line| {
        let mut words = line.split_ascii_whitespace();
        let mut word = || words.next().expect("each line of the table has a method, a path and an id");
        let method = word().parse().expect("the table's methods are methods");
        Theirs { method, path: word(), id: word() }
    })
}
