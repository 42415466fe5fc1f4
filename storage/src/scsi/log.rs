//! How often a line is logged that initiators can bring about.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::wake::lock;

/// Lines in a row.
const LINES: u32 = 10;
/// After which there may be as many again.
const PAUSE: Duration = Duration::from_secs(5);

/// A bound on lines of one kind.
#[derive(Debug)]
pub(crate) struct Limit(Mutex<(Instant, u32)>);

impl Default for Limit {
    fn default() -> Limit {
        Limit(Mutex::new((Instant::now(), 0)))
    }
}

impl Limit {
    /// Whether there may be one more line now.
    pub(crate) fn allows(&self) -> bool {
        let mut state = lock(&self.0);
        let (since, lines) = &mut *state;
        if since.elapsed() > PAUSE {
            (*since, *lines) = (Instant::now(), 0);
        }
        *lines = lines.saturating_add(1);
        *lines <= LINES
    }
}
