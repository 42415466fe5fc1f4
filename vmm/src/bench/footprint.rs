//! Host memory of a process and its children, from `/proc/PID/smaps`.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::PathBuf;

use serde::Serialize;

use super::BenchError;

/// Host memory of a process tree, in KiB.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Footprint {
    /// Proportional set size: private pages, and of every shared page its share.
    pub pss_kib: u64,
    /// The same, with the pages of the program's own file counted whole although others run the
    /// same program. This is what one guest costs on a host where nothing else runs it.
    pub alone_kib: u64,
    /// Resident set size.
    pub rss_kib: u64,
    /// By what is mapped, largest proportional size first.
    pub mappings: Vec<MappedUse>,
}

/// What one mapped file, or one kind of anonymous memory, takes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct MappedUse {
    /// Path of the file, or the kernel's name for the memory.
    pub name: String,
    /// Proportional set size.
    pub pss_kib: u64,
    /// Resident set size.
    pub rss_kib: u64,
    /// Of it, written by this process and nobody else's.
    pub private_dirty_kib: u64,
}

impl Footprint {
    /// The footprint of process `pid` and everything it started.
    ///
    /// # Errors
    /// The process is gone, or its memory map may not be read.
    pub fn of_tree(pid: u32) -> Result<Footprint, BenchError> {
        let mut sum = Footprint::default();
        let mut by_name: BTreeMap<String, MappedUse> = BTreeMap::new();
        for pid in tree(pid) {
            let program = fs::read_link(format!("/proc/{pid}/exe"));
            let program = program.map(|path| path.display().to_string()).unwrap_or_default();
            let path = PathBuf::from(format!("/proc/{pid}/smaps"));
            let smaps = fs::read_to_string(&path)
                .map_err(|source| BenchError::Proc { path: path.clone(), source })?;
            for mapping in parse(&smaps) {
                sum.pss_kib += mapping.pss_kib;
                sum.rss_kib += mapping.rss_kib;
                sum.alone_kib +=
                    if mapping.name == program { mapping.rss_kib } else { mapping.pss_kib };
                let entry = by_name.entry(mapping.name.clone()).or_default();
                entry.pss_kib += mapping.pss_kib;
                entry.rss_kib += mapping.rss_kib;
                entry.private_dirty_kib += mapping.private_dirty_kib;
                entry.name = mapping.name;
            }
        }
        sum.mappings = by_name.into_values().filter(|mapping| mapping.rss_kib > 0).collect();
        sum.mappings.sort_by(|a, b| b.pss_kib.cmp(&a.pss_kib).then_with(|| a.name.cmp(&b.name)));
        Ok(sum)
    }

    /// Of the mappings whose name `belongs`, the sum of the proportional and the resident sizes.
    pub fn of_mappings(&self, belongs: impl Fn(&str) -> bool) -> (u64, u64) {
        let those = self.mappings.iter().filter(|mapping| belongs(&mapping.name));
        those.fold((0, 0), |(pss, rss), mapping| (pss + mapping.pss_kib, rss + mapping.rss_kib))
    }
}

/// `pid` and its descendants.
fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut at = 0;
    let parents = parents().unwrap_or_default();
    while let Some(parent) = found.get(at).copied() {
        found.extend(parents.iter().filter(|(_, of)| *of == parent).map(|(child, _)| *child));
        at += 1;
    }
    found
}

/// Every process with its parent.
fn parents() -> io::Result<Vec<(u32, u32)>> {
    let mut all = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process may be gone by now.
        let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { continue };
        // The name, second field, is in parentheses and may hold anything, so read behind it.
        let parent = stat
            .rsplit_once(')')
            .and_then(|(_, rest)| rest.split_whitespace().nth(1))
            .and_then(|field| field.parse().ok());
        all.extend(parent.map(|parent| (pid, parent)));
    }
    Ok(all)
}

/// The mappings of an `smaps` file.
fn parse(smaps: &str) -> Vec<MappedUse> {
    let mut mappings: Vec<MappedUse> = Vec::new();
    for line in smaps.lines() {
        let mut fields = line.split_whitespace();
        let Some(first) = fields.next() else { continue };
        let Some(key) = first.strip_suffix(':') else {
            mappings.push(MappedUse { name: name(line), ..MappedUse::default() });
            continue;
        };
        let Some(mapping) = mappings.last_mut() else { continue };
        let kib = fields.next().and_then(|field| field.parse().ok()).unwrap_or(0);
        match key {
            "Pss" => mapping.pss_kib = kib,
            "Rss" => mapping.rss_kib = kib,
            "Private_Dirty" => mapping.private_dirty_kib = kib,
            _ => {}
        }
    }
    mappings
}

/// The sixth field of a mapping's first line, which may hold blanks.
fn name(line: &str) -> String {
    let mut rest = line;
    for _ in 0..5 {
        rest = rest.split_once(' ').map_or("", |(_, rest)| rest.trim_start());
    }
    if rest.is_empty() { "[anonymous]".to_owned() } else { rest.to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
55d0-55d8 r--p 00000000 fe:00 1234                       /usr/bin/a b
Size:                 32 kB
Rss:                  32 kB
Pss:                  16 kB
Pss_Dirty:             1 kB
Private_Dirty:         0 kB
VmFlags: rd mr mw me
7f00-7f10 rw-p 00000000 00:00 0
Rss:                  64 kB
Pss:                  64 kB
Private_Dirty:        60 kB
";

    #[test]
    fn mappings_are_read_with_their_names() {
        let mappings = parse(SMAPS);
        assert_eq!(mappings.len(), 2);
        assert_eq!((mappings[0].name.as_str(), mappings[0].pss_kib), ("/usr/bin/a b", 16));
        assert_eq!((mappings[1].name.as_str(), mappings[1].private_dirty_kib), ("[anonymous]", 60));
    }

    #[test]
    fn this_process_has_a_footprint_no_smaller_alone() {
        let own = Footprint::of_tree(std::process::id()).expect("own memory map is readable");
        assert!(own.pss_kib > 0 && own.alone_kib >= own.pss_kib && own.rss_kib >= own.pss_kib);
        let (pss, rss) = own.of_mappings(|name| name == "[stack]");
        assert!(pss > 0 && rss >= pss);
    }

    #[test]
    fn children_belong_to_the_tree() {
        let shell = super::super::child::Invocation::new("shell", "/bin/sh")
            .arg("-c")
            .arg("sleep 1000 & echo on; wait");
        let mut running = shell.start().expect("a shell runs");
        running.printed("on", std::time::Duration::from_secs(60)).expect("it says so");
        assert_eq!(tree(running.pid()).len(), 2);
        for pid in tree(running.pid()).into_iter().skip(1) {
            let pid = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw);
            let signal = rustix::process::Signal::KILL;
            rustix::process::kill_process(pid.expect("a pid"), signal).expect("it runs");
        }
    }
}
