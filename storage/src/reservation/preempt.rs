//! PREEMPT and PREEMPT AND ABORT (SPC-4 5.13.11.2.4 to 5.13.11.2.6): how a port takes the
//! registrations of others, and with them the reservation.

use super::out::Request;
use super::{Effects, InitiatorPort, Refusal, Reservation, Reservations, SenseCode};

/// Byte of the parameter list where SERVICE ACTION RESERVATION KEY is.
const ACTION_KEY: u16 = 8;

impl Reservations {
    /// Both service actions; `abort` is what they differ in.
    pub(super) fn preempt(
        &mut self,
        request: &Request<'_>,
        abort: bool,
    ) -> Result<Effects, Refusal> {
        self.registered(request)?;
        let everyone = match (&self.reservation, request.action_key) {
            (Some(Reservation::All(_)), 0) => true,
            // 0 is nobody's key, and stands for nobody (SPC-4 table 72).
            (_, 0) => return Err(Refusal::list(ACTION_KEY)),
            _ => false,
        };
        let holder_key = match &self.reservation {
            Some(Reservation::One(holder, _)) => self.keys.get(holder).copied(),
            _ => None,
        };
        let mut effects = if everyone || holder_key == Some(request.action_key) {
            self.take_over(request, everyone)?
        } else {
            self.take_registrations(request)?
        };
        self.next_generation();
        if abort {
            let victims = effects.attentions.iter();
            let victims = victims.filter(|(_, code)| *code == SenseCode::REGISTRATIONS_PREEMPTED);
            effects.abort = victims.map(|(port, _)| port.clone()).collect();
            // Who preempts itself, too, has its other commands aborted (SPC-4 5.13.11.2.6).
            effects.abort_own = everyone || request.key == request.action_key;
        }
        Ok(effects)
    }

    /// The reservation changes hands (SPC-4 5.13.11.2.4.3). It is no error for a port to preempt
    /// itself, and to change the type in that way: it stays registered.
    fn take_over(&mut self, request: &Request<'_>, everyone: bool) -> Result<Effects, Refusal> {
        let new = Reservation::new(request.port, request.kind()?);
        let old = self.reservation.replace(new.clone());
        let gone = |port: &InitiatorPort, key: u64| {
            port != request.port && (everyone || key == request.action_key)
        };
        let mut effects = self.remove(request.port, gone);
        // Those that are left are told if other rules hold for them now.
        if old.is_none_or(|old| old.kind() != new.kind()) {
            let left = self.keys.keys().filter(|port| *port != request.port);
            let told = left.map(|port| (port.clone(), SenseCode::RESERVATIONS_RELEASED));
            effects.attentions.extend(told);
        }
        Ok(effects)
    }

    /// Only registrations go (SPC-4 5.13.11.2.5): those with the key, which can be the port's own.
    /// Scope and type do not matter.
    fn take_registrations(&mut self, request: &Request<'_>) -> Result<Effects, Refusal> {
        if !self.keys.values().any(|&key| key == request.action_key) {
            return Err(Refusal::Conflict);
        }
        let effects = self.remove(request.port, |_, key| key == request.action_key);
        // All registered ports were holders, and none is left.
        if self.keys.is_empty() {
            self.reservation = None;
        }
        Ok(effects)
    }

    /// Removes registrations; their ports are told, all but the one that did it.
    fn remove(
        &mut self,
        by: &InitiatorPort,
        gone: impl Fn(&InitiatorPort, u64) -> bool,
    ) -> Effects {
        let mut effects = Effects::default();
        self.keys.retain(|port, &mut key| {
            let gone = gone(port, key);
            if gone && port != by {
                effects.attentions.push((port.clone(), SenseCode::REGISTRATIONS_PREEMPTED));
            }
            !gone
        });
        effects
    }
}
