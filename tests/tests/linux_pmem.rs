//! Files that unmodified Debian guests have as persistent memory, and read without a copy of their
//! own. These tests need hardware KVM and the guests' files, like those of `linux.rs`.

use std::fs;

use cohort_tests::linux;
use cohort_tests::tree::CHECKS;

#[track_caller]
fn every_byte_is_right(image: &str, mount: &str) {
    let path = linux::files().join(image);
    let before = fs::metadata(&path).expect("an image");
    let script = format!(
        "mkdir /t
        {mount} /dev/pmem0 /t || exit 1
        grep -q ' /t .*dax' /proc/mounts || {{ grep ' /t ' /proc/mounts; exit 2; }}
        {CHECKS}
        some() {{ echo 3 >/proc/sys/vm/drop_caches; dd if=/dev/pmem0 bs=4096 skip=20000 count=1 2>/dev/null | md5sum; }}
        before=$(some)
        dd if=/dev/zero of=/dev/pmem0 bs=4096 seek=20000 count=1 conv=fsync 2>/tmp/dd
        [ \"$(some)\" = \"$before\" ] || {{ echo 'it was written'; exit 6; }}
        exit 0"
    );
    let pmem: std::ffi::OsString = path.canonicalize().expect("an image").into();
    let finished = linux::guest_within("300s", &script).arg("--pmem").arg(pmem).finish();
    finished.expect_status(0).expect_message(&[
        "read: 1238",
        "mapped: 1238",
        "the guest writes at byte 0x4e20000",
    ]);
    let after = fs::metadata(&path).expect("an image");
    assert_eq!(before.modified().expect("a time"), after.modified().expect("a time"));
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn erofs_is_read_mapped_and_run_from_pmem() {
    every_byte_is_right("tree.erofs", "mount -t erofs -o ro,dax=always");
}

#[test]
#[ignore = "needs hardware KVM and Linux files"]
fn ext4_is_read_mapped_and_run_from_pmem() {
    every_byte_is_right("tree.ext4", "mount -t ext4 -o ro,dax");
}
