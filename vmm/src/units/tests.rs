use super::*;
use proptest::prelude::*;

#[test]
fn sizes_are_powers_of_1024() {
    assert_eq!(parse_size("512B"), Ok(512));
    assert_eq!(parse_size("4k"), Ok(4096));
    assert_eq!(parse_size("256M"), Ok(256 << 20));
    assert_eq!(parse_size("2GiB"), Ok(2 << 30));
    assert_eq!(parse_size("1T"), Ok(1 << 40));
    assert_eq!(parse_size("0M"), Ok(0));
}

#[test]
fn a_bare_number_is_refused_with_what_to_write() {
    let error = parse_memory("256", 1 << 20).unwrap_err();
    assert_eq!(error.to_string(), "the size 256 has no unit");
    assert_eq!(error.help(), "write 256M for MiB, or use B, K, G or T");
    let error = parse_size("268435456").unwrap_err();
    assert_eq!(error.help(), "write 256M for MiB, or use B, K, G or T");
}

#[test]
fn sizes_that_are_none() {
    for text in ["", "M", "-1M", "1.5G", "1MB", "1 M", "99999999999999999999M", "16777216T", "1Мб"]
    {
        assert!(parse_size(text).is_err(), "{text}");
    }
}

#[test]
fn memory_has_bounds() {
    assert_eq!(parse_memory("2M", 2 << 20), Ok(2 << 20));
    assert!(parse_memory("1M", 2 << 20).unwrap_err().help().contains("at least 2M"));
    assert_eq!(parse_memory("4097K", 2 << 20).unwrap_err().help(), "write 4M");
    assert!(parse_memory("17T", 2 << 20).is_err());
}

#[test]
fn durations_carry_units() {
    assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
    assert_eq!(parse_duration("1h 30m"), Ok(Duration::from_secs(5400)));
    assert_eq!(
        parse_duration("60").unwrap_err().help(),
        "write 60s for seconds, or use ms, m or h"
    );
    for text in ["", "s", "-1s", "0s", "2years", "99999999999999999999s", "soon"] {
        assert!(parse_duration(text).is_err(), "{text}");
    }
}

proptest! {
    #[test]
    fn shown_sizes_read_back(bytes in any::<u64>()) {
        prop_assert_eq!(parse_size(&show_size(bytes)), Ok(bytes));
    }

    #[test]
    fn shown_durations_read_back(millis in 1u64..31_000_000_000) {
        let duration = Duration::from_millis(millis);
        prop_assert_eq!(parse_duration(&show_duration(duration)), Ok(duration));
    }

    #[test]
    fn any_text_is_answered(text in ".*") {
        let _ = parse_size(&text);
        let _ = parse_duration(&text);
    }
}
