//! Whatever comes, it is answered once, and nothing else happens.

use super::*;
use crate::scsi::opcodes::COMMANDS;

#[derive(Clone, Debug)]
struct Random {
    lun: u64,
    cdb: Vec<u8>,
    data_out: Vec<u8>,
    room: usize,
    manage: Option<u8>,
}

fn random() -> impl Strategy<Value = Random> {
    // Bytes that are mostly small, so that ranges are often within the disk.
    let byte = || prop_oneof![4 => Just(0u8), 2 => 0..4u8, 1 => any::<u8>()];
    let cdb = (0..COMMANDS.len(), proptest::collection::vec(byte(), 32), any::<bool>());
    let cdb = cdb.prop_map(|(number, mut bytes, plain)| {
        let usage = COMMANDS[number].usage;
        bytes[0] = usage[0];
        if let Some(action) = COMMANDS[number].action {
            bytes[1] = bytes[1] & 0xe0 | action;
        }
        bytes.truncate(usage.len());
        if plain {
            bytes[usage.len() - 1] = 0;
            if COMMANDS[number].action.is_none() {
                bytes[1] = 0;
            }
        }
        bytes
    });
    let any_cdb = proptest::collection::vec(any::<u8>(), 0..32);
    let cdb = prop_oneof![12 => cdb, 1 => any_cdb];
    let lun = prop_oneof![20 => Just(0), 1 => any::<u64>(), 1 => Just(1 << 48)];
    let len = || prop_oneof![Just(0usize), Just(24), Just(512), Just(1024), 0..3000usize];
    let data = (len(), byte()).prop_flat_map(move |(len, fill)| {
        let head = proptest::collection::vec(byte(), len.min(64));
        head.prop_map(move |mut head| {
            head.resize(len, fill);
            head
        })
    });
    let manage = prop_oneof![12 => Just(None), 1 => (0..5u8).prop_map(Some)];
    (lun, cdb, data, len(), manage).prop_map(|(lun, cdb, data_out, room, manage)| Random {
        lun,
        cdb,
        data_out,
        room,
        manage,
    })
}

proptest! {
    #![proptest_config(crate::testkit::cases(200))]
    #[test]
    fn every_command_is_answered_once(
        commands in proptest::collection::vec(random(), 1..60),
        ring: bool,
    ) {
        let engine = if ring { EngineChoice::Auto } else { EngineChoice::Positional };
        let target = Target::new(vec![unit(300 * 512, engine)], None).unwrap();
        let nexuses = ["a", "b", "c"].map(|name| nexus(&target, name));
        let mut queue = target.queue(4).unwrap();
        let (mut memory, mut done) = (Vec::new(), Vec::new());
        for (token, random) in commands.iter().enumerate() {
            let room = filled(&vec![UNTOUCHED; random.room]);
            let mut command = command(&random.cdb, &random.data_out, &room);
            command.lun = random.lun;
            command.tag = token as u64 % 3;
            let nexus = &nexuses[token % 3];
            if let Some(response) = queue.submit(token as u64, nexus, command) {
                done.push((token as u64, response));
            }
            memory.push(room);
            let what = match random.manage {
                None => continue,
                Some(0) => TaskManagement::AbortTask(1),
                Some(1) => TaskManagement::AbortTaskSet,
                Some(2) => TaskManagement::ClearTaskSet,
                Some(3) => TaskManagement::LogicalUnitReset,
                Some(_) => TaskManagement::TargetReset,
            };
            let mut managed = target.manage(nexus, random.lun, what);
            queue.drain(&mut done);
            prop_assert!(managed.settled(&queue));
        }
        queue.drain(&mut done);
        prop_assert_eq!(queue.in_flight(), 0);
        done.sort_by_key(|(token, _)| *token);
        let tokens: Vec<u64> = done.iter().map(|(token, _)| *token).collect();
        prop_assert_eq!(tokens, (0..commands.len() as u64).collect::<Vec<u64>>());
        for ((_, response), (mut room, random)) in done.into_iter().zip(memory.into_iter().zip(commands)) {
            let room = Arc::get_mut(&mut room).expect("nobody has the memory any more").bytes();
            prop_assert!(response.data_in <= random.room as u64);
            prop_assert!(response.data_out <= random.data_out.len() as u64);
            prop_assert_eq!(
                response.status == Status::CheckCondition,
                response.sense.code().is_some()
            );
            if response.status == Status::Good {
                let filled = usize::try_from(response.data_in).unwrap();
                prop_assert!(room[filled..].iter().all(|byte| *byte == UNTOUCHED));
                prop_assert!(response.data_in <= response.wanted);
            }
        }
    }
}

#[test]
fn more_commands_than_a_queue_is_deep_are_told_so() {
    let gate = crate::engine::gated::Gate::default();
    let hand = gate.clone();
    let target = Target::with_engine(
        unit(1 << 20, EngineChoice::Positional),
        Box::new(move || crate::engine::gated::Gated::new(&hand)),
    );
    let nexus = nexus(&target, "a");
    let mut queue = target.queue(2).unwrap();
    gate.shut(true);
    let none = filled(&[]);
    let submit = |queue: &mut ScsiQueue, token: u64| {
        queue.submit(token, &nexus, command(&cdb10(0x2a, 0, 0, 1), &[1; 512], &none))
    };
    assert_eq!(submit(&mut queue, 0), None);
    assert_eq!(submit(&mut queue, 1), None);
    assert_eq!(submit(&mut queue, 2).unwrap().status, Status::TaskSetFull);
    gate.shut(false);
    let mut done = Vec::new();
    queue.drain(&mut done);
    assert_eq!(done.len(), 2);
}
