//! Files that unmodified Debian guests have as persistent memory, and read without a copy of their
//! own. These tests need hardware KVM and the guests' files, like those of `linux.rs`.

use std::fs;

use cohort_tests::linux;

/// Checks of a file system with the test's tree, which is mounted at /t: every byte by reading,
/// every byte by mapping, and a program that is run from it.
const CHECKS: &str = r#"
grep -q ' /t [a-z0-9]* .*dax' /proc/mounts || { echo "not mapped: $(grep ' /t ' /proc/mounts)"; exit 2; }
cd /t
md5sum -c sums >/tmp/read || { grep -v 'OK$' /tmp/read; exit 3; }
echo "read: $(grep -c 'OK$' /tmp/read) files"
while read -r sum name; do
    [ "$(mapped "$name" | md5sum)" = "$sum  -" ] || { echo "mapped: $name"; exit 4; }
    echo "$name"
done <sums >/tmp/mapped
echo "mapped: $(wc -l </tmp/mapped) files"
[ "$(/t/bin/busybox echo run)" = run ] || exit 5
dd if=/dev/zero of=/dev/pmem0 bs=4096 count=1 2>/tmp/dd && { echo "it was written"; exit 6; }
exit 0
"#;

#[track_caller]
fn every_byte_is_right(image: &str, mount: &str) {
    let path = linux::files().join(image);
    let before = fs::metadata(&path).expect("an image");
    let script = format!("mkdir /t\n{mount} /dev/pmem0 /t || exit 1\n{CHECKS}");
    let pmem: std::ffi::OsString = path.canonicalize().expect("an image").into();
    let finished = linux::guest(&script).arg("--pmem").arg(pmem).finish();
    finished.expect_status(0).expect_message(&["read: 12", "mapped: 12"]);
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
