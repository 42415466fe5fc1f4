extern crate std;

use super::*;
use proptest::prelude::*;
use std::format;
use std::string::{String, ToString};
use std::vec::Vec;

fn commands(text: &str) -> Vec<Command<'_>> {
    Script::new(text).map(|command| command.expect("a good script")).collect()
}

fn mistake(text: &str) -> String {
    Script::new(text).check().expect_err("a bad script").to_string()
}

#[test]
fn commands_are_separated_by_semicolons() {
    let all = commands(" ;poweroff; reset;;panic ;triple-fault;hang; ");
    let expected =
        [Command::PowerOff, Command::Reset, Command::Panic, Command::TripleFault, Command::Hang];
    assert_eq!(all, expected);
    assert_eq!(commands(""), []);
}

#[test]
fn text_goes_to_the_semicolon_and_quotes_hide_it() {
    let all = commands("print  hello  world ; print \"a; {b}\" c; print");
    let lines: Vec<String> = all
        .iter()
        .map(|command| match command {
            Command::Print(text) => text.to_string(),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(lines, ["hello  world", "a; {b} c", ""]);
}

#[test]
fn blocks_nest_and_are_counted() {
    let all = commands("repeat 2 { print a; repeat 0x3 { print b } }; exit 9");
    let [Command::Repeat { count: 2, body }, Command::Exit(9)] = all[..] else {
        panic!("{all:?}");
    };
    let body: Vec<_> = body.flatten().collect();
    assert!(matches!(body[..], [Command::Print(_), Command::Repeat { count: 3, .. }]));
    let late = mistake("repeat 2 { print a; repeat 3 { print b } }; print c; exti");
    assert!(late.starts_with("script error: command 6, column 54:"), "{late}");
}

#[test]
fn mistakes_say_where_and_what() {
    let cases = [
        ("print a; bogus 3", "command 2, column 10: there is no command \"bogus\""),
        ("exit 256", "command 1, column 6: STATUS is \"256\", must be a number from 0 to 255"),
        ("exit", "command 1, column 1: STATUS is missing: a number from 0 to 255"),
        ("exit 1 2", "command 1, column 8: \"2\" is one argument too many"),
        ("exit 1 x=2", "command 1, column 8: there is no x= here"),
        (
            "sleep 5",
            "command 1, column 7: DURATION is \"5\", must be a duration such as 500ms or 2s",
        ),
        ("print \"a", "command 1, column 7: this quotation mark is never closed"),
        ("print é; print {", "command 2, column 16: this block is never closed with }"),
        ("exit }", "command 1, column 6: a brace has no place here; in text, quote it"),
        ("print x { exit 1 }", "command 1, column 1: this command takes no block"),
        ("repeat 2", "command 1, column 1: a block in braces must follow"),
        ("repeat 2 { hang } hang", "command 1, column 19: after a block comes ; or the end"),
        ("hang; repeat 1 { hang; exti }", "command 4, column 24: there is no command \"exti\""),
    ];
    for (text, expected) in cases {
        assert_eq!(mistake(text), format!("script error: {expected}"), "{text}");
    }
}

#[test]
fn device_commands_have_defaults_and_keys() {
    let range = SectorRange { sector: 8, sectors: 2048 };
    let pmem = |index, action| Command::Pmem(Pmem { index, action });
    let cases = [
        (
            "blk.write 4k 1M seed=0x7 disk=2 qd=32 queues=4",
            Command::Disk {
                disk: 2,
                action: DiskAction::Range(RangeAction::Write { range, seed: 7 }),
                depth: 32,
                queues: 4,
            },
        ),
        (
            "blk.verify-zeroes 4k 1M qd=2",
            Command::Disk {
                disk: 0,
                action: DiskAction::Range(RangeAction::VerifyZeroes(range)),
                depth: 2,
                queues: 1,
            },
        ),
        (
            "blk.verify 4k 1M",
            Command::Disk {
                disk: 0,
                action: DiskAction::Range(RangeAction::Verify { range, seed: 1 }),
                depth: 8,
                queues: 1,
            },
        ),
        (
            "blk.flush disk=1",
            Command::Disk { disk: 1, action: DiskAction::Flush, depth: 8, queues: 1 },
        ),
        (
            "bench.randwrite 4k qd=32 secs=0.5",
            Command::Bench(Bench {
                write: true,
                on: Bus::Blk,
                sectors: 8,
                depth: 32,
                queues: 1,
                nanoseconds: 500_000_000,
                disk: 0,
                seed: 1,
            }),
        ),
        ("virtio.fuzz registers count=9", Command::Fuzz(Fuzz::Registers { seed: 1, count: 9 })),
        ("virtio.fuzz loop disk=3 on=scsi", Command::Fuzz(Fuzz::Loop { on: Bus::Scsi, disk: 3 })),
        (
            "virtio.fuzz headers count=5",
            Command::Fuzz(Fuzz::Headers { on: Bus::Blk, disk: 0, seed: 1, count: 5 }),
        ),
        ("pmem.sum", pmem(0, PmemAction::Sum(None))),
        ("pmem.sum 4k 1M pmem=2", pmem(2, PmemAction::Sum(Some(range)))),
        ("pmem.read 4k 1M", pmem(0, PmemAction::Read(range))),
        (
            "pmem.write 4k 1M expect-fault seed=7",
            pmem(0, PmemAction::Write { range, seed: 7, expect_fault: true }),
        ),
        ("pmem.flush pmem=1", pmem(1, PmemAction::Flush)),
        (
            "blk.read-into-pmem 4k 1M 1k disk=3 pmem=1",
            pmem(1, PmemAction::ReadFrom { disk: 3, range, at: 2 }),
        ),
        ("bench.pmem secs=0.5", pmem(0, PmemAction::Bench { nanoseconds: 500_000_000 })),
        ("rng.read 4k", Command::RngRead { len: 4096 }),
    ];
    for (text, expected) in cases {
        assert_eq!(commands(text), [expected], "{text}");
    }
}

#[test]
fn device_commands_refuse_what_they_cannot_do() {
    let cases = [
        ("blk.write 100 1M", "column 11: OFFSET is \"100\", must be a multiple of 512"),
        ("blk.write 0 0", "column 13: LEN is \"0\", must be a multiple of 512, not 0"),
        ("blk.write 0", "column 1: LEN is missing: a multiple of 512"),
        ("blk.sum 0 1M seed=1", "column 14: there is no seed= here, only disk=, qd=, queues="),
        ("blk.sum 0 1M qd=86", "column 17: qd is \"86\", must be a number from 1 to 85"),
        ("blk.sum 0 1M qd=1 qd=2", "column 19: qd= is given twice"),
        ("pmem.sum 4k", "column 1: LEN is missing: a multiple of 512"),
        ("pmem.write 0 512 fault", "column 18: \"fault\" is one argument too many"),
        ("pmem.erase", "column 1: there is no command \"pmem.erase\""),
        ("blk.read-into-pmem 0 512", "column 1: AT is missing: a multiple of 512"),
        ("blk.erase 0 1M", "column 1: there is no command \"blk.erase\""),
        ("bench.randread 2M", "column 16: SIZE is \"2M\", must be a multiple of 512 up to 1M"),
        ("virtio.fuzz all", "column 13: WHAT is \"all\", must be registers, config, kick"),
        ("bench.randread 4k on=nvme", "column 22: on is \"nvme\", must be blk or scsi"),
        ("virtio.fuzz kick disk=1", "column 18: there is no disk= here"),
    ];
    for (text, expected) in cases {
        let found = mistake(text);
        assert!(found.starts_with(&format!("script error: command 1, {expected}")), "{found}");
    }
}

#[test]
fn nesting_has_a_limit() {
    let deep = |levels| format!("{}hang{}", "repeat 1 {".repeat(levels), "}".repeat(levels));
    assert_eq!(Script::new(&deep(8)).check(), Ok(()));
    assert!(mistake(&deep(9)).contains("nested too deeply"));
}

proptest! {
    #[test]
    fn no_text_makes_it_panic_or_run_for_ever(text in "([a-z.0-9=\" ;{}é-]|repeat 1 |print ){0,60}") {
        let _ = Script::new(&text).check();
        let yielded = Script::new(&text).count();
        prop_assert!(yielded <= text.len());
    }

    #[test]
    fn what_was_checked_iterates_without_mistakes(text in "(print a|exit 1|hang|repeat 2 \\{|\\}|;){0,30}") {
        if Script::new(&text).check().is_ok() {
            prop_assert!(Script::new(&text).all(|command| command.is_ok()));
        }
    }
}
