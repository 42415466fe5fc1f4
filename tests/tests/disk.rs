//! `cohort disk`: what it makes, what it refuses, and how it says what is wrong with a chain.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::time::Instant;

use cohort_tests::disks::Disks;
use cohort_tests::oracles::Qemu;
use cohort_tests::processes::Signal;
use cohort_tests::{cohort, kvm_is_there};
use serde_json::Value;

/// An identity as JSON, in a part of the words that messages use for it.
fn words(identity: &Value) -> String {
    match identity["id"].as_str() {
        Some(id) => id.to_owned(),
        None => format!("modified {}", identity["file"]["mtime"]),
    }
}

#[test]
fn what_cannot_be_made_is_refused_and_leaves_nothing() {
    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    disks.refused("create @base.raw --size 1M", 2, &["base.raw already exists", "help: "]);
    disks.refused("create @a.layer --size 1M --format qed", 2, &["qed", "layer, qcow2, vhdx"]);
    disks.refused("create @a.layer", 2, &["neither a size nor a parent", "--size 10G"]);
    disks.refused("create @a.layer --size 10", 2, &["10M"]);
    disks.refused("create @a.layer --size 100B", 2, &["512"]);
    disks.refused("create @a.layer --size 1M --protect", 2, &["--protect", "--parent"]);
    disks.refused("create @no/a.layer --size 1M", 125, &["/no", "No such file"]);
    disks.refused("create @a.raw --parent @base.raw", 2, &["a.raw", "raw", "parent"]);
    disks.refused("create @a.raw --size 1M --fixed", 2, &["only vhdx"]);
    let fewer = ["1048576", "16777216", "base.raw"];
    disks.refused("create @a.layer --parent @base.raw --size 1M", 2, &fewer);
    disks.refused("convert @base.raw @base.raw", 2, &["base.raw already exists"]);
    disks.refused("convert @gone.raw @a.raw", 125, &["gone.raw does not exist"]);
    disks.refused("commit @base.raw", 2, &["records no parent"]);
    disks.refused("relink @base.raw --parent @base.raw", 43, &["its own ancestor"]);
    disks.refused("info @gone.raw", 125, &["gone.raw does not exist"]);
    disks.refused("check @gone.raw", 1, &["gone.raw does not exist"]);
    disks.refused("compare @base.raw @gone.raw", 2, &["gone.raw does not exist"]);
    disks.refused("map @base.raw --format qcow2", 125, &["base.raw", "no qcow2 image"]);
    assert_eq!(disks.names(), ["base.raw"]);
}

#[test]
fn a_parent_that_has_changed_is_named_with_both_identities() {
    for format in ["layer", "qcow2", "vhdx"] {
        let disks = Disks::new();
        disks.raw("base.raw", &[]);
        let child = format!("child.{format}");
        disks.done(&format!("create @{child} --parent @base.raw"));
        disks.done(&format!("check @{child}"));
        let before = words(&disks.layers(&child)[0]["parent"]["identity"]);
        disks.write("base.raw", &[(0, b"x")]);
        let layers = disks.layers(&child);
        assert_eq!(layers[0]["linkage"]["state"], "broken");
        assert_eq!(layers[0]["linkage"]["kind"], "mismatch");
        let after = words(&layers[1]["identity"]);
        assert_ne!(before, after);
        let parts = [&*child, "base.raw", &before, &after, "help: ", "--allow-mismatch"];
        for line in ["map @CHILD", "convert @CHILD @out.raw", "create @a.layer --parent @CHILD"] {
            disks.refused(&line.replace("CHILD", &child), 40, &parts);
        }
        disks.done(&format!("map --allow-mismatch @{child}"));
        disks.done(&format!("convert --allow-mismatch @{child} @rescued.raw"));
        fs::remove_file(disks.at("rescued.raw")).expect("a file");
        let checked = disks.disk(&format!("check @{child}"));
        checked.expect_status(40);
        assert!(checked.stdout.contains(&before) && checked.stdout.contains(&after));
        assert_eq!(disks.names(), ["base.raw", &child]);
    }
}

#[test]
fn a_missing_parent_and_a_cycle_have_statuses_of_their_own() {
    let disks = Disks::new();
    disks.done("create @base.layer --size 1M");
    disks.done("create @child.layer --parent @base.layer");
    fs::remove_file(disks.at("base.layer")).expect("a file");
    disks.refused("map @child.layer", 42, &["child.layer", "base.layer", "relink"]);
    disks.disk("check @child.layer").expect_status(42);
    assert_eq!(disks.layers("child.layer")[0]["linkage"]["kind"], "missing");
    fs::hard_link(disks.at("child.layer"), disks.at("base.layer")).expect("a link");
    disks.refused("map @child.layer", 43, &["its own ancestor"]);
    disks.disk("check @child.layer").expect_status(43);
    assert_eq!(disks.layers("child.layer")[0]["linkage"]["kind"], "cycle");
}

#[test]
fn a_parent_that_someone_writes_to_is_in_use() {
    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    disks.done("create @child.layer --parent @base.raw");
    let base = fs::File::open(disks.at("base.raw")).expect("a file");
    let lock = rustix::fs::FlockOperation::NonBlockingLockShared;
    rustix::fs::fcntl_lock(&base, lock).expect("a lock");
    disks.refused("map @child.layer", 45, &["base.raw", "locked by", "help: "]);
    // A look takes no lock.
    assert_eq!(disks.layers("child.layer")[0]["linkage"]["state"], "ok");
    drop(base);
    disks.done("map @child.layer");
}

#[test]
fn a_child_that_qemu_made_does_not_say_what_its_parent_was() {
    let disks = Disks::new();
    disks.raw("base.raw", &[(0, b"base")]);
    let made = "create -q -f qcow2 -b base.raw -F raw @child.qcow2";
    let (good, text) = disks.qemu_img(&Qemu::installed(), made);
    assert!(good, "{text}");
    disks.refused("map @child.qcow2", 41, &["child.qcow2", "does not record", "--force"]);
    disks.refused("relink @child.qcow2 --parent @base.raw", 2, &["not known", "--force"]);
    disks.done("relink @child.qcow2 --parent @base.raw --force");
    disks.done("compare @child.qcow2 @base.raw");
    // QEMU follows it as before.
    disks.qemu_done("compare @child.qcow2 @base.raw");
}

#[test]
fn copies_are_equal_and_hold_differences_only() {
    let disks = Disks::new();
    disks.raw("base.raw", &[(0, b"base"), (1 << 20, &[7; 65536])]);
    let content: [(u64, &[u8]); 3] =
        [(0, b"base"), (3 << 20, &[1; 65536]), ((16 << 20) - 512, &[2; 512])];
    disks.raw("new.raw", &content);
    disks.disk("compare @base.raw @new.raw").expect_status(1);
    for format in ["layer", "qcow2", "vhdx"] {
        let line = format!("convert @new.raw @child.{format} --parent @base.raw --json");
        let copied: Value = serde_json::from_str(&disks.done(&line).stdout).expect("JSON");
        assert!(copied["written"].as_u64().expect("a number") <= 4 * 65536, "{copied}");
        disks.done(&format!("compare @child.{format} @new.raw"));
        disks.done(&format!("check @child.{format}"));
        for to in ["qcow2", "vhdx", "raw"] {
            let copy = format!("flat-{format}.{to}");
            disks.done(&format!("convert @child.{format} @{copy}"));
            disks.done(&format!("compare @{copy} @new.raw"));
            disks.qemu_done(&format!("compare @{copy} @new.raw"));
        }
        disks.qemu_done(&format!("check @flat-{format}.qcow2"));
    }
    disks.write("flat-layer.raw", &[(5 << 20, b"!")]);
    let finished = disks.disk("compare @flat-layer.raw @new.raw");
    finished.expect_status(1);
    assert!(finished.stdout.contains("5242880"), "{}", finished.stdout);
}

#[test]
fn a_map_names_layer_and_offset() {
    let disks = Disks::new();
    disks.raw("base.raw", &[(1 << 20, &[7; 65536])]);
    disks.raw("new.raw", &[(1 << 20, &[7; 65536]), (2 << 20, &[9; 65536])]);
    disks.done("convert @new.raw @child.layer --parent @base.raw");
    let map: Value =
        serde_json::from_str(&disks.done("map --json @child.layer").stdout).expect("JSON");
    let data = |start: u64| {
        let entries = map.as_array().expect("a list").iter();
        let found = entries.filter(|entry| entry["start"] == start && entry["data"] == true);
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 1, "{map}");
        (found[0]["depth"].as_u64(), found[0]["offset"].as_u64().expect("an offset"))
    };
    assert_eq!(data(1 << 20), (Some(1), 1 << 20));
    let (depth, offset) = data(2 << 20);
    assert_eq!(depth, Some(0));
    let file = fs::read(disks.at("child.layer")).expect("the layer");
    assert_eq!(file[usize::try_from(offset).expect("small")..][..65536], [9; 65536]);
}

#[test]
fn a_merge_changes_the_parent_and_spares_its_other_children() {
    for format in ["layer", "qcow2", "vhdx"] {
        let disks = Disks::new();
        disks.raw("base.raw", &[(0, b"base"), (1 << 20, &[7; 65536])]);
        disks.raw("new.raw", &[(0, b"base"), (3 << 20, &[1; 65536])]);
        disks.done(&format!("convert @new.raw @child.{format} --parent @base.raw"));
        disks.done("create @other.layer --parent @base.raw");
        let line = format!("commit @child.{format}");
        disks.refused(
            &line,
            2,
            &["base.raw has other children", "other.layer", "of those in", "--force"],
        );
        disks.done("check @other.layer");
        fs::remove_file(disks.at("other.layer")).expect("a file");
        disks.done(&line);
        for disk in [format!("child.{format}"), "base.raw".to_owned()] {
            disks.done(&format!("compare @{disk} @new.raw"));
            disks.done(&format!("check @{disk}"));
        }
        disks.done(&format!("{line} --delete"));
        assert_eq!(disks.names(), ["base.raw", "new.raw"]);
    }
}

#[test]
fn a_merge_that_is_killed_loses_nothing() {
    for format in ["raw", "layer", "qcow2", "vhdx"] {
        let disks = Disks::new();
        let base = format!("base.{format}");
        disks.raw("new.raw", &[(1 << 20, &[7; 15 << 20])]);
        disks.done(&format!("create @{base} --size 16M"));
        disks.done(&format!("convert @new.raw @child.layer --parent @{base}"));
        let times = || {
            let facts = fs::metadata(disks.at(&base)).expect("the base");
            (facts.ctime(), facts.ctime_nsec())
        };
        let before = times();
        let running = disks.command("disk commit @child.layer").start();
        let deadline = Instant::now() + cohort::PATIENCE;
        while times() == before {
            assert!(Instant::now() < deadline, "the base was never changed");
            std::thread::yield_now();
        }
        running.signal(Signal::KILL);
        running.finish();
        // Whoever was faster: the child is right, or says that its parent has changed.
        let checked = disks.disk("check @child.layer");
        if checked.status() != Some(0) {
            checked.expect_status(40);
            disks.done(&format!("relink @child.layer --parent @{base} --force"));
        }
        disks.done("compare @child.layer @new.raw");
        disks.done("commit @child.layer --delete");
        disks.done(&format!("compare @{base} @new.raw"));
        disks.done(&format!("check @{base}"));
        assert_eq!(disks.names(), [&*base, "new.raw"]);
    }
}

#[test]
fn a_digest_tells_that_a_copied_parent_is_the_same() {
    let disks = Disks::new();
    disks.raw("base.raw", &[(1 << 20, b"content")]);
    disks.done("create @child.layer --parent @base.raw --digest");
    disks.done("create @plain.layer --parent @base.raw");
    fs::copy(disks.at("base.raw"), disks.at("copy.raw")).expect("a copy");
    fs::rename(disks.at("copy.raw"), disks.at("base.raw")).expect("its name");
    disks.disk("check @child.layer").expect_status(40);
    let finished = disks.done("check --digest @child.layer");
    assert!(finished.stdout.contains("new identity is recorded"), "{}", finished.stdout);
    disks.done("check @child.layer");
    disks.disk("check --digest @plain.layer").expect_status(40);

    fs::rename(disks.at("base.raw"), disks.at("moved.raw")).expect("its name");
    let id = disks.layers("child.layer")[0]["identity"].clone();
    disks.done("relink @child.layer --parent @moved.raw");
    assert_eq!(disks.layers("child.layer")[0]["identity"], id);
    disks.write("moved.raw", &[(1 << 20, b"?")]);
    disks.disk("check --digest @child.layer").expect_status(40);
    let parts = ["not known", "digest", "--force"];
    disks.refused("relink @child.layer --parent @moved.raw", 2, &parts);
    disks.done("relink @child.layer --parent @moved.raw --force");
    disks.done("check @child.layer");
}

#[test]
fn a_snapshot_freezes_its_parent() {
    let disks = Disks::new();
    disks.raw("base.raw", &[(0, b"base")]);
    disks.done("snapshot @base.raw @work.layer --protect");
    let mode = fs::metadata(disks.at("base.raw")).expect("a file").permissions().mode();
    assert_eq!(mode & 0o222, 0);
    disks.done("check @work.layer");
    disks.done("compare @work.layer @base.raw");
    let link = disks.layers("work.layer")[0]["parent"].clone();
    assert_eq!((&link["relative"], &link["format"]), (&"base.raw".into(), &"raw".into()));
}

#[test]
fn lost_space_and_damage_have_statuses_of_their_own() {
    const CLUSTER: u64 = 65536;
    let disks = Disks::new();
    disks.raw("new.raw", &[(0, &[7; 65536])]);
    disks.done("convert @new.raw @a.qcow2");
    let image = fs::read(disks.at("a.qcow2")).expect("the image");
    let number = |at: u64| {
        let at = usize::try_from(at).expect("small");
        u64::from_be_bytes(image[at..at + 8].try_into().expect("8 bytes"))
    };
    // A cluster at the end that is counted, and used for nothing.
    let counts = number(number(48));
    let clusters = (image.len() as u64).div_ceil(CLUSTER);
    disks.write("a.qcow2", &[(counts + 2 * clusters, &[0, 1]), (clusters * CLUSTER, &[0; 65536])]);
    let finished = disks.disk("check @a.qcow2");
    finished.expect_status(3);
    assert!(finished.stdout.contains("harmless"), "{}", finished.stdout);
    for qemu in Qemu::all() {
        let (good, text) = disks.qemu_img(&qemu, "check @a.qcow2");
        assert!(!good && text.contains("1 leaked clusters were found"), "{text}");
    }
    let mended = disks.done("check --repair @a.qcow2");
    assert!(mended.stdout.contains("mended"), "{}", mended.stdout);
    disks.done("check @a.qcow2");
    disks.done("compare @a.qcow2 @new.raw");
    // The counts of clusters in use are gone.
    disks.write("a.qcow2", &[(counts, &[0; 512])]);
    let finished = disks.disk("check @a.qcow2");
    finished.expect_status(2);
    assert!(finished.stdout.contains("damage"), "{}", finished.stdout);
    // Each of them is used once: that can be counted again.
    let mended = disks.done("check --repair @a.qcow2");
    assert!(mended.stdout.contains("mended"), "{}", mended.stdout);
    disks.done("check @a.qcow2");
    disks.done("compare @a.qcow2 @new.raw");
    disks.qemu_done("check @a.qcow2");
}

#[test]
fn names_in_images_do_not_reach_the_terminal_as_they_are() {
    let disks = Disks::new();
    let name = "\u{1b}[31mred.raw";
    disks.raw(name, &[]);
    disks.done(&format!("create @child.layer --parent @{name}"));
    for line in ["info --chain @child.layer", "check @child.layer", "map @child.layer"] {
        let finished = disks.done(line);
        assert!(finished.stdout.contains("[31mred.raw") && !finished.stdout.contains('\u{1b}'));
    }
    assert_eq!(disks.layers("child.layer")[0]["parent"]["relative"], name);
}

#[test]
fn a_parent_that_is_damaged_cannot_be_checked() {
    let disks = Disks::new();
    disks.done("create @base.qcow2 --size 16M");
    disks.done("create @child.layer --parent @base.qcow2");
    disks.write("base.qcow2", &[(0, b"garbage")]);
    let finished = disks.disk("check @child.layer");
    finished.expect_status(1);
    assert!(finished.stdout.contains("base.qcow2"), "{}", finished.stdout);
    assert_eq!(disks.layers("child.layer")[0]["linkage"]["kind"], "unreadable");
    disks.refused("map @child.layer", 125, &["base.qcow2", "no qcow2 image"]);
}

#[test]
fn a_link_that_only_cohort_follows_is_told() {
    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    disks.done("create @base.vhdx --size 16M");
    for (parent, child, alone) in [
        ("base.raw", "a.qcow2", false),
        ("base.raw", "a.vhdx", true),
        ("base.vhdx", "b.vhdx", false),
        ("base.vhdx", "b.qcow2", true),
    ] {
        let made = disks.done(&format!("create @{child} --parent @{parent}"));
        assert_eq!(made.stderr.contains("only cohort follows"), alone, "{child}");
        assert_eq!(disks.layers(child)[0]["only_cohort_follows"], alone);
        disks.done(&format!("check @{child}"));
    }
}

#[test]
fn a_folder_of_layers_can_move() {
    let disks = Disks::new();
    fs::create_dir(disks.at("old")).expect("a folder");
    fs::create_dir(disks.at("old/below")).expect("a folder");
    disks.raw("old/base.raw", &[(0, b"base")]);
    disks.done("create @old/below/child.layer --parent @old/base.raw");
    fs::rename(disks.at("old"), disks.at("new")).expect("another name");
    disks.done("check @new/below/child.layer");
}

#[test]
fn guests_run_on_layers_of_their_own() {
    if !kvm_is_there() {
        return;
    }
    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    let run = |disk: &str, script: &str| {
        disks.command(&format!("run --disk {disk} --script")).arg(script).finish()
    };
    let script = "blk.write 1M 4M seed=5; blk.flush; blk.verify 1M 4M seed=5; exit 0";
    // finish() checks that the folder for temporary files is empty.
    run("parent=@base.raw", script).expect_status(0);
    disks.done("create @child.layer --parent @base.raw");
    disks.done("compare @child.layer @base.raw");
    run("@child.layer", script).expect_status(0);
    run("@child.layer,ro", "blk.verify 1M 4M seed=5; exit 0").expect_status(0);
    disks.disk("compare @child.layer @base.raw").expect_status(1);
    disks.write("base.raw", &[(0, b"x")]);
    let parts = ["child.layer has changed", "help: "];
    run("@child.layer", "exit 0").expect_status(40).expect_message(&parts);
    let finished = run("@child.layer,allow-mismatch", "exit 0");
    finished.expect_status(0).expect_message(&["warning: ", "has changed"]);
    assert!(disks.layers("child.layer")[0]["parent"]["overridden"].is_object());
    fs::remove_file(disks.at("base.raw")).expect("a file");
    run("@child.layer", "exit 0").expect_status(42);
}

#[test]
fn guests_of_a_lab_share_a_parent() {
    if !kvm_is_there() {
        return;
    }
    let disks = Disks::new();
    disks.raw("base.raw", &[(0, b"base")]);
    let before = fs::read(disks.at("base.raw")).expect("the disk");
    let lab = "schema = 1\n[vm.a]\ncount = 3\ndisks = [{ parent = \"base.raw\" }]\n\
               script = \"blk.write 1M 4M seed={index+1}; blk.verify 1M 4M seed={index+1}; \
               exit 0\"\n";
    fs::write(disks.at("trial.toml"), lab).expect("a file");
    disks.command("lab run @trial.toml --results @results").finish().expect_status(0);
    assert!(fs::read(disks.at("base.raw")).expect("the disk") == before);
}

#[test]
fn the_example_of_layers_runs_as_it_says() {
    if !kvm_is_there() {
        return;
    }
    let disks = Disks::new();
    let lab = cohort::example_lab("layers.toml");
    let text = fs::read_to_string(&lab).expect("the lab");
    for command in ["cohort disk create base.vhdx --size 64M", "cohort lab run layers.toml"] {
        assert!(text.contains(command), "{command} is not what the lab says");
    }
    fs::copy(&lab, disks.at("layers.toml")).expect("a copy");
    disks.done("create @base.vhdx --size 64M");
    let script = "blk.write 0 16M seed=7; blk.flush; exit 0";
    assert!(text.contains(script), "another script than the lab says");
    disks.command("run --disk @base.vhdx --script").arg(script).finish().expect_status(0);
    let before = fs::read(disks.at("base.vhdx")).expect("the parent");
    disks.command("lab run @layers.toml --results @results").finish().expect_status(0);
    assert!(fs::read(disks.at("base.vhdx")).expect("the parent") == before);
}

#[test]
fn a_disk_is_closed_in_order_when_its_guest_ends() {
    if !kvm_is_there() {
        return;
    }
    for format in ["layer", "qcow2", "vhdx"] {
        for (end, status) in [("exit 0", 0), ("poweroff", 0), ("hang", 143)] {
            let disks = Disks::new();
            disks.raw("base.raw", &[]);
            disks.done(&format!("create @child.{format} --parent @base.raw"));
            // Without a flush.
            let script = format!("blk.write 1M 4M seed=5; print written; {end}");
            let line = format!("run --disk @child.{format} --script");
            let guest = disks.command(&line).arg(script).start();
            if end == "hang" {
                guest.wait_for("written");
                guest.signal(Signal::TERM);
            }
            guest.finish().expect_status(status);
            disks.done(&format!("check @child.{format}"));
            let line = format!("run --disk @child.{format},ro --script");
            let verify = disks.command(&line).arg("blk.verify 1M 4M seed=5; exit 0");
            verify.finish().expect_status(0);
        }
    }
}

#[test]
fn names_that_are_no_text_are_no_obstacle() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;

    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    let odd = |name: &str| {
        disks.at("").join(OsStr::from_bytes(&[&b"\xff"[..], name.as_bytes()].concat()))
    };
    let json = |line: &str| {
        let finished = disks.command(&format!("disk {line} --json")).arg(odd(".layer")).finish();
        finished.expect_status(0);
        let _: Value = serde_json::from_str(&finished.stdout).expect("JSON");
    };
    json("create --parent @base.raw");
    for line in ["info", "check", "map", "relink --parent @base.raw"] {
        json(line);
    }
    json("commit --delete");
    json("convert @base.raw");
    // What a layer is to record, it must be able to.
    fs::create_dir(odd("folder")).expect("a folder");
    fs::rename(disks.at("base.raw"), odd("folder/base.raw")).expect("another name");
    for format in ["layer", "qcow2", "vhdx"] {
        let create = |path: &std::path::Path| {
            let create = disks.command("disk create --parent").arg(odd("folder/base.raw"));
            create.arg(path.with_extension(format)).finish()
        };
        let refused = create(&disks.at("outside"));
        refused.expect_status(2).expect_message(&["base.raw", "is not UTF-8", "help: ", "rename"]);
        create(&odd("folder/inside")).expect_status(0);
        let check = disks.command("disk check").arg(odd("folder/inside").with_extension(format));
        check.finish().expect_status(0);
    }
}
