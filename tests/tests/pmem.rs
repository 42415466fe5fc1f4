//! Files in guest memory (virtio-pmem): what guests see of them, whose pages they are, and what
//! happens when somebody changes them.

use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;

use cohort_guest::pattern::{Checksum, Pattern};
use cohort_tests::processes::Signal;
use cohort_tests::shared::{self, Shared};
use cohort_tests::{Cohort, Finished, Running, kvm_is_there};

const GRANULE: usize = 2 << 20;

/// The bytes of a file of this size, none of whose pages are alike.
fn content(size: usize) -> Vec<u8> {
    let mut bytes = vec![0; size.next_multiple_of(512)];
    Pattern { seed: 11 }.fill(0, &mut bytes);
    bytes.truncate(size);
    bytes
}

/// What `pmem.sum` prints of a device that holds these bytes.
fn sum(bytes: &[u8]) -> String {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(GRANULE), 0);
    let mut sum = Checksum::default();
    sum.add_bytes(0, &padded);
    format!("{:016x}", sum.value())
}

/// A lab of this text, with `file.bin` beside it, its consoles on standard error.
fn lab(text: &str, content: &[u8]) -> Cohort {
    let run = Cohort::new(["lab", "run", "trial.toml", "--results", "results", "-v"]);
    run.file("file.bin", content);
    run.file("trial.toml", format!("schema = 1\n{text}"));
    run
}

fn console(finished: &Finished, guest: &str) -> String {
    let path = finished.folder().join(format!("results/{guest}.console"));
    fs::read_to_string(path).expect("a console file")
}

/// The detail of a guest's outcome.
fn detail(finished: &Finished, guest: &str) -> String {
    let account = finished.json(&format!("results/{guest}.json"));
    account["detail"].as_str().unwrap_or_default().to_owned()
}

/// The page frames that a process has for the mappings of files with such a name; zero for pages
/// that it has not touched, and without the privilege to see them. None where the host does not
/// tell.
fn frames(pid: u32, file: impl Fn(&str) -> bool) -> Option<Vec<u64>> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let pagemap = File::open(format!("/proc/{pid}/pagemap")).ok()?;
    let mut frames = Vec::new();
    for line in maps.lines().filter(|line| file(line)) {
        let (start, end) = line.split_once(' ')?.0.split_once('-')?;
        let page = |text| u64::from_str_radix(text, 16).ok().map(|address| address / 4096);
        for number in page(start)?..page(end)? {
            let mut entry = [0; 8];
            pagemap.read_exact_at(&mut entry, number * 8).ok()?;
            frames.push(u64::from_le_bytes(entry) & ((1 << 55) - 1));
        }
    }
    Some(frames)
}

/// The page frames of every guest process of a run, for its mappings of the file.
fn frames_of_all(run: &Running, file: &str) -> Vec<Vec<u64>> {
    let has_name = |line: &str| line.contains(file);
    let all = run.descendants().into_iter().filter_map(|pid| frames(pid, has_name));
    all.filter(|frames| !frames.is_empty()).collect()
}

/// Checks that two processes have all pages of a file in the same frames.
fn expect_same_frames(one: &[u64], other: &[u64], bytes: usize) {
    assert_eq!(one.len(), bytes.div_ceil(4096));
    assert_eq!(one, other);
    if rustix::process::geteuid().is_root() {
        assert!(one.iter().all(|frame| *frame != 0), "{one:?}");
    } else {
        eprintln!("skipped: only root sees page frames");
    }
}

#[test]
fn guests_of_a_lab_read_the_same_file_in_the_same_pages() {
    if !kvm_is_there() {
        return;
    }
    // Neither whole pages nor whole large pages.
    let bytes = content(3 * GRANULE + 4096 * 3 + 77);
    let text = "[vm.node]\ncount = 2\npmem = [\"file.bin\"]\n\
                script = \"pmem.sum; pmem.flush; print {name} has read; hang\"\n";
    let run = lab(text, &bytes).start();
    for guest in ["node-0", "node-1"] {
        run.wait_for(&format!("{guest} has read"));
    }
    let frames = frames_of_all(&run, "file.bin");
    run.signal(Signal::TERM);
    let finished = run.finish();
    finished.expect_status(143);
    for guest in ["node-0", "node-1"] {
        let said = console(&finished, guest);
        assert!(said.contains(&format!("pmem.sum: pmem 0: {}", sum(&bytes))), "{said}");
    }
    let [one, other] = &frames[..] else { panic!("{} processes map the file", frames.len()) };
    expect_same_frames(one, other, bytes.len());
}

#[test]
fn a_write_to_shared_memory_is_refused_and_changes_nothing() {
    if !kvm_is_there() {
        return;
    }
    let bytes = content(GRANULE + 5000);
    let run = Cohort::script(
        "pmem.write 0 4k seed=5 expect-fault; pmem.write 2096640 1k seed=6 expect-fault; \
         pmem.write 3M 512 expect-fault; pmem.sum",
    );
    let path = run.file("file.bin", &bytes);
    let finished = run.args(["--pmem", "file.bin"]).finish();
    finished.expect_status(0).expect_message(&["refused, all reads as before", &sum(&bytes)]);
    assert_eq!(finished.stderr.matches("that it may only read").count(), 1, "{}", finished.stderr);
    assert!(fs::read(finished.folder().join(path)).expect("the file") == bytes);
}

#[test]
fn a_guest_that_expects_no_refusal_says_what_it_found() {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::script("pmem.write 0 512 seed=5");
    run.file("file.bin", content(4096));
    let finished = run.args(["--pmem", "file.bin"]).finish();
    finished.expect_status(123).expect_message(&["mismatch: pmem 0, byte offset 0"]);
}

#[test]
fn what_a_guest_writes_to_private_memory_is_its_own() {
    if !kvm_is_there() {
        return;
    }
    let bytes = content(GRANULE);
    let text = "[vm.writer]\npmem = [{ path = \"file.bin\", mode = \"private\" }]\n\
                script = \"pmem.write 4k 8k seed=5; pmem.flush; pmem.sum; print written; sleep 1s\"\n\
                [vm.reader]\npmem = [\"file.bin\"]\nscript = \"sleep 1s; pmem.sum\"\n";
    let finished = lab(text, &bytes).finish();
    finished.expect_status(0);
    let mut written = bytes.clone();
    Pattern { seed: 5 }.fill(8, &mut written[4096..12288]);
    assert!(console(&finished, "writer").contains(&sum(&written)));
    assert!(console(&finished, "reader").contains(&sum(&bytes)));
    assert!(fs::read(finished.folder().join("file.bin")).expect("the file") == bytes);
}

#[test]
fn disks_read_into_memory_of_a_file() {
    if !kvm_is_there() {
        return;
    }
    for mode in ["shared", "private"] {
        let bytes = content(GRANULE + 4096);
        let mut disk = vec![0; 1 << 20];
        Pattern { seed: 3 }.fill(0, &mut disk);
        let run = Cohort::script("blk.read-into-pmem 64k 128k 4k; pmem.sum");
        run.file("file.bin", &bytes);
        run.file("disk.img", &disk);
        let pmem = format!("file.bin,mode={mode}");
        let finished = run.args(["--pmem", &pmem, "--disk", "disk.img,ro"]).finish();
        let mut expected = bytes.clone();
        expected[4096..4096 + (128 << 10)].copy_from_slice(&disk[64 << 10..192 << 10]);
        finished.expect_status(0).expect_message(&[&sum(&expected)]);
        assert!(fs::read(finished.folder().join("file.bin")).expect("the file") == bytes);
    }
}

#[test]
fn rates_are_told_as_keys_and_values() {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::script("bench.pmem pmem=1 secs=0.01");
    run.file("file.bin", content(4096));
    let finished = run.args(["--pmem", "file.bin", "--pmem", "file.bin,mode=private"]).finish();
    finished.expect_status(0).expect_message(&["bench.pmem: pmem=1 size=2097152 "]);
    for key in ["first=", "again=", "memory_size=", "memory="] {
        let value = finished.stderr.split_whitespace().find_map(|word| word.strip_prefix(key));
        let value = value.and_then(|value| value.parse::<u64>().ok());
        assert!(value.is_some_and(|value| value > 0), "{key}: {}", finished.stderr);
    }
}

#[test]
fn files_in_memory_and_disks_of_another_process_go_together() {
    if !kvm_is_there() {
        return;
    }
    let disk = Shared::new(1 << 20);
    let server = disk.serve("--vhost-user-blk @a.sock");
    let bytes = content(GRANULE);
    let run =
        disk.guest("blk", "a.sock", "blk.write 0 64k seed=4; blk.verify 0 64k seed=4; pmem.sum");
    run.file("file.bin", &bytes);
    let finished = run.args(["--pmem", "file.bin"]).finish();
    finished.expect_status(0).expect_message(&[&sum(&bytes)]);
    // It is no memory of the other process.
    let run = disk.guest("blk", "a.sock", "blk.read-into-pmem 0 4k 0");
    run.file("file.bin", &bytes);
    run.args(["--pmem", "file.bin"]).finish().expect_status(122);
    shared::stop(server);
}

#[test]
fn a_guest_that_touches_what_its_file_has_lost_ends_and_others_go_on() {
    if !kvm_is_there() {
        return;
    }
    for mode in ["shared", "private"] {
        let bytes = content(2 * GRANULE);
        let pmem = format!("pmem = [{{ path = \"file.bin\", mode = \"{mode}\" }}]");
        let text = format!(
            "[vm.toucher]\n{pmem}\nexpect = {{ outcome = \"vmm-error\" }}\n\
             script = \"pmem.read 0 4k; print toucher runs; \
             repeat 60000 {{ sleep 10ms; pmem.read 1M 4k }}; print alive\"\n\
             [vm.other]\n{pmem}\n\
             script = \"pmem.read 0 4k; print other runs; \
             repeat 300 {{ sleep 10ms; pmem.read 0 512k }}; print fine\"\n"
        );
        let run = lab(&text, &bytes).start();
        for guest in ["toucher", "other"] {
            run.wait_for(&format!("{guest} runs"));
        }
        let file = run.folder().join("file.bin");
        File::options().write(true).open(file).expect("the file").set_len(1 << 20).expect("cut");
        let finished = run.finish();
        finished.expect_status(0).expect_message(&["file.bin was cut from 4194304 to 1048576"]);
        let said = detail(&finished, "toucher");
        assert!(
            said.contains("pmem 0: byte 1048576 of ") && said.contains("file.bin is gone"),
            "{said}"
        );
        assert!(!console(&finished, "toucher").contains("alive"));
        assert!(console(&finished, "other").contains("fine"));
    }
}

/// A guest whose file has been written to since it runs; `then` is the rest of its script.
fn write_under(option: &str, then: &str) -> Running {
    let run = Cohort::script(&format!("pmem.read 0 4k; print it runs; {then}"));
    let file = run.file("file.bin", content(GRANULE));
    let run = run.args(["--pmem", &format!("file.bin{option}")]).start();
    run.wait_for("it runs");
    let file = File::options().write(true).open(file).expect("the file");
    file.write_all_at(b"changed", 10).expect("room");
    run
}

#[test]
fn a_file_that_is_written_to_is_told_or_ends_the_guest_or_neither() {
    if !kvm_is_there() {
        return;
    }
    let warned = write_under("", "hang");
    warned.wait_for("file.bin was written to");
    warned.signal(Signal::TERM);
    warned.finish().expect_status(143).expect_message(&["warning: "]);
    let stopped = write_under(",on-change=stop", "hang").finish();
    stopped.expect_status(125);
    stopped.expect_message(&["error: ", "file.bin was written to", "on-change=stop", "seal=on"]);
    let ignored = write_under(",on-change=ignore", "sleep 1s; print it still runs").finish();
    ignored.expect_status(0).expect_message(&["still runs"]);
    assert!(!ignored.stderr.contains("was written to"), "{}", ignored.stderr);
    let sealed = write_under(",seal=on,on-change=stop", "sleep 1s; print it still runs").finish();
    sealed.expect_status(0).expect_message(&["still runs"]);
}

#[test]
fn a_sealed_copy_outlives_what_happens_to_its_file_and_is_there_once() {
    if !kvm_is_there() {
        return;
    }
    let bytes = content(GRANULE + 9000);
    let text = "[vm.node]\ncount = 2\npmem = [{ path = \"file.bin\", seal = true }]\n\
                script = \"pmem.sum; print {name} has read; repeat 60000 { sleep 100ms; pmem.sum }\"\n";
    let run = lab(text, &bytes).start();
    for guest in ["node-0", "node-1"] {
        run.wait_for(&format!("{guest} has read"));
    }
    let file = File::options().write(true).open(run.folder().join("file.bin")).expect("the file");
    file.write_all_at(&[0; 4096], 0).expect("room");
    file.set_len(100).expect("cut");
    let frames = frames_of_all(&run, "memfd:cohort-copy");
    for guest in ["node-0", "node-1"] {
        let sums = |said: &str| said.matches(&format!("{guest}| pmem.sum")).count();
        let before = sums(&run.console());
        run.wait_until("two more sums", |said| sums(said) >= before + 2);
    }
    run.signal(Signal::TERM);
    let finished = run.finish();
    finished.expect_status(143);
    for guest in ["node-0", "node-1"] {
        let said = console(&finished, guest);
        let right = format!("pmem.sum: pmem 0: {}", sum(&bytes));
        let mut sums = said.lines().filter(|line| line.starts_with("pmem.sum"));
        assert!(sums.clone().count() >= 3 && sums.all(|line| line == right), "{said}");
    }
    let [one, other] = &frames[..] else { panic!("{} processes map the copy", frames.len()) };
    expect_same_frames(one, other, bytes.len());
}

#[test]
fn a_replaced_file_stays_what_it_was_for_those_who_have_it() {
    if !kvm_is_there() {
        return;
    }
    let bytes = content(GRANULE);
    let run = Cohort::script("pmem.read 0 512; print it runs; sleep 1s; pmem.sum");
    let file = run.file("file.bin", &bytes);
    let run = run.args(["--pmem", "file.bin,on-change=stop"]).start();
    run.wait_for("it runs");
    let new = run.folder().join("new");
    fs::write(&new, b"something else").expect("a file");
    fs::rename(new, file).expect("replaced");
    run.finish().expect_status(0).expect_message(&[&sum(&bytes)]);
}

/// A guest with this file that says it runs and stays for a while.
fn sharer(file: &Path, domain: Option<&str>) -> Running {
    let run = Cohort::script("pmem.sum; print it runs; hang");
    let run = run.arg("--pmem").arg(file);
    let run = match domain {
        Some(domain) => run.args(["--share-domain", domain]),
        None => run,
    };
    let run = run.start();
    run.wait_for("it runs");
    run
}

#[test]
fn only_guests_of_one_share_domain_share_pages() {
    if !kvm_is_there() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("shared-file.bin");
    let bytes = content(GRANULE);
    fs::write(&file, &bytes).expect("a file");
    let runs = [
        sharer(&file, Some("red")),
        sharer(&file, Some("red")),
        sharer(&file, Some("blue")),
        sharer(&file, None),
    ];
    // A copy is in memory, or where the file system can, a file without a name.
    let is_copy = |line: &str| line.contains("memfd:cohort-copy") || line.contains("/#");
    let is_file = |line: &str| line.contains("shared-file.bin");
    let shared = runs.each_ref().map(|run| frames(run.pid(), is_file).expect("the host tells"));
    let copied = runs.each_ref().map(|run| frames(run.pid(), is_copy).expect("the host tells"));
    for run in runs {
        run.signal(Signal::TERM);
        run.finish().expect_status(143).expect_message(&[&sum(&bytes)]);
    }
    let [red, same, blue, none] = shared;
    expect_same_frames(&red, &same, bytes.len());
    assert!(blue.is_empty() && none.is_empty());
    let [_, _, blue, none] = copied;
    for (one, other) in [(&red, &blue), (&red, &none), (&blue, &none)] {
        assert_eq!(one.len(), other.len());
        let both = one.iter().filter(|frame| **frame != 0 && other.contains(frame)).count();
        assert_eq!(both, 0);
    }
}

#[test]
fn what_is_no_file_for_guest_memory_is_refused() {
    let cases: [(&str, i32, &[&str]); 4] = [
        ("gone", 125, &["error: pmem 0: cannot open gone", "No such file"]),
        ("empty", 125, &["error: pmem 0: empty is empty"]),
        ("/", 125, &["error: pmem 0: / is not a regular file"]),
        ("empty,rw", 2, &["unknown pmem option \"rw\""]),
    ];
    for (option, status, parts) in cases {
        if status == 125 && !kvm_is_there() {
            continue;
        }
        let run = Cohort::script("poweroff");
        run.file("empty", b"");
        run.args(["--pmem", option]).finish().expect_status(status).expect_message(parts);
    }
    let check = Cohort::new(["lab", "validate", "trial.toml"]);
    check.file("empty", b"");
    check.file(
        "trial.toml",
        "schema = 1\n[lab]\nshare-domain = \"\"\n[vm.a]\npmem = [\"gone\", { mode = \"shared\" },\n\
         { path = \"empty\" },\n{ path = \"trial.toml\", mode = \"rw\", seal = \"on\",\n\
         on-change = \"die\", ro = true }]\n",
    );
    let finished = check.finish();
    assert_ne!(finished.status(), Some(0));
    finished.expect_message(&[
        "trial.toml:3:16: lab.share-domain: a share domain has a name",
        "trial.toml:5:9: vm.a.pmem[0]: ",
        "gone does not exist",
        "vm.a.pmem[1]: the pmem device has no path",
        "empty is empty",
        "vm.a.pmem[3].mode: \"rw\" cannot be used",
        "vm.a.pmem[3].seal: expected true or false, found a string",
        "vm.a.pmem[3].on-change: \"die\" cannot be used",
        "vm.a.pmem[3].ro: unknown key",
    ]);
}
