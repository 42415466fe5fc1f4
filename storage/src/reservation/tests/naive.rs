//! The standard once more, as plainly as it can be put: a list of I_T nexuses, tables, and unit
//! attentions by comparing what was before with what is after. It shares nothing with what it
//! judges but names of ports.

use super::{Code, InitiatorPort, Refusal};

/// An I_T nexus. A key of 0 is none.
#[derive(Clone, Debug)]
pub(super) struct Nexus {
    pub(super) port: InitiatorPort,
    pub(super) key: u64,
    pub(super) holder: bool,
    pub(super) legacy: bool,
}

/// What a PERSISTENT RESERVE OUT says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Out {
    pub(super) action: u8,
    pub(super) scope: u8,
    pub(super) kind: u8,
    pub(super) key: u64,
    pub(super) action_key: u64,
    pub(super) flags: u8,
    pub(super) length: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Naive {
    pub(super) nexuses: Vec<Nexus>,
    /// TYPE, 0 for no reservation.
    pub(super) kind: u8,
    pub(super) generation: u32,
    pub(super) aptpl: bool,
}

/// Unit attentions by nexus, other nexuses whose tasks are aborted, and whether those of the same
/// nexus are.
pub(super) type Consequences = (Vec<Option<Code>>, Vec<usize>, bool);

/// What a type lets do: its code, then reads and writes of registered nexuses that do not hold the
/// reservation, then of the others (SPC-4 table 65, SBC-4 table 13).
const ACCESS: [(u8, [bool; 4]); 7] = [
    (0, [true, true, true, true]),
    (1, [true, false, true, false]),
    (3, [false, false, false, false]),
    (5, [true, true, true, false]),
    (6, [true, true, false, false]),
    (7, [true, true, true, false]),
    (8, [true, true, false, false]),
];

/// What REGISTER does (SPC-4 tables 67 and 68): for REGISTER AND IGNORE EXISTING KEY or not,
/// whether the nexus is registered, whether RESERVATION KEY is right, whether SERVICE ACTION
/// RESERVATION KEY is zero.
const REGISTER: [(bool, bool, bool, bool, Do); 16] = [
    (false, false, true, true, Do::Nothing),
    (false, false, true, false, Do::Register),
    (false, false, false, true, Do::Conflict),
    (false, false, false, false, Do::Conflict),
    (false, true, false, true, Do::Conflict),
    (false, true, false, false, Do::Conflict),
    (false, true, true, true, Do::Unregister),
    (false, true, true, false, Do::Register),
    (true, false, true, true, Do::Nothing),
    (true, false, true, false, Do::Register),
    (true, false, false, true, Do::Nothing),
    (true, false, false, false, Do::Register),
    (true, true, false, true, Do::Unregister),
    (true, true, false, false, Do::Register),
    (true, true, true, true, Do::Unregister),
    (true, true, true, false, Do::Register),
];

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Do {
    Nothing,
    Register,
    Unregister,
    Conflict,
}

impl Naive {
    pub(super) fn new(ports: impl IntoIterator<Item = InitiatorPort>) -> Naive {
        let nexus = |port| Nexus { port, key: 0, holder: false, legacy: false };
        let nexuses = ports.into_iter().map(nexus).collect();
        Naive { nexuses, kind: 0, generation: 0, aptpl: false }
    }

    /// Whether the nexus may read, and write.
    pub(super) fn access(&self, by: usize) -> (bool, bool) {
        if self.nexuses.iter().enumerate().any(|(it, nexus)| it != by && nexus.legacy) {
            return (false, false);
        }
        if self.nexuses[by].holder {
            return (true, true);
        }
        let row = ACCESS.iter().find(|row| row.0 == self.kind).unwrap().1;
        if self.nexuses[by].key != 0 { (row[0], row[1]) } else { (row[2], row[3]) }
    }

    pub(super) fn any_legacy(&self) -> bool {
        self.nexuses.iter().any(|nexus| nexus.legacy)
    }

    fn any_registered(&self) -> bool {
        self.nexuses.iter().any(|nexus| nexus.key != 0)
    }

    /// RESERVE and RELEASE of SPC-2.
    pub(super) fn legacy(&mut self, by: usize, reserve: bool) -> Result<(), Refusal> {
        let nexus = &self.nexuses[by];
        if nexus.holder || nexus.key != 0 && self.kind >= 5 {
            return Ok(());
        }
        if self.any_registered() {
            return Err(Refusal::Conflict);
        }
        if reserve && self.any_legacy() && !nexus.legacy {
            return Err(Refusal::Conflict);
        }
        self.nexuses[by].legacy = reserve;
        Ok(())
    }

    pub(super) fn forget_legacy(&mut self, of: Option<usize>) {
        for (it, nexus) in self.nexuses.iter_mut().enumerate() {
            nexus.legacy &= of.is_some_and(|of| of != it);
        }
    }

    pub(super) fn power_loss(&mut self) {
        self.generation = 0;
        self.forget_legacy(None);
        if !self.aptpl {
            self.unregister(|_, _| true);
        }
    }

    /// CLEAR by an operator.
    pub(super) fn clear(&mut self) -> Vec<Option<Code>> {
        let told = |nexus: &Nexus| (nexus.key != 0).then_some(Code::RESERVATIONS_PREEMPTED);
        let told = self.nexuses.iter().map(told).collect();
        self.forget_legacy(None);
        self.unregister(|_, _| true);
        self.generation = self.generation.wrapping_add(1);
        told
    }

    /// Registrations that are gone take their part of the reservation with them.
    fn unregister(&mut self, gone: impl Fn(usize, &Nexus) -> bool) {
        for it in 0..self.nexuses.len() {
            if gone(it, &self.nexuses[it]) {
                self.nexuses[it].key = 0;
                self.nexuses[it].holder = false;
            }
        }
        if !self.nexuses.iter().any(|nexus| nexus.holder) {
            self.kind = 0;
        }
    }

    fn reserve(&mut self, by: usize, kind: u8) {
        self.kind = kind;
        for (it, nexus) in self.nexuses.iter_mut().enumerate() {
            nexus.holder = it == by || kind >= 7 && nexus.key != 0;
        }
    }

    /// PERSISTENT RESERVE OUT.
    pub(super) fn out(&mut self, by: usize, out: Out) -> Result<Consequences, Refusal> {
        let before = self.clone();
        self.carry_out(by, out)?;
        let mut told = vec![None; self.nexuses.len()];
        for (it, (old, new)) in before.nexuses.iter().zip(&self.nexuses).enumerate() {
            let (was, is) = (old.key != 0, new.key != 0);
            let released = before.kind != 0 && before.kind != self.kind;
            told[it] = match (out.action, was, is) {
                _ if it == by => None,
                (3, true, false) => Some(Code::RESERVATIONS_PREEMPTED),
                (4 | 5, true, false) => Some(Code::REGISTRATIONS_PREEMPTED),
                (4 | 5, true, true) if released => Some(Code::RESERVATIONS_RELEASED),
                (0 | 2 | 6, true, true) if released && before.kind >= 5 => {
                    Some(Code::RESERVATIONS_RELEASED)
                }
                _ => None,
            };
        }
        let victims = (0..told.len()).filter(|&it| told[it] == Some(Code::REGISTRATIONS_PREEMPTED));
        let aborted = victims.filter(|_| out.action == 5).collect();
        let own = out.action == 5 && [0, before.nexuses[by].key].contains(&out.action_key);
        Ok((told, aborted, own))
    }

    fn carry_out(&mut self, by: usize, out: Out) -> Result<(), Refusal> {
        let new_kind = match (out.scope, out.kind) {
            (0, 1 | 3 | 5 | 6 | 7 | 8) => Ok(out.kind),
            _ => Err(Refusal::cdb(2)),
        };
        let (key, holder) = (self.nexuses[by].key, self.nexuses[by].holder);
        if self.any_legacy() {
            return Err(Refusal::Conflict);
        }
        if out.action > 6 {
            return Err(Refusal::cdb(1));
        }
        if out.flags & 8 != 0 {
            return Err(Refusal::list(20));
        }
        if out.length != 24 {
            let (code, field) = (Code { key: 5, asc: 0x1a, ascq: 0 }, Some((true, 5)));
            return Err(Refusal::Check { code, field });
        }
        if out.action == 1 {
            new_kind?;
        }
        if !matches!(out.action, 0 | 6) && (key == 0 || key != out.key) {
            return Err(Refusal::Conflict);
        }
        match out.action {
            0 | 6 => {
                let case = (out.action == 6, key != 0, out.key == key, out.action_key == 0);
                let row = REGISTER.iter().find(|row| (row.0, row.1, row.2, row.3) == case);
                match row.unwrap().4 {
                    Do::Nothing => return Ok(()),
                    Do::Conflict => return Err(Refusal::Conflict),
                    Do::Unregister => self.unregister(|it, _| it == by),
                    Do::Register => {
                        self.nexuses[by].key = out.action_key;
                        self.nexuses[by].holder |= self.kind >= 7;
                    }
                }
                self.aptpl = out.flags & 1 != 0;
            }
            1 => match self.kind {
                0 => self.reserve(by, new_kind?),
                kind if holder && Ok(kind) == new_kind => {}
                _ => return Err(Refusal::Conflict),
            },
            2 if !holder => {}
            2 if Ok(self.kind) != new_kind => {
                let code = Code { key: 5, asc: 0x26, ascq: 4 };
                return Err(Refusal::Check { code, field: None });
            }
            2 => {
                self.kind = 0;
                self.nexuses.iter_mut().for_each(|nexus| nexus.holder = false);
            }
            3 => self.unregister(|_, _| true),
            _ => self.preempt(by, out.action_key, new_kind)?,
        }
        if !matches!(out.action, 1 | 2) {
            self.generation = self.generation.wrapping_add(1);
        }
        Ok(())
    }

    fn preempt(
        &mut self,
        by: usize,
        action_key: u64,
        new_kind: Result<u8, Refusal>,
    ) -> Result<(), Refusal> {
        let all = self.kind >= 7;
        let whose = |nexus: &Nexus| nexus.key != 0 && nexus.key == action_key;
        match action_key {
            0 if !all => return Err(Refusal::list(8)),
            0 => {
                let kind = new_kind?;
                self.unregister(|it, _| it != by);
                self.reserve(by, kind);
            }
            _ if !all && self.nexuses.iter().any(|nexus| nexus.holder && whose(nexus)) => {
                let kind = new_kind?;
                self.unregister(|it, nexus| it != by && whose(nexus));
                self.reserve(by, kind);
            }
            _ if !self.nexuses.iter().any(whose) => return Err(Refusal::Conflict),
            _ => self.unregister(|_, nexus| whose(nexus)),
        }
        Ok(())
    }
}
