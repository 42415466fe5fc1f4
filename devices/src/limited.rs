//! Warnings that a guest can cause, at a bounded rate.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Messages that one place in the code may log in one [`PERIOD`].
const BURST: u32 = 5;
const PERIOD: Duration = Duration::from_secs(10);

/// How much one place in the code has logged of late.
pub(crate) struct RateLimit(Mutex<Option<Window>>);

struct Window {
    start: Instant,
    logged: u32,
    suppressed: u64,
}

impl RateLimit {
    pub(crate) const fn new() -> RateLimit {
        RateLimit(Mutex::new(None))
    }

    /// Whether a message may be logged at `now`, and if so, how many were not since the last one.
    pub(crate) fn permit(&self, now: Instant) -> Option<u64> {
        let mut window = lock(&self.0);
        let window = window.get_or_insert(Window { start: now, logged: 0, suppressed: 0 });
        if now.saturating_duration_since(window.start) >= PERIOD {
            window.start = now;
            window.logged = 0;
        }
        if window.logged >= BURST {
            window.suppressed = window.suppressed.saturating_add(1);
            return None;
        }
        window.logged += 1;
        Some(std::mem::take(&mut window.suppressed))
    }
}

/// `tracing::warn!`, but a few times in ten seconds at most for each place that uses it. The
/// field `suppressed` counts the messages left out before this one.
macro_rules! warn_limited {
    ($($message:tt)+) => {{
        static LIMIT: $crate::limited::RateLimit = $crate::limited::RateLimit::new();
        if let Some(suppressed) = LIMIT.permit(std::time::Instant::now()) {
            tracing::warn!(suppressed, $($message)+);
        }
    }};
}
pub(crate) use warn_limited;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_cut_and_counted() {
        let limit = RateLimit::new();
        let start = Instant::now();
        let logged = (0..1000).filter(|_| limit.permit(start).is_some()).count();
        assert_eq!(logged, BURST as usize);
        assert_eq!(limit.permit(start + PERIOD), Some(1000 - u64::from(BURST)));
        assert_eq!(limit.permit(start + PERIOD), Some(0));
    }
}
