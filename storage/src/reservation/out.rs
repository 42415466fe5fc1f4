//! PERSISTENT RESERVE OUT (SPC-4 6.16).

use super::{
    Effects, InitiatorPort, Kind, REGISTRATIONS_MAX, Refusal, Reservation, Reservations, SenseCode,
};

/// Bytes of the parameter list without TransportIDs (SPC-4 6.16.1).
const LIST: usize = 24;
/// Where the flags are in it, and which they are.
const FLAGS: u16 = 20;
const SPEC_I_PT: u8 = 1 << 3;
const APTPL: u8 = 1;

/// Service actions (SPC-4 table 213).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Register { ignore_key: bool },
    Reserve,
    Release,
    Clear,
    Preempt { abort: bool },
}

impl Action {
    /// REGISTER AND MOVE (07h), which has a parameter list of its own, is not there, and neither is
    /// REPLACE LOST RESERVATION (08h).
    fn from_code(code: u8) -> Option<Action> {
        Some(match code {
            0 => Action::Register { ignore_key: false },
            1 => Action::Reserve,
            2 => Action::Release,
            3 => Action::Clear,
            4 => Action::Preempt { abort: false },
            5 => Action::Preempt { abort: true },
            6 => Action::Register { ignore_key: true },
            _ => return None,
        })
    }
}

/// What a command says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Request<'p> {
    pub(super) port: &'p InitiatorPort,
    /// SCOPE and TYPE, as they are in the CDB.
    pub(super) scope_type: u8,
    /// RESERVATION KEY: what the port claims its own key is.
    pub(super) key: u64,
    /// SERVICE ACTION RESERVATION KEY.
    pub(super) action_key: u64,
    aptpl: bool,
}

impl Request<'_> {
    /// The type to reserve with. Where it counts, the scope has to be the logical unit.
    pub(super) fn kind(&self) -> Result<Kind, Refusal> {
        let kind = (self.scope_type >> 4 == 0).then(|| Kind::from_code(self.scope_type & 0xf));
        kind.flatten().ok_or(Refusal::cdb(2))
    }
}

/// The number in eight bytes of a list that has them.
fn key(list: &[u8], at: usize) -> u64 {
    list.get(at..).and_then(|bytes| bytes.first_chunk()).map_or(0, |key| u64::from_be_bytes(*key))
}

impl Reservations {
    /// PERSISTENT RESERVE OUT; `list` is the parameter list as it was received. Where it is
    /// refused, nothing has changed.
    pub fn out(
        &mut self,
        port: &InitiatorPort,
        cdb: &[u8; 10],
        list: &[u8],
    ) -> Result<Effects, Refusal> {
        // Whoever it is from, its own holder included (SPC-2 5.5.1).
        if self.legacy.is_some() {
            return Err(Refusal::Conflict);
        }
        let action = Action::from_code(cdb[1] & 0x1f).ok_or(Refusal::cdb(1))?;
        let (flags, said) = checked_list(cdb, list)?;
        let request = Request {
            port,
            scope_type: cdb[2],
            key: key(said, 0),
            action_key: key(said, 8),
            aptpl: flags & APTPL != 0,
        };
        let before = self.clone();
        let mut effects = match action {
            Action::Register { ignore_key } => self.register(&request, ignore_key),
            Action::Reserve => self.establish(&request),
            Action::Release => self.give_up(&request),
            Action::Clear => self.registered(&request).map(|()| self.remove_all(Some(port))),
            Action::Preempt { abort } => self.preempt(&request, abort),
        }?;
        effects.save = !self.survives_as(&before);
        Ok(effects)
    }

    /// Whether the port is registered with the key that it claims; all but registering needs that
    /// (SPC-4 6.16.3).
    pub(super) fn registered(&self, request: &Request<'_>) -> Result<(), Refusal> {
        match self.keys.get(request.port) {
            Some(&key) if key == request.key => Ok(()),
            _ => Err(Refusal::Conflict),
        }
    }

    /// REGISTER, REGISTER AND IGNORE EXISTING KEY (SPC-4 5.13.7, tables 67 and 68).
    fn register(&mut self, request: &Request<'_>, ignore_key: bool) -> Result<Effects, Refusal> {
        if request.aptpl && self.volatile {
            return Err(Refusal::list(FLAGS));
        }
        let found = self.keys.get(request.port).copied();
        // Who is not registered has the key 0.
        if !ignore_key && request.key != found.unwrap_or_default() {
            return Err(Refusal::Conflict);
        }
        let mut effects = Effects::default();
        match (found, request.action_key) {
            // Nothing is done, so that neither generation nor APTPL change.
            (None, 0) => return Ok(effects),
            (Some(_), 0) => effects.attentions = self.unregister(request.port),
            (None, _) if self.keys.len() >= REGISTRATIONS_MAX => {
                return Err(Refusal::check(SenseCode::NO_ROOM));
            }
            // A holder that changes its key goes on to hold the reservation.
            (_, key) => drop(self.keys.insert(request.port.clone(), key)),
        }
        self.aptpl = request.aptpl;
        self.next_generation();
        Ok(effects)
    }

    /// Takes a port's registration, and with it the reservation if no holder is left (SPC-4
    /// 5.13.11.2.3).
    fn unregister(&mut self, port: &InitiatorPort) -> Vec<(InitiatorPort, SenseCode)> {
        let held = self.holds(port);
        self.keys.remove(port);
        match self.kind() {
            // Others hold it, too.
            Some(kind) if kind.is_all_registrants() && !self.keys.is_empty() => Vec::new(),
            Some(kind) if held => {
                self.reservation = None;
                self.tell_released(kind, port)
            }
            _ => Vec::new(),
        }
    }

    /// The unit attentions when a reservation is given up: where it let registered ports in, these
    /// are told, all but the one that gave it up.
    fn tell_released(&self, kind: Kind, by: &InitiatorPort) -> Vec<(InitiatorPort, SenseCode)> {
        let told = self.keys.keys().filter(|port| kind.is_for_registrants() && *port != by);
        told.map(|port| (port.clone(), SenseCode::RESERVATIONS_RELEASED)).collect()
    }

    /// RESERVE (SPC-4 5.13.9).
    fn establish(&mut self, request: &Request<'_>) -> Result<Effects, Refusal> {
        let kind = request.kind()?;
        self.registered(request)?;
        match &self.reservation {
            None => self.reservation = Some(Reservation::new(request.port, kind)),
            Some(there) if self.holds(request.port) && there.kind() == kind => {}
            Some(_) => return Err(Refusal::Conflict),
        }
        Ok(Effects::default())
    }

    /// RELEASE (SPC-4 5.13.11.2.2).
    fn give_up(&mut self, request: &Request<'_>) -> Result<Effects, Refusal> {
        self.registered(request)?;
        let mut effects = Effects::default();
        // Who does not hold it may say so, and is not told about scope and type.
        if let Some(kind) = self.kind().filter(|_| self.holds(request.port)) {
            if request.scope_type != kind.code() {
                return Err(Refusal::check(SenseCode::INVALID_RELEASE));
            }
            self.reservation = None;
            effects.attentions = self.tell_released(kind, request.port);
        }
        Ok(effects)
    }

    /// What CLEAR does (SPC-4 5.13.11.2.7): every registered port but `by` is told.
    pub(super) fn remove_all(&mut self, by: Option<&InitiatorPort>) -> Effects {
        self.reservation = None;
        let gone = std::mem::take(&mut self.keys);
        self.next_generation();
        let told = gone.into_keys().filter(|port| Some(port) != by);
        let attentions = told.map(|port| (port, SenseCode::RESERVATIONS_PREEMPTED)).collect();
        Effects { attentions, ..Effects::default() }
    }

    /// It wraps (SPC-4 6.15.2).
    pub(super) fn next_generation(&mut self) {
        self.generation = self.generation.wrapping_add(1);
    }
}

/// The parameter list without what may follow, and its flags.
fn checked_list<'l>(cdb: &[u8; 10], list: &'l [u8]) -> Result<(u8, &'l [u8]), Refusal> {
    const LENGTH: Refusal = Refusal::Check { code: SenseCode::LIST_LENGTH, field: Some((true, 5)) };
    let length = u32::from_be_bytes([cdb[5], cdb[6], cdb[7], cdb[8]]);
    let said = list.get(..LIST).ok_or(LENGTH)?;
    let flags = said[usize::from(FLAGS)];
    // SIP_C is zero: "specify initiator ports" is not there. It makes the list longer, so this
    // comes before the length (SPC-4 6.16.1).
    if flags & SPEC_I_PT != 0 {
        return Err(Refusal::list(FLAGS));
    }
    if length as usize != LIST {
        return Err(LENGTH);
    }
    Ok((flags, said))
}
