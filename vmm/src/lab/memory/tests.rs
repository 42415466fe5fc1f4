use super::*;
use crate::outcome::{Ending, Outcome};

fn guest(name: &str) -> Guest {
    let process = mem::Process::current().unwrap();
    Guest { name: name.into(), lab: None, process, given: Given::default() }
}

fn report(name: &str) -> GuestReport {
    GuestReport {
        outcome: Outcome::new(name, Ending::Poweroff),
        exit_status: 0,
        expected: "poweroff".into(),
        as_expected: true,
        memory_peak: None,
        console: "console".into(),
    }
}

#[test]
fn samples_are_close_at_first_and_then_a_second_apart() {
    let mut at = Duration::ZERO;
    let mut all = Vec::new();
    for _ in 0..8 {
        at = next(at);
        all.push(at.as_millis());
    }
    assert_eq!(all, [50, 100, 200, 400, 800, 1000, 2000, 3000]);
    // One that was late does not move the others.
    assert_eq!(next(Duration::from_millis(4_700)), Duration::from_secs(5));
}

#[test]
fn what_is_seen_of_guests_is_in_the_files() {
    let dir = tempfile::tempdir().unwrap();
    let results = Results::open(dir.path()).unwrap();
    let watch = Watch::start(&results).unwrap();
    let table = || fs::read_to_string(results.memory("csv")).unwrap();
    assert!(table().starts_with("time_ms,guest,"));
    watch.shared.state().guests.push(guest("a"));
    watch.shared.changed.notify_one();
    // After the second sample there is an account of the first.
    while table().matches(",a,").count() < 2 {
        thread::sleep(Duration::from_millis(5));
    }
    watch.ended("a");
    let seen = watch.finish().unwrap();
    let mut guests = [report("a"), report("never-seen")];
    seen.add_to(&mut guests);
    assert!(guests[0].memory_peak.unwrap().rss_kib > 0);
    assert_eq!(guests[1].memory_peak, None);
    let together = seen.report();
    assert!(together.samples >= 2);
    let peak = together.peak.unwrap();
    assert!(peak.guests == 1 && peak.held_kib > 0 && peak.held_kib == peak.unshared_kib);
    seen.write("trial", &guests, &results).unwrap();
    let json = fs::read(results.memory("json")).unwrap();
    let json: serde_json::Value = serde_json::from_slice(&json).unwrap();
    assert_eq!(json["peak"]["held_kib"], peak.held_kib);
    assert_eq!(json["final"][1]["name"], "never-seen");
    assert!(fs::read_to_string(results.memory("svg")).unwrap().contains("the lab trial"));
}

#[test]
fn a_lab_without_guests_has_files_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let results = Results::open(dir.path()).unwrap();
    let seen = Watch::start(&results).unwrap().finish().unwrap();
    assert!(seen.report().peak.is_none());
    seen.write("empty", &[], &results).unwrap();
    // A name that is taken by a folder is an error, and the lab's own report is written by then.
    fs::remove_file(results.memory("svg")).unwrap();
    fs::create_dir(results.memory("svg")).unwrap();
    assert!(seen.write("empty", &[], &results).is_err());
}
