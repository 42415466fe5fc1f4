//! What messages about disks tell one to do: it can be done, and does no harm.

use std::fs;

use cohort_tests::disks::Disks;
use cohort_tests::kvm_is_there;

#[test]
fn a_disk_that_is_missing_is_to_be_made_in_its_format() {
    let disks = Disks::new();
    for name in ["gone.raw", "gone.vhdx"] {
        let command = format!("cohort disk create {} --size", disks.at(name).display());
        disks.refused(&format!("map @{name}"), 125, &["does not exist", &command]);
    }
}

#[test]
fn only_a_file_is_to_be_removed_for_another() {
    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    fs::create_dir(disks.at("folder")).expect("a folder");
    for target in ["@folder", "/dev/null", "/"] {
        let finished = disks.disk(&format!("convert @base.raw {target} --to raw"));
        finished.expect_status(2).expect_message(&["already exists", "help: ", "new file"]);
        assert!(!finished.stderr.contains("remove"), "{}", finished.stderr);
    }
    disks.refused("convert @base.raw @base.raw", 2, &["already exists", "remove this one"]);
}

#[test]
fn a_digest_is_spoken_of_where_there_is_one() {
    let disks = Disks::new();
    disks.done("create @base.vhdx --size 16M");
    disks.raw("base.raw", &[]);
    for base in ["base.raw", "base.vhdx"] {
        disks.done(&format!("create @plain.layer --parent @{base}"));
        disks.done(&format!("create @digest.layer --parent @{base} --digest"));
        match base {
            "base.raw" => disks.write("base.raw", &[(0, b"x")]),
            _ => {
                fs::remove_file(disks.at(base)).expect("a file");
                disks.done(&format!("create @{base} --size 16M"));
            }
        }
        disks.refused("map @digest.layer", 40, &["check --digest", "--force"]);
        let finished = disks.disk("map @plain.layer");
        finished.expect_status(40).expect_message(&["help: ", "--force"]);
        assert!(!finished.stderr.contains("--digest"), "{}", finished.stderr);
        for child in ["plain.layer", "digest.layer"] {
            fs::remove_file(disks.at(child)).expect("a file");
        }
    }
}

#[test]
fn names_in_commands_are_words_of_the_shell() {
    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    let child = disks.at("it's; reboot.layer");
    let create = disks.command("disk create --parent @base.raw").arg(&child).finish();
    create.expect_status(0);
    fs::remove_file(disks.at("base.raw")).expect("a file");
    let word = format!("relink '{}' --parent", disks.at(r"it'\''s; reboot.layer").display());
    let map = disks.command("disk map").arg(&child).finish();
    map.expect_status(42).expect_message(&["help: ", &word]);
}

#[test]
fn nobody_is_to_wait_for_the_process_that_complains() {
    if !kvm_is_there() {
        return;
    }
    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    disks.done("create @child.layer --parent @base.raw");
    for (line, status) in [
        ("run --disk @child.layer --disk @base.raw --script", 125),
        ("run --disk @base.raw --disk @child.layer --script", 45),
    ] {
        let finished = disks.command(line).arg("exit 0").finish();
        finished.expect_status(status).expect_message(&["base.raw", "this process", "of its own"]);
        assert!(!finished.stderr.contains("wait for"), "{}", finished.stderr);
    }
}

#[test]
fn a_folder_for_temporary_files_that_is_missing_is_named() {
    if !kvm_is_there() {
        return;
    }
    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    let run = disks.command("run --disk parent=@base.raw --script").arg("exit 0");
    let gone = disks.at("gone");
    let finished = run.env("TMPDIR", &gone).finish();
    finished.expect_status(125).expect_message(&["TMPDIR", &gone.display().to_string()]);
    assert!(!finished.stderr.contains("base.raw"), "{}", finished.stderr);
}

#[test]
fn a_layer_whose_name_says_raw_is_told() {
    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    let finished = disks.done("snapshot @base.raw @work.img");
    finished.expect_message(&["warning: ", "work.img", "format=layer"]);
    for line in ["snapshot @base.raw @a.qcow2", "snapshot @base.raw @b.img --format layer"] {
        assert_eq!(disks.done(line).stderr, "", "{line}");
    }
}

#[test]
fn no_name_looks_like_a_message() {
    let disks = Disks::new();
    let (name, child) = (disks.at("base\n  help:  reboot\nerror: raw"), disks.at("child.layer"));
    disks.raw("base.raw", &[]);
    fs::rename(disks.at("base.raw"), &name).expect("another name");
    let create = disks.command("disk create --parent").arg(&name).arg(&child).finish();
    create.expect_status(0);
    let told = |text: &str| {
        assert!(text.contains("help:  reboot"), "{text}");
        assert!(!text.contains("\n  help:  reboot") && !text.contains("\nerror: raw"), "{text}");
    };
    told(&create.stdout);
    for line in ["info --chain", "check", "map"] {
        told(&disks.done(&format!("{line} @child.layer")).stdout);
    }
    fs::remove_file(&name).expect("a file");
    told(&disks.disk("check @child.layer").stdout);
    told(&disks.disk("map @child.layer").stderr);
}
