extern crate std;

use super::*;
use crate::script::{Command, Script};
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

fn parse(text: &str) -> Scsi {
    match Script::new(text).next() {
        Some(Ok(Command::Scsi(scsi))) => scsi,
        other => panic!("{text}: {other:?}"),
    }
}

fn mistake(text: &str) -> String {
    Script::new(text).check().expect_err("a bad script").to_string()
}

fn on_disk_0(action: ScsiAction) -> Scsi {
    Scsi { disk: 0, action, depth: 8, queues: 1, report_attention: false }
}

#[test]
fn ranges_are_those_of_other_disks() {
    let range = SectorRange { sector: 8, sectors: 2048 };
    let write = ScsiAction::Range(RangeAction::Write { range, seed: 7 });
    let all = parse("scsi.write 4k 1M seed=7 disk=2 qd=85 queues=4 attention=report");
    let expected = Scsi { disk: 2, action: write, depth: 85, queues: 4, report_attention: true };
    assert_eq!(all, expected);
    let cases = [
        ("scsi.verify 4k 1M", ScsiAction::Range(RangeAction::Verify { range, seed: 1 })),
        ("scsi.verify-zeroes 4k 1M", ScsiAction::Range(RangeAction::VerifyZeroes(range))),
        ("scsi.sum 4k 1M", ScsiAction::Range(RangeAction::Sum(range))),
        ("scsi.unmap 4k 1M", ScsiAction::Unmap(range)),
        ("scsi.write-until-conflict 4k 1M", ScsiAction::WriteUntilConflict { range, seed: 1 }),
        ("scsi.flush attention=retry", ScsiAction::Flush),
        ("scsi.id", ScsiAction::Identify),
        ("scsi.reset", ScsiAction::Reset),
        ("scsi.caw 4k", ScsiAction::Increment { sector: 8, count: 1, own: None }),
        (
            "scsi.caw 4k repeat=0x10 as=63",
            ScsiAction::Increment { sector: 8, count: 16, own: Some(63) },
        ),
        ("scsi.reserve", ScsiAction::ReserveUnit),
        ("scsi.release", ScsiAction::ReleaseUnit),
        ("scsi.counter 4k", ScsiAction::Counter { sector: 8, expect: None }),
        ("scsi.counter 4k expect=0", ScsiAction::Counter { sector: 8, expect: Some(0) }),
        ("scsi.wait-counter 4k value=9 timeout=2s", {
            ScsiAction::WaitCounter { sector: 8, value: 9, timeout: 2_000_000_000 }
        }),
    ];
    for (text, action) in cases {
        assert_eq!(parse(text), on_disk_0(action), "{text}");
        assert!(text.starts_with(action.name()), "{text}");
    }
}

#[test]
fn reservation_commands_put_keys_where_spc_4_has_them() {
    let out = |action, key, service_key, kind, aptpl| {
        ScsiAction::Reserve(ReserveOut { action, key, service_key, kind, aptpl })
    };
    let cases = [
        ("register key=0xa1", out(ReserveAction::Register, 0, 0xA1, 0, false)),
        ("register key=0 old=161 aptpl", out(ReserveAction::Register, 0xA1, 0, 0, true)),
        ("register-ignore key=7 aptpl", out(ReserveAction::RegisterAndIgnore, 0, 7, 0, true)),
        ("reserve key=7 type=we-ro", out(ReserveAction::Reserve, 7, 0, 5, false)),
        ("release type=8 key=7", out(ReserveAction::Release, 7, 0, 8, false)),
        ("clear key=0xffffffffffffffff", out(ReserveAction::Clear, u64::MAX, 0, 0, false)),
        ("preempt key=7 victim=8 type=we", out(ReserveAction::Preempt, 7, 8, 1, false)),
        ("preempt-abort key=7 victim=8 type=0x6", {
            out(ReserveAction::PreemptAndAbort, 7, 8, 6, false)
        }),
        ("keys", ScsiAction::Keys),
        ("reservation", ScsiAction::Reservation),
    ];
    for (text, action) in cases {
        assert_eq!(parse(&format!("scsi.pr {text}")), on_disk_0(action), "{text}");
    }
}

#[test]
fn mistakes_say_where_and_what() {
    let cases = [
        ("scsi.write 100 1M", "column 12: OFFSET is \"100\", must be a multiple of 512"),
        ("scsi.erase 0 1M", "column 1: there is no command \"scsi.erase\""),
        ("scsi.flush qd=2", "column 12: there is no qd= here, only disk=, attention="),
        ("scsi.flush attention=no", "column 22: attention is \"no\", must be retry or report"),
        ("scsi.wait-counter 0", "column 1: value is missing: a number"),
        ("scsi.pr", "column 1: WHAT is missing: register, register-ignore, reserve"),
        ("scsi.pr register", "column 1: key is missing: a number such as 0xa1"),
        ("scsi.pr register key=k", "column 22: key is \"k\", must be a number such as 0xa1"),
        ("scsi.pr register key=1 for-ever", "column 24: \"for-ever\" is one argument too many"),
        ("scsi.pr reserve key=1 aptpl", "column 1: type is missing: we, ea, we-ro"),
        ("scsi.pr reserve key=1 type=2", "column 28: type is \"2\", must be we, ea, we-ro"),
        ("scsi.pr reserve key=1 type=1 aptpl", "column 30: \"aptpl\" is one argument too many"),
        ("scsi.pr clear key=1 old=2", "column 21: there is no old= here"),
        ("scsi.pr preempt key=1 type=1", "column 1: victim is missing"),
        ("scsi.pr keys key=1", "column 14: there is no key= here, only disk="),
    ];
    for (text, expected) in cases {
        let found = mistake(text);
        assert!(found.starts_with(&format!("script error: command 1, {expected}")), "{found}");
    }
}

#[test]
fn a_conflict_is_expected_of_scsi_commands_only() {
    let text = "expect-conflict { scsi.write 0 4k; scsi.pr clear key=1 }; scsi.id";
    let all: Vec<_> = Script::new(text).map(|command| command.expect("a good script")).collect();
    let [Command::ExpectConflict { body }, Command::Scsi(_)] = all[..] else { panic!("{all:?}") };
    assert_eq!(body.flatten().count(), 2);
    assert!(Script::new("repeat 2 { expect-conflict { scsi.reset } }").check().is_ok());
    let others = mistake("print a; expect-conflict { scsi.flush; blk.flush }");
    let expected = "script error: command 2, column 10: this block takes scsi. commands only";
    assert_eq!(others, expected);
    let inside = mistake("expect-conflict { scsi.flush; scsi.fl }");
    assert!(inside.contains("column 31: there is no command \"scsi.fl\""), "{inside}");
    assert!(mistake("expect-conflict").contains("a block in braces must follow"));
    assert!(mistake("expect-conflict 2 { }").contains("\"2\" is one argument too many"));
}
