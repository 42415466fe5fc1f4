//! `cohort mem` and the memory files of labs: what guests hold, and what they share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cohort_tests::processes::{Signal, signal};
use cohort_tests::{Cohort, Finished, Running, cohort, kvm_is_there};
use serde_json::Value;

/// A lab of two guests that run the same kernel file, touch memory and wait to be stopped.
fn pair() -> Cohort {
    let run = Cohort::new(["lab", "run", "pair.toml", "--results", "results", "-v"]);
    run.file("guest.elf", resources::BUILTIN_GUEST);
    run.file(
        "pair.toml",
        "schema = 1\n[vm.node]\ncount = 2\nmemory = \"16M\"\nkernel = \"guest.elf\"\n\
         cmdline = \"memory.touch 4M; print {name} has touched it; hang\"\n",
    );
    run
}

fn wait_for_both(run: &Running) {
    for name in ["node-0", "node-1"] {
        run.wait_for(&format!("{name} has touched it"));
    }
}

/// `cohort mem` as the user who started the guests below `folder` asks.
fn mem(folder: &Path, arguments: &[&str]) -> Output {
    Command::new(cohort::binary())
        .arg("mem")
        .args(arguments)
        .env("XDG_RUNTIME_DIR", folder.join("run"))
        .env_remove("COHORT_LOG")
        .output()
        .expect("the binary under test starts")
}

fn json(output: &Output) -> Value {
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error} in:\n{text}"))
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn kib(value: &Value, name: &str) -> u64 {
    value[name].as_u64().unwrap_or_else(|| panic!("no {name} in {value}"))
}

/// Checks that the parts of a guest are together all of it.
fn assert_adds_up(guest: &Value) {
    for figure in ["rss_kib", "pss_kib", "private_kib", "shared_kib", "swap_kib"] {
        let parts: u64 = list(&guest["parts"]).iter().map(|part| kib(part, figure)).sum();
        assert_eq!(parts, kib(guest, figure), "{figure} of {guest}");
    }
    let (private, shared) = (kib(guest, "private_kib"), kib(guest, "shared_kib"));
    assert_eq!(private + shared, kib(guest, "rss_kib"), "{guest}");
}

/// Checks an account of both guests of [`pair`].
fn assert_pair(account: &Value) {
    let guests = list(&account["guests"]);
    assert_eq!(guests.len(), 2, "{account}");
    for (guest, other) in guests.iter().zip(["node-1", "node-0"]) {
        assert_adds_up(guest);
        let part = |origin: &str| {
            let parts = list(&guest["parts"]).iter();
            let found = parts.clone().find(|part| part["origin"] == origin);
            found.unwrap_or_else(|| panic!("no {origin} in {guest}"))
        };
        assert_eq!(guest["ram_kib"], 16 << 10);
        // What it touched is its own, what its kernel is both have.
        assert!(kib(part("memory"), "private_kib") >= 4 << 10, "{guest}");
        assert!(kib(part("program"), "rss_kib") > 0, "{guest}");
        let kernel = part("kernel");
        assert!(
            kernel["path"].as_str().is_some_and(|path| path.ends_with("/guest.elf")),
            "{kernel}"
        );
        assert_eq!(kernel["with"], serde_json::json!([other]), "{kernel}");
        assert!(kib(kernel, "shared_kib") > 0, "{kernel}");
    }
    assert!(kib(account, "unshared_kib") > kib(account, "held_kib"), "{account}");
}

#[test]
fn a_lab_that_runs_is_taken_apart() {
    if !kvm_is_there() {
        return;
    }
    let run = pair().start();
    wait_for_both(&run);
    let of_lab = json(&mem(run.folder(), &["pair", "--json"]));
    assert_eq!((list(&of_lab).len(), &of_lab[0]["lab"]), (1, &Value::from("pair")), "{of_lab}");
    assert_pair(&of_lab[0]);
    let all = json(&mem(run.folder(), &["--json"]));
    assert_pair(&all[0]);

    // One guest, by its name and by its process, knows with whom it shares.
    let by_name = json(&mem(run.folder(), &["node-1", "--json"]));
    let guest = &by_name[0]["guests"][0];
    assert_eq!((list(&by_name[0]["guests"]).len(), &guest["name"]), (1, &Value::from("node-1")));
    let kernel = list(&guest["parts"]).iter().find(|part| part["origin"] == "kernel");
    assert_eq!(kernel.map(|part| &part["with"]), Some(&serde_json::json!(["node-0"])), "{guest}");
    let by_pid = json(&mem(run.folder(), &[&guest["pid"].to_string(), "--json"]));
    assert_eq!(by_pid[0]["guests"][0]["name"], "node-1");

    let table = mem(run.folder(), &["pair"]);
    let table = String::from_utf8_lossy(&table.stdout);
    for part in ["node-0", "guest memory", "kernel", "guest.elf", "2 guests hold", "lab pair"] {
        assert!(table.contains(part), "no {part:?} in:\n{table}");
    }
    let other = mem(run.folder(), &["pear"]);
    assert_eq!(other.status.code(), Some(2));
    let said = String::from_utf8_lossy(&other.stderr);
    assert!(said.contains("\"pear\"") && said.contains("these run: pair"), "{said}");

    // Of the first sample with both, an account is made before there is another one.
    let samples = || {
        let table = fs::read_to_string(run.folder().join("results/memory.csv"));
        table.unwrap_or_default().matches(",node-1,").count()
    };
    while samples() < 2 {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    run.signal(Signal::TERM);
    assert_files(&run.finish());
}

/// Checks the memory files that the lab of [`pair`] has left.
fn assert_files(finished: &Finished) {
    finished.expect_status(143);
    assert!(finished.stdout.contains("2 guests hold"), "{}", finished.stdout);
    let table = finished.folder().join("results/memory.csv");
    let table = fs::read_to_string(table).expect("a table");
    let mut lines = table.lines();
    let head: Vec<&str> = lines.next().expect("a head").split(',').collect();
    assert_eq!(head[..3], ["time_ms", "guest", "pid"]);
    let mut last = 0;
    for line in lines.clone() {
        let cells: Vec<&str> = line.split(',').collect();
        assert_eq!(cells.len(), head.len(), "{line}");
        assert!(["node-0", "node-1"].contains(&cells[1]), "{line}");
        let figures = cells.iter().enumerate().filter(|(column, _)| *column != 1);
        let figures: Vec<u64> = figures.map(|(_, cell)| cell.parse().expect("a figure")).collect();
        assert!(figures[0] >= last && figures[2] > 0, "{line}");
        last = figures[0];
    }

    let report = finished.json("results/lab.json");
    let samples = kib(&report["memory"], "samples");
    assert!(samples >= 1 && lines.count() as u64 >= samples, "{report}\n{table}");
    let memory = finished.json("results/memory.json");
    assert_eq!(memory["samples"], report["memory"]["samples"]);
    let peak = &report["memory"]["peak"];
    for figure in ["held_kib", "unshared_kib", "at_ms"] {
        assert_eq!(peak[figure], memory["peak"][figure], "{memory}");
    }
    for guest in list(&memory["peak"]["guests"]) {
        assert_adds_up(guest);
    }
    // Each guest has told itself what it held at its end.
    assert_eq!(list(&memory["final"]).len(), 2, "{memory}");
    for (guest, last) in list(&report["guests"]).iter().zip(list(&memory["final"])) {
        assert_eq!(
            (&guest["name"], &guest["memory"]["origins"]),
            (&last["name"], &last["origins"])
        );
        let sum: u64 = list(&last["origins"]).iter().map(|part| kib(part, "pss_kib")).sum();
        assert_eq!(sum, kib(&guest["memory"], "pss_kib"));
        assert!(kib(&guest["memory_peak"], "rss_kib") > 0, "{guest}");
    }

    let picture = fs::read_to_string(finished.folder().join("results/memory.svg"));
    let picture = picture.expect("a picture");
    assert!(picture.starts_with("<svg ") && picture.trim_end().ends_with("</svg>"), "{picture}");
    assert!(picture.contains("Memory of the lab pair"), "{picture}");
    let tags = |what: &str| picture.matches(what).count();
    assert_eq!(tags("<text"), tags("</text>"));
}

/// Of the account of the guest `name`, the part that is the file it has as memory.
fn pmem<'a>(groups: &'a Value, name: &str) -> &'a Value {
    let guests = list(groups).iter().flat_map(|group| list(&group["guests"]));
    let mut parts = guests.filter(|guest| guest["name"] == name).flat_map(|guest| {
        assert_adds_up(guest);
        list(&guest["parts"])
    });
    let found = parts.find(|part| part["origin"] == "pmem" && kib(part, "rss_kib") > 0);
    found.unwrap_or_else(|| panic!("no memory of a file of {name} in {groups}"))
}

/// A lab of two guests that have the same file as memory, with `options`, and have read it all.
fn readers(options: &str) -> Cohort {
    let run = Cohort::new(["lab", "run", "readers.toml", "--results", "results", "-v"]);
    let content: Vec<u8> = (0..LEN_KIB << 10).map(|at: u64| (at / 4096).to_le_bytes()[0]).collect();
    run.file("app.img", content);
    run.file(
        "readers.toml",
        format!(
            "schema = 1\n[vm.node]\ncount = 2\nmemory = \"16M\"\n\
             pmem = [{{ path = \"app.img\"{options} }}]\n\
             script = \"pmem.sum; print {{name}} has touched it; hang\"\n"
        ),
    );
    run
}

/// Size of the file that [`readers`] read: no multiple of 2 MiB.
const LEN_KIB: u64 = 5 << 10;

#[test]
fn guests_of_a_lab_hold_a_file_once_and_strangers_have_pages_of_their_own() {
    if !kvm_is_there() {
        return;
    }
    let run = readers("").start();
    wait_for_both(&run);
    // Another domain: the file is the same, the pages are not.
    let stranger = Cohort::script("pmem.sum; print it has read it; hang")
        .args(["--name", "stranger", "--pmem"])
        .arg(run.folder().join("app.img"))
        .env("XDG_RUNTIME_DIR", run.folder().join("run"))
        .start();
    stranger.wait_for("it has read it");
    let groups = json(&mem(run.folder(), &["--json", "--frames"]));
    for (name, other) in [("node-0", "node-1"), ("node-1", "node-0")] {
        let part = pmem(&groups, name);
        assert_eq!(part["with"], serde_json::json!([other]), "{part}");
        assert_eq!((kib(part, "rss_kib"), kib(part, "shared_kib")), (LEN_KIB, LEN_KIB), "{part}");
        assert_eq!((kib(part, "pss_kib"), kib(part, "private_kib")), (LEN_KIB / 2, 0), "{part}");
    }
    let own = pmem(&groups, "stranger");
    assert_eq!(own["with"], Value::Null, "{own}");
    assert_eq!((kib(own, "private_kib"), kib(own, "shared_kib")), (LEN_KIB, 0), "{own}");
    // Page frames by number, where they are told at all: both guests have all of them.
    let frames = &pmem(&groups, "node-0")["frames"];
    assert_eq!(frames, &pmem(&groups, "node-1")["frames"]);
    if !frames.is_null() {
        assert_eq!((kib(frames, "count"), kib(frames, "shared")), (LEN_KIB / 4, LEN_KIB / 4));
        assert_eq!(pmem(&groups, "stranger")["frames"]["shared"], 0);
    }
    let lab = list(&groups).iter().find(|group| group["lab"] == "readers").expect("the lab");
    assert_eq!(kib(lab, "unshared_kib") - kib(lab, "held_kib"), LEN_KIB, "{lab}");
    stranger.signal(Signal::TERM);
    stranger.finish().expect_status(143);
    run.signal(Signal::TERM);
    let finished = run.finish();
    finished.expect_status(143);
}

#[test]
fn a_sealed_copy_counts_as_its_file() {
    if !kvm_is_there() {
        return;
    }
    let run = readers(", seal = true").start();
    wait_for_both(&run);
    let groups = json(&mem(run.folder(), &["readers", "--json"]));
    for (name, other) in [("node-0", "node-1"), ("node-1", "node-0")] {
        let part = pmem(&groups, name);
        assert!(part["path"].as_str().is_some_and(|path| path.ends_with("/app.img")), "{part}");
        assert_eq!(part["with"], serde_json::json!([other]), "{part}");
        assert_eq!(kib(part, "shared_kib"), LEN_KIB, "{part}");
    }
    run.signal(Signal::TERM);
    run.finish().expect_status(143);
}

#[test]
fn the_next_run_replaces_the_memory_files() {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::new(["lab", "run", "one.toml", "--results", "results"]);
    run.file("one.toml", "schema = 1\n[vm.node]\nscript = \"exit 0\"\n");
    fs::create_dir(run.folder().join("results")).expect("a folder");
    for (name, text) in [("lab.json", "{}"), ("memory.json", "old"), ("memory.svg", "old")] {
        run.file(&format!("results/{name}"), text);
    }
    let finished = run.finish();
    finished.expect_status(0);
    assert_eq!(finished.json("results/memory.json")["lab"], "one");
    let picture = fs::read_to_string(finished.folder().join("results/memory.svg"));
    assert!(picture.expect("a picture").starts_with("<svg "));
}

#[test]
fn a_guest_of_no_lab_is_found_while_it_runs() {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::script("print it runs; hang").args(["--name", "alone"]).start();
    run.wait_for("it runs");
    let found = json(&mem(run.folder(), &["alone", "--json"]));
    assert_eq!(found[0]["lab"], Value::Null);
    let guest = &found[0]["guests"][0];
    assert_eq!(guest["pid"], run.pid(), "{found}");
    assert_adds_up(guest);
    run.signal(Signal::TERM);
    run.finish().expect_status(143);
}

#[test]
fn watching_ends_with_the_guests() {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::script("print it runs; hang").start();
    run.wait_for("it runs");
    let mut watch = Command::new(cohort::binary());
    watch.args(["mem", "--json", "--watch", "guest"]);
    watch.env("XDG_RUNTIME_DIR", run.folder().join("run"));
    let mut watch = watch.stdout(std::process::Stdio::piped()).spawn().expect("it starts");
    let mut lines = std::io::BufReader::new(watch.stdout.take().expect("piped"));
    let mut line = String::new();
    std::io::BufRead::read_line(&mut lines, &mut line).expect("a line");
    let seen: Value = serde_json::from_str(&line).expect("JSON on one line");
    assert_eq!(seen[0]["guests"][0]["name"], "guest");
    run.signal(Signal::TERM);
    run.finish().expect_status(143);
    // Its end is the end of what it writes.
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut lines, &mut rest).expect("text");
    assert!(rest.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()), "{rest}");
    assert!(watch.wait().expect("a child").success());
}

#[test]
fn entries_of_killed_guests_are_swept() {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::script("print it runs; hang").start();
    run.wait_for("it runs");
    let entries = run.folder().join("run/cohort");
    let count = |folder: &PathBuf| fs::read_dir(folder).map_or(0, Iterator::count);
    assert_eq!(count(&entries), 1);
    signal(run.pid(), Signal::KILL);
    while fs::read_to_string(format!("/proc/{}/stat", run.pid()))
        .is_ok_and(|stat| !stat.contains(") Z "))
    {
        std::thread::yield_now();
    }
    assert_eq!(count(&entries), 1);
    let none = mem(run.folder(), &[]);
    assert_eq!(String::from_utf8_lossy(&none.stdout), "no guest runs\n");
    assert!(!entries.exists());
    run.finish();
}

#[test]
fn guests_run_where_they_cannot_be_announced() {
    if !kvm_is_there() {
        return;
    }
    let run = Cohort::script("exit 7");
    let file = run.file("file", "");
    run.env("XDG_RUNTIME_DIR", file)
        .env("COHORT_LOG", "debug")
        .finish()
        .expect_status(7)
        .expect_message(&["cohort mem will not find this guest"]);
}

#[test]
fn a_folder_that_others_can_use_is_named() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let entries = folder.path().join("run/cohort");
    fs::create_dir_all(&entries).expect("a folder");
    fs::set_permissions(&entries, fs::Permissions::from_mode(0o777)).expect("its own folder");
    let output = mem(folder.path(), &[]);
    assert_eq!(output.status.code(), Some(125));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("is writable for other users") && said.contains("help: "), "{said}");
}
