use super::*;

const LONG: Duration = Duration::from_secs(60);

fn shell(script: &str) -> Invocation {
    Invocation::new("shell", "/bin/sh").arg("-c").arg(script)
}

fn alive(pid: u32) -> bool {
    std::path::Path::new(&format!("/proc/{pid}")).exists()
}

#[test]
fn status_output_and_times_are_of_the_child() {
    let done = shell("echo out; echo err >&2; exit 7").run(LONG).expect("a shell runs");
    assert_eq!(done.status.code(), Some(7));
    assert!(done.output.contains("out") && done.output.contains("err"));
    assert!(done.cpu > Duration::ZERO && done.wall > Duration::ZERO);
    assert!(done.clone().with_status(&[7]).is_ok());
    let error = done.with_status(&[0]).expect_err("7 is not 0").to_string();
    assert!(error.contains("shell") && error.contains("out | err"), "{error}");
}

#[test]
fn processor_time_counts_grandchildren() {
    let done = shell("sh -c 'i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done'; exit 0")
        .run(LONG)
        .expect("a shell runs");
    assert!(done.cpu > Duration::from_millis(1), "{:?}", done.cpu);
}

#[test]
fn a_marker_is_awaited_and_the_child_is_killed_when_dropped() {
    let mut running = shell("echo ready; exec sleep 1000").start().expect("a shell runs");
    running.printed("ready", LONG).expect("it says so");
    let pid = running.pid();
    assert!(alive(pid));
    drop(running);
    assert!(!alive(pid));
}

#[test]
fn a_child_that_says_too_little_or_takes_too_long_is_an_error() {
    let mut running = shell("echo no; exit 3").start().expect("a shell runs");
    let error = running.printed("yes", LONG).expect_err("it never says yes").to_string();
    assert!(error.contains("exit status: 3") && error.contains("no"), "{error}");

    let late = shell("exec sleep 1000").run(Duration::from_millis(10));
    assert!(matches!(late, Err(BenchError::Late { .. })), "{late:?}");
}

#[test]
fn a_missing_program_is_named_and_helped_with() {
    let error = Invocation::new("x", "/nonexistent/qemu").run(LONG).expect_err("nothing there");
    assert_eq!(error.to_string(), "cannot start /nonexistent/qemu");
    assert!(error.help().is_some_and(|help| help.contains("cargo xtask setup")));
}

#[test]
fn shell_lines_quote_what_needs_it() {
    let line = Invocation::new("x", "p").words("-a b=c").arg("d e").arg("f'g").shell_line();
    assert_eq!(line, r"p -a b=c 'd e' 'f'\''g'");
}
