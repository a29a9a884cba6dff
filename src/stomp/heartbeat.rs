//! What both sides say about heart-beats, and what follows from it.

use std::time::Duration;

/// Intervals in milliseconds that are longer than this (49 days) are as good as none; as a [`Duration`] they could
/// overflow the clock.
const LONGEST: u64 = u32::MAX as u64;

/// What was agreed on (STOMP 1.2, “Heart-beating”).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Heartbeat {
    /// The client sends something at least this often. `None`: it may be silent for ever.
    pub inbound: Option<Duration>,
    /// The gateway sends something at least this often. `None`: it may be silent for ever.
    pub outbound: Option<Duration>,
    /// The header `heart-beat` of CONNECTED: sx and sy, in milliseconds.
    pub header: (u64, u64),
}

impl Heartbeat {
    /// Agrees on what the client's header `heart-beat` (cx, cy) asks for, within the gateway's bounds.
    ///
    /// A client computes what it must send as the maximum of cx and sy, and what it may expect as the maximum of sx and
    /// cy. So the header holds the intervals that were chosen themselves, and the client arrives at the same:
    ///
    /// - inbound is cx, but at least `minimum`; cx is the best the client can do, so no maximum applies;
    /// - outbound is cy, but at least `minimum` and at most `maximum`; where `maximum` is the shorter one, the client
    ///   still computes cy, and is content with heart-beats that come more often;
    /// - 0 from the client means none in that direction, and is answered with 0.
    ///
    /// `None` for a value that is not two decimal numbers. An absent header is `0,0`.
    pub fn negotiate(value: Option<&str>, minimum: Duration, maximum: Duration) -> Option<Self> {
        let (can_send, wants) = parse(value.unwrap_or("0,0"))?;
        let minimum = milliseconds(minimum);
        let inbound = interval(can_send).map(|interval| interval.max(minimum));
        let outbound = interval(wants).map(|interval| interval.max(minimum).min(milliseconds(maximum)));
        Some(Heartbeat {
            inbound: inbound.map(Duration::from_millis),
            outbound: outbound.map(Duration::from_millis),
            header: (outbound.unwrap_or(0), inbound.unwrap_or(0)),
        })
    }
}

/// The two numbers of a `heart-beat` header: decimal digits, a comma between them, spaces around tolerated.
fn parse(value: &str) -> Option<(u64, u64)> {
    let (first, second) = value.split_once(',')?;
    Some((number(first)?, number(second)?))
}

fn number(text: &str) -> Option<u64> {
    let digits = text.trim_matches(' ');
    if digits.bytes().all(|byte| byte.is_ascii_digit()) { digits.parse().ok() } else { None }
}

fn interval(milliseconds: u64) -> Option<u64> {
    (1..=LONGEST).contains(&milliseconds).then_some(milliseconds)
}

/// At least 1, since 0 would say that there are no heart-beats.
fn milliseconds(bound: Duration) -> u64 {
    u64::try_from(bound.as_millis()).unwrap_or(LONGEST).clamp(1, LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINIMUM: Duration = Duration::from_secs(1);
    const MAXIMUM: Duration = Duration::from_mins(1);

    fn negotiate(value: &str) -> Option<Heartbeat> {
        Heartbeat::negotiate(Some(value), MINIMUM, MAXIMUM)
    }

    /// What a client that follows the specification computes: (it sends every, it expects every).
    fn clients_view((can_send, wants): (u64, u64), (sx, sy): (u64, u64)) -> (Option<u64>, Option<u64>) {
        let agree = |one: u64, other: u64| (one > 0 && other > 0).then(|| one.max(other));
        (agree(can_send, sy), agree(sx, wants))
    }

    #[test]
    fn no_header_means_no_heartbeats() {
        assert_eq!(Heartbeat::negotiate(None, MINIMUM, MAXIMUM), Some(Heartbeat::default()));
        assert_eq!(negotiate("0,0"), Some(Heartbeat::default()));
    }

    #[test]
    fn intervals_are_held_within_the_bounds() {
        let agreed = negotiate("10,10").unwrap();
        assert_eq!((agreed.inbound, agreed.outbound), (Some(MINIMUM), Some(MINIMUM)));
        let agreed = negotiate("10000,20000").unwrap();
        assert_eq!(agreed.header, (20_000, 10_000));
        let agreed = negotiate("100000,100000").unwrap();
        assert_eq!((agreed.inbound, agreed.outbound), (Some(Duration::from_secs(100)), Some(MAXIMUM)));
    }

    #[test]
    fn each_direction_stands_alone() {
        let agreed = negotiate("0,5000").unwrap();
        assert_eq!((agreed.inbound, agreed.outbound, agreed.header), (None, Some(Duration::from_secs(5)), (5000, 0)));
        let agreed = negotiate("5000,0").unwrap();
        assert_eq!((agreed.inbound, agreed.outbound, agreed.header), (Some(Duration::from_secs(5)), None, (0, 5000)));
    }

    #[test]
    fn a_client_that_follows_the_specification_agrees() {
        for can_send in [0, 1, 999, 1000, 30_000, 90_000] {
            for wants in [0, 1, 999, 1000, 30_000, 90_000] {
                let agreed = negotiate(&format!("{can_send},{wants}")).unwrap();
                let (sends, expects) = clients_view((can_send, wants), agreed.header);
                assert_eq!(sends.map(Duration::from_millis), agreed.inbound, "{can_send},{wants}");
                assert_eq!(expects.is_some(), agreed.outbound.is_some(), "{can_send},{wants}");
                assert!(expects.map(Duration::from_millis) >= agreed.outbound, "{can_send},{wants}");
            }
        }
    }

    #[test]
    fn an_absurd_interval_is_none_and_no_bound_breaks_it() {
        assert_eq!(negotiate("18446744073709551615,18446744073709551615"), Some(Heartbeat::default()));
        let crossed = Heartbeat::negotiate(Some("1,1"), Duration::MAX, Duration::ZERO).unwrap();
        assert_eq!(crossed.outbound, Some(Duration::from_millis(1)));
    }

    #[test]
    fn anything_but_two_numbers_is_refused() {
        for value in ["", ",", "1", "1,", ",1", "1,2,3", "-1,0", "+1,0", "1.5,0", "a,b", "18446744073709551616,0"] {
            assert_eq!(negotiate(value), None, "{value}");
        }
        assert!(negotiate(" 1000, 2000 ").is_some());
    }
}
