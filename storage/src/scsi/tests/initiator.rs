//! The target as a local parser has it.

use super::*;
use crate::scsi::{CommandQueue, Initiator, LocalInitiator, Outcome, ServiceResponse};

fn initiator(target: &Target, name: &str) -> LocalInitiator {
    LocalInitiator::new(target.clone(), nexus(target, name))
}

/// The answer to one command.
fn run(queue: &mut dyn CommandQueue, cdb: &[u8], data_out: &[u8], room: usize) -> Response {
    let memory = filled(&vec![UNTOUCHED; room]);
    let answer = queue.submit(7, command(cdb, data_out, &memory)).unwrap_or_else(|| {
        let mut done = Vec::new();
        queue.drain(&mut done);
        assert_eq!(done.len(), 1);
        assert_eq!(done[0].0, 7);
        done[0].1.clone()
    });
    match answer {
        ServiceResponse::Complete(response) => response,
        other => panic!("{other:?}"),
    }
}

const RESERVE: [u8; 6] = [0x16, 0, 0, 0, 0, 0];
const READ: [u8; 10] = [0x28, 0, 0, 0, 0, 0, 0, 0, 1, 0];

#[test]
fn a_lost_nexus_gives_back_what_it_reserved() {
    let target = target(1 << 20);
    let (a, b) = (initiator(&target, "a"), initiator(&target, "b"));
    let (mut of_a, mut of_b) = (a.queue(4).unwrap(), b.queue(4).unwrap());
    assert_eq!(run(of_a.as_mut(), &RESERVE, &[], 0).status, Status::Good);
    assert_eq!(run(of_b.as_mut(), &READ, &[], BLOCK).status, Status::ReservationConflict);
    a.nexus_lost();
    assert_eq!(run(of_b.as_mut(), &READ, &[], BLOCK).status, Status::Good);
    // Whoever comes back hears of it.
    assert_eq!(run(of_a.as_mut(), &READ, &[], BLOCK).status, Status::CheckCondition);
    assert_eq!(run(of_a.as_mut(), &READ, &[], BLOCK).status, Status::Good);
}

#[test]
fn task_management_is_answered_once_among_commands() {
    let target = target(1 << 20);
    let a = initiator(&target, "a");
    let mut queue = a.queue(4).unwrap();
    let memory = filled(&[0; BLOCK]);
    let now = queue.submit(1, command(&READ, &[], &memory));
    queue.manage(2, 0, TaskManagement::LogicalUnitReset);
    queue.manage(3, 9 << 48, TaskManagement::LogicalUnitReset);
    let mut done = Vec::new();
    queue.drain(&mut done);
    assert_eq!(queue.in_flight(), 0);
    done.extend(now.map(|answer| (1, answer)));
    done.sort_by_key(|(token, _)| *token);
    assert!(matches!(done[0], (1, ServiceResponse::Complete(_))), "{done:?}");
    assert_eq!(
        done[1..],
        [
            (2, ServiceResponse::Managed(Outcome::Complete)),
            (3, ServiceResponse::Managed(Outcome::NoSuchUnit)),
        ]
    );
}
