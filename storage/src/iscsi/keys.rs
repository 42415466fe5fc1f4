//! Text of Login and Text PDUs: `key=value`, each ended by a zero byte (RFC 7143 section 6.1).

/// Most bytes of a key.
const KEY_MAX: usize = 63;

/// Most pairs of a text.
const PAIRS_MAX: usize = 1024;

/// Why text makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadText {
    #[error("text is too long")]
    TooLong,
    #[error("text has a pair without `=`, or one that is not ended")]
    NoPair,
    #[error("text has a key that is none")]
    Key,
    #[error("text has a value that is not printable")]
    Value,
    #[error("text has a key twice")]
    Twice,
}

/// Text of one sequence of PDUs, put together from its parts.
#[derive(Debug)]
pub(super) struct Gathered {
    text: Vec<u8>,
    limit: usize,
}

impl Gathered {
    /// Room for so many bytes.
    pub(super) fn new(limit: usize) -> Gathered {
        Gathered { text: Vec::new(), limit }
    }

    /// Adds the part of a PDU: pairs may be cut anywhere.
    pub(super) fn add(&mut self, part: &[u8]) -> Result<(), BadText> {
        if part.len() > self.limit.saturating_sub(self.text.len()) {
            return Err(BadText::TooLong);
        }
        self.text.extend_from_slice(part);
        Ok(())
    }

    /// The whole text, which is over.
    pub(super) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.text)
    }
}

/// The pairs of a whole text, in order.
pub(super) fn pairs(text: &[u8]) -> Result<Vec<(&str, &str)>, BadText> {
    let mut found: Vec<(&str, &str)> = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_first() {
        let end = rest.iter().position(|&byte| byte == 0).ok_or(BadText::NoPair)?;
        let pair = rest.get(..end).unwrap_or_default();
        rest = rest.get(end + 1..).unwrap_or(after);
        // Some initiators pad text with zeroes.
        if pair.is_empty() {
            continue;
        }
        let pair = std::str::from_utf8(pair).map_err(|_| BadText::Value)?;
        let (key, value) = pair.split_once('=').ok_or(BadText::NoPair)?;
        if !is_key(key) {
            return Err(BadText::Key);
        }
        if value.chars().any(char::is_control) {
            return Err(BadText::Value);
        }
        // Looking for each among all before it must stay cheap: anyone may send text.
        if found.len() >= PAIRS_MAX {
            return Err(BadText::TooLong);
        }
        if found.iter().any(|&(other, _)| other == key) {
            return Err(BadText::Twice);
        }
        found.push((key, value));
    }
    Ok(found)
}

/// Whether this may be the name of a key (RFC 7143 section 6.1: standard-label).
fn is_key(key: &str) -> bool {
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-+@_#".contains(c);
    (1..=KEY_MAX).contains(&key.len()) && key.chars().all(allowed)
}

/// Appends a pair.
pub(super) fn push(out: &mut Vec<u8>, key: &str, value: &str) {
    out.extend_from_slice(key.as_bytes());
    out.push(b'=');
    out.extend_from_slice(value.as_bytes());
    out.push(0);
}

/// A number, decimal or hexadecimal.
pub(super) fn number(value: &str) -> Option<u32> {
    let digits = |text: &str, radix: u32| {
        // `from_str_radix` would take a sign.
        let all = !text.is_empty() && text.chars().all(|c| c.is_digit(radix));
        all.then(|| u32::from_str_radix(text, radix).ok()).flatten()
    };
    match value.strip_prefix("0x").or_else(|| value.strip_prefix("0X")) {
        Some(hex) => digits(hex, 16),
        None => digits(value, 10),
    }
}

/// Bytes, in hexadecimal or base 64 (RFC 7143 section 6.1: binary-value), at most `limit`.
pub(super) fn binary(value: &str, limit: usize) -> Option<Vec<u8>> {
    let (kind, digits) = value.split_at_checked(2)?;
    match kind {
        "0x" | "0X" => hex(digits, limit),
        "0b" | "0B" => base64(digits, limit),
        _ => None,
    }
}

fn hex(digits: &str, limit: usize) -> Option<Vec<u8>> {
    if digits.is_empty() || digits.len() > limit * 2 {
        return None;
    }
    let nibbles: Option<Vec<u8>> =
        digits.chars().map(|c| c.to_digit(16).and_then(|digit| u8::try_from(digit).ok())).collect();
    let mut nibbles = nibbles?;
    if !nibbles.len().is_multiple_of(2) {
        nibbles.insert(0, 0);
    }
    Some(nibbles.chunks_exact(2).map(|pair| (pair[0] << 4) | pair[1]).collect())
}

fn base64(digits: &str, limit: usize) -> Option<Vec<u8>> {
    if digits.is_empty() || !digits.len().is_multiple_of(4) || digits.len() > limit.div_ceil(3) * 4
    {
        return None;
    }
    let body = digits.strip_suffix("==").or_else(|| digits.strip_suffix('=')).unwrap_or(digits);
    let mut out = Vec::new();
    let (mut bits, mut count) = (0u32, 0u32);
    for c in body.bytes() {
        let value = match c {
            b'A'..=b'Z' => c - b'A',
            b'a'..=b'z' => c - b'a' + 26,
            b'0'..=b'9' => c - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            out.push(u8::try_from((bits >> count) & 0xff).unwrap_or_default());
        }
    }
    (out.len() <= limit).then_some(out)
}

/// Bytes in hexadecimal.
pub(super) fn to_hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    let digits = digits.filter_map(|nibble| char::from_digit(u32::from(nibble), 16));
    "0x".chars().chain(digits).collect()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::testkit::cases;

    #[test]
    fn pairs_are_found_in_order() {
        let text = b"InitiatorName=iqn.x\0Empty=\0\0Twice=a=b\0\0\0";
        let wanted = vec![("InitiatorName", "iqn.x"), ("Empty", ""), ("Twice", "a=b")];
        assert_eq!(pairs(text), Ok(wanted));
        assert_eq!(pairs(b""), Ok(vec![]));
    }

    #[test]
    fn what_is_no_text_is_refused() {
        for (text, error) in [
            (&b"A=b"[..], BadText::NoPair),
            (b"A\0", BadText::NoPair),
            (b"=b\0", BadText::Key),
            (b"A b=c\0", BadText::Key),
            (b"A=\x1b[2J\0", BadText::Value),
            (b"A=\xff\0", BadText::Value),
            (b"A=1\0A=1\0", BadText::Twice),
        ] {
            assert_eq!(pairs(text), Err(error), "{text:?}");
        }
        let long = [&[b'k'; 64][..], b"=v\0"].concat();
        assert_eq!(pairs(&long), Err(BadText::Key));
    }

    #[test]
    fn text_is_gathered_up_to_its_limit() {
        let mut gathered = Gathered::new(10);
        gathered.add(b"A=12").unwrap();
        gathered.add(b"345\0").unwrap();
        assert_eq!(gathered.add(b"123"), Err(BadText::TooLong));
        assert_eq!(pairs(&gathered.take()), Ok(vec![("A", "12345")]));
    }

    #[test]
    fn numbers_and_bytes() {
        for (text, wanted) in [
            ("0", Some(0)),
            ("4096", Some(4096)),
            ("0x1F", Some(31)),
            ("", None),
            ("-1", None),
            ("+1", None),
            ("0x", None),
            ("4294967296", None),
            ("1 ", None),
        ] {
            assert_eq!(number(text), wanted, "{text}");
        }
        assert_eq!(binary("0x0aFf", 2), Some(vec![0x0a, 0xff]));
        assert_eq!(binary("0xaff", 2), Some(vec![0x0a, 0xff]));
        assert_eq!(binary("0x0aff", 1), None);
        assert_eq!(binary("0bTWFu", 3), Some(b"Man".to_vec()));
        assert_eq!(binary("0bTWE=", 3), Some(b"Ma".to_vec()));
        assert_eq!(binary("0bTQ==", 3), Some(b"M".to_vec()));
        for wrong in ["", "0", "0x", "0xgg", "0b", "0bTQ=", "0bT===", "TQ==", "0é"] {
            assert_eq!(binary(wrong, 16).filter(|bytes| !bytes.is_empty()), None, "{wrong}");
        }
    }

    proptest! {
        #![proptest_config(cases(256))]

        #[test]
        fn random_text_never_panics(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _ = pairs(&text);
            let value = String::from_utf8_lossy(&text);
            let _ = (number(&value), binary(&value, 64));
        }

        #[test]
        fn bytes_come_back(bytes in proptest::collection::vec(any::<u8>(), 1..64)) {
            prop_assert_eq!(binary(&to_hex(&bytes), 64), Some(bytes));
        }
    }
}
