use super::*;

#[test]
fn statuses_are_those_of_the_table() {
    let table = [
        (Ending::Exited { status: 7 }, 7),
        (Ending::Signaled { signal: 15 }, 143),
        (Ending::Poweroff, 0),
        (Ending::Reset, 32),
        (Ending::Crash, 33),
        (Ending::Panic, 34),
        (Ending::Timeout, 124),
        (Ending::VmmError, 125),
    ];
    for (ending, status) in table {
        assert_eq!(ending.exit_status(), status, "{}", ending.word());
    }
}

#[test]
fn json_is_flat_and_reads_back() {
    let outcome = Outcome {
        detail: Some("why".into()),
        ..Outcome::new("node", Ending::Exited { status: 3 })
    };
    let text = serde_json::to_string(&outcome).unwrap();
    assert!(text.contains(r#""outcome":"exited","status":3,"detail":"why""#), "{text}");
    assert_eq!(serde_json::from_str::<Outcome>(&text).unwrap(), outcome);
}

#[test]
fn a_written_file_replaces_the_old_one_and_leaves_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("outcome.json");
    write_json(&path, &Outcome::new("a", Ending::Poweroff)).unwrap();
    write_json(&path, &Outcome::new("b", Ending::Reset)).unwrap();
    let read: Outcome = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
    assert_eq!((read.name.as_str(), read.ending), ("b", Ending::Reset));
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}

#[test]
fn a_write_that_fails_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("taken");
    fs::create_dir(&path).unwrap();
    assert!(write_json(&path, &Outcome::new("a", Ending::Poweroff)).is_err());
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    assert!(write_json(Path::new("/"), &1).is_err());
}

/// Else `--outcome /dev/stdout`, with standard output in a file, would replace the link in `/dev`.
#[test]
fn a_link_stays_and_what_it_names_is_written() {
    let dir = tempfile::tempdir().unwrap();
    let (link, file) = (dir.path().join("latest"), dir.path().join("outcome.json"));
    fs::write(&file, "old").unwrap();
    std::os::unix::fs::symlink("outcome.json", &link).unwrap();
    write_json(&link, &1).unwrap();
    assert!(link.is_symlink());
    assert_eq!(fs::read_to_string(&file).unwrap(), "1\n");
    fs::remove_file(&file).unwrap();
    assert!(write_json(&link, &1).is_err(), "it names nothing");
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
}
