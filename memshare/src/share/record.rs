//! Which guest memory is mapped from which file: to be looked at while a guest runs, and saved.

use std::collections::HashSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::FileIdentity;

/// What guests may do with mapped pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Access {
    /// Read them: they are the page cache's own. The hypervisor's memory slot keeps virtual
    /// processors from writing. What a device writes, on behalf of a driver that has named such a
    /// page as its buffer, goes to a copy that is the guest's own.
    Read,
    /// Read and write them; what is written goes to copies that are the guest's own.
    Private,
    /// Read and write them: others see what is written, and so does the file.
    Write,
}

/// A range of guest memory that is mapped from a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct MappingRecord {
    /// First guest-physical address; of a window that has no address (yet), the offset in it.
    pub guest: u64,
    /// Bytes.
    pub len: u64,
    /// The file, as it was when it was opened.
    pub file: FileIdentity,
    /// The name by which it was opened.
    #[serde(with = "path_text")]
    pub path: PathBuf,
    /// Where in the file the range begins.
    pub offset: u64,
    /// What the guest may do with it.
    pub access: Access,
    /// When it was mapped.
    pub since: SystemTime,
    /// What mapped it: a device, a boot loader.
    pub by: String,
}

/// Why a saved record cannot be made true again.
#[derive(Debug, Error)]
pub enum RecordError {
    /// A file cannot be opened.
    #[error(
        "guest memory at {guest:#x} was mapped from {}, which cannot be opened",
        path.display()
    )]
    Open {
        /// Where.
        guest: u64,
        /// The file.
        path: PathBuf,
        /// What the host said.
        #[source]
        source: io::Error,
    },
    /// A file is another one by now, or has other content.
    #[error(
        "guest memory at {guest:#x} was mapped from {}, which is not what it was: it {how} since",
        path.display()
    )]
    Differs {
        /// Where.
        guest: u64,
        /// The file.
        path: PathBuf,
        /// What happened to it.
        how: &'static str,
    },
}

/// Checks saved records against the files that have their names now: whether guest memory can be
/// mapped from them as it was. Each file is opened once for each state in which the records have
/// it. `digest` is asked for the digest of a file's content where its
/// record has one.
///
/// # Errors
/// The first record that cannot be made true.
pub fn verify(
    records: &[MappingRecord],
    mut open: impl FnMut(&Path) -> io::Result<File>,
    mut digest: impl FnMut(&File) -> io::Result<String>,
) -> Result<(), RecordError> {
    let mut good: HashSet<(&Path, String)> = HashSet::new();
    for record in records {
        // A file may be in thousands of pieces, and a digest takes long.
        if !good.insert((record.path.as_path(), format!("{:?}", record.file))) {
            continue;
        }
        let (guest, path) = (record.guest, &record.path);
        let cannot = |source| RecordError::Open { guest, path: path.clone(), source };
        let file = open(path).map_err(cannot)?;
        let mut now = FileIdentity::of(&file).map_err(cannot)?;
        if record.file.digest.is_some() {
            now.digest = Some(digest(&file).map_err(cannot)?);
        }
        if !record.file.is_same_content(&now) {
            let how = if record.file.is_same_file(&now) { "was changed" } else { "was replaced" };
            return Err(RecordError::Differs { guest, path: path.clone(), how });
        }
    }
    Ok(())
}

/// Paths in records: text, or bytes where a name is none.
mod path_text {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt, OsStringExt};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[derive(Serialize, Deserialize)]
    #[serde(untagged)]
    enum Name {
        Text(String),
        Bytes(Vec<u8>),
    }

    pub(super) fn serialize<S: Serializer>(path: &Path, to: S) -> Result<S::Ok, S::Error> {
        let name = match path.to_str() {
            Some(text) => Name::Text(text.to_owned()),
            None => Name::Bytes(path.as_os_str().as_bytes().to_owned()),
        };
        name.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<PathBuf, D::Error> {
        Ok(match Name::deserialize(from)? {
            Name::Text(text) => text.into(),
            Name::Bytes(bytes) => OsString::from_vec(bytes).into(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(path: &Path, guest: u64, digest: Option<&str>) -> MappingRecord {
        MappingRecord {
            guest,
            len: 4096,
            file: FileIdentity {
                digest: digest.map(str::to_owned),
                ..FileIdentity::of(&File::open(path).unwrap()).unwrap()
            },
            path: path.to_path_buf(),
            offset: 0,
            access: Access::Read,
            since: SystemTime::UNIX_EPOCH,
            by: "pmem".into(),
        }
    }

    #[test]
    fn each_file_is_looked_at_once_and_the_first_that_differs_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| folder.path().join(name));
        for path in &paths {
            std::fs::write(path, [1; 4096]).unwrap();
        }
        let records: Vec<_> =
            (0..1000).map(|n| of(&paths[n % 2], n as u64 * 4096, Some("aa"))).collect();
        let (mut opened, mut digested) = (0, 0);
        let open = |path: &Path| {
            opened += 1;
            File::open(path)
        };
        let digest = |_: &File| {
            digested += 1;
            Ok("aa".to_owned())
        };
        verify(&records, open, digest).unwrap();
        assert_eq!((opened, digested), (2, 2));
        // The content is another, though nothing else is.
        let error = verify(&records, |path| File::open(path), |_| Ok("bb".to_owned()));
        assert!(matches!(error, Err(RecordError::Differs { guest: 0, .. })), "{error:?}");
        std::fs::remove_file(&paths[1]).unwrap();
        let error = verify(&records, |path| File::open(path), |_| Ok("aa".to_owned()));
        assert!(matches!(error, Err(RecordError::Open { guest: 4096, .. })), "{error:?}");
        // The same file in two states: one of the records cannot be true.
        let mut records = vec![of(&paths[0], 0, None), of(&paths[0], 4096, None)];
        records[1].file.modified.0 -= 1;
        let error = verify(&records, |path| File::open(path), |_| Ok("aa".to_owned()));
        assert!(matches!(error, Err(RecordError::Differs { guest: 4096, .. })), "{error:?}");
    }

    #[test]
    fn names_that_are_no_text_are_saved_too() {
        use std::os::unix::ffi::OsStrExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(std::ffi::OsStr::from_bytes(b"a\xff"));
        std::fs::write(&path, [1; 4096]).unwrap();
        let record = of(&path, 0, None);
        let text = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<MappingRecord>(&text).unwrap(), record);
        let plain = MappingRecord { path: "/a".into(), ..record };
        assert!(serde_json::to_string(&plain).unwrap().contains(r#""path":"/a""#));
    }

    #[test]
    fn records_are_good_as_long_as_files_are_what_they_were() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a");
        std::fs::write(&path, [1; 8192]).unwrap();
        let record = |path: &Path, digest| of(path, 1 << 32, digest);
        let text = serde_json::to_string(&[record(&path, None)]).unwrap();
        let saved: Vec<MappingRecord> = serde_json::from_str(&text).unwrap();
        let by_digest = [record(&path, Some("aa"))];
        let check = |records: &[MappingRecord]| {
            verify(records, |path| File::open(path), |_| Ok("aa".to_owned()))
        };
        check(&saved).unwrap();
        std::fs::rename(&path, folder.path().join("b")).unwrap();
        assert!(matches!(check(&saved), Err(RecordError::Open { .. })));
        std::fs::write(&path, [1; 8192]).unwrap();
        let error = check(&saved).unwrap_err().to_string();
        assert!(error.contains("was replaced") && error.contains("0x100000000"), "{error}");
        // Its content is what counts where that is known.
        check(&by_digest).unwrap();
        let again = [record(&path, None)];
        std::fs::write(&path, [2; 100]).unwrap();
        assert!(check(&again).unwrap_err().to_string().contains("was changed"));
    }
}
