//! Numbers, with every digit that was written.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::cmp::Ordering;

/// A decimal of so many digits survives as `f64`.
const DIGITS_EXACT: usize = 15;
/// As does its exponent up to here.
const EXPONENT_EXACT: i64 = 99;

/// A number of a JSON text.
#[derive(Clone, PartialEq, Debug)]
pub enum Number {
    /// A whole one.
    Int(i64),
    /// A whole one beyond `i64`.
    Uint(u64),
    /// Any other that `f64` holds without loss of a digit.
    Double(f64),
    /// All others, as they are written.
    Decimal(Box<str>),
}

impl Number {
    /// Of a number as JSON has it. `as_written` leaves every decimal as it is, with its zeros at the end.
    pub(crate) fn parse(text: &str, as_written: bool) -> Number {
        // `-0` is no whole number that has a sign to keep.
        if !text.contains(['.', 'e', 'E']) && text != "-0" {
            if let Ok(value) = text.parse() {
                return Number::Int(value);
            }
            if let Ok(value) = text.parse() {
                return Number::Uint(value);
            }
        } else if !as_written && is_exact(text) {
            return Number::Double(text.parse().unwrap_or(f64::NAN));
        }
        Number::Decimal(text.into())
    }

    /// As JSON has it.
    pub fn text(&self) -> Cow<'_, str> {
        match self {
            Number::Int(value) => value.to_string().into(),
            Number::Uint(value) => value.to_string().into(),
            Number::Double(value) => value.to_string().into(),
            Number::Decimal(text) => (&**text).into(),
        }
    }
}

/// Whether `f64` holds a number without loss of a digit.
pub fn is_exact(text: &str) -> bool {
    let parts = Parts::of(text);
    parts.digits.len() <= DIGITS_EXACT && parts.magnitude.abs() <= EXPONENT_EXACT
}

/// Whether a JSON text may have numbers that `f64` does not hold: no number that is such is missed, and strings may seem to be some.
pub fn may_be_long(json: &str) -> bool {
    let mut digits = 0;
    let bytes = json.as_bytes();
    for (at, byte) in bytes.iter().enumerate() {
        match byte {
            b'0'..=b'9' => digits += 1,
            b'.' if digits > 0 => {}
            b'e' | b'E' if digits > 0 => {
                let rest = bytes[at + 1..].strip_prefix(b"+").or_else(|| bytes[at + 1..].strip_prefix(b"-"));
                let rest = rest.unwrap_or(&bytes[at + 1..]);
                if rest.iter().take(2).filter(|byte| byte.is_ascii_digit()).count() == 2 {
                    return true;
                }
                digits = 0;
            }
            _ => digits = 0,
        }
        if digits > DIGITS_EXACT {
            return true;
        }
    }
    false
}

/// Compares two numbers as they are written, by value and with every digit. Costs the length of both.
pub fn compare(left: &str, right: &str) -> Ordering {
    let (left, right) = (Parts::of(left), Parts::of(right));
    let sizes = || {
        // Of what begins alike, the longer is the larger: digits at the end are no zeros.
        left.magnitude.cmp(&right.magnitude).then_with(|| left.digits.cmp(&right.digits))
    };
    match (left.sign(), right.sign()) {
        (a, b) if a != b => a.cmp(&b),
        (0, _) => Ordering::Equal,
        (1, _) => sizes(),
        _ => sizes().reverse(),
    }
}

/// `0.DIGITS × 10^magnitude`; the digits neither begin nor end with zero, and are none for zero.
struct Parts {
    is_negative: bool,
    digits: Vec<u8>,
    magnitude: i64,
}

impl Parts {
    fn of(text: &str) -> Parts {
        let (is_negative, text) = text.strip_prefix('-').map_or((false, text), |text| (true, text));
        let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
        let is_small = exponent.starts_with('-');
        // An exponent that is itself too long for us orders as the largest that is not.
        let exponent = exponent.trim_start_matches(['+', '-']).parse::<i64>().unwrap_or(i64::MAX).min(i64::MAX / 4);
        let exponent = if is_small { -exponent } else { exponent };
        let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let mut digits: Vec<u8> = whole.bytes().chain(fraction.bytes()).collect();
        let zeros = digits.iter().take_while(|digit| **digit == b'0').count();
        digits.drain(..zeros);
        while digits.last() == Some(&b'0') {
            digits.pop();
        }
        let magnitude = exponent.saturating_add(whole.len() as i64 - zeros as i64);
        let magnitude = if digits.is_empty() { 0 } else { magnitude };
        Parts { is_negative, digits, magnitude }
    }

    fn sign(&self) -> i8 {
        match (self.digits.is_empty(), self.is_negative) {
            (true, _) => 0,
            (_, true) => -1,
            _ => 1,
        }
    }
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Number::Int(value) => serializer.serialize_i64(*value),
            Number::Uint(value) => serializer.serialize_u64(*value),
            Number::Double(value) => serializer.serialize_f64(*value),
            Number::Decimal(text) => {
                let raw = RawValue::from_string(text.to_string()).map_err(serde::ser::Error::custom)?;
                raw.serialize(serializer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_compare_by_value_with_every_digit() {
        use Ordering::{Equal, Less};
        let check = |left: &str, right: &str, expected: Ordering| {
            assert_eq!(compare(left, right), expected, "{left} {right}");
            assert_eq!(compare(right, left), expected.reverse(), "{right} {left}");
        };
        check("9007199254740992", "9007199254740993", Less);
        check("18446744073709551616", "18446744073709551617", Less);
        check("0.1", "0.10000000000000000000000000001", Less);
        check("-0.1", "0.1", Less);
        check("-2", "-1", Less);
        check("-1e400", "-1e399", Less);
        check("1e-400", "1e-399", Less);
        check("0", "1e-400", Less);
        check("-1e-400", "0", Less);
        check("1.50", "15e-1", Equal);
        check("0.0", "-0", Equal);
        check("100", "1E+2", Equal);
        check("12345678901234567890.10", "1234567890123456789010e-2", Equal);
        check("1e99999999999999999999", "1e99999999999999999998", Equal);
        check("9e99", "1e99999999999999999998", Less);
        check("99", "100", Less);
    }

    #[test]
    fn only_what_a_double_loses_is_kept_as_written() {
        let check = |text: &str, expected: Number| assert_eq!(Number::parse(text, false), expected, "{text}");
        check("-9223372036854775808", Number::Int(i64::MIN));
        check("18446744073709551615", Number::Uint(u64::MAX));
        check("18446744073709551616", Number::Decimal("18446744073709551616".into()));
        check("1.50", Number::Double(1.5));
        check("-0", Number::Double(-0.0));
        check("1e5", Number::Double(1e5));
        check("0.1000000000000000055", Number::Decimal("0.1000000000000000055".into()));
        check("1e400", Number::Decimal("1e400".into()));
        assert_eq!(Number::parse("1.50", true).text(), "1.50");
        for text in ["[1234567890123456]", "[12345678.12345678]", "1e400", "1E-100", "[1e+99]"] {
            assert!(may_be_long(text), "{text}");
        }
        for text in ["[123456789012345,1.5,2.5]", "{\"a\":\"1e5b\"}", "1e5"] {
            assert!(!may_be_long(text), "{text}");
        }
    }
}
