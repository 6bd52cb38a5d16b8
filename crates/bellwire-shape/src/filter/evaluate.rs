//! Evaluates a compiled CEL filter over a message, by reference, within a budget.
//!
//! The semantics are those of the CEL specification, version 0.24, for what a filter can hold: `&&` and `||` absorb an error
//! that the other side makes irrelevant, `==` of different types is false, numbers of different types compare by value. Two
//! things differ, because JSON has one type of number: whole numbers of a payload are `int` (or `uint`), and arithmetic between
//! `int`, `uint` and `double` is allowed. A number that none of the three holds without loss, whole or not, compares with every digit that was
//! written, and calculates as `double`.
//!
//! Each part costs one step, and what walks over text or lists costs more. When the steps are used up the filter has failed,
//! whatever stands around it.

use super::cel::Program;
use crate::candidate::Candidate;
use bellwire_body::{Number, Value, compare};
use bellwire_model::Timestamp;
use regex::Regex;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::ops::Deref;
use std::rc::Rc;

/// Steps of one evaluation: well under a millisecond.
const STEPS_MAX: usize = 10_000;
/// So much text is looked at, copied or compared for one step.
const BYTES_PER_STEP: usize = 64;
/// A regular expression is slower.
const REGEX_BYTES_PER_STEP: usize = 16;

/// A part of a filter.
#[derive(Debug)]
pub(super) enum Node {
    Literal(Literal),
    Variable(Variable),
    /// What stands in a slot: a loop's item or result.
    Local(usize),
    Field(Box<Node>, String),
    Has(Box<Node>, String),
    Index(Box<Node>, Box<Node>),
    Not(Box<Node>),
    Negate(Box<Node>),
    And(Box<Node>, Box<Node>),
    Or(Box<Node>, Box<Node>),
    Conditional(Box<Node>, Box<Node>, Box<Node>),
    Equal(Box<Node>, Box<Node>),
    Compare(Order, Box<Node>, Box<Node>),
    Arithmetic(Arithmetic, Box<Node>, Box<Node>),
    In(Box<Node>, Box<Node>),
    Matches(Box<Node>, Box<Regex>),
    Call(Function, Vec<Node>),
    List(Vec<Node>),
    /// One more item for the list in a slot.
    Append(usize, Box<Node>),
    NotStrictlyFalse(Box<Node>),
    Loop(Box<Loop>),
}

#[derive(Debug)]
pub(super) enum Literal {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    /// A decimal that `f64` does not hold, as it is written.
    Decimal(String),
    String(String),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Variable {
    Payload,
    EventType,
    EventId,
    Channels,
    Tags,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Arithmetic {
    Add,
    Subtract,
    Multiply,
    Divide,
    Modulo,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Function {
    Size,
    Contains,
    StartsWith,
    EndsWith,
    LowerAscii,
    UpperAscii,
    Int,
    Double,
    String,
    Timestamp,
}

/// `all`, `exists`, `filter` and `map`: a fold. The result stands in `result_slot`, the item in the slot after it.
#[derive(Debug)]
pub(super) struct Loop {
    pub(super) range: Node,
    pub(super) start: Node,
    pub(super) result_slot: usize,
    pub(super) condition: Node,
    pub(super) step: Node,
    pub(super) result: Node,
}

impl Node {
    /// Whatever the message, this is no `bool`.
    pub(super) fn is_never_bool(&self) -> bool {
        match self {
            Node::Literal(literal) => !matches!(literal, Literal::Bool(_)),
            Node::Variable(variable) => !matches!(variable, Variable::Payload),
            Node::Negate(_) | Node::Arithmetic(..) | Node::List(_) | Node::Append(..) => true,
            Node::Call(function, _) => {
                !matches!(function, Function::Contains | Function::StartsWith | Function::EndsWith)
            }
            Node::Conditional(_, yes, no) => yes.is_never_bool() && no.is_never_bool(),
            _ => false,
        }
    }
}

/// A value, borrowed from the message or the filter where it can be.
#[derive(Clone, Debug)]
enum Val<'v> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    /// As it is written.
    Decimal(Text<'v>),
    String(Text<'v>),
    Timestamp(Timestamp),
    /// An array or an object of the payload.
    Json(&'v Value),
    /// Channels or tags.
    Strings(&'v [String]),
    List(Rc<Vec<Val<'v>>>),
}

/// Text that costs nothing to copy.
#[derive(Clone, Debug)]
enum Text<'v> {
    Borrowed(&'v str),
    Made(Rc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Text::Borrowed(text) => text,
            Text::Made(text) => text,
        }
    }
}

impl<'v> From<&'v str> for Text<'v> {
    fn from(text: &'v str) -> Self {
        Text::Borrowed(text)
    }
}

impl From<String> for Text<'_> {
    fn from(text: String) -> Self {
        Text::Made(text.into())
    }
}

/// Why there is no value.
#[derive(Clone, Debug)]
enum Failure {
    /// The filter does not fit the message. May be absorbed by what stands around it.
    Fault(String),
    /// Ends it all.
    TooCostly,
}

type Answer<'v> = Result<Val<'v>, Failure>;

struct Evaluation<'v> {
    candidate: &'v Candidate<'v>,
    steps_left: usize,
    slots: Vec<Answer<'v>>,
}

impl Program {
    /// Whether the filter says yes.
    ///
    /// # Errors
    /// Why it cannot say.
    pub(super) fn ask(&self, candidate: &Candidate<'_>) -> Result<bool, String> {
        let slots = vec![Ok(Val::Null); self.slots];
        let mut evaluation = Evaluation { candidate, steps_left: STEPS_MAX, slots };
        match evaluation.node(&self.root) {
            Ok(Val::Bool(answer)) => Ok(answer),
            Ok(other) => Err(format!("the filter gave {} instead of true or false", other.type_name())),
            Err(Failure::Fault(why)) => Err(why),
            Err(Failure::TooCostly) => Err(format!("the filter needs more than {STEPS_MAX} steps for this message")),
        }
    }
}

fn fault<T>(why: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Fault(why.into()))
}

impl<'v> Evaluation<'v> {
    fn charge(&mut self, steps: usize) -> Result<(), Failure> {
        self.steps_left = self.steps_left.checked_sub(steps).ok_or(Failure::TooCostly)?;
        Ok(())
    }

    fn charge_text(&mut self, bytes: usize) -> Result<(), Failure> {
        self.charge(bytes / BYTES_PER_STEP)
    }

    fn node(&mut self, node: &'v Node) -> Answer<'v> {
        self.charge(1)?;
        match node {
            Node::Literal(literal) => Ok(literal.into()),
            Node::Variable(variable) => self.variable(*variable),
            Node::Local(slot) => self.slots[*slot].clone(),
            Node::Field(of, field) => {
                let of = self.node(of)?;
                of.field(field)?.map_or_else(|| fault(format!("there is no {field:?}")), Ok)
            }
            Node::Has(of, field) => Ok(Val::Bool(self.node(of)?.field(field)?.is_some())),
            Node::Index(of, at) => {
                let (of, at) = (self.node(of)?, self.node(at)?);
                of.item(&at)
            }
            Node::Not(of) => self.bool(of).map(|value| Val::Bool(!value)),
            Node::Negate(of) => negate(self.node(of)?),
            Node::And(left, right) => self.logic(left, right, false),
            Node::Or(left, right) => self.logic(left, right, true),
            Node::Conditional(condition, yes, no) => {
                if self.bool(condition)? {
                    self.node(yes)
                } else {
                    self.node(no)
                }
            }
            Node::Equal(left, right) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                self.equal(&left, &right).map(Val::Bool)
            }
            Node::Compare(order, left, right) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                self.compare(&left, &right).map(|found| Val::Bool(order.holds(found)))
            }
            Node::Arithmetic(arithmetic, left, right) => {
                let (left, right) = (self.node(left)?, self.node(right)?);
                self.arithmetic(*arithmetic, left, right)
            }
            Node::In(item, of) => {
                let (item, of) = (self.node(item)?, self.node(of)?);
                self.contains(&of, &item).map(Val::Bool)
            }
            Node::Matches(text, regex) => {
                let text = self.string(text)?;
                self.charge(text.len() / REGEX_BYTES_PER_STEP)?;
                Ok(Val::Bool(regex.is_match(&text)))
            }
            Node::Call(function, operands) => self.call(*function, operands),
            Node::List(items) => {
                let items: Result<Vec<_>, _> = items.iter().map(|item| self.node(item)).collect();
                Ok(Val::List(Rc::new(items?)))
            }
            Node::Append(slot, item) => {
                let item = self.node(item)?;
                let Ok(Val::List(mut list)) = std::mem::replace(&mut self.slots[*slot], Ok(Val::Null)) else {
                    return fault("a loop lost its list");
                };
                self.charge(if Rc::strong_count(&list) > 1 { list.len() } else { 1 })?;
                Rc::make_mut(&mut list).push(item);
                Ok(Val::List(list))
            }
            Node::NotStrictlyFalse(of) => match self.node(of) {
                Err(Failure::TooCostly) => Err(Failure::TooCostly),
                value => Ok(Val::Bool(!matches!(value, Ok(Val::Bool(false))))),
            },
            Node::Loop(fold) => self.fold(fold),
        }
    }

    fn variable(&self, variable: Variable) -> Answer<'v> {
        Ok(match variable {
            Variable::Payload => self.candidate.payload().into(),
            Variable::EventType => Val::String(self.candidate.event_type.into()),
            Variable::EventId => self.candidate.event_id.map_or(Val::Null, |id| Val::String(id.into())),
            Variable::Channels => Val::Strings(self.candidate.channels),
            Variable::Tags => Val::Strings(self.candidate.tags),
        })
    }

    fn bool(&mut self, node: &'v Node) -> Result<bool, Failure> {
        match self.node(node)? {
            Val::Bool(value) => Ok(value),
            other => fault(format!("expected true or false, found {}", other.type_name())),
        }
    }

    fn string(&mut self, node: &'v Node) -> Result<Text<'v>, Failure> {
        match self.node(node)? {
            Val::String(text) => Ok(text),
            other => fault(format!("expected a string, found {}", other.type_name())),
        }
    }

    /// `||` with `decisive` true, `&&` with false. The decisive value decides, whatever the other side is.
    fn logic(&mut self, left: &'v Node, right: &'v Node, decisive: bool) -> Answer<'v> {
        let left = self.bool(left);
        match left {
            Ok(value) if value == decisive => return Ok(Val::Bool(decisive)),
            Err(Failure::TooCostly) => return Err(Failure::TooCostly),
            _ => {}
        }
        match (left, self.bool(right)) {
            (_, Ok(value)) if value == decisive => Ok(Val::Bool(decisive)),
            (_, Err(Failure::TooCostly)) => Err(Failure::TooCostly),
            (Err(why), _) | (_, Err(why)) => Err(why),
            _ => Ok(Val::Bool(!decisive)),
        }
    }

    fn fold(&mut self, fold: &'v Loop) -> Answer<'v> {
        let range = self.node(&fold.range)?;
        let start = self.node(&fold.start);
        let count = match &range {
            Val::List(items) => items.len(),
            Val::Strings(items) => items.len(),
            Val::Json(Value::Array(items)) => items.len(),
            Val::Json(Value::Object(members)) => members.len(),
            other => return fault(format!("expected a list or an object to go through, found {}", other.type_name())),
        };
        self.slots[fold.result_slot] = start;
        // An object is gone through by its names, each found in one step.
        let mut names = match &range {
            Val::Json(Value::Object(members)) => Some(members.keys()),
            _ => None,
        };
        for at in 0..count {
            self.charge(1)?;
            let item = match &range {
                Val::List(items) => items[at].clone(),
                Val::Strings(items) => Val::String(items[at].as_str().into()),
                Val::Json(Value::Array(items)) => (&items[at]).into(),
                _ => {
                    names.as_mut().and_then(Iterator::next).map_or(Val::Null, |name| Val::String(name.as_str().into()))
                }
            };
            self.slots[fold.result_slot + 1] = Ok(item);
            if !self.bool(&fold.condition)? {
                break;
            }
            match self.node(&fold.step) {
                Err(Failure::TooCostly) => return Err(Failure::TooCostly),
                result => self.slots[fold.result_slot] = result,
            }
        }
        self.node(&fold.result)
    }

    fn call(&mut self, function: Function, operands: &'v [Node]) -> Answer<'v> {
        let first = &operands[0];
        match function {
            Function::Size => {
                let of = self.node(first)?;
                let size = match &of {
                    Val::String(text) => {
                        self.charge_text(text.len())?;
                        text.chars().count()
                    }
                    Val::List(items) => items.len(),
                    Val::Strings(items) => items.len(),
                    Val::Json(Value::Array(items)) => items.len(),
                    Val::Json(Value::Object(members)) => members.len(),
                    other => return fault(format!("{} has no size", other.type_name())),
                };
                Ok(Val::Int(i64::try_from(size).unwrap_or(i64::MAX)))
            }
            Function::Contains | Function::StartsWith | Function::EndsWith => {
                let (text, part) = (self.string(first)?, self.string(&operands[1])?);
                Ok(Val::Bool(match function {
                    Function::Contains => {
                        self.charge_text(text.len())?;
                        text.contains(&*part)
                    }
                    _ => {
                        self.charge_text(part.len())?;
                        match function {
                            Function::StartsWith => text.starts_with(&*part),
                            _ => text.ends_with(&*part),
                        }
                    }
                }))
            }
            Function::LowerAscii | Function::UpperAscii => {
                let text = self.string(first)?;
                self.charge_text(text.len())?;
                let changed = match function {
                    Function::LowerAscii => text.to_ascii_lowercase(),
                    _ => text.to_ascii_uppercase(),
                };
                Ok(Val::String(changed.into()))
            }
            Function::Int => {
                let of = self.node(first)?;
                // What is cut off a number is cut towards zero, as the specification says.
                let whole = match &of {
                    Val::Int(value) => Some(*value),
                    Val::Uint(value) => i64::try_from(*value).ok(),
                    Val::Double(value) if value.abs() < 9.223_372_036_854_775e18 => Some(*value as i64),
                    Val::Decimal(text) => {
                        self.charge_text(text.len())?;
                        let whole = text.split_once('.').map_or(&**text, |(whole, _)| whole);
                        whole.parse().ok().filter(|_| !text.contains(['e', 'E']))
                    }
                    Val::String(text) if text.len() <= 32 => text.parse().ok(),
                    _ => None,
                };
                whole.map(Val::Int).map_or_else(|| fault(format!("{} is no whole number", of.type_name())), Ok)
            }
            Function::Double => {
                let of = self.node(first)?;
                self.charge_text(of.digits())?;
                let number = match &of {
                    Val::String(text) if text.len() <= 64 => text.parse().ok(),
                    other => other.double(),
                };
                number.map(Val::Double).map_or_else(|| fault(format!("{} is no number", of.type_name())), Ok)
            }
            Function::String => match self.node(first)? {
                Val::String(text) => Ok(Val::String(text)),
                Val::Bool(value) => Ok(Val::String(value.to_string().into())),
                Val::Int(value) => Ok(Val::String(value.to_string().into())),
                Val::Uint(value) => Ok(Val::String(value.to_string().into())),
                Val::Double(value) => Ok(Val::String(value.to_string().into())),
                Val::Decimal(text) => Ok(Val::String(text)),
                other => fault(format!("{} cannot become a string", other.type_name())),
            },
            Function::Timestamp => {
                let text = self.string(first)?;
                match text.parse().ok().filter(|_| text.len() <= 64) {
                    Some(time) => Ok(Val::Timestamp(time)),
                    None => fault("expected a time of RFC 3339 such as 2026-01-31T09:30:00Z"),
                }
            }
        }
    }

    fn equal(&mut self, left: &Val<'_>, right: &Val<'_>) -> Result<bool, Failure> {
        self.charge(1)?;
        Ok(match (left, right) {
            (Val::Null, Val::Null) => true,
            (Val::Bool(left), Val::Bool(right)) => left == right,
            (Val::String(left), Val::String(right)) => {
                self.charge_text(left.len().min(right.len()))?;
                **left == **right
            }
            (Val::Timestamp(left), Val::Timestamp(right)) => left == right,
            (Val::Json(Value::Object(left)), Val::Json(Value::Object(right))) => {
                if left.len() != right.len() {
                    return Ok(false);
                }
                for (name, value) in left {
                    self.charge_text(name.len())?;
                    match right.get(name) {
                        Some(other) if self.equal(&value.into(), &other.into())? => {}
                        _ => return Ok(false),
                    }
                }
                true
            }
            _ => match (left.len(), right.len()) {
                (Some(count), Some(other)) if count == other => {
                    for at in 0..count {
                        if !self.equal(&left.at(at), &right.at(at))? {
                            return Ok(false);
                        }
                    }
                    true
                }
                (Some(_), Some(_)) => false,
                _ => {
                    self.charge_text(left.digits() + right.digits())?;
                    left.order_of_numbers(right) == Some(Ordering::Equal)
                }
            },
        })
    }

    fn compare(&mut self, left: &Val<'_>, right: &Val<'_>) -> Result<Option<Ordering>, Failure> {
        match (left, right) {
            (Val::String(left), Val::String(right)) => {
                self.charge_text(left.len().min(right.len()))?;
                Ok(Some((**left).cmp(&**right)))
            }
            (Val::Bool(left), Val::Bool(right)) => Ok(Some(left.cmp(right))),
            (Val::Timestamp(left), Val::Timestamp(right)) => Ok(Some(left.cmp(right))),
            _ if left.is_number() && right.is_number() => {
                self.charge_text(left.digits() + right.digits())?;
                Ok(left.order_of_numbers(right))
            }
            _ => fault(format!("{} and {} cannot be compared", left.type_name(), right.type_name())),
        }
    }

    fn contains(&mut self, of: &Val<'_>, item: &Val<'_>) -> Result<bool, Failure> {
        if let (Val::Json(Value::Object(members)), Val::String(name)) = (of, item) {
            return Ok(members.contains_key(&**name));
        }
        let Some(count) = of.len() else {
            return fault(format!("nothing can be in {}", of.type_name()));
        };
        for at in 0..count {
            if self.equal(&of.at(at), item)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn arithmetic(&mut self, arithmetic: Arithmetic, left: Val<'v>, right: Val<'v>) -> Answer<'v> {
        use Arithmetic::{Add, Divide, Modulo, Multiply, Subtract};
        self.charge_text(left.digits() + right.digits())?;
        let whole = match (arithmetic, &left, &right) {
            (Add, Val::String(a), Val::String(b)) => {
                self.charge(1 + (a.len() + b.len()) / 8)?;
                return Ok(Val::String([&**a, &**b].concat().into()));
            }
            (_, Val::Int(a), Val::Int(b)) => match arithmetic {
                Add => a.checked_add(*b),
                Subtract => a.checked_sub(*b),
                Multiply => a.checked_mul(*b),
                Divide => a.checked_div(*b),
                Modulo => a.checked_rem(*b),
            }
            .map(Val::Int),
            (_, Val::Uint(a), Val::Uint(b)) => match arithmetic {
                Add => a.checked_add(*b),
                Subtract => a.checked_sub(*b),
                Multiply => a.checked_mul(*b),
                Divide => a.checked_div(*b),
                Modulo => a.checked_rem(*b),
            }
            .map(Val::Uint),
            _ => match (left.double(), right.double(), arithmetic) {
                (Some(a), Some(b), Add) => Some(Val::Double(a + b)),
                (Some(a), Some(b), Subtract) => Some(Val::Double(a - b)),
                (Some(a), Some(b), Multiply) => Some(Val::Double(a * b)),
                (Some(a), Some(b), Divide) => Some(Val::Double(a / b)),
                _ => {
                    let (left, right) = (left.type_name(), right.type_name());
                    return fault(format!("{left} {} {right} cannot be calculated", arithmetic.sign()));
                }
            },
        };
        whole.map_or_else(|| fault("a number becomes too large, or is divided by zero"), Ok)
    }
}

fn negate<'v>(value: Val<'v>) -> Answer<'v> {
    match value {
        Val::Int(value) => value.checked_neg().map(Val::Int).map_or_else(|| fault("a number becomes too large"), Ok),
        Val::Double(value) => Ok(Val::Double(-value)),
        Val::Decimal(text) => Ok(Val::Decimal(match text.strip_prefix('-') {
            Some(text) => text.to_owned().into(),
            None => format!("-{}", &*text).into(),
        })),
        other => fault(format!("{} has no negative", other.type_name())),
    }
}

impl Order {
    /// `None`: with what is not a number, nothing compares.
    fn holds(self, found: Option<Ordering>) -> bool {
        found.is_some_and(|found| match self {
            Order::Less => found.is_lt(),
            Order::LessOrEqual => found.is_le(),
            Order::Greater => found.is_gt(),
            Order::GreaterOrEqual => found.is_ge(),
        })
    }
}

impl Arithmetic {
    fn sign(self) -> char {
        match self {
            Arithmetic::Add => '+',
            Arithmetic::Subtract => '-',
            Arithmetic::Multiply => '*',
            Arithmetic::Divide => '/',
            Arithmetic::Modulo => '%',
        }
    }
}

impl<'v> From<&'v Literal> for Val<'v> {
    fn from(literal: &'v Literal) -> Self {
        match literal {
            Literal::Null => Val::Null,
            Literal::Bool(value) => Val::Bool(*value),
            Literal::Int(value) => Val::Int(*value),
            Literal::Uint(value) => Val::Uint(*value),
            Literal::Double(value) => Val::Double(*value),
            Literal::Decimal(text) => Val::Decimal(text.as_str().into()),
            Literal::String(text) => Val::String(text.as_str().into()),
        }
    }
}

impl<'v> From<&'v Value> for Val<'v> {
    fn from(value: &'v Value) -> Self {
        match value {
            Value::Null => Val::Null,
            Value::Bool(value) => Val::Bool(*value),
            Value::Number(Number::Int(value)) => Val::Int(*value),
            Value::Number(Number::Uint(value)) => Val::Uint(*value),
            Value::Number(Number::Double(value)) => Val::Double(*value),
            Value::Number(Number::Decimal(text)) => Val::Decimal((&**text).into()),
            Value::String(text) => Val::String(text.as_str().into()),
            Value::Array(_) | Value::Object(_) => Val::Json(value),
        }
    }
}

impl<'v> Val<'v> {
    fn type_name(&self) -> &'static str {
        match self {
            Val::Null => "null",
            Val::Bool(_) => "a boolean",
            Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Decimal(_) => "a number",
            Val::String(_) => "a string",
            Val::Timestamp(_) => "a time",
            Val::Json(Value::Object(_)) => "an object",
            Val::Json(_) | Val::Strings(_) | Val::List(_) => "a list",
        }
    }

    fn field(&self, name: &str) -> Result<Option<Val<'v>>, Failure> {
        match self {
            Val::Json(Value::Object(members)) => Ok(members.get(name).map(Val::from)),
            other => fault(format!("{} has no {name:?}", other.type_name())),
        }
    }

    fn item(&self, at: &Val<'_>) -> Answer<'v> {
        if let (Val::Json(Value::Object(members)), Val::String(name)) = (self, at) {
            return members.get(&**name).map(Val::from).map_or_else(|| fault(format!("there is no {:?}", &**name)), Ok);
        }
        let (Some(count), Val::Int(index)) = (self.len(), at) else {
            return fault(format!("{} has no item at {}", self.type_name(), at.type_name()));
        };
        match usize::try_from(*index) {
            Ok(index) if index < count => Ok(self.at(index)),
            _ => fault(format!("there is no item {index}")),
        }
    }

    /// Of a list.
    fn len(&self) -> Option<usize> {
        match self {
            Val::List(items) => Some(items.len()),
            Val::Strings(items) => Some(items.len()),
            Val::Json(Value::Array(items)) => Some(items.len()),
            _ => None,
        }
    }

    /// An item of a list; `at` is below [`Val::len`].
    fn at(&self, at: usize) -> Val<'v> {
        match self {
            Val::List(items) => items[at].clone(),
            Val::Strings(items) => Val::String(items[at].as_str().into()),
            Val::Json(Value::Array(items)) => (&items[at]).into(),
            _ => Val::Null,
        }
    }

    fn is_number(&self) -> bool {
        matches!(self, Val::Int(_) | Val::Uint(_) | Val::Double(_) | Val::Decimal(_))
    }

    fn double(&self) -> Option<f64> {
        match self {
            Val::Int(value) => Some(*value as f64),
            Val::Uint(value) => Some(*value as f64),
            Val::Double(value) => Some(*value),
            Val::Decimal(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// How much text a number is.
    fn digits(&self) -> usize {
        match self {
            Val::Decimal(text) => text.len(),
            _ => 0,
        }
    }

    /// As it is written; `None` for what is no number, or none that is finite.
    fn number_text(&self) -> Option<Cow<'_, str>> {
        match self {
            Val::Int(value) => Some(value.to_string().into()),
            Val::Uint(value) => Some(value.to_string().into()),
            Val::Double(value) => value.is_finite().then(|| format!("{value:e}").into()),
            Val::Decimal(text) => Some((&**text).into()),
            _ => None,
        }
    }

    /// By value, whatever their types.
    fn order_of_numbers(&self, other: &Val<'_>) -> Option<Ordering> {
        let whole = |value: &Val<'_>| match value {
            Val::Int(value) => Some(i128::from(*value)),
            Val::Uint(value) => Some(i128::from(*value)),
            _ => None,
        };
        match (whole(self), whole(other)) {
            (Some(left), Some(right)) => Some(left.cmp(&right)),
            _ => match (self, other) {
                (Val::Double(left), Val::Double(right)) => left.partial_cmp(right),
                // What only one of them is, is compared digit by digit.
                _ => match (self.number_text(), other.number_text()) {
                    (Some(left), Some(right)) => Some(compare(&left, &right)),
                    _ => self.double()?.partial_cmp(&other.double()?),
                },
            },
        }
    }
}
