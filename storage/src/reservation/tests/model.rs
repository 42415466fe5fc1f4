//! Random commands of up to eight initiators, answered by [`Reservations`] and by [`Naive`].

use proptest::prelude::*;

use super::naive::{Naive, Out};
use super::*;
use crate::testkit;

/// A key that a command carries.
#[derive(Clone, Copy, Debug)]
enum Key {
    /// The one that this nexus is registered with; 0 if it is not.
    Of(usize),
    Number(u64),
}

#[derive(Clone, Debug)]
enum Step {
    Out { action: u8, scope: u8, kind: u8, key: Key, action_key: Key, flags: u8, length: u32 },
    Reserve,
    Release,
    Reset,
    NexusLost,
    PowerLoss,
    Clear,
}

fn step(nexuses: usize) -> impl Strategy<Value = (usize, Step)> {
    let by = 0..nexuses;
    by.prop_flat_map(move |by| {
        let own = prop_oneof![
            20 => Just(Key::Of(by)),
            1 => (0..nexuses).prop_map(Key::Of),
            1 => (0..6u64).prop_map(Key::Number),
        ];
        let other = prop_oneof![
            3 => (0..nexuses).prop_map(Key::Of),
            4 => (1..6u64).prop_map(Key::Number),
            1 => Just(Key::Number(0)),
        ];
        let action = prop_oneof![
            4 => Just(REGISTER),
            2 => Just(REGISTER_AND_IGNORE),
            5 => Just(RESERVE),
            3 => Just(RELEASE),
            1 => Just(CLEAR),
            3 => Just(PREEMPT),
            3 => Just(PREEMPT_AND_ABORT),
            1 => 7..32u8,
        ];
        let kind = prop_oneof![
            12 => proptest::sample::select(Kind::ALL.as_slice()).prop_map(Kind::code),
            1 => 0..16u8,
        ];
        let scope = prop_oneof![30 => Just(0), 1 => 1..16u8];
        let flags = prop_oneof![20 => 0..2u8, 2 => 4..6u8, 1 => any::<u8>()];
        let length = prop_oneof![30 => Just(24), 1 => 0..60u32];
        let out = (action, scope, kind, own, other, flags, length);
        let out = out.prop_map(|(action, scope, kind, key, action_key, flags, length)| Step::Out {
            action,
            scope,
            kind,
            key,
            action_key,
            flags,
            length,
        });
        let step = prop_oneof![
            40 => out,
            2 => Just(Step::Reserve),
            2 => Just(Step::Release),
            1 => Just(Step::Reset),
            1 => Just(Step::NexusLost),
            1 => Just(Step::PowerLoss),
            1 => Just(Step::Clear),
        ];
        (Just(by), step)
    })
}

/// What is judged, what judges, and what was saved.
struct Pair {
    tested: Reservations,
    naive: Naive,
    saved: Vec<u8>,
}

impl Pair {
    fn new(nexuses: usize) -> Pair {
        let ports = (0..nexuses).map(|number| port(u8::try_from(number).unwrap()));
        let tested = Reservations::default();
        Pair { saved: tested.to_bytes(), tested, naive: Naive::new(ports) }
    }

    fn key(&self, key: Key) -> u64 {
        match key {
            Key::Of(nexus) => self.naive.nexuses[nexus].key,
            Key::Number(number) => number,
        }
    }

    fn step(&mut self, by: usize, step: &Step) {
        let port = self.naive.nexuses[by].port.clone();
        match *step {
            Step::Out { action, scope, kind, key, action_key, flags, length } => {
                let (key, action_key) = (self.key(key), self.key(action_key));
                let out = Out { action, scope, kind, key, action_key, flags, length };
                self.out(by, &port, out);
            }
            Step::Reserve => {
                assert_eq!(self.tested.reserve(&port), self.naive.legacy(by, true));
            }
            Step::Release => {
                assert_eq!(self.tested.release(&port), self.naive.legacy(by, false));
            }
            Step::Reset => {
                self.tested.reset();
                self.naive.forget_legacy(None);
            }
            Step::NexusLost => {
                self.tested.nexus_lost(&port);
                self.naive.forget_legacy(Some(by));
            }
            Step::PowerLoss => {
                self.tested = Reservations::from_bytes(&self.saved).unwrap().after_power_loss();
                self.naive.power_loss();
            }
            Step::Clear => {
                let before = self.tested.after_power_loss();
                let effects = self.tested.clear();
                let told = self.naive.clear();
                self.compare(&before, &effects, &told, &[]);
            }
        }
    }

    fn out(&mut self, by: usize, port: &InitiatorPort, out: Out) {
        let before = self.tested.clone();
        let mut bytes = list(out.key, out.action_key, out.flags).to_vec();
        bytes.resize(usize::try_from(out.length.max(24)).unwrap(), 0);
        let cdb = cdb(out.action, out.scope << 4 | out.kind, out.length);
        match (self.tested.out(port, &cdb, &bytes), self.naive.out(by, out)) {
            (Ok(effects), Ok((told, aborted, own))) => {
                assert_eq!(effects.abort_own, own);
                self.compare(&before.after_power_loss(), &effects, &told, &aborted);
            }
            (Err(refusal), Err(wanted)) => {
                assert_eq!(refusal, wanted);
                assert_eq!(self.tested, before);
            }
            (answer, wanted) => panic!("{answer:?}, not {wanted:?}"),
        }
    }

    /// Compares effects, and saves what is to be saved.
    fn compare(
        &mut self,
        before: &Reservations,
        effects: &Effects,
        told: &[Option<Code>],
        aborted: &[usize],
    ) {
        let nexuses = &self.naive.nexuses;
        for (nexus, &code) in nexuses.iter().zip(told) {
            let found: Vec<Code> = effects
                .attentions
                .iter()
                .filter(|(port, _)| *port == nexus.port)
                .map(|(_, code)| *code)
                .collect();
            assert_eq!(found, code.into_iter().collect::<Vec<_>>(), "told to {}", nexus.port);
        }
        let count = told.iter().flatten().count();
        assert_eq!(effects.attentions.len(), count, "nobody else is told");
        let ports: Vec<_> = aborted.iter().map(|&victim| nexuses[victim].port.clone()).collect();
        assert_eq!(effects.abort, ports);
        let now = self.tested.after_power_loss();
        assert_eq!(effects.save, *before != now);
        if effects.save {
            self.saved = self.tested.to_bytes();
        }
    }

    /// Compares all that can be seen.
    fn check(&self) {
        let Pair { tested, naive, saved } = self;
        for (by, nexus) in naive.nexuses.iter().enumerate() {
            let rights = Rights::from_bits(tested.rights(&nexus.port).to_bits());
            let (read, write) = naive.access(by);
            let kept_out = naive.any_legacy() && !nexus.legacy;
            for (demand, allowed) in [
                (Demand::Nothing, true),
                (Demand::Reserve, true),
                (Demand::Release, true),
                (Demand::Query, !kept_out),
                (Demand::Read, read),
                (Demand::Write, write),
                (Demand::Control, write),
                (Demand::PersistentIn, !naive.any_legacy()),
                (Demand::PersistentOut, !naive.any_legacy()),
            ] {
                assert_eq!(rights.allows(demand), allowed, "{demand:?} of {}", nexus.port);
            }
        }
        assert_eq!(tested.generation(), naive.generation);
        assert_eq!(tested.aptpl(), naive.aptpl);
        assert_eq!(tested.kind().map_or(0, Kind::code), naive.kind);
        let legacy = naive.nexuses.iter().find(|nexus| nexus.legacy);
        assert_eq!(tested.legacy_holder(), legacy.map(|nexus| &nexus.port));
        assert_eq!(Reservations::from_bytes(&tested.to_bytes()).as_ref(), Ok(tested));
        let saved = Reservations::from_bytes(saved).unwrap();
        assert_eq!(saved.after_power_loss(), tested.after_power_loss());
        if naive.any_legacy() {
            for action in 0..32 {
                assert_eq!(self.ask(action), Err(Refusal::Conflict));
            }
        } else {
            self.check_data();
        }
    }

    fn ask(&self, action: u8) -> Result<Vec<u8>, Refusal> {
        self.tested.read(&[0x5e, action, 0, 0, 0, 0, 0, 0xff, 0xff, 0])
    }

    /// Takes the data of PERSISTENT RESERVE IN apart.
    fn check_data(&self) {
        let naive = &self.naive;
        let body = |action| {
            let bytes = self.ask(action).unwrap();
            assert_eq!(number(&bytes, 0, 4), u64::from(naive.generation));
            assert_eq!(number(&bytes, 4, 4), bytes.len() as u64 - 8);
            bytes[8..].to_vec()
        };
        let mut keys: Vec<u64> = body(0).chunks(8).map(|key| number(key, 0, 8)).collect();
        keys.sort_unstable();
        let mut wanted: Vec<u64> =
            naive.nexuses.iter().map(|nexus| nexus.key).filter(|&key| key != 0).collect();
        wanted.sort_unstable();
        assert_eq!(keys, wanted);

        let reservation = body(1);
        if naive.kind == 0 {
            assert!(reservation.is_empty());
        } else {
            let holder = naive.nexuses.iter().find(|nexus| nexus.holder).unwrap();
            let key = if naive.kind >= 7 { 0 } else { holder.key };
            assert_eq!(
                (number(&reservation, 0, 8), number(&reservation, 8, 8)),
                (key, u64::from(naive.kind) << 16)
            );
        }

        let ptpl_a = u8::from(naive.aptpl);
        assert_eq!(self.ask(2), Ok(vec![0, 8, 0x15, 0xb0 | ptpl_a, 0xea, 1, 0, 0]));

        let mut rest = body(3);
        let mut seen = 0;
        while !rest.is_empty() {
            let length = usize::try_from(number(&rest, 20, 4)).unwrap();
            let one: Vec<u8> = rest.drain(..24 + length).collect();
            let id = &one[24..];
            let nexus = naive.nexuses.iter().find(|nexus| nexus.port.transport_id() == id);
            let nexus = nexus.unwrap();
            let kind = if nexus.holder { naive.kind } else { 0 };
            assert_eq!(number(&one, 0, 8), nexus.key);
            assert_eq!(one[8..20], [0, 0, 0, 0, nexus.holder.into(), kind, 0, 0, 0, 0, 0, 1]);
            seen += 1;
        }
        assert_eq!(seen, wanted.len());
        for action in 4..32 {
            assert_eq!(self.ask(action), Err(Refusal::cdb(1)));
        }
    }
}

/// The big-endian number in `bytes[at..at + len]`.
fn number(bytes: &[u8], at: usize, len: usize) -> u64 {
    bytes[at..at + len].iter().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn session() -> impl Strategy<Value = (usize, Vec<(usize, Step)>)> {
    (1..=8usize)
        .prop_flat_map(|nexuses| (Just(nexuses), proptest::collection::vec(step(nexuses), 1..80)))
}

proptest! {
    #![proptest_config(testkit::cases(400))]

    #[test]
    fn random_commands_are_answered_as_the_standard_says((nexuses, steps) in session()) {
        let mut pair = Pair::new(nexuses);
        for (by, step) in &steps {
            pair.step(*by, step);
            pair.check();
        }
    }
}
