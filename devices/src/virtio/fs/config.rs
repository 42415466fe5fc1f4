//! Device configuration of a file system (virtio 1.3, 5.11.4).

use std::fmt;
use std::str::FromStr;

/// Most bytes of a [`Tag`].
pub const TAG_MAX: usize = 36;
/// Bytes of the structure: the tag, the number of request queues, and the size of buffers of the
/// notification queue, which is not offered.
const LEN: usize = TAG_MAX + 8;

/// The name by which a guest mounts a file system.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag(String);

/// A text that is no tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("expected 1 to {} bytes without control characters", TAG_MAX)]
pub struct TagError;

impl FromStr for Tag {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Tag, TagError> {
        let fits = (1..=TAG_MAX).contains(&text.len()) && !text.chars().any(char::is_control);
        if fits { Ok(Tag(text.to_owned())) } else { Err(TagError) }
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The structure of a file system with so many request queues.
pub(super) fn structure(tag: &Tag, queues: u16) -> [u8; LEN] {
    let mut structure = [0; LEN];
    let queues = u32::from(queues).to_le_bytes();
    let fields = [(0, tag.0.as_bytes()), (TAG_MAX, &queues[..])];
    for (at, bytes) in fields {
        for (to, from) in structure.iter_mut().skip(at).zip(bytes) {
            *to = *from;
        }
    }
    structure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_fit_their_field() {
        let long = "é".repeat(TAG_MAX / 2);
        for good in ["a", "my files, all of them", &long] {
            let tag: Tag = good.parse().unwrap();
            let structure = structure(&tag, 0x0102);
            let field = &structure[..TAG_MAX];
            assert_eq!(&field[..good.len()], good.as_bytes());
            assert!(field[good.len()..].iter().all(|byte| *byte == 0));
            assert_eq!(structure[TAG_MAX..], [2, 1, 0, 0, 0, 0, 0, 0]);
        }
        for bad in ["", "a\0", "a\nb", &format!("{long}x")] {
            assert_eq!(bad.parse::<Tag>(), Err(TagError), "{bad:?}");
        }
    }
}
