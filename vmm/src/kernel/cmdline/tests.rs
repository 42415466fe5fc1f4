use super::*;

#[test]
fn the_limits_of_cohort_and_kernel_hold() {
    let max = layout::CMDLINE_MAX - 1;
    assert_eq!(check("", None), Ok(()));
    assert_eq!(check(&"x".repeat(max as usize), None), Ok(()));
    let long = check(&"x".repeat(max as usize + 1), None).unwrap_err();
    assert_eq!(long, CmdlineError::TooLong { len: max + 1, max, taker: "cohort" });
    assert_eq!(check("12345", Some(5)), Ok(()));
    let error = check("123456", Some(5)).unwrap_err();
    assert_eq!(error.to_string(), "it has 6 bytes, but this kernel takes at most 5");
    assert!(error.help().is_some());
}

#[test]
fn a_nul_is_refused() {
    assert_eq!(check("ro\0quiet", None), Err(CmdlineError::Nul { at: 2 }));
}
