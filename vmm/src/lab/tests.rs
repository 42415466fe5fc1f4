use super::*;
use crate::spec::{
    DaxSpec, DiskSource, EngineChoice, KernelSource, OnChange, PmemMode, PmemSpec, ShareCache,
    ShareIds, ShareSpec, ShareXattrs,
};
use proptest::prelude::*;

/// A folder with the files that the labs here name.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    std::fs::write(at("vmlinuz"), "kernel").unwrap();
    std::fs::write(at("initrd"), "initrd").unwrap();
    for name in ["disk-0.img", "disk-1.img", "a.img"] {
        std::fs::write(at(name), [0; 1024]).unwrap();
    }
    std::fs::write(at("odd.img"), [0; 100]).unwrap();
    std::fs::write(at("empty.img"), []).unwrap();
    dir
}

fn parse(dir: &tempfile::TempDir, source: &str, sets: &[&str]) -> Result<Lab, Mistakes> {
    let sets: Vec<String> = sets.iter().map(|set| (*set).to_owned()).collect();
    Lab::parse(&dir.path().join("lab.toml"), source, &sets)
}

/// What is said of the mistakes in `source`, the folder's name left out.
fn told(source: &str, sets: &[&str]) -> String {
    let dir = folder();
    let mistakes = parse(&dir, source, sets).unwrap_err();
    let lines: Vec<String> = mistakes.mistakes.iter().map(ToString::to_string).collect();
    lines.join("\n").replace(&format!("{}/", dir.path().display()), "")
}

#[test]
fn a_lab_with_everything() {
    let dir = folder();
    let source = r#"
schema = 1
[lab]
name = "all"
timeout = "2m"
share-domain = "team"
[vm.node]
count = 2
kernel = "vmlinuz"
initrd = "initrd"
cmdline = "root=/dev/vda host={name} n={index+1} {{name}"
memory = "512M"
cpus = 2
cpu-mask = ["avx2"]
disks = [
  { path = "disk-{index}.img", direct = true, serial = "disk{index}", queues = 2 },
  { scratch = "64M", engine = "positional" },
  { parent = "a.img" },
  { path = "odd.img", format = "qcow2", allow-mismatch = true, map-memory = "8M", ro = true },
]
pmem = ["disk-{index}.img", { path = "a.img", mode = "private", seal = true, on-change = "stop" }]
timeout = "30s"
[vm.other]
script = "exit 3"
disks = [{ path = "a.img", ro = true }]
expect = { outcome = "exited", status = 3 }
[expect]
outcome = "poweroff"
"#;
    let lab = parse(&dir, source, &["vm.node.memory=1G", "vm.other.cpus=4"]).unwrap();
    assert_eq!((lab.name.as_str(), lab.timeout), ("all", Some(Duration::from_secs(120))));
    let names: Vec<_> = lab.guests.iter().map(|guest| guest.spec.name.as_str()).collect();
    assert_eq!(names, ["node-0", "node-1", "other"]);
    let node = &lab.guests[1].spec;
    assert_eq!(node.kernel, KernelSource::Path(dir.path().join("vmlinuz")));
    assert_eq!(node.cmdline, "root=/dev/vda host=node-1 n=2 {name}");
    assert_eq!((node.memory, node.cpus, &node.cpu_mask[..]), (1 << 30, 2, &["avx2".into()][..]));
    assert_eq!(node.disks[0].source, DiskSource::Path(dir.path().join("disk-1.img")));
    assert_eq!(node.disks[0].serial.as_deref(), Some("disk1"));
    assert!(node.disks[0].direct && !node.disks[0].read_only);
    assert_eq!(node.disks[1].source, DiskSource::Scratch(64 << 20));
    assert_eq!(node.disks[1].engine, EngineChoice::Positional);
    assert_eq!(node.disks[2].source, DiskSource::Child(dir.path().join("a.img")));
    assert_eq!((node.disks[2].format, node.disks[2].allow_mismatch), (None, false));
    assert_eq!(node.disks[3].format, Some(storage::Format::Qcow2));
    assert!(node.disks[3].allow_mismatch);
    assert_eq!(node.disks[3].map_memory, Some(8 << 20));
    assert_eq!(node.pmem[0], PmemSpec::new(dir.path().join("disk-1.img")));
    let wanted = PmemSpec {
        mode: PmemMode::Private,
        seal: true,
        on_change: OnChange::Stop,
        ..PmemSpec::new(dir.path().join("a.img"))
    };
    assert_eq!(node.pmem[1..], [wanted]);
    assert_eq!(lab.share_domain.as_deref(), Some("team"));
    assert_eq!(node.timeout, Some(Duration::from_secs(30)));
    let other = &lab.guests[2];
    assert_eq!((other.spec.kernel.clone(), other.spec.cpus), (KernelSource::Builtin, 4));
    assert_eq!(other.expected.to_string(), "exited 3");
    assert_eq!(lab.guests[0].expected.to_string(), "poweroff");
}

#[test]
fn the_least_lab() {
    let lab = parse(&folder(), "schema = 1\nlab.name = \"x\"\nvm.a = {}", &[]).unwrap();
    assert_eq!(lab.guests[0].spec.cmdline, crate::spec::BUILTIN_SCRIPT);
    assert_eq!(lab.guests[0].expected, Expectation::Clean);
}

#[test]
fn every_mistake_is_told_with_its_place() {
    let source = r#"schema = 2
lab = { name = "a/b", timeout = "2", tiemout = "2s" }
[vm.node]
count = 2
memory = 64
cpus = 65
cmdline = "quiet"
kernel = "builtin"
initrd = "initrd"
timeout = "soon"
disks = [{ path = "odd.img" }, { scratch = 64, path = "a.img" }, { parent = "base.vhdx" }, { ro = true }, { scratch = "1M", format = "qed" }, { parent = "odd.img", format = "layer" }, 3]
share = ["x"]
[vm.node-0]
script = "print {nam}"
disks = [{ path = "gone.img", ro = "yes" }, { scratch = "1G", serial = "", queues = 0, engine = "aio" }]
[vm.linux]
kernel = "gone"
memory = "1M"
script = "poweroff"
cpu-mask = "avx"
count = "2"
expect = { outcome = "reset", status = 3 }
[vm.odd]
kernel = 7
script = "neither this nor that can be told to be wrong"
[shared-disks.quorum]
[expect]
outcome = "fine"
"#;
    let told = told(source, &[]);
    assert_eq!(told, include_str!("tests/mistakes.txt").trim_end(), "{told}");
}

#[test]
fn guests_share_folders_by_text_or_table() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("data-1")).unwrap();
    let source = r#"schema = 1
lab.name = "x"
[vm.node-1]
shares = [
  "data-{index+1}",
  "data-{index+1}:{name},rw,dax=off",
  { path = "data-1", tag = "all", rw = true, dax = "4M", ids = "0:1000:10", cache = "always", mounts = "cross", xattrs = "none" },
]
"#;
    let lab = parse(&dir, source, &[]).unwrap();
    let shares = &lab.guests[0].spec.shares;
    let folder = dir.path().join("data-1");
    let first = ShareSpec::new(folder.clone(), "data-1".into());
    let second = ShareSpec {
        writable: true,
        dax: DaxSpec::Off,
        ..ShareSpec::new(folder.clone(), "node-1".into())
    };
    let third = ShareSpec {
        writable: true,
        dax: DaxSpec::Size(4 << 20),
        ids: ShareIds::Range { guest: 0, host: 1000, count: 10 },
        cache: ShareCache::Always,
        cross_mounts: true,
        xattrs: ShareXattrs::None,
        ..ShareSpec::new(folder, "all".into())
    };
    assert_eq!(shares[..], [first, second, third]);
    let text = serde_json::to_string(&lab.guests[0].spec).unwrap();
    assert_eq!(serde_json::from_str::<crate::spec::VmSpec>(&text).unwrap(), lab.guests[0].spec);
}

#[test]
fn mistakes_about_shares_are_told() {
    let source = r#"schema = 1
lab.name = "x"
[vm.a]
shares = ["gone", ".:x,dax=1", "a.img", { tag = "y" }, { path = ".", tag = "", rw = 1 }, { path = ".", ids = "root", size = 1 }, 3, ".:same", { path = ".", tag = "same" }]
"#;
    let told = told(source, &[]);
    assert_eq!(told, include_str!("tests/share_mistakes.txt").trim_end(), "{told}");
}

#[test]
fn mistakes_about_shared_disks_are_told() {
    let source = r#"schema = 1
lab.name = "x"
[shared-disk."a b"]
scratch = "1M"
[shared-disk.none]
ro = true
[shared-disk.both]
path = "a.img"
url = "iscsi://host/iqn.2026-01.org:x/0"
[shared-disk.far]
url = "http://host/"
[shared-disk.scratch]
scratch = "1M"
reservations = "persistent"
direct = true
[shared-disk.gone]
path = "gone.img"
[shared-disk.kept]
path = "a.img"
reservations = "forever"
[shared-disk.again]
path = "disk-0.img"
[shared-disk.twice]
path = "disk-0.img"
[vm.node]
disks = [{ shared = "nowhere" }, { shared = "scratch" }, { shared = "scratch" }, { shared = "again", ro = true, queues = 2, serial = "x" }]
[vm.other]
disks = [{ path = "disk-0.img" }]
"#;
    let told = told(source, &[]);
    assert_eq!(told, include_str!("tests/shared_disk_mistakes.txt").trim_end(), "{told}");
}

#[test]
fn a_shared_disk_is_served_as_the_lab_says() {
    let dir = folder();
    let source = r#"
schema = 1
lab.name = "x"
[shared-disk.kept]
path = "a.img"
direct = true
[shared-disk.volatile]
path = "disk-0.img"
format = "raw"
reservations = "volatile"
[shared-disk.new]
path = "new,1.vhdx"
size = "8M"
ro = true
[shared-disk.scratch]
scratch = "1M"
[shared-disk.far]
url = "iscsi://host:3260/iqn.2026-01.org:x/7"
[vm.node]
count = 2
disks = [{ shared = "kept" }, { shared = "far" }]
"#;
    let lab = parse(&dir, source, &[]).unwrap();
    let command = |at: usize| {
        let args = lab.shared_disks[at].command(&lab, std::path::Path::new("/s"));
        let args: Vec<_> = args.iter().map(|arg| arg.to_string_lossy()).collect();
        args.join(" ").replace(&format!("{}/", dir.path().display()), "")
    };
    assert_eq!(
        command(0),
        "shared-disk serve a.img,direct=on --control /s/kept.control \
         --vhost-user-scsi /s/0-0.sock,initiator=x.node-0 \
         --vhost-user-scsi /s/0-1.sock,initiator=x.node-1"
    );
    assert_eq!(
        command(1),
        "shared-disk serve disk-0.img,format=raw --state /s/volatile.state \
         --control /s/volatile.control"
    );
    assert_eq!(command(2), "shared-disk serve new,,1.vhdx,ro --control /s/new.control");
    assert_eq!(command(3), "shared-disk serve scratch=1048576B --control /s/scratch.control");
    assert!(command(4).starts_with(
        "shared-disk connect iscsi://host:3260/iqn.2026-01.org:x/7 --control /s/far.control \
         --vhost-user-scsi /s/4-0.sock,initiator=x.node-0 "
    ));
    // A folder for temporary files may have a comma in its name.
    let args = lab.shared_disks[0].command(&lab, std::path::Path::new("/s,t"));
    assert!(args.contains(&"/s,,t/0-0.sock,initiator=x.node-0".into()), "{args:?}");
    // The file is made where there is none, and left where there is one.
    for _ in 0..2 {
        lab.shared_disks[2].create().unwrap();
    }
    assert!(dir.path().join("new,1.vhdx").metadata().unwrap().len() > 0);
}

#[test]
fn a_file_that_is_no_toml_is_told_where() {
    let told = told("schema = 1\n[vm.a\nscript = \"x\"\n[vm.b]\nmemory = \n", &[]);
    assert!(told.contains("lab.toml:2:"), "{told}");
    assert!(told.contains("lab.toml:5:"), "{told}");
}

#[test]
fn a_file_with_nothing_in_it() {
    let expected = "lab.toml:1:1: schema: the file does not say which schema it follows\n";
    assert!(told("", &[]).starts_with(expected));
    let told = told("schema = 1\nlab.name = \"x\"", &[]);
    assert_eq!(
        told,
        "lab.toml:1:1: vm: the lab has no guests\n  help: add a table [vm.NAME] for each"
    );
}

#[test]
fn names_that_files_cannot_have() {
    let told = told("schema = 1\n[vm.lab]\n[vm.\"../x\"]\n[vm.\"\"]\n", &[]);
    assert!(told.contains("2:5: vm.lab: \"lab\" cannot be a guest's name\n  help: `lab` is taken"));
    assert!(told.contains("3:5: vm.../x: \"../x\" cannot be a guest's name"), "{told}");
    assert!(told.contains("4:5: vm.: \"\" cannot be a guest's name"), "{told}");
    let told = self::told("schema = 1\n[vm.memory]\n", &[]);
    assert!(told.contains("`memory` is taken by the report memory.json"), "{told}");
}

#[test]
fn cpu_features_that_do_not_exist() {
    let told = told("schema = 1\n[vm.a]\ncpu-mask = [\"avx2\", \"avx9000\"]\n", &[]);
    let expected = "lab.toml:3:21: vm.a.cpu-mask[1]: \"avx9000\" is no CPU feature that can be \
                    hidden\n  help: features have the names that /proc/cpuinfo gives them";
    assert!(told.contains(expected), "{told}");
}

#[test]
fn one_file_is_not_written_by_two_guests() {
    let lab = |disks: &str| {
        format!("schema = 1\nlab.name = \"x\"\n[vm.a]\ncount = 2\ndisks = [{disks}]\n")
    };
    let told = told(&lab("{ path = \"a.img\" }"), &[]);
    assert!(told.contains("3:5: vm.a.disks: a.img is a disk of a-0 and of a-1"), "{told}");
    let dir = folder();
    parse(&dir, &lab("{ path = \"a.img\", ro = true }, { parent = \"a.img\" }"), &[]).unwrap();
    parse(&dir, &lab("{ path = \"disk-{index}.img\" }, { parent = \"disk-0.img\" }"), &[])
        .unwrap_err();
    parse(&dir, &lab("{ path = \"disk-{index}.img\" }"), &[]).unwrap();
}

#[test]
fn set_is_laid_over_the_file_and_its_mistakes_name_it() {
    let source = "schema = 1\nlab.name = \"x\"\n[vm.a]\nmemory = \"64M\"\n";
    let dir = folder();
    let script = "vm.a.script=print a=b; exit 0";
    let lab = parse(&dir, source, &["vm.a.count=3", script, "expect.status=4"]).unwrap();
    assert_eq!(lab.guests.len(), 3);
    assert_eq!(lab.guests[2].spec.cmdline, "print a=b; exit 0");
    assert_eq!(lab.guests[2].expected.to_string(), "status 4");
    let sets = ["vm.a.memory=128", "nonsense", "a b=c", "vm.a.cpus.x=1", "vm.a.x=1\ny=2"];
    let expected = "\
--set vm.a.memory=128: vm.a.memory: the size 128 has no unit
  help: write \"128M\" for MiB, or use B, K, G or T";
    let told = told(source, &sets);
    assert!(told.contains(expected), "{told}");
    assert!(told.contains("--set nonsense: it has no `=`"), "{told}");
    assert!(told.contains("--set a b=c: \"a b\" is no key"), "{told}");
    assert!(told.contains("--set vm.a.cpus.x=1: vm.a.cpus: expected an integer, found a table"));
}

#[test]
fn deep_nesting_is_refused_without_harm() {
    let dir = folder();
    let dotted = format!("{}x = 1", "a.".repeat(100_000));
    assert!(parse(&dir, &dotted, &[]).is_err());
    let header = format!("[{}x]", "a.".repeat(100_000));
    assert!(parse(&dir, &header, &[]).is_err());
    let arrays = format!("a = {}", "[".repeat(100_000));
    assert!(parse(&dir, &arrays, &[]).is_err());
    let set = format!("{}x=1", "a.".repeat(10_000));
    assert!(parse(&dir, "", &[&set]).is_err());
}

#[test]
fn files_that_cannot_be_read_are_named() {
    let dir = folder();
    let error = Lab::read(&dir.path().join("none.toml"), &[]).unwrap_err();
    assert!(error.to_string().starts_with("cannot read the lab "), "{error}");
    let long = dir.path().join("long.toml");
    std::fs::write(&long, "#".repeat((1 << 20) + 1)).unwrap();
    assert!(matches!(Lab::read(&long, &[]), Err(LabError::Read { .. })));
}

fn toml_like() -> impl Strategy<Value = String> {
    let key = prop::sample::select(vec![
        "schema", "lab", "name", "vm", "node", "count", "kernel", "initrd", "cmdline", "script",
        "memory", "cpus", "cpu-mask", "disks", "timeout", "expect", "outcome", "status", "path",
        "scratch", "ro", "serial", "queues", "engine", "x",
    ]);
    let value = prop_oneof![
        any::<i64>().prop_map(|n| n.to_string()),
        any::<bool>().prop_map(|b| b.to_string()),
        "[a-z0-9{}+. /]{0,12}".prop_map(|text| format!("{text:?}")),
        Just("[{ path = \"a\" }, { scratch = \"1M\" }, 1]".to_owned()),
        Just("{ outcome = \"exited\", status = 1 }".to_owned()),
        Just("1.5".to_owned()),
        Just("\"64M\"".to_owned()),
    ];
    let line = (prop::collection::vec(key, 1..4), value, 0..4u8).prop_map(|(keys, value, kind)| {
        let key = keys.join(".");
        match kind {
            0 => format!("[{key}]"),
            1 => format!("[[{key}]]"),
            _ => format!("{key} = {value}"),
        }
    });
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn any_text_is_answered(source in ".{0,200}", set in ".{0,30}") {
        let _ = Lab::parse(Path::new("lab.toml"), &source, &[set]);
    }

    #[test]
    fn any_toml_is_answered_with_places_inside_it(source in toml_like(), set in toml_like()) {
        if let Err(mistakes) = Lab::parse(Path::new("lab.toml"), &source, &[set]) {
            prop_assert!(!mistakes.mistakes.is_empty());
            for mistake in mistakes.mistakes {
                prop_assert!(mistake.line.is_none_or(|l| l <= source.lines().count() + 1));
            }
        }
    }
}

#[test]
fn a_script_is_parsed_before_anything_starts() {
    let source =
        "schema = 1\nlab.name = \"x\"\n[vm.a]\ncount = 2\nscript = \"print {index}; no\"\n";
    let told = told(source, &[]);
    let problem = "script error: command 2, column 10: there is no command \"no\"";
    assert!(
        told.starts_with(&format!("lab.toml:5:10: vm.a.script: {problem}\n  help: ")),
        "{told}"
    );
    assert_eq!(told.lines().count(), 2, "once, though two guests have it: {told}");
}
