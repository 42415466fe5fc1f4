//! CHAP: each side proves that it knows a secret without saying it (RFC 1994, RFC 7143
//! section 12.1). The secrets come from a file, see [`ChapSecrets`].

use std::fs::File;
use std::io::{self, Read};

use md5::{Digest, Md5};
use sha2::Sha256;

use super::keys;
use super::secrets::{ChapSecrets, Secret};

/// Bytes of our challenges.
pub(super) const CHALLENGE_LEN: usize = 32;

/// Most bytes of a challenge or response that is taken (RFC 7143 section 12.1.3).
pub(super) const BINARY_MAX: usize = 1024;

/// How a response is made from a secret and a challenge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Algorithm {
    Md5,
    Sha256,
}

impl Algorithm {
    /// The number in `CHAP_A` (IANA, PPP authentication algorithms).
    pub(super) fn number(self) -> &'static str {
        match self {
            Algorithm::Md5 => "5",
            Algorithm::Sha256 => "7",
        }
    }

    /// The first one of a list, in the order of the initiator's preference, that is known here.
    pub(super) fn choose(list: &str) -> Option<Algorithm> {
        let known = [Algorithm::Md5, Algorithm::Sha256];
        list.split(',').find_map(|number| known.into_iter().find(|known| known.number() == number))
    }

    /// Hash of identifier, secret and challenge (RFC 1994 section 4.1).
    pub(super) fn respond(self, id: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
        fn hash<D: Digest>(id: u8, secret: &Secret, challenge: &[u8]) -> Vec<u8> {
            D::new()
                .chain_update([id])
                .chain_update(secret.bytes())
                .chain_update(challenge)
                .finalize()
                .to_vec()
        }
        match self {
            Algorithm::Md5 => hash::<Md5>(id, secret, challenge),
            Algorithm::Sha256 => hash::<Sha256>(id, secret, challenge),
        }
    }
}

/// Whether two runs of bytes are equal, in a time that does not depend on where they differ.
pub(super) fn equal(left: &[u8], right: &[u8]) -> bool {
    let differences = left.iter().zip(right).fold(0, |all, (l, r)| all | (l ^ r));
    // The compiler must not stop at the first difference.
    left.len() == right.len() && std::hint::black_box(differences) == 0
}

/// Bytes that nobody can foretell.
pub(super) fn random<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Why an initiator is not let in.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ChapError {
    #[error("no algorithm of the initiator's is known")]
    Algorithm,
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{0}` makes no sense")]
    Value(&'static str),
    #[error("name or secret is wrong")]
    Wrong,
    #[error("the initiator sent our own challenge back")]
    Reflected,
    #[error("the initiator wants the target to prove itself, for which there is no secret")]
    NoSecret,
}

/// What was asked of an initiator.
#[derive(Debug)]
pub(super) struct Challenge {
    algorithm: Algorithm,
    id: u8,
    bytes: [u8; CHALLENGE_LEN],
}

impl Challenge {
    /// Makes one for an initiator that knows the algorithms of `list`.
    pub(super) fn new(list: &str) -> io::Result<Result<Challenge, ChapError>> {
        let Some(algorithm) = Algorithm::choose(list) else { return Ok(Err(ChapError::Algorithm)) };
        let [id] = random()?;
        Ok(Ok(Challenge { algorithm, id, bytes: random()? }))
    }

    /// Appends it.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        keys::push(out, "CHAP_A", self.algorithm.number());
        keys::push(out, "CHAP_I", &self.id.to_string());
        keys::push(out, "CHAP_C", &keys::to_hex(&self.bytes));
    }

    /// Checks the initiator's answer, and appends our own where it asks who we are. Returns the
    /// name by which it is known.
    pub(super) fn check(
        &self,
        pairs: &[(&str, &str)],
        secrets: &ChapSecrets,
        out: &mut Vec<u8>,
    ) -> Result<String, ChapError> {
        let value = |wanted| pairs.iter().find(|&&(key, _)| key == wanted).map(|&(_, value)| value);
        let name = value("CHAP_N").ok_or(ChapError::Missing("CHAP_N"))?;
        let response = value("CHAP_R").ok_or(ChapError::Missing("CHAP_R"))?;
        let response = keys::binary(response, BINARY_MAX).ok_or(ChapError::Value("CHAP_R"))?;
        // An unknown name costs as much as a known one, so that names cannot be found by time.
        let secret = secrets.of_initiator(name);
        let nobody = Secret::nobody();
        let wanted = self.algorithm.respond(self.id, secret.unwrap_or(&nobody), &self.bytes);
        if !equal(&wanted, &response) || secret.is_none() {
            return Err(ChapError::Wrong);
        }
        match (value("CHAP_I"), value("CHAP_C")) {
            (None, None) => {}
            (id, challenge) => self.answer(id, challenge, secrets, out)?,
        }
        Ok(name.to_owned())
    }

    /// Proves that we are the target.
    fn answer(
        &self,
        id: Option<&str>,
        challenge: Option<&str>,
        secrets: &ChapSecrets,
        out: &mut Vec<u8>,
    ) -> Result<(), ChapError> {
        let id = id.ok_or(ChapError::Missing("CHAP_I"))?;
        let id = keys::number(id).and_then(|id| u8::try_from(id).ok());
        let id = id.ok_or(ChapError::Value("CHAP_I"))?;
        let challenge = challenge.ok_or(ChapError::Missing("CHAP_C"))?;
        let challenge = keys::binary(challenge, BINARY_MAX);
        let challenge = challenge.filter(|bytes| !bytes.is_empty());
        let challenge = challenge.ok_or(ChapError::Value("CHAP_C"))?;
        // Else an initiator that knows no secret could have us answer our own question on another
        // connection (RFC 7143 section 12.1.3).
        if equal(&challenge, &self.bytes) {
            return Err(ChapError::Reflected);
        }
        let (name, secret) = secrets.of_target().ok_or(ChapError::NoSecret)?;
        keys::push(out, "CHAP_N", name);
        keys::push(out, "CHAP_R", &keys::to_hex(&self.algorithm.respond(id, secret, &challenge)));
        Ok(())
    }
}

#[cfg(test)]
mod tests;
