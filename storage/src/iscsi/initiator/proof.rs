//! The security stage of a login, as the initiator: nothing to prove, or CHAP, which the target may
//! have to take part in (RFC 7143 section 12.1).

use super::dial::ConnectError;
use super::options::Credentials;
use crate::iscsi::chap::{Algorithm, BINARY_MAX, CHALLENGE_LEN, equal, random};
use crate::iscsi::keys;

#[derive(Debug)]
enum State {
    /// CHAP was offered.
    Offered,
    /// The algorithms were said.
    Named,
    /// The proof was given, with a question to the target if it has to prove itself.
    Given(Option<(Algorithm, u8, [u8; CHALLENGE_LEN])>),
    /// Nothing is open.
    Done,
}

/// One proof.
#[derive(Debug)]
pub(super) struct Proof<'c> {
    credentials: Option<&'c Credentials>,
    state: State,
}

/// The algorithms that are offered. Targets take the first that they know, and some know number 7,
/// which is SHA-256, as SHA-1 (tgt is one): so it is left to those that do not take MD5.
const ALGORITHMS: &str = "5,7";

impl<'c> Proof<'c> {
    pub(super) fn new(credentials: Option<&'c Credentials>) -> Proof<'c> {
        let state = if credentials.is_some() { State::Offered } else { State::Done };
        Proof { credentials, state }
    }

    /// Appends what the first request says.
    pub(super) fn begin(&self, out: &mut Vec<u8>) {
        // Who has secrets does not talk to those who ask for none: they may be anybody.
        keys::push(out, "AuthMethod", if self.credentials.is_some() { "CHAP" } else { "None" });
    }

    /// Whether the initiator has said all that it has to.
    pub(super) fn may_leave(&self) -> bool {
        matches!(self.state, State::Given(_) | State::Done)
    }

    /// Takes an answer of the target's, and appends what to say to it.
    pub(super) fn take(
        &mut self,
        pairs: &[(&str, &str)],
        out: &mut Vec<u8>,
    ) -> Result<(), ConnectError> {
        let value = |wanted| pairs.iter().find(|&&(key, _)| key == wanted).map(|&(_, value)| value);
        let Some(credentials) = self.credentials else {
            return match value("AuthMethod") {
                None | Some("None") => Ok(()),
                Some(_) => Err(ConnectError::Proof("it demands one, and none is given")),
            };
        };
        match &self.state {
            State::Offered => {
                if value("AuthMethod") != Some("CHAP") {
                    return Err(ConnectError::Proof("it does not want CHAP"));
                }
                keys::push(out, "CHAP_A", ALGORITHMS);
                self.state = State::Named;
            }
            State::Named => {
                let nonsense = |key: &str| ConnectError::Protocol(format!("{key} makes no sense"));
                let algorithm = value("CHAP_A").and_then(Algorithm::choose);
                let algorithm = algorithm.ok_or(ConnectError::Proof("no algorithm is common"))?;
                let id = value("CHAP_I").and_then(keys::number);
                let id = id.and_then(|id| u8::try_from(id).ok());
                let id = id.ok_or_else(|| nonsense("CHAP_I"))?;
                let challenge = value("CHAP_C").and_then(|text| keys::binary(text, BINARY_MAX));
                let challenge = challenge.filter(|bytes| !bytes.is_empty());
                let challenge = challenge.ok_or_else(|| nonsense("CHAP_C"))?;
                let response = algorithm.respond(id, &credentials.secret, &challenge);
                keys::push(out, "CHAP_N", &credentials.name);
                keys::push(out, "CHAP_R", &keys::to_hex(&response));
                let mut question = None;
                if credentials.target.is_some() {
                    let host = |source| ConnectError::Host { source };
                    let [id] = random().map_err(host)?;
                    let bytes = random().map_err(host)?;
                    keys::push(out, "CHAP_I", &id.to_string());
                    keys::push(out, "CHAP_C", &keys::to_hex(&bytes));
                    question = Some((algorithm, id, bytes));
                }
                self.state = State::Given(question);
            }
            State::Given(question) => {
                if let (Some((algorithm, id, bytes)), Some(secret)) =
                    (question, &credentials.target)
                {
                    let response = value("CHAP_R").and_then(|text| keys::binary(text, BINARY_MAX));
                    let wanted = algorithm.respond(*id, secret, bytes);
                    if !response.is_some_and(|response| equal(&response, &wanted)) {
                        return Err(ConnectError::Impostor);
                    }
                }
                self.state = State::Done;
            }
            State::Done => {}
        }
        Ok(())
    }

    /// The stage is over: is all proved?
    pub(super) fn finish(&self) -> Result<(), ConnectError> {
        match self.state {
            State::Done => Ok(()),
            State::Given(Some(_)) => Err(ConnectError::Impostor),
            _ => Err(ConnectError::Protocol("it ends the proof before it is given".to_owned())),
        }
    }
}
