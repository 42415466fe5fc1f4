use super::*;

#[test]
fn one_lab_at_a_time() {
    let dir = tempfile::tempdir().unwrap();
    let held = Results::open(dir.path()).unwrap();
    assert!(matches!(Results::open(dir.path()), Err(ResultsError::Busy(_))));
    drop(held);
    Results::open(dir.path()).unwrap();
}

#[test]
fn an_earlier_run_is_cleared_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["a.console", "a.json", "mine.json", "mine.console"] {
        fs::write(at(name), "").unwrap();
    }
    fs::write(at("lab.json"), r#"{"guests":[{"name":"a"},{"name":"b"},{"name":"../x"},3]}"#)
        .unwrap();
    drop(Results::open(dir.path()).unwrap());
    assert!(!at("a.console").exists() && !at("a.json").exists() && !at("lab.json").exists());
    assert!(at("mine.json").exists() && at("mine.console").exists());
}

#[test]
fn a_broken_report_is_only_removed() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("lab.json"), "{").unwrap();
    Results::open(dir.path()).unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn a_folder_that_cannot_be_made_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let error = Results::open(&file.join("x")).unwrap_err();
    assert!(error.to_string().contains("file/x"), "{error}");
}
