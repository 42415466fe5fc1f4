use super::super::smaps::{self, tests::GUEST};
use super::*;
use std::os::fd::AsRawFd;

use crate::spec::{DiskSource, DiskSpec, PmemSpec, SealedCopy};

fn file(origin: Origin, path: &str, inode: u64) -> GivenFile {
    // The device is another than among the mappings, as on btrfs.
    let id = FileId { major: 0, minor: 99, inode };
    GivenFile { origin, path: path.into(), file: Some(id) }
}

/// What the guest of the recorded text was given.
pub(in crate::mem) fn given() -> Given {
    Given {
        memory: 64 << 20,
        files: vec![
            file(Origin::Kernel, "/srv/lab/bzImage", 1),
            file(Origin::Initrd, "/srv/lab/initrd.img", 10_027_050),
            file(Origin::Pmem, "/srv/lab/app v2.erofs", 10_027_041),
        ],
        folders: vec![GivenFolder { origin: Origin::Share, path: "/srv/share".into() }],
    }
}

/// The program of the recorded text.
pub(in crate::mem) const PROGRAM: FileId = FileId { major: 0xfe, minor: 0, inode: 247_030 };

fn origins(given: &Given) -> Vec<(String, Origin)> {
    let mappings = smaps::read(GUEST.as_bytes()).unwrap();
    let classifier = Classifier::new(given, Some(PROGRAM), &mappings);
    mappings.iter().map(|mapping| (mapping.name.clone(), classifier.origin(mapping))).collect()
}

#[test]
fn mappings_are_told_apart_by_what_the_guest_was_given() {
    let found = origins(&given());
    let of = |name: &str| {
        let mut all: Vec<Origin> =
            found.iter().filter(|(found, _)| found == name).map(|(_, origin)| *origin).collect();
        all.dedup();
        all
    };
    for (name, origin) in [
        ("/usr/bin/cohort", Origin::Program),
        ("/usr/lib/x86_64-linux-gnu/libc.so.6", Origin::Program),
        ("[vdso]", Origin::Program),
        ("[heap]", Origin::Heap),
        ("[stack]", Origin::Heap),
        ("", Origin::Heap),
        ("/memfd:cohort-ram (deleted)", Origin::Memory),
        // It is in RAM, and the kernel that was given was unpacked.
        ("/srv/lab/vmlinux", Origin::Kernel),
        ("/srv/lab/initrd.img (deleted)", Origin::Initrd),
        ("/srv/lab/app v2.erofs", Origin::Pmem),
        // A guest's library, not this program's.
        ("/srv/share/lib/tool.so", Origin::Share),
        ("anon_inode:kvm-vcpu:0", Origin::Other),
        ("/usr/lib/locale/locale-archive", Origin::Other),
    ] {
        assert_eq!(of(name), [origin], "{name}");
    }
}

#[test]
fn the_program_as_a_guests_memory_is_not_the_program() {
    let text = "5598bba7d000-5598bbb7d000 r--p 00000000 fe:00 247030 /usr/bin/cohort\n\
                5598bbb7d000-5598bbf7d000 r-xp 00100000 fe:00 247030 /usr/bin/cohort\n\
                5598bc000000-5598bc020000 rw-p 00500000 fe:00 247030 /usr/bin/cohort\n\
                7f1e40000000-7f1e40600000 rw-p 00000000 fe:00 247030 /usr/bin/cohort\n";
    let mappings = smaps::read(text.as_bytes()).unwrap();
    let origins = |given: &Given| -> Vec<Origin> {
        let classifier = Classifier::new(given, Some(PROGRAM), &mappings);
        mappings.iter().map(|mapping| classifier.origin(mapping)).collect()
    };
    let files = vec![GivenFile { file: Some(PROGRAM), ..file(Origin::Pmem, "/usr/bin/cohort", 0) }];
    let (program, pmem) = (Origin::Program, Origin::Pmem);
    assert_eq!(origins(&Given { files, ..Given::default() }), [program, program, program, pmem]);
    // Not given, it can be but the program.
    assert_eq!(origins(&Given::default()), [program; 4]);
}

#[test]
fn copies_of_a_file_count_as_the_file() {
    let text = "7f00-7f10 r--p 0 00:01 70 /memfd:cohort-copy (deleted)\n\
                7f20-7f30 r--p 0 00:01 71 /memfd:cohort-copy (deleted)\n\
                7f40-7f50 r--p 0 fe:00 72 /srv/lab/#4711 (deleted)\n\
                7f60-7f70 r--p 0 fe:00 73 /elsewhere/#4711 (deleted)\n\
                7f80-7f90 r--p 0 fe:00 74 /srv/lab/#one (deleted)\n";
    let mappings = smaps::read(text.as_bytes()).unwrap();
    let mut given = given();
    // A copy that the lab has made.
    let mut sealed = file(Origin::Pmem, "/srv/sealed.erofs", 71);
    sealed.file = Some(FileId { major: 0, minor: 1, inode: 71 });
    given.files.push(sealed);
    let classifier = Classifier::new(&given, None, &mappings);
    let found: Vec<(Origin, String)> = mappings
        .iter()
        .map(|mapping| (classifier.origin(mapping), classifier.name(mapping)))
        .collect();
    let expected = [
        (Origin::Pmem, COPY),
        (Origin::Pmem, "/srv/sealed.erofs"),
        (Origin::Pmem, "/srv/lab/#4711 (deleted)"),
        (Origin::Other, "/elsewhere/#4711 (deleted)"),
        (Origin::Other, "/srv/lab/#one (deleted)"),
    ];
    assert_eq!(found, expected.map(|(origin, name)| (origin, name.to_owned())));
    // Where one file alone can have been copied, it is that one.
    given.files.pop();
    let classifier = Classifier::new(&given, None, &mappings);
    assert_eq!(classifier.name(&mappings[0]), "/srv/lab/app v2.erofs");
}

#[test]
fn a_file_with_the_same_number_on_another_file_system_is_another() {
    let mut given = given();
    given.files = vec![file(Origin::Pmem, "/elsewhere/app", 10_027_041)];
    given.folders.clear();
    let found = origins(&given);
    let origin = |name: &str| found.iter().find(|(found, _)| found == name).unwrap().1;
    assert_eq!(origin("/srv/lab/app v2.erofs"), Origin::Other);
    assert_eq!(origin("/srv/share/lib/tool.so"), Origin::Program);
    // Nothing tells it from the kernel.
    assert_eq!(origin("/srv/lab/initrd.img (deleted)"), Origin::Kernel);
}

#[test]
fn files_in_ram_above_4_gib_are_in_ram() {
    let low = 0x7000_0000_0000_u64;
    let high = 0x7800_0000_0000_u64;
    let text = format!(
        "{:x}-{:x} rw-s 00000000 00:01 9 {RAM}\n{:x}-{:x} rw-p 00000000 fe:00 5 /initrd\n\
         {:x}-{:x} rw-s {:x} 00:01 9 {RAM}\n{:x}-{:x} rw-p 00000000 fe:00 5 /initrd\n",
        low,
        low + LOW_RAM_END,
        low + LOW_RAM_END,
        low + LOW_RAM_END + 4096,
        high + 8192,
        high + (1 << 30),
        LOW_RAM_END + 8192,
        high,
        high + 8192,
    );
    let mappings = smaps::read(text.as_bytes()).unwrap();
    let given = Given { memory: LOW_RAM_END + (1 << 30), ..Given::default() };
    let classifier = Classifier::new(&given, None, &mappings);
    let origins: Vec<Origin> = mappings.iter().map(|mapping| classifier.origin(mapping)).collect();
    assert_eq!(origins, [Origin::Memory, Origin::Other, Origin::Memory, Origin::Kernel]);
}

#[test]
fn a_specification_gives_its_files_without_links() {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().canonicalize().unwrap();
    let (kernel, link, disk) = (folder.join("k"), folder.join("link"), folder.join("d.raw"));
    let shared = folder.join("shared");
    std::os::unix::fs::symlink(&folder, &shared).unwrap();
    fs::write(&kernel, "k").unwrap();
    fs::write(&disk, "d").unwrap();
    std::os::unix::fs::symlink(&kernel, &link).unwrap();
    // What a lab hands over in place of the file.
    let copy = tempfile::tempfile().unwrap();
    let sealed = SealedCopy {
        descriptor: copy.as_raw_fd(),
        identity: memshare::FileIdentity::of(&copy).unwrap(),
    };
    let spec = VmSpec {
        name: "a".into(),
        kernel: KernelSource::Path(link),
        initrd: Some(folder.join("none")),
        cmdline: String::new(),
        memory: 1 << 20,
        cpus: 1,
        cpu_mask: Vec::new(),
        disks: vec![
            DiskSpec::new(DiskSource::Scratch(512)),
            DiskSpec::new(DiskSource::Path(disk.clone())),
        ],
        pmem: vec![
            PmemSpec::new(disk.clone()),
            PmemSpec { sealed: Some(sealed), ..PmemSpec::new(disk.clone()) },
        ],
        shares: vec![format!("{}:tag", shared.display()).parse().unwrap()],
        share_domain: None,
        input: Default::default(),
        timeout: None,
    };
    let given = Given::of(&spec);
    let files: Vec<(Origin, &Path, bool)> = given
        .files
        .iter()
        .map(|file| (file.origin, file.path.as_path(), file.file.is_some()))
        .collect();
    let none = folder.join("none");
    assert_eq!(
        files,
        [
            (Origin::Kernel, kernel.as_path(), true),
            (Origin::Initrd, none.as_path(), false),
            (Origin::Disk, disk.as_path(), true),
            (Origin::Pmem, disk.as_path(), true),
            (Origin::Pmem, disk.as_path(), true),
        ]
    );
    assert_eq!(given.folders, [GivenFolder { origin: Origin::Share, path: folder.clone() }]);
    let inode = |number: usize| given.files[number].file.unwrap().inode;
    assert_eq!(inode(3), fs::metadata(&disk).unwrap().ino());
    assert_eq!(inode(4), copy.metadata().unwrap().ino());
    let text = serde_json::to_string(&given).unwrap();
    assert_eq!(serde_json::from_str::<Given>(&text).unwrap(), given);
}
