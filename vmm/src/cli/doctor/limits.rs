//! What the host grants: processors, memory, descriptors, folders to write to.

use std::fs;
use std::path::{Path, PathBuf};

use cohort::units::show_size;
use rustix::fs::{Access, access, statvfs};
use rustix::process::{Resource, getrlimit};

use super::Check;

pub(super) fn checks() -> Vec<Check> {
    vec![
        cpus(),
        memory(),
        overcommit(),
        huge_pages(),
        shared_memory(),
        descriptors(),
        locked_memory(),
        folder("cache folder", "XDG_CACHE_HOME", ".cache", "decompressed kernels are kept"),
        folder("state folder", "XDG_STATE_HOME", ".local/state", "results of labs are kept"),
    ]
}

fn cpus() -> Check {
    match std::thread::available_parallelism() {
        Ok(n) => Check::ok("cpus", n.to_string()),
        Err(error) => Check::limited("cpus", error.to_string(), ""),
    }
}

/// A line of `/proc/meminfo` in bytes; lines without a unit are counts.
fn meminfo(text: &str, key: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))?;
    let mut words = line.split_whitespace();
    let number: u64 = words.next()?.parse().ok()?;
    Some(if words.next() == Some("kB") { number.saturating_mul(1024) } else { number })
}

fn read_meminfo(key: &str) -> Option<u64> {
    meminfo(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), key)
}

fn memory() -> Check {
    let available = read_meminfo("MemAvailable").unwrap_or(0);
    let found = format!("{} available", mebibytes(available));
    if available < 256 << 20 {
        Check::limited("memory", found, "free some: a guest has 256M unless told otherwise")
    } else {
        Check::ok("memory", found)
    }
}

fn overcommit() -> Check {
    let mode = fs::read_to_string("/proc/sys/vm/overcommit_memory").unwrap_or_default();
    match mode.trim() {
        "2" => Check::limited(
            "overcommit",
            "strict: guests need their whole memory free when they start",
            "sudo sysctl vm.overcommit_memory=0",
        ),
        "1" => Check::ok("overcommit", "always"),
        _ => Check::ok("overcommit", "heuristic"),
    }
}

fn huge_pages() -> Check {
    let total = read_meminfo("HugePages_Total").unwrap_or(0);
    let free = read_meminfo("HugePages_Free").unwrap_or(0);
    let size = read_meminfo("Hugepagesize").unwrap_or(0);
    // cohort needs none of them, so none reserved is as it should be.
    Check::ok(
        "huge pages",
        format!("{free} of {total} reserved are free, {} each", show_size(size)),
    )
}

fn shared_memory() -> Check {
    match statvfs("/dev/shm") {
        Ok(fs) => {
            let free = fs.f_bavail.saturating_mul(fs.f_frsize);
            Check::ok("/dev/shm", format!("{} free", mebibytes(free)))
        }
        Err(error) => {
            Check::limited("/dev/shm", error.to_string(), "sudo mount -t tmpfs tmpfs /dev/shm")
        }
    }
}

fn descriptors() -> Check {
    let limit = getrlimit(Resource::Nofile).maximum;
    match limit {
        Some(limit) if limit < 1024 => Check::limited(
            "descriptors",
            format!("at most {limit} in a process: large labs will not start"),
            "ulimit -n 4096 (raise the hard limit first, as root)",
        ),
        Some(limit) => Check::ok("descriptors", format!("up to {limit} in a process")),
        None => Check::ok("descriptors", "no limit"),
    }
}

fn locked_memory() -> Check {
    match getrlimit(Resource::Memlock).current {
        Some(limit) => Check::ok("locked memory", format!("up to {}", mebibytes(limit))),
        None => Check::ok("locked memory", "no limit"),
    }
}

fn folder(name: &'static str, variable: &str, under_home: &str, what: &str) -> Check {
    let set = |key: &str| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
    let dir = set(variable)
        .filter(|path| path.is_absolute())
        .or_else(|| set("HOME").map(|home| home.join(under_home)));
    let Some(dir) = dir else {
        let found = format!("neither {variable} nor HOME is set: nowhere {what}");
        return Check::limited(name, found, format!("export {variable}=/path/to/folder"));
    };
    // The folder is made when it is first needed: what counts is its nearest existing parent.
    let existing = dir.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if existing.is_dir() && access(existing, Access::WRITE_OK | Access::EXEC_OK).is_ok() {
        Check::ok(name, dir.display().to_string())
    } else {
        let found = format!("{} cannot be written, where {what}", dir.display());
        Check::limited(name, found, format!("export {variable}=/path/to/folder"))
    }
}

fn mebibytes(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn meminfo_has_units_and_counts() {
        let text = "MemTotal:  24 kB\nMemAvailable:   12 kB\nHugePages_Total:       3\n";
        assert_eq!(meminfo(text, "MemAvailable"), Some(12 << 10));
        assert_eq!(meminfo(text, "HugePages_Total"), Some(3));
        assert_eq!(meminfo(text, "Mem"), None);
    }
}
