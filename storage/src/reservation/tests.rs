//! Each rule of the standard by itself; and all of them against an independent model of it.

use super::*;

mod bytes;
mod gate;
mod legacy;
mod model;
mod naive;
mod preempting;
mod reading;
mod registering;
mod reserving;

use SenseCode as Code;

/// An initiator port of iSCSI.
fn port(number: u8) -> InitiatorPort {
    InitiatorPort::new(&format!("iqn.2026-01.test:guest{number},i,0x00023d0000{number:02x}"))
        .unwrap()
}

/// The CDB of PERSISTENT RESERVE OUT with a list of this length.
fn cdb(action: u8, scope_type: u8, length: u32) -> [u8; 10] {
    let mut cdb = [0x5f, action, scope_type, 0, 0, 0, 0, 0, 0, 0];
    cdb[5..9].copy_from_slice(&length.to_be_bytes());
    cdb
}

fn list(key: u64, action_key: u64, flags: u8) -> [u8; 24] {
    let mut list = [0; 24];
    list[..8].copy_from_slice(&key.to_be_bytes());
    list[8..16].copy_from_slice(&action_key.to_be_bytes());
    list[20] = flags;
    list
}

const REGISTER: u8 = 0;
const RESERVE: u8 = 1;
const RELEASE: u8 = 2;
const CLEAR: u8 = 3;
const PREEMPT: u8 = 4;
const PREEMPT_AND_ABORT: u8 = 5;
const REGISTER_AND_IGNORE: u8 = 6;

const APTPL: u8 = 1;

/// A logical unit, and who asks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Unit(Reservations);

impl Unit {
    /// A unit where ports 1, 2, … are registered with keys 11, 12, ….
    fn with(ports: u8) -> Unit {
        let mut unit = Unit::default();
        for number in 1..=ports {
            unit.does(number, REGISTER, 0, 0, 10 + u64::from(number));
        }
        unit
    }

    /// The same, and port 1 has reserved it.
    fn reserved(ports: u8, kind: Kind) -> Unit {
        let mut unit = Unit::with(ports);
        assert_eq!(unit.good(1, RESERVE, kind.code(), 11, 0), Effects::default());
        unit
    }

    fn ask(
        &mut self,
        by: u8,
        action: u8,
        kind: u8,
        key: u64,
        action_key: u64,
    ) -> Result<Effects, Refusal> {
        let before = self.clone();
        let answer = self.0.out(&port(by), &cdb(action, kind, 24), &list(key, action_key, 0));
        assert!(answer.is_ok() || before == *self, "what is refused changes nothing");
        answer
    }

    fn good(&mut self, by: u8, action: u8, kind: u8, key: u64, action_key: u64) -> Effects {
        self.ask(by, action, kind, key, action_key).unwrap()
    }

    /// As [`Unit::good`], for tests that look at what comes of it elsewhere.
    fn does(&mut self, by: u8, action: u8, kind: u8, key: u64, action_key: u64) {
        let _ = self.good(by, action, kind, key, action_key);
    }

    fn refused(&mut self, by: u8, action: u8, kind: u8, key: u64, action_key: u64) -> Refusal {
        self.ask(by, action, kind, key, action_key).unwrap_err()
    }

    fn conflict(&mut self, by: u8, action: u8, kind: u8, key: u64, action_key: u64) {
        assert_eq!(self.refused(by, action, kind, key, action_key), Refusal::Conflict);
    }

    fn keys(&self) -> Vec<u64> {
        self.0.registrations().map(|(_, key)| key).collect()
    }

    fn holders(&self) -> Vec<InitiatorPort> {
        self.0.holders().cloned().collect()
    }

    fn may(&self, by: u8, demand: Demand) -> bool {
        self.0.rights(&port(by)).allows(demand)
    }
}

/// These ports are told this.
fn told(ports: &[u8], code: Code) -> Vec<(InitiatorPort, Code)> {
    ports.iter().map(|&number| (port(number), code)).collect()
}
