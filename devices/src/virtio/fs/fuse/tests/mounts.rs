//! File systems mounted inside the folder, in a mount namespace of the test's own.

#![expect(unsafe_code, reason = "a mount namespace of the thread's own")]

use std::fs;
use std::process::Command;
use std::thread;

use super::super::messages::{Opcode, ROOT};
use super::super::{FsOptions, Mounts};
use super::client::*;

fn mount(arguments: &[&str]) -> bool {
    Command::new("mount").args(arguments).status().is_ok_and(|status| status.success())
}

/// Runs a test in a thread with its own mounts, where this process may have such.
fn apart(test: impl FnOnce() + Send) {
    thread::scope(|scope| {
        let test = move || {
            let flags = rustix::thread::UnshareFlags::NEWNS | rustix::thread::UnshareFlags::FS;
            // SAFETY: the descriptors stay shared.
            let own = unsafe { rustix::thread::unshare_unsafe(flags) };
            if own.is_ok() && mount(&["--make-rprivate", "/"]) {
                test();
            }
        };
        scope.spawn(test);
    });
}

#[test]
fn mounts_are_entered_only_where_the_share_says_so() {
    apart(|| {
        let folder = tempfile::tempdir().unwrap();
        fs::create_dir(folder.path().join("mounted")).unwrap();
        let at = folder.path().join("mounted");
        assert!(mount(&["-t", "tmpfs", "tmpfs", at.to_str().unwrap()]));
        fs::write(at.join("inner"), "inner").unwrap();
        for number in 0..20 {
            fs::write(at.join(format!("f{number}")), "x").unwrap();
        }

        let closed = Client::new(writable(folder.path()));
        assert_eq!(closed.lookup(ROOT, "mounted"), Err(libc::EXDEV));
        assert_eq!(closed.call(Opcode::RmDir, ROOT, arguments().text("mounted")), Err(libc::EBUSY));
        // The name is there all the same.
        assert_eq!(closed.names(ROOT, true).unwrap(), ["mounted"]);

        let mut options = FsOptions { mounts: Mounts::Cross, ..writable(folder.path()) };
        options.limits.descriptors = 4;
        let open = Client::new(options);
        let inner = open.walk("mounted/inner").unwrap();
        let handle = open.open(inner, libc::O_RDONLY).unwrap();
        assert_eq!(open.read(handle, 0, 9), Ok(b"inner".to_vec()));
        // Its inode numbers are not those of the share's own file system.
        let host = std::os::unix::fs::MetadataExt::ino(&fs::metadata(at.join("inner")).unwrap());
        let seen = u64_at(&open.attributes(inner).unwrap(), 0);
        assert_ne!(seen, host);
        assert_eq!(seen & 0xffff_ffff, host & 0xffff_ffff);
        // Files of that file system are opened by handle again.
        for number in 0..20 {
            open.walk(&format!("mounted/f{number}")).unwrap();
        }
        assert_eq!(u64_at(&open.attributes(inner).unwrap(), 0), seen);
        assert!(open.server.inodes.counts().1 <= 4);
        assert_eq!(open.rename((ROOT, "mounted"), (ROOT, "x"), 0), Err(libc::EBUSY));
        assert!(Command::new("umount").arg("-l").arg(&at).status().unwrap().success());
    });
}
