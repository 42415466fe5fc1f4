//! The project's own rules about its sources, beyond what the compiler and clippy check.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::tool;

/// A file with more lines is hard to take in at once.
const LINES_MAX: usize = 600;
/// Folders of particular machines, which no source may name.
const MACHINE_FOLDERS: &[&str] = &["/home/", "/root/", "/work/"];

/// A broken rule, and where.
pub(crate) struct Finding {
    file: String,
    line: Option<usize>,
    rule: Rule,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Rule {
    /// `unsafe` in a file that does not say, at its top, why it needs it.
    UnsafeWithoutReason,
    /// A path that exists on somebody's machine only.
    MachinePath,
    /// Too many lines; a warning.
    LongFile,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (level, text) = match self.rule {
            Rule::UnsafeWithoutReason => {
                ("error", "uses unsafe without `expect(unsafe_code, reason = …)` in the module")
            }
            Rule::MachinePath => ("error", "names a path of a particular machine"),
            Rule::LongFile => ("warning", "is longer than 600 lines; split it by concept"),
        };
        match self.line {
            Some(line) => write!(f, "{level}: {}:{line} {text}", self.file),
            None => write!(f, "{level}: {} {text}", self.file),
        }
    }
}

/// Whether the findings are warnings at most.
pub(crate) fn passes(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.rule == Rule::LongFile)
}

/// Checks every file that git knows or would add.
pub(crate) fn check(root: &Path) -> Result<Vec<Finding>> {
    let listing = tool::output(
        tool::tool("git")
            .args(["ls-files", "--cached", "--others", "--exclude-standard"])
            .current_dir(root),
    )
    .context("the source rules are checked in a git clone")?;
    let mut findings = Vec::new();
    for file in listing.lines() {
        // A file deleted but not yet committed as such, or one that is not text, has no lines.
        if let Ok(text) = fs::read_to_string(root.join(file)) {
            let parents = module_files(file).map(|parent| fs::read_to_string(root.join(parent)));
            let vouched = parents.flatten().any(|parent| gives_reason(&parent));
            check_file(file, &text, vouched, &mut findings);
        }
    }
    Ok(findings)
}

/// Where the module that a source file is part of may be: a module's reason for `unsafe` holds for
/// the files below it.
fn module_files(file: &str) -> impl Iterator<Item = String> {
    let folder = file.rsplit_once('/').map_or("", |(folder, _)| folder);
    [format!("{folder}/mod.rs"), format!("{folder}.rs")].into_iter()
}

/// Whether a source opts into `unsafe` and says why. Freestanding programs are unsafe throughout
/// and say so where each contract is.
fn gives_reason(text: &str) -> bool {
    text.contains("expect(unsafe_code, reason =") || text.contains("#![no_std]")
}

fn check_file(file: &str, text: &str, vouched: bool, findings: &mut Vec<Finding>) {
    let mut found = |line, rule| findings.push(Finding { file: file.to_owned(), line, rule });
    // This file has to name what it looks for.
    if !file.ends_with("xtask/src/lint.rs") {
        for (index, line) in text.lines().enumerate() {
            if MACHINE_FOLDERS.iter().any(|folder| line.contains(folder)) {
                found(Some(index + 1), Rule::MachinePath);
            }
        }
    }
    if !file.ends_with(".rs") {
        return;
    }
    if text.lines().count() > LINES_MAX {
        found(None, Rule::LongFile);
    }
    let unsafe_code = |line: &str| {
        let code = line.trim_start();
        !code.starts_with("//")
            && ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern"]
                .iter()
                .any(|word| code.starts_with(word) || code.contains(&format!(" {word}")))
    };
    let reasoned = vouched || gives_reason(text);
    if let (false, Some(index)) = (reasoned, text.lines().position(unsafe_code)) {
        found(Some(index + 1), Rule::UnsafeWithoutReason);
    }
}

#[cfg(test)]
mod tests {
    use super::{Finding, Rule, check_file, module_files, passes};

    fn findings(file: &str, text: &str) -> Vec<Finding> {
        let mut findings = Vec::new();
        check_file(file, text, false, &mut findings);
        findings
    }

    #[test]
    fn unsafe_needs_a_reason_and_a_comment_about_it_does_not() {
        let bare = findings("a.rs", "fn f() {\n    let x = unsafe { g() };\n}\n");
        assert_eq!((bare[0].line, bare[0].rule), (Some(2), Rule::UnsafeWithoutReason));
        assert!(!passes(&bare));
        let reasoned = "#![expect(unsafe_code, reason = \"mmap\")]\nunsafe impl Send for X {}\n";
        assert!(findings("a.rs", reasoned).is_empty());
        assert!(findings("a.rs", "// unsafe { } is denied here\n").is_empty());
    }

    #[test]
    fn a_modules_reason_holds_for_the_files_below_it() {
        let files: Vec<_> = module_files("storage/src/engine/uring.rs").collect();
        assert_eq!(files, ["storage/src/engine/mod.rs", "storage/src/engine.rs"]);
    }

    #[test]
    fn a_machine_path_is_found_in_any_kind_of_file() {
        let found = findings("README.md", "see\n/home/someone/notes\n");
        assert_eq!((found[0].line, found[0].rule), (Some(2), Rule::MachinePath));
    }

    #[test]
    fn a_long_file_is_a_warning_only() {
        let found = findings("a.rs", &"//\n".repeat(601));
        assert_eq!(found[0].rule, Rule::LongFile);
        assert!(passes(&found));
    }
}
