//! Where a message stands in a trace that its sender began.

use std::fmt;

/// A `traceparent`: the trace, the sender's span in it, and whether the sender records it.
///
/// W3C Trace Context, "Traceparent Header".
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TraceParent {
    /// The trace's id; never all zeros.
    pub trace: [u8; 16],
    /// The id of the span that others are children of; never all zeros.
    pub span: [u8; 8],
    /// Whether whoever made this span records it, and wants its children recorded.
    pub sampled: bool,
}

impl TraceParent {
    /// Reads the header's value; `None` if it is none, as the standard wants: then a new trace begins.
    ///
    /// Of later versions the parts that this one has are read.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.trim().splitn(5, '-');
        let mut next = || parts.next();
        let (version, trace, span, flags) = (next()?, next()?, next()?, next()?);
        let [version] = bytes(version)?;
        if version == 0xff || (version == 0 && next().is_some()) {
            return None;
        }
        let parent = TraceParent { trace: bytes(trace)?, span: bytes(span)?, sampled: bytes::<1>(flags)?[0] & 1 == 1 };
        (parent.trace != [0; 16] && parent.span != [0; 8]).then_some(parent)
    }

    /// For a place where bytes are kept: 25 of them.
    pub fn to_bytes(self) -> [u8; 25] {
        let mut bytes = [0; 25];
        bytes[..16].copy_from_slice(&self.trace);
        bytes[16..24].copy_from_slice(&self.span);
        bytes[24] = u8::from(self.sampled);
        bytes
    }

    /// What [`TraceParent::to_bytes`] gave.
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (trace, rest) = bytes.split_first_chunk::<16>()?;
        let (span, flags) = rest.split_first_chunk::<8>()?;
        let [flags] = flags else { return None };
        Some(TraceParent { trace: *trace, span: *span, sampled: *flags == 1 })
    }
}

/// The header's value.
impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("00-")?;
        self.trace.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("-")?;
        self.span.iter().try_for_each(|byte| write!(f, "{byte:02x}"))?;
        write!(f, "-{:02x}", u8::from(self.sampled))
    }
}

/// Lower-case hexadecimal digits, exactly as many as are needed.
fn bytes<const N: usize>(digits: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if digits.len() != 2 * N || !digits.bytes().all(|digit| matches!(digit, b'0'..=b'9' | b'a'..=b'f')) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first is the example of W3C Trace Context, "Examples of HTTP traceparent Headers".
    const PUBLISHED: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn what_is_published_is_read_and_written() {
        let parent = TraceParent::parse(PUBLISHED).expect("it is valid");
        assert!(parent.sampled);
        assert_eq!(parent.to_string(), PUBLISHED);
        assert_eq!(TraceParent::from_bytes(&parent.to_bytes()), Some(parent));
        assert_eq!(TraceParent::from_bytes(&parent.to_bytes()[1..]), None);
        let unsampled = TraceParent::parse("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00").expect("valid");
        assert!(!unsampled.sampled);
    }

    #[test]
    fn later_versions_may_be_longer_and_nothing_else_is_valid() {
        let check = |text: &str, valid: bool| assert_eq!(TraceParent::parse(text).is_some(), valid, "{text}");
        check("cc-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-what-comes-later", true);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more", false);
        check("ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01", false);
        check("00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01", false);
        check("00-00000000000000000000000000000000-00f067aa0ba902b7-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7", false);
        check("00-4bf92f3577b34da6a3ce929d0e0e473-00f067aa0ba902b7-01", false);
        check("", false);
    }
}
