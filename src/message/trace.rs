//! W3C Trace Context: the trace that a message belongs to, as `traceparent` and `tracestate` name it.

use std::fmt;

use super::Headers;

/// The headers, which travel with a message as any other does.
const PARENT: &str = "traceparent";
const STATE: &str = "tracestate";
/// Bytes and members of a `tracestate` (Trace Context, §3.3).
const MAX_STATE: usize = 512;
const MAX_MEMBERS: usize = 32;
/// Characters of a key, and of a value.
const MAX_WORD: usize = 256;

/// A good `traceparent`: a trace, and the span in it that comes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceParent {
    /// The trace; never zero.
    pub trace: u128,
    /// The span that comes before; never zero.
    pub span: u64,
    /// Whoever began the trace, or came before, records it.
    pub is_sampled: bool,
}

impl TraceParent {
    /// Reads a `traceparent`. Of a version that is not known yet, what this one has is read (Trace Context, §3.2.4).
    pub fn parse(value: &str) -> Option<Self> {
        let mut parts = value.splitn(5, '-');
        let [version, trace, span, flags] = [(); 4].map(|()| parts.next().unwrap_or_default());
        let is_last = parts.next().is_none();
        let is_version = is_hexadecimal(version, 2) && version != "ff" && (is_last || version != "00");
        if !is_version || !is_hexadecimal(trace, 32) || !is_hexadecimal(span, 16) || !is_hexadecimal(flags, 2) {
            return None;
        }
        let trace = u128::from_str_radix(trace, 16).ok().filter(|trace| *trace != 0)?;
        let span = u64::from_str_radix(span, 16).ok().filter(|span| *span != 0)?;
        let is_sampled = u8::from_str_radix(flags, 16).ok()? & 1 == 1;
        Some(TraceParent { trace, span, is_sampled })
    }

    /// The one that a message has, if it is a good one.
    pub fn of(headers: &Headers) -> Option<Self> {
        headers.get(PARENT).and_then(|value| Self::parse(value))
    }

    /// Puts a message into this trace. A `tracestate` stays only where the message was in the trace before.
    pub fn put(self, headers: &mut Headers) {
        if Self::of(headers).is_none_or(|before| before.trace != self.trace) {
            headers.remove(STATE);
        }
        headers.set(PARENT, self.to_string());
    }
}

impl fmt::Display for TraceParent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "00-{:032x}-{:016x}-{:02x}", self.trace, self.span, u8::from(self.is_sampled))
    }
}

/// The trace of a frame for what comes of it: both headers as they came. Nothing, if the `traceparent` is none; a
/// `tracestate` that is none is left out.
pub fn trace_context(headers: &Headers) -> Headers {
    let mut context = Headers::new();
    if let Some(parent) = headers.get(PARENT).filter(|value| TraceParent::parse(value).is_some()) {
        context.push(PARENT, parent.clone());
        if let Some(state) = headers.get(STATE).filter(|value| is_state(value)) {
            context.push(STATE, state.clone());
        }
    }
    context
}

/// A list of `key=value`, which may have spaces around its commas and empty members (Trace Context, §3.3.1).
fn is_state(value: &str) -> bool {
    let members =
        || value.split(',').map(|member| member.trim_matches([' ', '\t'])).filter(|member| !member.is_empty());
    (1..=MAX_MEMBERS).contains(&members().count()) && value.len() <= MAX_STATE && members().all(is_member)
}

fn is_member(member: &str) -> bool {
    let Some((key, value)) = member.split_once('=') else { return false };
    let is_lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let is_key =
        key.bytes().next().is_some_and(is_lower) && key.bytes().all(|byte| is_lower(byte) || b"_-*/@".contains(&byte));
    let is_value = !value.is_empty() && value.bytes().all(|byte| (b' '..=b'~').contains(&byte) && byte != b'=');
    is_key && is_value && key.len() <= MAX_WORD && value.len() <= MAX_WORD
}

fn is_hexadecimal(text: &str, length: usize) -> bool {
    text.len() == length && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_parent_is_read_and_written_as_it_was() {
        let parent = TraceParent::parse(GOOD).unwrap();
        assert_eq!((parent.trace >> 64, parent.span), (0x4bf9_2f35_77b3_4da6, 0x00f0_67aa_0ba9_02b7));
        assert!(parent.is_sampled);
        assert_eq!(parent.to_string(), GOOD);
        // Flags that are not known yet are not passed on, and a version that is not known yet may say more.
        let later = TraceParent::parse(&GOOD.replacen("00", "cc", 1).replace("-01", "-03-more-of-it")).unwrap();
        assert_eq!(later.to_string(), GOOD);
        assert!(!TraceParent::parse(&GOOD.replace("-01", "-00")).unwrap().is_sampled);
    }

    #[test]
    fn a_bad_parent_is_none() {
        let no_trace = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        let no_span = "00-4bf92f3577b34da6a3ce929d0e0e4736-0000000000000000-01";
        let version = GOOD.replacen("00", "ff", 1);
        let signed = GOOD.replacen("-4", "-+", 1);
        for bad in ["", "00-a-b-01", "00", no_trace, no_span, &version, &signed, &GOOD.to_uppercase(), &GOOD[1..]] {
            assert_eq!(TraceParent::parse(bad), None, "{bad}");
        }
        for more in ["-", "-x", "-01"] {
            assert_eq!(TraceParent::parse(&format!("{GOOD}{more}")), None, "{more}");
        }
    }

    #[test]
    fn a_state_goes_with_its_parent_or_not_at_all() {
        let kept = |parent: &str, state: &str| {
            trace_context(&Headers::from([("tracestate", state), ("traceparent", parent), ("a", "b")]))
        };
        for state in ["a=1", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE", "t-1/x@y*_= !~ , ,b=2"] {
            assert_eq!(kept(GOOD, state), Headers::from([("traceparent", GOOD), ("tracestate", state)]), "{state}");
            assert!(kept("00-a-b-01", state).is_empty(), "{state}");
        }
        let long = format!("a={}", "x".repeat(257));
        let much = format!("a={},b={}", "x".repeat(256), "x".repeat(256));
        let many = (0..33).map(|number| format!("a{number}=1")).collect::<Vec<_>>().join(",");
        for state in ["", ",", "a", "a=", "=1", "A=1", "a=1=2", "a=\u{e9}", "a b=1", "a=1;b=2\n", &long, &much, &many] {
            assert_eq!(kept(GOOD, state), Headers::from([("traceparent", GOOD)]), "{state}");
        }
    }

    #[test]
    fn a_message_that_changes_its_trace_loses_the_state_of_the_other() {
        let mut headers = Headers::from([("traceparent", GOOD), ("tracestate", "a=1")]);
        let mut parent = TraceParent { span: 7, ..TraceParent::parse(GOOD).unwrap() };
        parent.put(&mut headers);
        assert_eq!(
            (headers.get("tracestate").map(|state| &**state), TraceParent::of(&headers)),
            (Some("a=1"), Some(parent))
        );
        parent.trace = 1;
        parent.put(&mut headers);
        assert_eq!((headers.get("tracestate"), TraceParent::of(&headers)), (None, Some(parent)));
    }
}
