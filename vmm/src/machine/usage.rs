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
    let usage = of(libc::RUSAGE_SELF);
    Usage { cpu: cpu(&usage), peak_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0) }
}

/// Processor time of the calling thread, user and system.
pub(crate) fn cpu_of_thread() -> Duration {
    cpu(&of(libc::RUSAGE_THREAD))
}

fn of(whom: libc::c_int) -> libc::rusage {
    // SAFETY: a plain structure, for which zeroes are valid, and which the call fills.
    unsafe {
        let mut usage: libc::rusage = std::mem::zeroed();
        libc::getrusage(whom, &mut usage);
        usage
    }
}

fn cpu(usage: &libc::rusage) -> Duration {
    duration(usage.ru_utime).saturating_add(duration(usage.ru_stime))
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
