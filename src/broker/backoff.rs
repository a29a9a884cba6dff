//! The time between two attempts to reach a broker: twice as long after each, up to a bound, without an end.

use std::time::Duration;

/// The first pause; each further one is twice as long.
const FIRST: Duration = Duration::from_millis(50);

/// Waits before the next attempt, when so many have failed. Jittered, so that many gateways do not come back at once.
pub(super) async fn pause(failed: u32, longest: Duration) {
    let share = f64::from(getrandom::u32().unwrap_or_default()) / f64::from(u32::MAX);
    tokio::time::sleep(bound(failed, longest).mul_f64(0.5 + share / 2.0)).await;
}

/// How many attempts have failed, now that a connection has broken which held for `held`. A broker that lets us in and
/// drops us at once is to be asked no more often than one that does not answer.
pub(super) fn after(failed: u32, held: Duration, longest: Duration) -> u32 {
    if held < longest { failed.saturating_add(1) } else { 0 }
}

fn bound(failed: u32, longest: Duration) -> Duration {
    FIRST.saturating_mul(1 << failed.min(16)).min(longest)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONGEST: Duration = Duration::from_secs(5);

    #[test]
    fn pauses_grow_up_to_their_bound_for_ever() {
        let pauses: Vec<_> = (0..9).map(|failed| bound(failed, LONGEST).as_millis()).collect();
        assert_eq!(pauses, [50, 100, 200, 400, 800, 1_600, 3_200, 5_000, 5_000]);
        assert_eq!(bound(u32::MAX, LONGEST), LONGEST);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_half_of_it_at_least() {
        for _ in 0..100 {
            let begun = tokio::time::Instant::now();
            pause(20, LONGEST).await;
            assert!((LONGEST / 2..=LONGEST + Duration::from_millis(1)).contains(&begun.elapsed()));
        }
    }

    #[test]
    fn a_connection_that_breaks_at_once_was_a_failed_attempt() {
        assert_eq!(after(3, Duration::from_millis(20), LONGEST), 4);
        assert_eq!(after(3, LONGEST, LONGEST), 0);
    }
}
