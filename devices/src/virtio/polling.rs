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
/// A thread that gave way for this long gave way to another one.
const CONTENDED: Duration = Duration::from_micros(20);
/// How long a thread that had to give way sleeps at once, before it tries to look again.
const REST: Duration = Duration::from_millis(10);

/// The time to look, adapted to a queue's traffic and to how busy the host is.
#[derive(Debug, Default)]
pub(super) struct Polling {
    window: Duration,
    rest_until: Option<Instant>,
}

impl Polling {
    /// Calls `look` until it returns true or the time is up; whether it did. `since` is the end
    /// of the last work.
    ///
    /// Where the host has more threads to run than processors, looking keeps others from running,
    /// perhaps the very one that would give us work; and a thread that sleeps is run sooner, when
    /// there is work, than one that looked for it all the time. So this gives way now and then,
    /// and when that takes long, there is no more looking for a while.
    pub(super) fn poll(&mut self, since: Instant, mut look: impl FnMut() -> bool) -> bool {
        if self.window.is_zero() {
            return false;
        }
        let mut now = since;
        loop {
            for _ in 0..LOOKS {
                if look() {
                    return true;
                }
                std::hint::spin_loop();
            }
            let before = now;
            std::thread::yield_now();
            now = Instant::now();
            if now.duration_since(before) >= CONTENDED {
                self.window = Duration::ZERO;
                self.rest_until = Some(now + REST);
            }
            if now.duration_since(since) >= self.window {
                return look();
            }
        }
    }

    /// Takes note that work came `interval` after the last work was done, and was not found by
    /// looking.
    pub(super) fn slept(&mut self, interval: Duration) {
        if self.rest_until.is_some_and(|until| Instant::now() < until) {
            return;
        }
        self.rest_until = None;
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
        polling.rest_until = None;
        for _ in 0..10 {
            polling.slept(Duration::from_millis(1));
        }
        assert_eq!(polling.window, Duration::ZERO);
    }

    #[test]
    fn a_thread_that_had_to_give_way_rests() {
        let mut polling = Polling { window: MAX, rest_until: None };
        // The first looks take as long as another thread would run.
        let mut looks = 0;
        let look = || {
            looks += 1;
            std::thread::sleep(CONTENDED);
            false
        };
        assert!(!polling.poll(Instant::now(), look));
        assert_eq!(looks, LOOKS + 1);
        assert_eq!(polling.window, Duration::ZERO);
        polling.slept(Duration::from_micros(10));
        assert_eq!(polling.window, Duration::ZERO);
        polling.rest_until = Some(Instant::now());
        polling.slept(Duration::from_micros(10));
        assert_eq!(polling.window, MIN);
    }
}
