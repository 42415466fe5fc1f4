//! Numbers, sizes and durations as scripts write them.
#![forbid(unsafe_code)]

/// A number: decimal, or hexadecimal after `0x`.
pub fn number(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(digits) => digits_only(digits, 16),
        None => digits_only(text, 10),
    }
}

/// A size in bytes: a number with an optional unit `k`, `K`, `M`, `G` or `T` (powers of 1024).
pub fn size(text: &str) -> Option<u64> {
    let shift = match text.as_bytes().last()? {
        b'k' | b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        _ => return number(text),
    };
    number(text.get(..text.len() - 1)?)?.checked_mul(1 << shift)
}

/// A duration in nanoseconds: a decimal number, possibly with a fraction, and its unit: `us`,
/// `ms`, `s` or `m`.
pub fn duration(text: &str) -> Option<u64> {
    let units = [("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("m", 60_000_000_000)];
    units.iter().find_map(|(unit, nanoseconds)| scaled(text.strip_suffix(unit)?, *nanoseconds))
}

/// A duration in nanoseconds, written as seconds without a unit.
pub fn seconds(text: &str) -> Option<u64> {
    scaled(text, 1_000_000_000)
}

/// `text` (digits, possibly a point and at most nine digits more) times `unit`, rounded down.
fn scaled(text: &str, unit: u64) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let places = u32::try_from(fraction.len()).ok().filter(|places| *places <= 9)?;
    let part = u128::from(digits_only(fraction, 10)?) * u128::from(unit) / 10u128.pow(places);
    digits_only(whole, 10)?.checked_mul(unit)?.checked_add(u64::try_from(part).ok()?)
}

/// Digits and nothing else: no sign, which `from_str_radix` would take.
fn digits_only(text: &str, radix: u32) -> Option<u64> {
    if text.starts_with('+') { None } else { u64::from_str_radix(text, radix).ok() }
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use proptest::prelude::*;
    use std::format;

    #[test]
    fn sizes_carry_binary_units() {
        assert_eq!(size("0"), Some(0));
        assert_eq!(size("512"), Some(512));
        assert_eq!(size("4k"), Some(4096));
        assert_eq!(size("4K"), Some(4096));
        assert_eq!(size("0x10M"), Some(16 << 20));
        assert_eq!(size("3T"), Some(3 << 40));
    }

    #[test]
    fn durations_carry_units_and_fractions() {
        assert_eq!(duration("2s"), Some(2_000_000_000));
        assert_eq!(duration("1.5ms"), Some(1_500_000));
        assert_eq!(duration("0.25s"), Some(250_000_000));
        assert_eq!(duration("2m"), Some(120_000_000_000));
        assert_eq!(duration("7us"), Some(7_000));
        assert_eq!(seconds("0.2"), Some(200_000_000));
    }

    #[test]
    fn what_is_no_quantity_is_refused() {
        for text in ["", "k", "-1", "+1", "1 k", "1kk", "0x", "1.5k", "17179869184T", "é"] {
            assert_eq!(size(text), None, "{text:?}");
        }
        for text in ["", "s", "2", "2h", ".5s", "1.s", "1.2.3s", "-1s", "1.0000000001s", "+1s"] {
            assert_eq!(duration(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn every_number_is_read_back(n: u64) {
            prop_assert_eq!(number(&format!("{n}")), Some(n));
            prop_assert_eq!(number(&format!("{n:#x}")), Some(n));
        }

        #[test]
        fn no_text_makes_it_panic(text: std::string::String) {
            let _ = (number(&text), size(&text), duration(&text), seconds(&text));
        }
    }
}
