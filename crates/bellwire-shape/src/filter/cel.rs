//! Filters as CEL: from source to a small program of our own, or to a fault with its place.
//!
//! The library parses; what it parsed is evaluated here ([`super::evaluate`]), because its interpreter cannot be stopped, and a
//! filter runs on the thread that accepts messages. What a filter does not need, or what could not be bounded, is refused by
//! name when the filter is written: map and message literals, bytes, regular expressions that come from a payload, and more
//! than two loops inside each other.

use super::FilterFault;
use super::evaluate::{Arithmetic, Function, Literal, Loop, Node, Order, Variable};
use bellwire_body::is_exact;
use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, SourceInfo, operators};
use cel::parser::Parser;

const SOURCE_BYTES_MAX: usize = 4_096;
const NODES_MAX: usize = 256;
const DEPTH_MAX: usize = 48;
const LOOPS_NESTED_MAX: usize = 2;
/// Brackets and operators in a source: bounds how deep the parser goes before there is a tree to look at.
const OPERATORS_MAX: usize = 512;
const BRACKETS_DEEP_MAX: usize = 32;
/// A number in a source has at most so many characters to be read digit by digit.
const DECIMAL_MAX: usize = 128;
const REGEX_BYTES_MAX: usize = 256 * 1024;
/// Room for the parser, which is recursive.
const STACK_BYTES: usize = 16 * 1024 * 1024;
const VARIABLES: &str = "payload (or data), eventType (or type), eventId, channels and tags";
const FUNCTIONS: &str = "size, contains, startsWith, endsWith, matches, lowerAscii, upperAscii, int, double, string, \
                         timestamp, has, all, exists, exists_one, filter and map";

/// A filter that was compiled.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) root: Node,
    /// Variables of loops that are alive at once.
    pub(super) slots: usize,
}

pub(super) fn compile(source: &str) -> Result<Program, FilterFault> {
    check_source(source)?;
    // On a thread of its own: the parser's recursion needs more stack than ours have, and a fault in it must end there.
    let compiled = std::thread::scope(|scope| {
        std::thread::Builder::new()
            .name("filter-parser".to_owned())
            .stack_size(STACK_BYTES)
            .spawn_scoped(scope, || compile_here(source))
            .map(std::thread::ScopedJoinHandle::join)
    });
    match compiled {
        Ok(Ok(compiled)) => compiled,
        Ok(Err(_)) => Err(FilterFault::new("the filter cannot be parsed")),
        Err(error) => Err(FilterFault::new(format!("no thread to parse the filter on: {error}"))),
    }
}

/// What must hold before a recursive parser may see it.
fn check_source(source: &str) -> Result<(), FilterFault> {
    if source.trim().is_empty() {
        return Err(FilterFault::new("the filter is empty; leave it out to take every message"));
    }
    if source.len() > SOURCE_BYTES_MAX {
        let message = format!("a filter has at most {SOURCE_BYTES_MAX} bytes, not {}", source.len());
        return Err(FilterFault::new(message));
    }
    let (mut deep, mut deepest, mut operators) = (0_usize, 0, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                deep += 1;
                deepest = deepest.max(deep);
                operators += 1;
            }
            b')' | b']' | b'}' => deep = deep.saturating_sub(1),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'_' | b' ' | b'\t' | b'\r' | b'\n' | b'"' | b'\'' => {}
            _ if byte.is_ascii() => operators += 1,
            _ => {}
        }
    }
    if deepest > BRACKETS_DEEP_MAX {
        return Err(FilterFault::new(format!("brackets are nested {deepest} deep; at most {BRACKETS_DEEP_MAX}")));
    }
    if operators > OPERATORS_MAX {
        return Err(FilterFault::new(format!("a filter has at most {OPERATORS_MAX} operators, not {operators}")));
    }
    Ok(())
}

fn compile_here(source: &str) -> Result<Program, FilterFault> {
    let (expression, info) = Parser::new().parse_with_source_info(source).map_err(|errors| {
        let first = errors.errors.into_iter().next();
        FilterFault::new(match first {
            Some(error) if error.pos.0 > 0 => format!("line {}, column {}: {}", error.pos.0, error.pos.1, error.msg),
            Some(error) => error.msg,
            None => "the filter cannot be parsed".to_owned(),
        })
    })?;
    let mut compiler = Compiler { source, info: &info, nodes: 0, depth: 0, loops: 0, names: Vec::new(), slots: 0 };
    let root = compiler.node(&expression)?;
    if root.is_never_bool() {
        return Err(compiler.fault(&expression, "a filter must give true or false, and this never does"));
    }
    Ok(Program { root, slots: compiler.slots })
}

struct Compiler<'s> {
    source: &'s str,
    info: &'s SourceInfo,
    nodes: usize,
    depth: usize,
    loops: usize,
    /// Variables of the loops we are in, by slot.
    names: Vec<String>,
    slots: usize,
}

impl Compiler<'_> {
    fn fault(&self, at: &IdedExpr, message: impl std::fmt::Display) -> FilterFault {
        let Some((start, _)) = self.info.offset_for(at.id) else { return FilterFault::new(message.to_string()) };
        let before: String = self.source.chars().take(start as usize).collect();
        let line = before.matches('\n').count() + 1;
        let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
        FilterFault::new(format!("line {line}, column {column}: {message}"))
    }

    fn node(&mut self, expression: &IdedExpr) -> Result<Node, FilterFault> {
        self.nodes += 1;
        self.depth += 1;
        if self.nodes > NODES_MAX {
            return Err(self.fault(expression, format!("a filter has at most {NODES_MAX} parts")));
        }
        if self.depth > DEPTH_MAX {
            return Err(self.fault(expression, format!("a filter is nested at most {DEPTH_MAX} deep")));
        }
        let node = self.inner(expression);
        self.depth -= 1;
        node
    }

    fn boxed(&mut self, expression: &IdedExpr) -> Result<Box<Node>, FilterFault> {
        self.node(expression).map(Box::new)
    }

    fn inner(&mut self, expression: &IdedExpr) -> Result<Node, FilterFault> {
        match &expression.expr {
            Expr::Literal(literal) => self.literal(expression, literal).map(Node::Literal),
            Expr::Ident(name) => self.identifier(expression, name),
            Expr::Select(select) => {
                let operand = self.boxed(&select.operand)?;
                let field = select.field.clone();
                Ok(if select.test { Node::Has(operand, field) } else { Node::Field(operand, field) })
            }
            Expr::List(list) if list.optional_indices.is_empty() => {
                list.elements.iter().map(|item| self.node(item)).collect::<Result<_, _>>().map(Node::List)
            }
            Expr::Call(call) => self.call(expression, call),
            Expr::Comprehension(comprehension) => self.comprehension(expression, comprehension),
            Expr::Map(_) | Expr::Struct(_) => Err(self.fault(expression, "maps cannot be written in a filter")),
            Expr::List(_) | Expr::Unspecified => Err(self.fault(expression, "this cannot stand in a filter")),
        }
    }

    fn literal(&self, at: &IdedExpr, literal: &LiteralValue) -> Result<Literal, FilterFault> {
        Ok(match literal {
            LiteralValue::Boolean(value) => Literal::Bool(*value.inner()),
            LiteralValue::Int(value) => Literal::Int(*value.inner()),
            LiteralValue::UInt(value) => Literal::Uint(*value.inner()),
            LiteralValue::Double(value) => self.double(at, *value.inner()),
            LiteralValue::String(value) => Literal::String(value.inner().to_owned()),
            LiteralValue::Null => Literal::Null,
            LiteralValue::Bytes(_) => return Err(self.fault(at, "bytes cannot be written in a filter; use a string")),
        })
    }

    /// A decimal of more digits than `f64` has is taken from the source.
    fn double(&self, at: &IdedExpr, value: f64) -> Literal {
        let Some((start, _)) = self.info.offset_for(at.id) else { return Literal::Double(value) };
        let mut text: String = self.source.chars().skip(start as usize).take(DECIMAL_MAX).collect();
        let end = text.char_indices().position(|(at, c)| {
            let is_sign = matches!(c, '+' | '-') && text[..at].ends_with(['e', 'E']);
            !(c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E') || is_sign)
        });
        text.truncate(end.unwrap_or(text.len()));
        // Only if it is what was parsed.
        if text.parse() == Ok(value) && !is_exact(&text) { Literal::Decimal(text) } else { Literal::Double(value) }
    }

    fn identifier(&self, at: &IdedExpr, name: &str) -> Result<Node, FilterFault> {
        if let Some(slot) = self.names.iter().rposition(|own| own == name) {
            return Ok(Node::Local(slot));
        }
        let variable = match name {
            "payload" | "data" => Variable::Payload,
            "eventType" | "type" => Variable::EventType,
            "eventId" => Variable::EventId,
            "channels" => Variable::Channels,
            "tags" => Variable::Tags,
            "id" => {
                let message = "a message has no id before it is accepted; use eventId, which its sender gives it";
                return Err(self.fault(at, message));
            }
            _ => return Err(self.fault(at, format!("there is no {name:?}; a filter sees {VARIABLES}"))),
        };
        Ok(Node::Variable(variable))
    }

    fn call(&mut self, at: &IdedExpr, call: &CallExpr) -> Result<Node, FilterFault> {
        let operands: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        let name = call.func_name.as_str();
        match (name, operands.as_slice()) {
            (operators::LOGICAL_NOT, [one]) => Ok(Node::Not(self.boxed(one)?)),
            (operators::NEGATE, [one]) => Ok(Node::Negate(self.boxed(one)?)),
            (operators::NOT_STRICTLY_FALSE, [one]) => Ok(Node::NotStrictlyFalse(self.boxed(one)?)),
            (operators::LOGICAL_AND, [left, right]) => Ok(Node::And(self.boxed(left)?, self.boxed(right)?)),
            (operators::LOGICAL_OR, [left, right]) => Ok(Node::Or(self.boxed(left)?, self.boxed(right)?)),
            (operators::CONDITIONAL, [condition, yes, no]) => {
                Ok(Node::Conditional(self.boxed(condition)?, self.boxed(yes)?, self.boxed(no)?))
            }
            (operators::INDEX, [of, at]) => Ok(Node::Index(self.boxed(of)?, self.boxed(at)?)),
            (operators::EQUALS, [left, right]) => Ok(Node::Equal(self.boxed(left)?, self.boxed(right)?)),
            (operators::NOT_EQUALS, [left, right]) => {
                Ok(Node::Not(Box::new(Node::Equal(self.boxed(left)?, self.boxed(right)?))))
            }
            (operators::IN, [item, of]) => Ok(Node::In(self.boxed(item)?, self.boxed(of)?)),
            (operators::ADD, [list, item]) if self.is_append(list, item) => {
                let (Node::Local(slot), Expr::List(item)) = (self.node(list)?, &item.expr) else {
                    return Err(self.fault(at, "this cannot stand in a filter"));
                };
                Ok(Node::Append(slot, self.boxed(&item.elements[0])?))
            }
            ("matches", [text, pattern]) => self.matches(text, pattern),
            (_, operands) => {
                if let (Some(order), [left, right]) = (order(name), operands) {
                    return Ok(Node::Compare(order, self.boxed(left)?, self.boxed(right)?));
                }
                if let (Some(arithmetic), [left, right]) = (arithmetic(name), operands) {
                    return Ok(Node::Arithmetic(arithmetic, self.boxed(left)?, self.boxed(right)?));
                }
                let Some((function, arity)) = function(name) else {
                    return Err(self.fault(at, format!("there is no function {name:?}; a filter has {FUNCTIONS}")));
                };
                if operands.len() != arity {
                    let message = format!("{name} takes {arity} operands, its target included, not {}", operands.len());
                    return Err(self.fault(at, message));
                }
                let operands = operands.iter().map(|o| self.node(o)).collect::<Result<_, _>>()?;
                Ok(Node::Call(function, operands))
            }
        }
    }

    /// The step of `filter` and `map`: the list that is being made, plus one item. Made in place, not copied for each item.
    fn is_append(&self, list: &IdedExpr, item: &IdedExpr) -> bool {
        matches!(&list.expr, Expr::Ident(name) if name.starts_with('@'))
            && matches!(&item.expr, Expr::List(list) if list.elements.len() == 1)
    }

    fn matches(&mut self, text: &IdedExpr, pattern: &IdedExpr) -> Result<Node, FilterFault> {
        let text = self.boxed(text)?;
        let Expr::Literal(LiteralValue::String(source)) = &pattern.expr else {
            return Err(self.fault(pattern, "the pattern of matches must be written out as a string"));
        };
        let regex = regex::RegexBuilder::new(source.inner())
            .size_limit(REGEX_BYTES_MAX)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .nest_limit(32)
            .build()
            .map_err(|error| self.fault(pattern, format!("the pattern of matches cannot be used: {error}")))?;
        Ok(Node::Matches(text, Box::new(regex)))
    }

    fn comprehension(&mut self, at: &IdedExpr, loop_: &ComprehensionExpr) -> Result<Node, FilterFault> {
        if loop_.iter_var2.is_some() {
            return Err(self.fault(at, "loops have one variable in a filter"));
        }
        let range = self.boxed(&loop_.iter_range)?;
        let start = self.boxed(&loop_.accu_init)?;
        self.loops += 1;
        if self.loops > LOOPS_NESTED_MAX {
            let message = format!("all, exists, filter and map stand in each other at most {LOOPS_NESTED_MAX} deep");
            return Err(self.fault(at, message));
        }
        let result_slot = self.names.len();
        // Each loop's result has a name of its own slot's: an inner one hides the outer one's, as it should.
        self.names.push(loop_.accu_var.clone());
        self.names.push(loop_.iter_var.clone());
        self.slots = self.slots.max(self.names.len());
        let condition = self.boxed(&loop_.loop_cond);
        let step = self.boxed(&loop_.loop_step);
        let item = self.names.pop();
        let result = self.boxed(&loop_.result);
        self.names.pop();
        drop(item);
        self.loops -= 1;
        Ok(Node::Loop(Box::new(Loop {
            range: *range,
            start: *start,
            result_slot,
            condition: *condition?,
            step: *step?,
            result: *result?,
        })))
    }
}

fn order(name: &str) -> Option<Order> {
    Some(match name {
        operators::LESS => Order::Less,
        operators::LESS_EQUALS => Order::LessOrEqual,
        operators::GREATER => Order::Greater,
        operators::GREATER_EQUALS => Order::GreaterOrEqual,
        _ => return None,
    })
}

fn arithmetic(name: &str) -> Option<Arithmetic> {
    Some(match name {
        operators::ADD => Arithmetic::Add,
        operators::SUBSTRACT => Arithmetic::Subtract,
        operators::MULTIPLY => Arithmetic::Multiply,
        operators::DIVIDE => Arithmetic::Divide,
        operators::MODULO => Arithmetic::Modulo,
        _ => return None,
    })
}

fn function(name: &str) -> Option<(Function, usize)> {
    Some(match name {
        "size" => (Function::Size, 1),
        "contains" => (Function::Contains, 2),
        "startsWith" => (Function::StartsWith, 2),
        "endsWith" => (Function::EndsWith, 2),
        "lowerAscii" => (Function::LowerAscii, 1),
        "upperAscii" => (Function::UpperAscii, 1),
        "int" => (Function::Int, 1),
        "double" => (Function::Double, 1),
        "string" => (Function::String, 1),
        "timestamp" => (Function::Timestamp, 1),
        _ => return None,
    })
}
