//! How much work a JSON Schema can cause, found out before it is compiled or used.
//!
//! A schema is a program: references make loops, and a few dozen lines of `allOf` double the work at each step. So the schema is
//! walked once as a graph whose edges stay at the same value (`allOf`, `$ref`, …) or go down to its parts (`properties`, `items`,
//! …). A loop of the first kind never ends and is refused. For the rest, by dynamic programming over the depth that a payload can
//! have: how often any one value is looked at, and how deep the recursion goes. Both are upper bounds.

use serde_json::{Map, Value};
use std::collections::HashMap;

/// Subschemas that can be reached.
const NODES_MAX: usize = 5_000;
/// Regular expressions, of `pattern` and `patternProperties`.
const PATTERNS_MAX: usize = 256;
/// How often one value may be looked at.
const LOOKS_MAX: u64 = 1_000;
/// How deep the recursion may go, in subschemas.
const STACK_MAX: u64 = 512;
/// Comparing with so many items costs about as much as one look.
const ITEMS_PER_LOOK: usize = 16;

/// What is known of a schema that is fit to be used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Bounds {
    /// How often one value of a payload is looked at, at the most.
    pub(crate) looks: u64,
    /// Whether each member of an object may be looked at once for each of its members.
    pub(crate) squared: bool,
}

/// Why a schema is not fit to be used.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Unfit {
    #[error("it has more than {NODES_MAX} subschemas")]
    TooLarge,
    #[error("it has more than {PATTERNS_MAX} regular expressions")]
    TooManyPatterns,
    #[error(
        "the reference {0:?} leads nowhere; only references within the schema are followed, such as \"#/$defs/name\""
    )]
    Reference(String),
    #[error("`{0}` is not supported; use `$ref` with a path within the schema")]
    Keyword(&'static str),
    #[error("it refers to itself without going down into the value, so checking would never end")]
    Endless,
    #[error("checking a payload by it could look at the same value more than {LOOKS_MAX} times")]
    TooMuchWork,
    #[error("checking a deep payload by it could nest more than {STACK_MAX} subschemas")]
    TooDeep,
}

/// Finds the bounds of `schema` for payloads of at most `depth_max` levels.
///
/// # Errors
/// [`Unfit`].
pub(crate) fn bounds(schema: &Value, depth_max: usize) -> Result<Bounds, Unfit> {
    let mut graph = Graph { root: schema, nodes: Vec::new(), places: HashMap::new(), todo: Vec::new(), patterns: 0 };
    graph.node(schema)?;
    while let Some((at, value)) = graph.todo.pop() {
        graph.read(at, value)?;
    }
    let order = order(&graph.nodes)?;
    let looks = worst(&graph.nodes, &order, depth_max, Node::looks);
    if looks > LOOKS_MAX {
        return Err(Unfit::TooMuchWork);
    }
    if worst(&graph.nodes, &order, depth_max, Node::stack) > STACK_MAX {
        return Err(Unfit::TooDeep);
    }
    Ok(Bounds { looks, squared: graph.nodes.iter().any(|node| node.squared) })
}

/// A subschema.
#[derive(Default)]
struct Node {
    /// What it costs by itself, in looks.
    own: u64,
    squared: bool,
    /// Subschemas for the same value.
    here: Vec<usize>,
    /// For members of an object: one of these, by the member's name.
    one_member: Vec<usize>,
    /// All of these.
    each_member: Vec<usize>,
    /// For items of an array: one of these, by the item's place.
    one_item: Vec<usize>,
    /// All of these.
    each_item: Vec<usize>,
}

impl Node {
    /// How often a value some levels down is looked at; `same` and `down` are the answers for this level and the one below.
    fn looks(&self, bottom: bool, same: &[u64], down: &[u64]) -> u64 {
        let sum = |of: &[usize], table: &[u64]| of.iter().fold(0u64, |sum, at| sum.saturating_add(table[*at]));
        let max = |of: &[usize]| of.iter().map(|at| down[*at]).max().unwrap_or(0);
        let members = max(&self.one_member).saturating_add(sum(&self.each_member, down));
        let items = max(&self.one_item).saturating_add(sum(&self.each_item, down));
        let below = if bottom { self.own } else { members.max(items) };
        sum(&self.here, same).saturating_add(below)
    }

    /// How deep the recursion goes.
    fn stack(&self, bottom: bool, same: &[u64], down: &[u64]) -> u64 {
        let below = [&self.one_member, &self.each_member, &self.one_item, &self.each_item];
        let below = below.into_iter().flatten().filter(|_| !bottom).map(|at| down[*at]);
        self.here.iter().map(|at| same[*at]).chain(below).max().unwrap_or(0).saturating_add(1)
    }
}

/// The greatest answer for the root over all depths.
fn worst(nodes: &[Node], order: &[usize], depth_max: usize, count: impl Fn(&Node, bool, &[u64], &[u64]) -> u64) -> u64 {
    let mut down = vec![0; nodes.len()];
    let mut greatest = 0;
    for depth in 0..=depth_max {
        let mut same = vec![0; nodes.len()];
        for &at in order {
            same[at] = count(&nodes[at], depth == 0, &same, &down);
        }
        greatest = greatest.max(same[0]);
        down = same;
    }
    greatest
}

/// The nodes so that each comes after all that look at the same value for it.
fn order(nodes: &[Node]) -> Result<Vec<usize>, Unfit> {
    #[derive(Clone, Copy, PartialEq)]
    enum Mark {
        New,
        Open,
        Done,
    }
    let mut marks = vec![Mark::New; nodes.len()];
    let mut order = Vec::with_capacity(nodes.len());
    for start in 0..nodes.len() {
        // With its own stack: this runs on schemas that are not known to be harmless.
        let mut stack = vec![(start, 0)];
        while let Some((at, next)) = stack.pop() {
            if next == 0 {
                match marks[at] {
                    Mark::Done => continue,
                    Mark::Open => return Err(Unfit::Endless),
                    Mark::New => marks[at] = Mark::Open,
                }
            }
            match nodes[at].here.get(next) {
                Some(&child) => stack.extend([(at, next + 1), (child, 0)]),
                None => {
                    marks[at] = Mark::Done;
                    order.push(at);
                }
            }
        }
    }
    Ok(order)
}

struct Graph<'a> {
    root: &'a Value,
    nodes: Vec<Node>,
    /// By address: a subschema that is referred to twice is one node.
    places: HashMap<*const Value, usize>,
    todo: Vec<(usize, &'a Value)>,
    patterns: usize,
}

impl<'a> Graph<'a> {
    fn node(&mut self, schema: &'a Value) -> Result<usize, Unfit> {
        if let Some(&at) = self.places.get(&std::ptr::from_ref(schema)) {
            return Ok(at);
        }
        let at = self.nodes.len();
        if at == NODES_MAX {
            return Err(Unfit::TooLarge);
        }
        self.nodes.push(Node::default());
        self.places.insert(std::ptr::from_ref(schema), at);
        self.todo.push((at, schema));
        Ok(at)
    }

    fn all(&mut self, schemas: impl IntoIterator<Item = &'a Value>) -> Result<Vec<usize>, Unfit> {
        schemas.into_iter().filter(|s| s.is_object() || s.is_boolean()).map(|schema| self.node(schema)).collect()
    }

    fn read(&mut self, at: usize, schema: &'a Value) -> Result<(), Unfit> {
        let Value::Object(schema) = schema else {
            self.nodes[at].own = 1;
            return Ok(());
        };
        for keyword in ["$dynamicRef", "$recursiveRef"] {
            if schema.contains_key(keyword) {
                return Err(Unfit::Keyword(keyword));
            }
        }
        // References below an id of their own are relative to it.
        if at > 0 && ["$id", "id"].iter().any(|id| schema.get(*id).is_some_and(Value::is_string)) {
            return Err(Unfit::Keyword("$id"));
        }
        let listed = |name: &str| schema.get(name).and_then(Value::as_array).into_iter().flatten();
        let mapped = |name: &str| schema.get(name).and_then(Value::as_object).into_iter().flat_map(Map::values);
        let single = |name: &str| schema.get(name).into_iter();

        let comparisons = listed("enum").count().max(listed("required").count());
        self.patterns += usize::from(schema.contains_key("pattern")) + mapped("patternProperties").count();
        if self.patterns > PATTERNS_MAX {
            return Err(Unfit::TooManyPatterns);
        }
        let patterns = mapped("patternProperties").count();
        let mut here = self.all(listed("allOf").chain(listed("anyOf")).chain(listed("oneOf")))?;
        for name in ["not", "if", "then", "else"] {
            here.extend(self.all(single(name))?);
        }
        here.extend(self.all(mapped("dependentSchemas").chain(mapped("dependencies")))?);
        if let Some(reference) = schema.get("$ref") {
            let target = self.target(reference)?;
            here.push(self.node(target)?);
        }
        let node = Node {
            own: 1 + (comparisons / ITEMS_PER_LOOK) as u64 + patterns as u64,
            squared: schema.contains_key("unevaluatedProperties") || schema.contains_key("unevaluatedItems"),
            here,
            one_member: self.all(mapped("properties"))?,
            each_member: self.all(
                mapped("patternProperties")
                    .chain(single("additionalProperties"))
                    .chain(single("unevaluatedProperties"))
                    .chain(single("propertyNames")),
            )?,
            one_item: self.all(listed("items").chain(listed("prefixItems")))?,
            each_item: self.all(
                single("items")
                    .chain(single("additionalItems"))
                    .chain(single("contains"))
                    .chain(single("unevaluatedItems")),
            )?,
        };
        self.nodes[at] = node;
        Ok(())
    }

    fn target(&self, reference: &Value) -> Result<&'a Value, Unfit> {
        let text = reference.as_str().unwrap_or_default();
        let found = text.strip_prefix('#').and_then(|pointer| self.root.pointer(&unescaped(pointer)?));
        found.ok_or_else(|| Unfit::Reference(text.chars().take(100).collect()))
    }
}

/// Without the escapes of a URL.
fn unescaped(pointer: &str) -> Option<String> {
    if !pointer.contains('%') {
        return Some(pointer.to_owned());
    }
    // A form's escapes are a URL's, but for the plus.
    let text = format!("p={}", pointer.replace('+', "%2B"));
    form_urlencoded::parse(text.as_bytes()).next().map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(schema: &Value, expected: Result<u64, Unfit>) {
        assert_eq!(bounds(schema, 64).map(|bounds| bounds.looks), expected, "{schema}");
    }

    #[test]
    fn looks_are_counted_where_they_come_together() {
        check(&json!(true), Ok(1));
        check(&json!({ "properties": { "a": {}, "b": { "type": "string" } } }), Ok(1));
        check(&json!({ "allOf": [{ "required": ["a"] }, { "properties": { "a": {} } }] }), Ok(3));
        check(&json!({ "properties": { "a": {} }, "additionalProperties": { "anyOf": [{}, {}] } }), Ok(4));
        let tree = json!({ "properties": { "left": { "$ref": "#" }, "right": { "$ref": "#" } } });
        check(&tree, Ok(2));
        let list = json!({ "$ref": "#/$defs/a%20b", "$defs": { "a b": { "items": { "$ref": "#/$defs/a b" } } } });
        check(&list, Ok(2));
    }

    #[test]
    fn what_never_ends_or_grows_without_bound_is_unfit() {
        check(&json!({ "$ref": "#" }), Err(Unfit::Endless));
        check(
            &json!({ "properties": { "a": { "allOf": [{ "not": { "$ref": "#/properties/a" } }] } } }),
            Err(Unfit::Endless),
        );
        // Each level of the payload doubles the work.
        let twice = json!({ "allOf": [{ "properties": { "a": { "$ref": "#" } } }, { "properties": { "a": { "$ref": "#" } } }] });
        check(&twice, Err(Unfit::TooMuchWork));
        // Each definition doubles the work.
        let chain = |link: fn(String) -> Value| {
            let defs: Map<String, Value> =
                (0..40).map(|n| (format!("d{n}"), link(format!("#/$defs/d{}", n + 1)))).collect();
            let mut defs = Value::Object(defs);
            defs["d40"] = json!({});
            json!({ "$ref": "#/$defs/d0", "$defs": defs })
        };
        check(&chain(|next| json!({ "anyOf": [{ "$ref": next }, { "$ref": next }] })), Err(Unfit::TooMuchWork));
        // Forty hops for one value, and so for each of sixty-four levels.
        let mut deep = chain(|next| json!({ "$ref": next }));
        deep["$defs"]["d40"] = json!({ "items": { "$ref": "#" } });
        check(&deep, Err(Unfit::TooDeep));
        let many: Vec<Value> = (0..5_001).map(|n| json!({ "const": n })).collect();
        check(&json!({ "anyOf": many }), Err(Unfit::TooLarge));
        let patterns: Map<String, Value> = (0..257).map(|n| (format!("^{n}$"), json!({}))).collect();
        check(&json!({ "patternProperties": patterns }), Err(Unfit::TooManyPatterns));
        check(
            &json!({ "$ref": "https://example.com/schema" }),
            Err(Unfit::Reference("https://example.com/schema".into())),
        );
        check(&json!({ "$ref": "#/$defs/none" }), Err(Unfit::Reference("#/$defs/none".into())));
        check(&json!({ "items": { "$dynamicRef": "#x" } }), Err(Unfit::Keyword("$dynamicRef")));
        check(&json!({ "items": { "$id": "other.json" } }), Err(Unfit::Keyword("$id")));
    }
}
