//! A session's part of the memory that all share, see [`memory`](crate::iscsi::memory).

use std::time::{Duration, Instant};

use super::command::Task;
use super::{End, Session};

/// Bytes that a session must move within `answer_time` if others wait for its memory.
const MOVED_MIN: u64 = 1 << 20;

impl Session<'_> {
    /// Gives memory back that a command had.
    pub(super) fn release(&mut self, cost: usize) {
        self.used -= cost.min(self.used);
        self.share.give(cost);
    }

    /// Where others wait for memory: gives back what is not in use, and sees to it that the
    /// initiator moves data of the commands that have the rest. Says when to look again.
    pub(super) fn make_way(&mut self, now: Instant, moved: u64) -> Result<Duration, End> {
        if !self.share.keeps_others_waiting() {
            self.pressed = None;
            return Ok(Duration::MAX);
        }
        self.pool.clear(&mut self.share);
        let lacks_data = self.tasks.values().any(Task::lacks_data);
        if !self.share.keeps_others_waiting() || !lacks_data && self.output.is_empty() {
            self.pressed = None;
            return Ok(Duration::MAX);
        }
        let (since, before) = *self.pressed.get_or_insert((now, moved));
        let patience = self.limits().answer_time;
        let left = patience.saturating_sub(now.saturating_duration_since(since));
        if moved.saturating_sub(before) >= MOVED_MIN {
            self.pressed = Some((now, moved));
            return Ok(patience);
        }
        if left.is_zero() { Err(End::Slow) } else { Ok(left) }
    }
}
