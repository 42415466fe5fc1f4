//! Chains of layers that do not fit together, or must not be touched now: which status each tool
//! of `cohort disk` gives, what it says, and that it leaves everything as it was.

use std::fs;
use std::os::unix::fs::PermissionsExt;

use cohort_tests::disks::Disks;
use cohort_tests::kvm_is_there;
use cohort_tests::processes::Signal;
use rustix::fs::FlockOperation;

/// `base.raw`, `mid.layer` on top of it, and `top.layer`.
fn three() -> Disks {
    let disks = Disks::new();
    disks.raw("base.raw", &[(0, b"base")]);
    disks.done("create @mid.layer --parent @base.raw");
    disks.done("create @top.layer --parent @mid.layer");
    disks
}

#[test]
fn a_parent_in_use_has_the_same_status_everywhere() {
    let disks = three();
    let base = fs::File::options().read(true).write(true).open(disks.at("base.raw"));
    let base = base.expect("the base");
    // What shares locks, as QEMU does, and what does not.
    for lock in [FlockOperation::NonBlockingLockShared, FlockOperation::NonBlockingLockExclusive] {
        rustix::fs::fcntl_lock(&base, lock).expect("a lock");
        for (line, child) in [
            ("create @n.layer --parent @base.raw", "n.layer"),
            ("create @n.qcow2 --parent @top.layer", "mid.layer"),
            ("snapshot @base.raw @n.layer", "n.layer"),
            ("convert @top.layer @n.raw", "mid.layer"),
            ("convert @top.layer @n.layer --parent @base.raw", "mid.layer"),
            ("compare @top.layer @mid.layer", "mid.layer"),
            ("map @top.layer", "mid.layer"),
            ("check @top.layer", "mid.layer"),
            ("check --repair @mid.layer", "mid.layer"),
            ("commit @mid.layer", "mid.layer"),
            ("relink @mid.layer --parent @base.raw", "mid.layer"),
        ] {
            let parts = ["base.raw of ", child, "locked by", "help: ", "wait for"];
            disks.refused(line, 45, &parts);
        }
        // It is nobody's parent here.
        disks.refused("map @base.raw", 125, &["base.raw is locked by"]);
        assert_eq!(disks.layers("top.layer").len(), 3, "a look takes no lock");
    }
    drop(base);
    assert_eq!(disks.names(), ["base.raw", "mid.layer", "top.layer"]);
    disks.done("check @top.layer");
}

#[test]
fn a_parent_that_is_not_there_has_the_same_status_everywhere() {
    let disks = three();
    for line in [
        "create @n.layer --parent @gone.raw",
        "snapshot @gone.raw @n.layer",
        "convert @top.layer @n.layer --parent @gone.raw",
        "relink @mid.layer --parent @gone.raw",
        "relink @mid.layer --parent @gone.raw --force",
    ] {
        disks.refused(line, 42, &["there is no ", "gone.raw that could be the parent", "help: "]);
    }
    fs::rename(disks.at("base.raw"), disks.at("away.raw")).expect("another name");
    for line in [
        "create @n.layer --parent @top.layer",
        "snapshot @top.layer @n.layer",
        "convert @top.layer @n.raw",
        "compare @away.raw @top.layer",
        "map @top.layer",
        "commit @top.layer",
        "commit @mid.layer",
        "relink @top.layer --parent @mid.layer",
    ] {
        disks.refused(line, 42, &["the parent of ", "mid.layer is missing", "relink", "help: "]);
    }
    disks.disk("check @top.layer").expect_status(42);
    disks.done("relink @mid.layer --parent @away.raw --force");
    disks.done("check @top.layer");
    assert_eq!(disks.names(), ["away.raw", "mid.layer", "top.layer"]);
}

#[test]
fn a_layer_cannot_get_a_parent_that_rests_on_it() {
    let disks = three();
    for parent in ["mid.layer", "top.layer"] {
        let parts = ["would be its own ancestor", parent, "info --chain"];
        disks.refused(&format!("relink @mid.layer --parent @{parent} --force"), 43, &parts);
    }
    disks.done("check @top.layer");
}

#[test]
fn another_parent_is_taken_if_it_reads_as_the_old_one_does() {
    let disks = three();
    disks.raw("same.raw", &[(0, b"base")]);
    disks.raw("other.raw", &[(0, b"bose")]);
    disks.refused("relink @mid.layer --parent @other.raw", 2, &["not known to be", "--force"]);
    disks.done("relink @mid.layer --parent @same.raw");
    disks.done("check @top.layer");
    // Once the recorded one has changed, it tells nothing.
    disks.write("same.raw", &[(0, b"x")]);
    disks.raw("third.raw", &[(0, b"xase")]);
    disks.refused("relink @mid.layer --parent @third.raw", 2, &["not known to be"]);
}

#[test]
fn children_in_other_folders_are_found_where_one_says() {
    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    disks.raw("new.raw", &[(0, b"new")]);
    disks.done("convert @new.raw @mid.layer --parent @base.raw");
    fs::create_dir(disks.at("away")).expect("a folder");
    disks.done("create @away/other --format qcow2 --parent @base.raw");
    disks.refused("commit @mid.layer --children @nowhere", 125, &["cannot search", "nowhere"]);
    let parts = ["base.raw has other children", "away/other", "of those in", "--force"];
    disks.refused("commit @mid.layer --children @away", 2, &parts);
    disks.done("check @away/other --format qcow2");
    let folder = disks.at("").canonicalize().expect("a folder");
    let finished = disks.done("commit @mid.layer");
    let told = format!("no other child of it is in {}", folder.display());
    assert!(finished.stdout.contains(&told), "{}", finished.stdout);
    disks.disk("check @away/other --format qcow2").expect_status(40);
    disks.done("check @mid.layer");
}

#[test]
fn nothing_is_mended_while_layers_do_not_fit_together() {
    let disks = three();
    disks.done("convert @base.raw @leaky.qcow2 --parent @mid.layer");
    // A count of a cluster that nothing uses, in the refcount block of the second cluster.
    let image = fs::read(disks.at("leaky.qcow2")).expect("the image");
    let number = |at: u64| {
        let at = usize::try_from(at).expect("small");
        u64::from_be_bytes(image[at..at + 8].try_into().expect("8 bytes"))
    };
    let clusters = (image.len() as u64).div_ceil(65536);
    disks.write("leaky.qcow2", &[(number(number(48)) + 2 * clusters, &[0, 1])]);
    disks.write("leaky.qcow2", &[(clusters * 65536, &[0; 65536])]);
    disks.disk("check @leaky.qcow2").expect_status(3);
    let before = fs::read(disks.at("leaky.qcow2")).expect("the image");
    disks.write("base.raw", &[(0, b"x")]);
    let finished = disks.disk("check --repair @leaky.qcow2");
    finished.expect_status(40);
    assert!(finished.stdout.contains("nothing is mended"), "{}", finished.stdout);
    assert!(fs::read(disks.at("leaky.qcow2")).expect("the image") == before);
    disks.done("relink @mid.layer --parent @base.raw --force");
    let finished = disks.done("check --repair @leaky.qcow2");
    assert!(finished.stdout.contains("mended"), "{}", finished.stdout);
}

#[test]
fn a_protected_parent_is_told_and_may_be_protected_already() {
    let disks = Disks::new();
    disks.raw("base.raw", &[]);
    disks.done("create @a.layer --parent @base.raw");
    assert_eq!(disks.layers("a.layer")[1]["protected"], false);
    // A change of permissions changes the times of the file, by which its child knows it.
    let parts = ["base.raw changes its times", "a.layer", "leave out --protect"];
    disks.refused("create @b.layer --parent @base.raw --protect", 2, &parts);
    disks.done("check @a.layer");
    fs::remove_file(disks.at("a.layer")).expect("a file");
    disks.done("create @a.layer --parent @base.raw --protect");
    disks.done("create @b.layer --parent @base.raw --protect");
    for child in ["a.layer", "b.layer"] {
        disks.done(&format!("check @{child}"));
        assert_eq!(disks.layers(child)[1]["protected"], true);
    }
    let mode = fs::metadata(disks.at("base.raw")).expect("the base").permissions().mode();
    assert_eq!(mode & 0o222, 0);
    let text = disks.done("info --chain @a.layer").stdout;
    assert_eq!(text.matches("protected ").count(), 1, "{text}");
    // An identity of its own does not depend on permissions.
    disks.done("create @own.layer --size 1M");
    disks.done("create @c.layer --parent @own.layer");
    disks.done("create @d.layer --parent @own.layer --protect");
    disks.done("check @c.layer");
}

#[test]
fn what_a_killed_guest_leaves_behind_is_told_and_mended() {
    if !kvm_is_there() {
        return;
    }
    for (format, what) in [("layer", "no seal"), ("vhdx", "log is to be replayed")] {
        let disks = Disks::new();
        disks.done("create @base.layer --size 16M");
        let child = format!("child.{format}");
        disks.done(&format!("create @{child} --parent @base.layer"));
        let script = "blk.write 1M 4M seed=5; blk.flush; print written; hang";
        let guest = disks.command(&format!("run --disk @{child} --script")).arg(script).start();
        guest.wait_for("written");
        guest.signal(Signal::KILL);
        guest.finish();
        let before = fs::read(disks.at(&child)).expect("the layer");
        let finished = disks.disk(&format!("check @{child}"));
        finished.expect_status(3);
        assert!(finished.stdout.contains("harmless: it was not closed"), "{}", finished.stdout);
        assert!(finished.stdout.contains(what), "{}", finished.stdout);
        // A look changes nothing; nor does anything while the parent cannot be looked at.
        let rename = |from, to| fs::rename(disks.at(from), disks.at(to)).expect("a name");
        rename("base.layer", "away.layer");
        disks.disk(&format!("check --repair @{child}")).expect_status(42);
        assert!(fs::read(disks.at(&child)).expect("the layer") == before, "{format}");
        rename("away.layer", "base.layer");
        disks.disk(&format!("check @{child}")).expect_status(3);
        let identity = disks.layers(&child)[0]["identity"].clone();
        let finished = disks.done(&format!("check --repair @{child}"));
        assert!(finished.stdout.contains("mended: it was not closed"), "{}", finished.stdout);
        assert_eq!(disks.layers(&child)[0]["identity"], identity);
        disks.done(&format!("check @{child}"));
        let script = "blk.verify 1M 4M seed=5; exit 0";
        let guest = disks.command(&format!("run --disk @{child},ro --script")).arg(script);
        guest.finish().expect_status(0);
    }
}

#[test]
fn a_guest_that_is_killed_leaves_nothing_of_its_layer() {
    if !kvm_is_there() {
        return;
    }
    let disks = Disks::new();
    disks.raw("base.raw", &[(0, b"base")]);
    let guest = disks.command("run --disk parent=@base.raw --script");
    let guest = guest.arg("blk.write 1M 4M seed=5; print written; hang").start();
    guest.wait_for("written");
    let temporary = fs::read_dir(guest.folder().join("tmp")).expect("the folder");
    assert_eq!(temporary.count(), 0, "its layer has a name");
    guest.signal(Signal::KILL);
    guest.finish();
    for (disk, status) in [("parent=@gone.raw", 42), ("parent=@mid.layer", 42)] {
        if disk.contains("mid") {
            disks.done("create @mid.layer --parent @base.raw");
            fs::remove_file(disks.at("base.raw")).expect("a file");
        }
        let guest = disks.command(&format!("run --disk {disk} --script")).arg("exit 0");
        guest.finish().expect_status(status).expect_message(&["help: "]);
    }
}
