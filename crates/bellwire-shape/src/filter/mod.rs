//! Filters on content: which messages an endpoint takes by what is in them.
//!
//! Two languages: the Common Expression Language ([`cel`]), and the filter dialect of the CloudEvents Subscriptions API
//! ([`cloud_events`]). Either is compiled once for each version of an endpoint and kept beside it, and costs a microsecond
//! or so for each message and endpoint that has one.

mod cel;
mod cloud_events;
mod evaluate;

use crate::candidate::Candidate;
use bellwire_model::{ContentFilter, Endpoint, FilterSource};

/// What a filter decided, and why not if not.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// The endpoint takes the message.
    Match,
    /// Its event types do not have the message's.
    EventType,
    /// None of the message's channels is among its own.
    Channels,
    /// Its filter says no.
    Filter,
    /// Its filter could not say, which means no: a field is missing, types do not fit, it would cost too much.
    Fault(String),
}

impl Verdict {
    /// Whether the endpoint takes the message. One whose filter cannot say does not, and `faulty` is told why.
    pub fn is_match(self, faulty: impl FnOnce(&str)) -> bool {
        match self {
            Verdict::Match => true,
            Verdict::EventType | Verdict::Channels | Verdict::Filter => false,
            Verdict::Fault(why) => {
                faulty(&why);
                false
            }
        }
    }
}

/// Why a filter is not one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message}")]
pub struct FilterFault {
    /// What is wrong, with its place as line and column where there is one, and what would be right.
    pub message: String,
}

impl FilterFault {
    fn new(message: impl Into<String>) -> Self {
        FilterFault { message: message.into() }
    }
}

/// A filter, ready to be asked.
#[derive(Debug)]
enum Filter {
    Cel(cel::Program),
    CloudEvents(cloud_events::Dialect),
    /// Stored by a version that knew more. Matches nothing, and says so.
    Unreadable(String),
}

/// Whether `endpoint` takes the message: by its event types, its channels, and its filter. This is the whole decision, for new
/// messages as for those that are looked at again; a disabled endpoint takes what it takes.
pub fn judge(endpoint: &Endpoint, candidate: &Candidate<'_>) -> Verdict {
    if !bellwire_model::matches(endpoint, candidate.event_type, candidate.channels) {
        let type_fits = endpoint.event_types.as_ref().is_none_or(|t| t.iter().any(|t| t == candidate.event_type));
        return if type_fits { Verdict::Channels } else { Verdict::EventType };
    }
    match &endpoint.shape.filter {
        None => Verdict::Match,
        Some(filter) => ask(filter, candidate),
    }
}

fn ask(filter: &ContentFilter, candidate: &Candidate<'_>) -> Verdict {
    let compiled = filter
        .prepared
        .get_or_make(|| compile(&filter.source).unwrap_or_else(|fault| Filter::Unreadable(fault.message)));
    let answer = match &*compiled {
        Filter::Cel(program) => program.ask(candidate),
        Filter::CloudEvents(dialect) => Ok(dialect.ask(candidate)),
        Filter::Unreadable(why) => Err(format!("the filter cannot be used: {why}")),
    };
    match answer {
        Ok(true) => Verdict::Match,
        Ok(false) => Verdict::Filter,
        Err(why) => Verdict::Fault(why),
    }
}

/// Checks a filter and keeps what was compiled of it.
///
/// # Errors
/// What is wrong with it, for its owner.
pub fn check_filter(source: FilterSource) -> Result<ContentFilter, FilterFault> {
    let compiled = compile(&source)?;
    let filter = ContentFilter::new(source);
    filter.prepared.get_or_make(|| compiled);
    Ok(filter)
}

fn compile(source: &FilterSource) -> Result<Filter, FilterFault> {
    match source {
        FilterSource::Cel(text) => cel::compile(text).map(Filter::Cel),
        FilterSource::CloudEvents(json) => cloud_events::compile(json).map(Filter::CloudEvents),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAYLOAD: &str = r#"{"amount":1200,"rate":0.5,"big":18446744073709551615,"currency":"EUR","customer":{"country":"NO","vip":true,
        "e mail":"a@b.example"},"items":[{"sku":"a-1","n":1},{"sku":"b-2","n":3},{"sku":"b-3","n":3}],"none":null,"empty":[],
        "at":"2026-03-01T10:00:00Z"}"#;

    fn verdict(filter: &str, payload: &str) -> Verdict {
        let filter =
            check_filter(FilterSource::Cel(filter.to_owned())).unwrap_or_else(|fault| panic!("{filter}: {fault}"));
        let channels = ["north".to_owned(), "east".to_owned()];
        let tags = ["red".to_owned()];
        let candidate = Candidate::new("invoice.paid", Some("e-1"), &channels, &tags, payload.as_bytes());
        ask(&filter, &candidate)
    }

    #[test]
    fn cel_says_yes_or_no() {
        let check = |filter: &str, yes: bool| {
            let expected = if yes { Verdict::Match } else { Verdict::Filter };
            assert_eq!(verdict(filter, PAYLOAD), expected, "{filter}");
        };
        check("true", true);
        check("payload.amount > 1000", true);
        check("data.amount > 1000 && payload.currency == 'EUR'", true);
        check("payload.amount > 1000.5", true);
        check("payload.amount == 1200.0", true);
        check("payload.amount == '1200'", false);
        check("payload.amount in [1, 1200]", true);
        check("payload.rate * 2 == 1", true);
        check("payload.amount + 1 > 1200", true);
        check("payload.amount % 7 == 3", true);
        check("payload.big > 9223372036854775807", true);
        check("-payload.amount == -1200", true);
        check("payload.customer.country in ['NO', 'SE']", true);
        check("payload.customer['e mail'] == 'a@b.example'", true);
        check("payload['amount'] == 1200", true);
        check("payload.items[1].sku == 'b-2'", true);
        check("size(payload.items) == 3 && payload.items.size() == 3", true);
        check("'sku' in payload.items[0]", true);
        check("has(payload.customer.vip) && payload.customer.vip", true);
        check("has(payload.customer.missing)", false);
        check("payload.none == null", true);
        check("payload.items.exists(i, i.n > 2)", true);
        check("payload.items.all(i, i.n > 2)", false);
        check("payload.items.exists_one(i, i.n == 3)", false);
        check("payload.items.filter(i, i.n == 3).size() == 2", true);
        check("payload.items.map(i, i.sku) == ['a-1', 'b-2', 'b-3']", true);
        check("payload.items.exists(i, payload.items.exists(j, i.n == j.n && i.sku != j.sku))", true);
        check("payload.items.filter(i, payload.items.filter(j, j.n == i.n).size() == 2).size() == 2", true);
        check("payload.empty.all(i, false)", true);
        check("payload.customer.exists(name, name == 'vip')", true);
        check("payload.customer == payload.customer && payload.items != payload.empty", true);
        check("eventType.startsWith('invoice.') && type == 'invoice.paid'", true);
        check("eventId == 'e-1'", true);
        check("'north' in channels && !('south' in channels)", true);
        check("tags == ['red']", true);
        check("channels.exists(c, c.endsWith('ast'))", true);
        check("payload.customer['e mail'].matches('^[a-z]+@b[.]')", true);
        check("payload.currency.lowerAscii() == 'eur' && 'x'.upperAscii() == 'X'", true);
        check("payload.currency.contains('U') ? payload.amount > 5 : false", true);
        check("int('7') == 7 && double(payload.amount) == 1200.0 && string(payload.amount) == '1200'", true);
        check("payload.rate == 0.5 && payload.rate < 0.5000000000000000001", true);
        check("timestamp(payload.at) > timestamp('2026-02-28T23:00:00-05:00')", true);
        check("payload.currency + '!' == 'EUR!'", true);
        check("'a' < 'b' && false < true", true);
        // What one side cannot say, the other may make irrelevant.
        check("payload.missing > 1 || payload.amount > 1", true);
        check("payload.amount > 1 || payload.missing > 1", true);
        check("payload.missing > 1 && payload.amount < 1", false);
        check("payload.items.exists(i, i.missing > 1 || i.n == 3)", true);
        // A comment, and a line's end.
        check("payload.amount > 1 // at least\n && true", true);
    }

    #[test]
    fn what_cannot_be_said_is_no_and_says_why() {
        let check = |filter: &str, expected: &str| match verdict(filter, PAYLOAD) {
            Verdict::Fault(why) => assert!(why.contains(expected), "{filter}: {why}"),
            other => panic!("{filter}: {other:?}"),
        };
        check("payload.missing == 1", "there is no \"missing\"");
        check("payload.amount.missing == 1", "a number has no \"missing\"");
        check("payload.items[7] == 1", "there is no item 7");
        check("payload.items['a'] == 1", "a list has no item at a string");
        check("payload.amount > 'a'", "a number and a string cannot be compared");
        check("payload.amount", "gave a number instead of true or false");
        check("payload.amount && true", "expected true or false, found a number");
        check("payload.amount / 0 == 1", "divided by zero");
        check("payload.amount * 9223372036854775807 == 1", "too large");
        check("payload.amount.exists(i, true)", "expected a list or an object");
        check("payload.currency + 1 == 'EUR1'", "a string + a number cannot be calculated");
        check("timestamp(payload.currency) == timestamp(payload.at)", "RFC 3339");
        check("payload.items.exists(i, i.missing)", "there is no \"missing\"");
    }

    #[test]
    fn what_is_no_filter_is_refused_with_its_place() {
        let check = |filter: &str, expected: &str| {
            let fault = check_filter(FilterSource::Cel(filter.to_owned())).expect_err(filter);
            assert!(fault.message.contains(expected), "{filter}: {fault}");
        };
        check("", "leave it out");
        check("payload.amount >", "line 1, column ");
        check("true &&\n  payload.amount >> 5", "line 2, column ");
        check("true &&\n  colour == 'red'", "line 2, column 3: there is no \"colour\"; a filter sees payload");
        check("id == 'x'", "use eventId");
        check("payload.at.sleep(5)", "there is no function \"sleep\"");
        check("payload.size(1) == 1", "takes 1 operands");
        check("{'a': 1} == payload", "maps cannot be written");
        check("b'a' == payload.a", "bytes cannot be written");
        check("payload.a.matches(payload.b)", "must be written out");
        check("payload.a.matches('(')", "cannot be used");
        check("payload.a.matches('(((a{50}){50}){50}){50}')", "cannot be used");
        check("payload.amount + 1", "must give true or false");
        check("'yes'", "must give true or false");
        check("[1].all(a, [1].all(b, [1].all(c, true)))", "at most 2 deep");
        check(&format!("{}true{}", "(".repeat(40), ")".repeat(40)), "nested 40 deep");
        check(&"a".repeat(5_000), "at most 4096 bytes");
        check(&format!("true{}", "&&true".repeat(300)), "at most 512 operators");
        check(&format!("1 in [{}]", vec!["1"; 300].join(" ,")), "at most 256 parts");
    }

    #[test]
    fn a_hostile_filter_ends_soon() {
        let many = format!("{{\"l\":[{}],\"s\":\"{}\"}}", vec!["1"; 60_000].join(","), "a".repeat(200_000));
        let costly = |filter: &str| match verdict(filter, &many) {
            Verdict::Fault(why) => assert!(why.contains("more than 10000 steps"), "{filter}: {why}"),
            other => panic!("{filter}: {other:?}"),
        };
        costly("payload.l.exists(a, a == 2)");
        // Not even `||` makes it irrelevant.
        costly("payload.l.exists(a, a == 2) || true");
        costly("payload.l.filter(a, true).size() > 1");
        costly("payload.l == payload.l");
        costly("2 in payload.l");
        costly("[1,2,3,4,5,6,7,8,9].exists(a, [1,2,3,4,5,6,7,8,9].exists(b, payload.s.contains('b')))");
        costly("(payload.s + payload.s) == 'a'");
        costly("payload.s.matches('(a|aa)+$')");
        costly(
            "['aaaaaaaa'].map(a, a + a + a + a + a + a + a + a).map(a, a + a + a + a + a + a + a + a)\
                .map(a, a + a + a + a + a + a + a + a).map(a, a + a + a + a + a + a + a + a)\
                .map(a, a + a + a + a + a + a + a + a).map(a, a + a + a + a + a + a + a + a).size() == 1",
        );
        for (n, open) in ["(", "[", "!", "-", "a.", "a?", "a[", "{", "'", "a+", "a||", "has(", "\"\"\"", "\u{1F980}"]
            .iter()
            .enumerate()
        {
            for count in [1, 30, 300, 2_000] {
                drop(check_filter(FilterSource::Cel(open.repeat(count))));
                drop(check_filter(FilterSource::Cel(format!("{}a", open.repeat(count)))));
            }
            assert!(n < 20);
        }
    }

    #[test]
    fn big_numbers_compare_with_every_digit() {
        let payload = r#"{"id":12345678901234567890123,"next":12345678901234567890124,"sum":12345678901234567890.10,"at":9007199254740993,
            "huge":1e400,"zero":-0,"big":18446744073709551615}"#;
        let check = |filter: &str| assert_eq!(verdict(filter, payload), Verdict::Match, "{filter}");
        check("payload.id < payload.next && payload.id != payload.next && payload.id == payload.id");
        check("string(payload.id) == '12345678901234567890123'");
        check("payload.sum == 12345678901234567890.1 && payload.sum > 12345678901234567890.09");
        check("payload.sum == 12345678901234567890.10");
        check("string(payload.sum) == '12345678901234567890.10'");
        check("payload.at != 9007199254740992 && payload.at > 9007199254740992.0 && payload.at < 9007199254740994.0");
        check("payload.huge > payload.id && -payload.huge < -payload.id && payload.zero == 0");
        check("payload.id > payload.big && payload.id in [payload.next, payload.id]");
        check("double(payload.id) > 1.0e22 && payload.id * 2 > 2.0e22");
        assert!(matches!(verdict("int(payload.id) == 1", payload), Verdict::Fault(_)));
        let long = format!("{{\"a\":0.{0}1,\"b\":0.{0}2}}", "0".repeat(1_000_000));
        assert!(matches!(verdict("payload.a < payload.b", &long), Verdict::Fault(_)), "more than it may cost");
    }

    #[test]
    fn a_raw_payload_is_a_string() {
        assert_eq!(verdict("payload.startsWith('<a>')", "<a>1</a>"), Verdict::Match);
    }

    #[test]
    fn what_a_later_version_wrote_matches_nothing_and_says_so() {
        let filter = ContentFilter::new(FilterSource::Cel("payload.a.shout()".to_owned()));
        let candidate = Candidate::new("a", None, &[], &[], b"{}");
        match ask(&filter, &candidate) {
            Verdict::Fault(why) => assert!(why.contains("cannot be used"), "{why}"),
            other => panic!("{other:?}"),
        }
    }
}
