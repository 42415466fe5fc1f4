//! Runs programs, with errors that say which and what it answered.

use std::process::{Command, Output};

use anyhow::{Context, Result, bail};

/// A command that also finds the tools of system administrators (`mke2fs`, `depmod`), which are
/// outside the `PATH` of ordinary users on Debian.
pub(crate) fn tool(program: &str) -> Command {
    let mut command = Command::new(program);
    let path = std::env::var("PATH").unwrap_or_default();
    command.env("PATH", format!("{path}:/usr/local/sbin:/usr/sbin:/sbin"));
    command
}

/// Runs a command to its end and returns its standard output as text.
pub(crate) fn output(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8_lossy(&finish(command)?.stdout).into_owned())
}

/// Runs a command to its end, its output kept for the error alone.
pub(crate) fn quiet(command: &mut Command) -> Result<()> {
    finish(command).map(drop)
}

/// Runs a command with the output where this program's own goes.
pub(crate) fn shown(command: &mut Command) -> Result<()> {
    let status = command.status().with_context(|| not_started(command))?;
    if !status.success() {
        bail!("{} failed ({status})", line(command));
    }
    Ok(())
}

/// The command as one would type it.
pub(crate) fn line(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| quote(&word.to_string_lossy())).collect::<Vec<_>>().join(" ")
}

/// A word as a shell reads it back.
pub(crate) fn quote(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        return word.to_owned();
    }
    format!("'{}'", word.replace('\'', r"'\''"))
}

fn finish(command: &mut Command) -> Result<Output> {
    let output = command.output().with_context(|| not_started(command))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{} failed ({}): {}", line(command), output.status, said.trim());
    }
    Ok(output)
}

fn not_started(command: &Command) -> String {
    format!("{} did not start", command.get_program().to_string_lossy())
}

#[cfg(test)]
mod tests {
    use super::{output, quote, tool};

    #[test]
    fn a_quoted_word_comes_back_from_the_shell_unchanged() {
        for word in ["plain-1.2/x", "two words", "it's", "", "$HOME `id` \"x\" \\", "a\nb"] {
            let echoed = output(tool("sh").args(["-c", &format!("printf %s {}", quote(word))]));
            assert_eq!(echoed.unwrap(), word);
        }
    }

    #[test]
    fn a_failure_names_the_command_and_what_it_said() {
        let error = output(tool("sh").args(["-c", "echo reason >&2; exit 3"])).unwrap_err();
        let text = error.to_string();
        assert!(text.contains("reason") && text.contains("exit status: 3"), "{text}");
    }
}
