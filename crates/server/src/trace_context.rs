//! The trace that a request belongs to, as its `traceparent` header tells.
//!
//! Source: W3C Recommendation "Trace Context", <https://www.w3.org/TR/trace-context/>, section 3.2.

use std::fmt;

use axum::http::HeaderMap;

const TRACEPARENT: &str = "traceparent";

/// Length of a header of version 00: version, trace id, parent id and flags with dashes between.
const LENGTH: usize = 55;

/// A well-formed `traceparent`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TraceParent {
    /// Of the whole trace; not zero.
    pub(crate) trace_id: Hex<u128>,
    /// The caller's span in it; not zero.
    pub(crate) parent_id: Hex<u64>,
    /// Whether the caller may have recorded its span: the one flag that all versions share.
    #[cfg_attr(not(feature = "otlp"), allow(dead_code, reason = "for who exports"))]
    pub(crate) sampled: bool,
}

/// An id, shown as lower-case hexadecimal digits in its whole width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Hex<T>(pub(crate) T);

impl<T: fmt::LowerHex> fmt::Display for Hex<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:01$x}", self.0, 2 * size_of::<T>())
    }
}

impl TraceParent {
    /// Takes it from a request. `None` if there is none, more than one, or one that is not
    /// well-formed: then, as the recommendation has it, a new trace begins.
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let mut given = headers.get_all(TRACEPARENT).iter();
        let (Some(header), None) = (given.next(), given.next()) else {
            return None;
        };
        Self::parse(header.as_bytes())
    }

    /// Reads `00-{trace id}-{parent id}-{flags}`. Later versions may go on with a dash and what
    /// is not known yet; ff is none.
    fn parse(header: &[u8]) -> Option<Self> {
        let (head, tail) = header.split_at_checked(LENGTH)?;
        let mut fields = head.split(|byte| *byte == b'-');
        let version = digits(fields.next()?, 2)?;
        let trace_id = digits(fields.next()?, 32)?;
        let parent_id = digits(fields.next()?, 16)?;
        let flags = digits(fields.next()?, 2)?;
        let ends_well = match version {
            0 => tail.is_empty(),
            0xff => false,
            _ => matches!(tail, [] | [b'-', ..]),
        };
        let whole = fields.next().is_none() && ends_well && trace_id != 0 && parent_id != 0;
        whole.then_some(Self {
            trace_id: Hex(trace_id),
            parent_id: Hex(u64::try_from(parent_id).ok()?),
            sampled: flags & 1 == 1,
        })
    }
}

/// The number that exactly `count` lower-case hexadecimal digits stand for; 32 at most.
fn digits(text: &[u8], count: usize) -> Option<u128> {
    let lower = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
    if text.len() != count || !text.iter().all(lower) {
        return None;
    }
    u128::from_str_radix(str::from_utf8(text).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The recommendation's own example.
    const EXAMPLE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    fn parse(header: &str) -> Option<TraceParent> {
        TraceParent::parse(header.as_bytes())
    }

    #[test]
    fn the_example_is_read() {
        let parent = parse(EXAMPLE).unwrap();
        assert_eq!(
            parent.trace_id.to_string(),
            "4bf92f3577b34da6a3ce929d0e0e4736"
        );
        assert_eq!(parent.parent_id.to_string(), "00f067aa0ba902b7");
        assert!(parent.sampled);
        for (flags, sampled) in [("00", false), ("02", false), ("03", true), ("ff", true)] {
            let header = format!("{}{flags}", &EXAMPLE[..53]);
            assert_eq!(parse(&header).unwrap().sampled, sampled, "{flags}");
        }
    }

    #[test]
    fn what_is_not_well_formed_is_ignored() {
        for odd in [
            "",
            "00",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-1",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-001",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01-more",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-0g",
            "00-4BF92F3577B34DA6A3CE929D0E0E4736-00f067aa0ba902b7-01",
            "00-00000000000000000000000000000000-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01",
            "00-4bf92f3577b34da6a3ce929d0e0e473-600f067aa0ba902b7-01",
            "00-+bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00_4bf92f3577b34da6a3ce929d0e0e4736_00f067aa0ba902b7_01",
            "0-04bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "ff-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            " 00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
            "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-\u{e9}",
        ] {
            assert_eq!(parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn later_versions_may_say_more() {
        let later = format!("cc{}", &EXAMPLE[2..]);
        assert_eq!(parse(&later), parse(EXAMPLE));
        assert_eq!(parse(&format!("{later}-what-is-this")), parse(EXAMPLE));
        assert_eq!(parse(&format!("{later}.what-is-this")), None);
    }

    #[test]
    fn two_parents_are_none() {
        let mut headers = HeaderMap::new();
        assert_eq!(TraceParent::of(&headers), None);
        headers.append(TRACEPARENT, EXAMPLE.parse().unwrap());
        assert_eq!(TraceParent::of(&headers), parse(EXAMPLE));
        headers.append(TRACEPARENT, EXAMPLE.parse().unwrap());
        assert_eq!(TraceParent::of(&headers), None);
    }

    #[test]
    fn ids_keep_their_leading_zeros() {
        assert_eq!(Hex(1_u64).to_string(), "0000000000000001");
        assert_eq!(
            Hex(0xab_u128).to_string(),
            "000000000000000000000000000000ab"
        );
    }
}
