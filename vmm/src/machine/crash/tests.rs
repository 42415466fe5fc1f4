use super::*;

fn detail(end: End) -> String {
    match end {
        End::Crash { detail, .. } => detail,
        other => panic!("{other:?}"),
    }
}

#[test]
fn an_instruction_that_cannot_be_emulated_is_shown() {
    let data = [1, u64::from_le_bytes([3, 0x0F, 0xAE, 0x2F, 9, 9, 9, 9]), 0];
    let text = detail(internal_error(2, KVM_INTERNAL_ERROR_EMULATION, &data, Some(0x1000)));
    assert_eq!(
        text,
        "internal error of virtual CPU 2: KVM cannot emulate an instruction (suberror 1) at \
         0x1000, instruction bytes 0f ae 2f"
    );
}

#[test]
fn odd_data_does_no_harm() {
    for data in [&[][..], &[0], &[1], &[1, 0], &[1, 0xFF], &[0, 3]] {
        let text = detail(internal_error(0, KVM_INTERNAL_ERROR_EMULATION, data, None));
        assert!(text.starts_with("internal error of virtual CPU 0"), "{text}");
    }
    assert_eq!(instruction(&[1, u64::MAX, u64::MAX, u64::MAX]).map(|b| b.len()), Some(15));
    assert!(detail(internal_error(0, 77, &[], None)).contains("suberror 77"));
}

#[test]
fn a_triple_fault_says_where_when_that_is_known() {
    assert_eq!(detail(triple_fault(0, Some(0x7000))), "triple fault on virtual CPU 0 at 0x7000");
    assert_eq!(detail(triple_fault(1, Some(RESET_RIP))), "triple fault on virtual CPU 1");
    assert_eq!(detail(triple_fault(1, None)), "triple fault on virtual CPU 1");
}
