//! What a setting can be: how its text, number or list is read, and what to say if it cannot be.
//!
//! A file has numbers, switches and lists; a variable has only text. Every reader here takes both.

use ipnet::IpNet;
use std::{
    fmt,
    net::{IpAddr, SocketAddr},
    ops::RangeInclusive,
    path::PathBuf,
    time::Duration,
};

/// A value as it was written.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    Text(String),
    Integer(i64),
    Float(f64),
    Switch(bool),
    List(Vec<Value>),
    /// From a flag that takes a path, which need not be text.
    Path(PathBuf),
    /// Has no meaning anywhere: no setting is deeper than its section.
    Table,
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => write!(f, "{text:?}"),
            Value::Integer(number) => write!(f, "{number}"),
            Value::Float(number) => write!(f, "{number}"),
            Value::Switch(switch) => write!(f, "{switch}"),
            Value::List(values) => {
                f.write_str("[")?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{value}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str("]")
            }
            Value::Path(path) => write!(f, "{:?}", path.display().to_string()),
            Value::Table => f.write_str("a table"),
        }
    }
}

impl Value {
    /// As text, however it was written; `None` for a list or a table.
    fn text(&self) -> Option<String> {
        match self {
            Value::Text(text) => Some(text.trim().to_owned()),
            Value::Integer(number) => Some(number.to_string()),
            Value::Float(number) => Some(number.to_string()),
            Value::Switch(switch) => Some(switch.to_string()),
            Value::List(_) | Value::Path(_) | Value::Table => None,
        }
    }

    /// As a list, however it was written.
    pub fn into_list(self) -> Value {
        Value::List(self.items())
    }

    /// As JSON.
    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Value::Text(text) => text.as_str().into(),
            Value::Integer(number) => (*number).into(),
            Value::Float(number) => (*number).into(),
            Value::Switch(switch) => (*switch).into(),
            Value::List(values) => values.iter().map(Value::to_json).collect(),
            Value::Path(path) => path.display().to_string().into(),
            Value::Table => serde_json::Value::Null,
        }
    }

    /// As a list: a list as it is, a text cut at its commas, brackets and quotes left out.
    fn items(&self) -> Vec<Value> {
        let text = match self {
            Value::List(values) => return values.clone(),
            Value::Text(text) => text.trim(),
            single => return vec![single.clone()],
        };
        let inner = text.strip_prefix('[').and_then(|text| text.strip_suffix(']')).unwrap_or(text).trim();
        let unquoted = |item: &str| item.trim().trim_matches(['"', '\'']).to_owned();
        match inner {
            "" => Vec::new(),
            inner => inner.split(',').map(|item| Value::Text(unquoted(item))).collect(),
        }
    }
}

/// What a value should have been, as the end of "expected …".
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Expected(pub String);

/// What reading a value gives.
pub(crate) type Read<T> = Result<T, Expected>;

fn expected<T>(what: impl Into<String>) -> Read<T> {
    Err(Expected(what.into()))
}

/// `true` or `false`.
pub(crate) fn switch(value: &Value) -> Read<bool> {
    match value.text().unwrap_or_default().to_ascii_lowercase().as_str() {
        "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        _ => expected("true or false"),
    }
}

/// A whole number.
pub(crate) fn count(range: RangeInclusive<usize>) -> impl Fn(&Value) -> Read<usize> {
    move |value| match value.text().and_then(|text| text.parse().ok()) {
        Some(number) if range.contains(&number) => Ok(number),
        _ => expected(format!("a whole number from {} to {}", range.start(), range.end())),
    }
}

/// A number with a unit of time, or several: `1h30m`. A bare number has no meaning.
pub(crate) fn duration(range: RangeInclusive<Duration>) -> impl Fn(&Value) -> Read<Duration> {
    move |value| match value.text().and_then(|text| parse_duration(&text)) {
        Some(duration) if range.contains(&duration) => Ok(duration),
        _ => expected(format!(
            "a duration from {} to {}, with its unit (ms, s, m, h, d)",
            Span(*range.start()),
            Span(*range.end())
        )),
    }
}

/// A number with a unit of size: `16MiB`.
pub(crate) fn size(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Read<u64> {
    move |value| match value.text().and_then(|text| parse_size(&text)) {
        Some(bytes) if range.contains(&bytes) => Ok(bytes),
        _ => expected(format!(
            "a size from {} to {}, with its unit (B, KiB, MiB, GiB)",
            Bytes(*range.start()),
            Bytes(*range.end())
        )),
    }
}

/// [`size()`], for what is held in memory.
pub(crate) fn memory(range: RangeInclusive<u64>) -> impl Fn(&Value) -> Read<usize> {
    let size = size(range);
    move |value| usize::try_from(size(value)?).or_else(|_| expected("a size that this machine can address"))
}

/// `word` (such as `none`), or what `inner` reads.
pub(crate) fn optional<T>(word: &'static str, inner: impl Fn(&Value) -> Read<T>) -> impl Fn(&Value) -> Read<Option<T>> {
    move |value| match value.text() {
        Some(text) if text.eq_ignore_ascii_case(word) => Ok(None),
        _ => inner(value).map(Some).map_err(|Expected(what)| Expected(format!("{what}, or {word:?}"))),
    }
}

/// One of a few words.
pub(crate) fn choice<T: Copy>(choices: &'static [(&'static str, T)]) -> impl Fn(&Value) -> Read<T> {
    move |value| {
        let text = value.text().unwrap_or_default();
        match choices.iter().find(|(word, _)| text.eq_ignore_ascii_case(word)) {
            Some((_, chosen)) => Ok(*chosen),
            None => expected(choices.iter().map(|(word, _)| format!("{word:?}")).collect::<Vec<_>>().join(" or ")),
        }
    }
}

/// A list of what `inner` reads.
pub(crate) fn list<T>(inner: impl Fn(&Value) -> Read<T>) -> impl Fn(&Value) -> Read<Vec<T>> {
    move |value| {
        let all = |Expected(what)| Expected(format!("a list, each item {what}"));
        value.items().iter().map(&inner).collect::<Read<_>>().map_err(all)
    }
}

/// Text that is not empty and can stand in a header.
pub(crate) fn header_text(value: &Value) -> Read<http::HeaderValue> {
    match value.text().filter(|text| !text.is_empty()).map(http::HeaderValue::try_from) {
        Some(Ok(header)) => Ok(header),
        _ => expected("text that can stand in a header"),
    }
}

/// Any text that is not empty.
pub(crate) fn words(value: &Value) -> Read<String> {
    match value.text() {
        Some(text) if !text.is_empty() => Ok(text),
        _ => expected("text"),
    }
}

/// A path; it need not exist.
pub(crate) fn path(value: &Value) -> Read<PathBuf> {
    match value {
        Value::Text(text) if !text.is_empty() => Ok(PathBuf::from(text)),
        Value::Path(path) if !path.as_os_str().is_empty() => Ok(path.clone()),
        _ => expected("a path"),
    }
}

/// An IP address and a port.
pub(crate) fn address(value: &Value) -> Read<SocketAddr> {
    match value.text().and_then(|text| text.parse().ok()) {
        Some(address) => Ok(address),
        None => expected("an IP address and a port such as 127.0.0.1:8071"),
    }
}

/// A network such as `10.0.0.0/8`; a single address is a network of one.
pub(crate) fn network(value: &Value) -> Read<IpNet> {
    let text = value.text().unwrap_or_default();
    let network = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from));
    match network {
        Some(network) => Ok(network.trunc()),
        None => expected("a network such as 127.0.0.0/8"),
    }
}

/// A port or a range of ports, `444-1023`.
pub(crate) fn ports(value: &Value) -> Read<RangeInclusive<u16>> {
    let text = value.text().unwrap_or_default();
    let (first, last) = text.split_once('-').unwrap_or((&text, &text));
    match (first.trim().parse::<u16>(), last.trim().parse::<u16>()) {
        (Ok(first), Ok(last)) if first <= last => Ok(first..=last),
        _ => expected("a port or a range of ports such as 444-1023"),
    }
}

/// `1500ms`, `30s`, `1h30m`, `1h 30m`, `0.5s`; each unit at most once, nothing without a unit.
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = Duration::ZERO;
    let mut smallest = f64::INFINITY;
    while !rest.is_empty() {
        let (number, unit, behind) = number_and_unit(rest)?;
        let seconds = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3_600.0,
            "d" => 86_400.0,
            _ => return None,
        };
        if seconds >= smallest {
            return None;
        }
        smallest = seconds;
        // By microseconds, so that 0.001 s times 5 is five milliseconds and not a nanosecond less.
        let micros = (number * seconds * 1e6).round();
        total = total.checked_add(Duration::from_micros(exact(micros)?))?;
        rest = behind.trim_start();
    }
    smallest.is_finite().then_some(total)
}

/// `512B`, `16KiB`, `1.5GiB`; `KB` and `k` would be ambiguous and have no meaning.
fn parse_size(text: &str) -> Option<u64> {
    let (number, unit, "") = number_and_unit(text.trim())? else { return None };
    let factor: u32 = match unit {
        "B" => 1,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    exact((number * f64::from(factor)).round())
}

/// A non-negative float that is a whole number far below the point where floats skip numbers.
fn exact(number: f64) -> Option<u64> {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "the range was checked")]
    (0.0..=9e15).contains(&number).then_some(number as u64)
}

/// The number and the unit at the beginning, and what follows.
fn number_and_unit(text: &str) -> Option<(f64, &str, &str)> {
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.')?;
    let (number, rest) = text.split_at(end);
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
    let (unit, behind) = rest.split_at(end);
    Some((number.parse().ok()?, unit, behind))
}

/// A duration in its largest whole unit.
pub(crate) struct Span(pub Duration);

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = self.0.as_millis();
        let units = [(86_400_000, "d"), (3_600_000, "h"), (60_000, "m"), (1_000, "s"), (1, "ms")];
        match units.iter().find(|(unit, _)| ms > 0 && ms.is_multiple_of(*unit)) {
            // "1m" is easier misread than "60s", "24h" is what people say; larger ones stay as they are.
            Some((unit, name)) => write!(f, "{}{name}", ms / unit),
            None => f.write_str("0s"),
        }
    }
}

struct Bytes(u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        match units.iter().find(|(unit, _)| self.0 > 0 && self.0.is_multiple_of(*unit)) {
            Some((unit, name)) => write!(f, "{}{name}", self.0 / unit),
            None => write!(f, "{}B", self.0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Text(text.into())
    }

    #[test]
    fn durations_have_units() {
        for (written, ms) in [
            ("1500ms", 1_500),
            ("30s", 30_000),
            ("0s", 0),
            ("0.5s", 500),
            ("0.005s", 5),
            ("5m", 300_000),
            ("5min", 300_000),
            ("1h30m", 5_400_000),
            ("1h 30m", 5_400_000),
            (" 2 h ", 7_200_000),
            ("90d", 7_776_000_000),
        ] {
            assert_eq!(parse_duration(written), Some(Duration::from_millis(ms)), "{written}");
        }
        for written in ["", "30", "s", "-1s", "1s1s", "1s1h", "1e3s", "1..5s", "99999999999999999999d", "1y", "1S", "∞"]
        {
            assert_eq!(parse_duration(written), None, "{written}");
        }
    }

    #[test]
    fn sizes_have_units() {
        for (written, bytes) in [("512B", 512), ("16KiB", 16 << 10), ("2MiB", 2 << 20), ("1.5 GiB", 3 << 29), ("0B", 0)]
        {
            assert_eq!(parse_size(written), Some(bytes), "{written}");
        }
        for written in ["", "512", "16KB", "16k", "-1B", "1MiB1B", "99999999GiB9"] {
            assert_eq!(parse_size(written), None, "{written}");
        }
    }

    #[test]
    fn what_is_out_of_range_is_told_the_range() {
        let read = duration(Duration::from_millis(1)..=Duration::from_secs(120));
        assert_eq!(read(&text("2m")), Ok(Duration::from_secs(120)));
        let Err(Expected(what)) = read(&text("121s")) else { panic!("out of range") };
        assert_eq!(what, "a duration from 1ms to 2m, with its unit (ms, s, m, h, d)");
        let Err(Expected(what)) = size(1024..=1 << 26)(&text("1B")) else { panic!("out of range") };
        assert_eq!(what, "a size from 1KiB to 64MiB, with its unit (B, KiB, MiB, GiB)");
        assert!(count(1..=5)(&Value::Integer(6)).is_err());
        assert!(count(1..=5)(&Value::Integer(-1)).is_err());
        assert_eq!(count(1..=5)(&text("5")), Ok(5));
    }

    #[test]
    fn lists_are_written_in_all_the_ways_that_people_write_them() {
        let read = list(network);
        let loopback = vec!["127.0.0.0/8".parse::<IpNet>().expect("a network")];
        for written in ["[127.0.0.0/8]", "127.0.0.0/8", "[\"127.0.0.0/8\"]", " [ '127.0.0.1/8' ] "] {
            assert_eq!(read(&text(written)), Ok(loopback.clone()), "{written}");
        }
        assert_eq!(read(&text("")), Ok(Vec::new()));
        assert_eq!(read(&text("[]")), Ok(Vec::new()));
        assert_eq!(read(&text("10.0.0.1,::1")).map(|all| all.len()), Ok(2));
        assert_eq!(read(&Value::List(vec![text("127.0.0.0/8")])), Ok(loopback));
        for written in ["localhost", "127.0.0.0/33", "10.0.0.0/8,", "10.0.0.0/8;::1", "[10.0.0.0/8"] {
            assert!(read(&text(written)).is_err(), "{written}");
        }
    }

    #[test]
    fn switches_ports_and_options() {
        assert_eq!(switch(&Value::Switch(true)), Ok(true));
        assert_eq!(switch(&text("False")), Ok(false));
        assert!(switch(&text("yes")).is_err());
        assert_eq!(ports(&text("444-1023")), Ok(444..=1023));
        assert_eq!(ports(&Value::Integer(80)), Ok(80..=80));
        for written in ["", "2-1", "65536", "a-b", "1-2-3"] {
            assert!(ports(&text(written)).is_err(), "{written}");
        }
        assert_eq!(optional("never", duration(Duration::ZERO..=Duration::MAX))(&text("never")), Ok(None));
    }
}
