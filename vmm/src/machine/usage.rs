//! What a guest's process has cost the host, from the host's own counters.
#![expect(unsafe_code, reason = "getrusage(2)")]

use std::time::Duration;

/// What the process has used up to now.
pub(super) struct Usage {
    /// Processor time of all its threads, user and system.
    pub(super) cpu: Duration,
    /// Largest resident set, in KiB.
    pub(super) peak_rss_kib: u64,
}

/// What this process has used; zeroes if the host does not tell.
pub(super) fn of_process() -> Usage {
    // SAFETY: a plain structure, for which zeroes are valid, and which the call fills.
    let usage = unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(libc::RUSAGE_SELF, &mut usage);
        usage
    };
    Usage {
        cpu: duration(usage.ru_utime).saturating_add(duration(usage.ru_stime)),
        peak_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
    }
}

fn duration(time: libc::timeval) -> Duration {
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    let micros = u64::try_from(time.tv_usec).unwrap_or(0);
    Duration::from_secs(seconds).saturating_add(Duration::from_micros(micros))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_has_used_something() {
        let usage = of_process();
        assert!(usage.peak_rss_kib > 0);
    }
}
