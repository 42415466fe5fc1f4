//! How long a device's thread looks for work before it sleeps.
//!
//! Being woken costs a driver that waits for its request more than the request itself, so a
//! thread whose work comes at short intervals had better keep looking. A thread whose work does
//! not had better sleep at once: an idle guest is to cost nothing. The interval between the end
//! of one piece of work and the next tells which: where it was short enough for looking to pay,
//! the time to look doubles; where it was not, it halves, down to none.

use std::time::{Duration, Instant};

/// Longest time to look.
const MAX: Duration = Duration::from_micros(50);
/// Shortest; below it, a thread sleeps at once.
const MIN: Duration = Duration::from_micros(6);
/// Looks between two glances at the clock.
const LOOKS: u32 = 32;

/// The time to look, adapted to a queue's traffic.
#[derive(Debug, Default)]
pub(super) struct Polling {
    window: Duration,
}

impl Polling {
    /// Calls `look` until it returns true or the time is up; whether it did. In between, other
    /// threads of the host run if they want to.
    pub(super) fn poll(&self, since: Instant, mut look: impl FnMut() -> bool) -> bool {
        if self.window.is_zero() {
            return false;
        }
        loop {
            for _ in 0..LOOKS {
                if look() {
                    return true;
                }
                std::hint::spin_loop();
            }
            if since.elapsed() >= self.window {
                return false;
            }
            // Where processors are fewer than threads, the one that would give us work may be
            // waiting for this one. Otherwise this returns at once.
            std::thread::yield_now();
        }
    }

    /// Takes note that work came `interval` after the last work was done, and was not found by
    /// looking.
    pub(super) fn slept(&mut self, interval: Duration) {
        self.window = if interval <= MAX {
            (self.window * 2).clamp(MIN, MAX)
        } else if self.window > MIN {
            self.window / 2
        } else {
            Duration::ZERO
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_makes_it_look_and_silence_makes_it_sleep() {
        let mut polling = Polling::default();
        let now = Instant::now();
        assert!(!polling.poll(now, || panic!("not to be called")));
        for _ in 0..10 {
            polling.slept(Duration::from_micros(10));
        }
        assert_eq!(polling.window, MAX);
        assert!(polling.poll(now, || true));
        assert!(!polling.poll(now, || false));
        for _ in 0..10 {
            polling.slept(Duration::from_millis(1));
        }
        assert_eq!(polling.window, Duration::ZERO);
    }
}
