//! What a guest's process has cost the host, from the host's own counters.
#![expect(unsafe_code, reason = "getrusage(2)")]

use std::fs::File;
use std::io::Read;
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

/// The process's proportional set size in KiB; 0 if the host does not tell.
///
/// The kernel walks all mapped pages for this: about 5 ms for each gigabyte that was touched.
pub(super) fn pss_kib() -> u64 {
    // Read at once: every read is a walk.
    let mut text = [0; 4096];
    let len = File::open("/proc/self/smaps_rollup").and_then(|mut file| file.read(&mut text));
    let text = text.get(..len.unwrap_or(0)).and_then(|text| std::str::from_utf8(text).ok());
    text.and_then(parse_pss).unwrap_or(0)
}

fn parse_pss(rollup: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
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
    fn the_rollup_is_understood() {
        let text = "55d0-7ffc ---p 00000000 00:00 0    [rollup]\nRss:     4096 kB\n\
                    Pss:                1234 kB\nPss_Dirty:           99 kB\n";
        assert_eq!(parse_pss(text), Some(1234));
        assert_eq!(parse_pss(""), None);
        assert_eq!(parse_pss("Pss: many\n"), None);
    }

    #[test]
    fn a_process_has_used_something() {
        let usage = of_process();
        assert!(usage.peak_rss_kib > 0);
        assert!(pss_kib() > 0);
    }
}
