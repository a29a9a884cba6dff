//! `traceparent`, by which a service ties a call to the others of its trace (W3C Trace Context).

use super::random_key;

/// The client's own, if it is one; else the beginning of a trace, for services to record if they do.
pub(super) fn parent(given: Option<&str>) -> String {
    match given.filter(|value| is_parent(value)) {
        Some(value) => value.to_owned(),
        None => format!("00-{}-{}-01", random_key(), &random_key()[..16]),
    }
}

/// Version, trace, parent and flags; neither of the two in the middle is all zero, and `ff` is no version.
fn is_parent(value: &str) -> bool {
    let parts: Vec<_> = value.split('-').collect();
    let is_hexadecimal = |part: &str| part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
    let [version, trace, parent, flags, more @ ..] = &parts[..] else { return false };
    let is_whole = |part: &str, length: usize| part.len() == length && is_hexadecimal(part);
    is_whole(version, 2)
        && *version != "ff"
        && (more.is_empty() || *version != "00")
        && [(trace, 32), (parent, 16)]
            .iter()
            .all(|(part, length)| is_whole(part, *length) && part.contains(|c| c != '0'))
        && is_whole(flags, 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_good_one_is_carried_and_anything_else_begins_a_trace() {
        assert_eq!(parent(Some(GOOD)), GOOD);
        let zero = "00-00000000000000000000000000000000-00f067aa0ba902b7-01";
        for given in
            [None, Some(""), Some("00-a-b-01"), Some(zero), Some(&*format!("{GOOD}-x")), Some(&*GOOD.to_uppercase())]
        {
            let made = parent(given);
            assert!(is_parent(&made) && Some(&*made) != given && made != parent(given), "{made}");
        }
    }
}
