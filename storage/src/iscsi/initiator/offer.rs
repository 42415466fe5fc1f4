//! What an initiator offers at login, and what it takes for an answer (RFC 7143 section 13).

use super::options::SessionOptions;
use crate::iscsi::keys;
use crate::iscsi::negotiation::{Agreed, is_answer};

/// The offers of one login.
#[derive(Debug)]
pub(super) struct Offers {
    first: Agreed,
    receive_segment: u32,
}

impl Offers {
    pub(super) fn new(options: &SessionOptions) -> Offers {
        let limits = &options.limits;
        let mut first = Agreed {
            initial_r2t: limits.initial_r2t,
            immediate_data: limits.immediate_data,
            max_burst: limits.max_burst,
            first_burst: limits.first_burst,
            outstanding_r2t: limits.outstanding_r2t.into(),
            ..Agreed::default()
        };
        first.digests.header = options.header_digest;
        first.digests.data = options.data_digest;
        Offers { first, receive_segment: limits.receive_segment }
    }

    /// What is agreed on as long as the target answers nothing.
    pub(super) fn unanswered(&self) -> Agreed {
        Agreed {
            max_burst: self.first.max_burst.min(Agreed::default().max_burst),
            first_burst: self.first.first_burst.min(Agreed::default().first_burst),
            immediate_data: self.first.immediate_data,
            ..Agreed::default()
        }
    }

    /// Appends all offers.
    pub(super) fn push(&self, out: &mut Vec<u8>) {
        let say = |yes: bool| if yes { "Yes" } else { "No" };
        let digest = |wanted: bool| if wanted { "CRC32C,None" } else { "None" };
        let Agreed { digests, max_burst, first_burst, outstanding_r2t, .. } = &self.first;
        keys::push(out, "HeaderDigest", digest(digests.header));
        keys::push(out, "DataDigest", digest(digests.data));
        keys::push(out, "MaxConnections", "1");
        keys::push(out, "InitialR2T", say(self.first.initial_r2t));
        keys::push(out, "ImmediateData", say(self.first.immediate_data));
        keys::push(out, "MaxRecvDataSegmentLength", &self.receive_segment.to_string());
        keys::push(out, "MaxBurstLength", &max_burst.to_string());
        keys::push(out, "FirstBurstLength", &first_burst.to_string());
        keys::push(out, "MaxOutstandingR2T", &outstanding_r2t.to_string());
        keys::push(out, "DataPDUInOrder", "Yes");
        keys::push(out, "DataSequenceInOrder", "Yes");
        keys::push(out, "DefaultTime2Wait", "0");
        keys::push(out, "DefaultTime2Retain", "0");
        keys::push(out, "ErrorRecoveryLevel", "0");
    }

    /// Takes one pair of the target's: an answer, a declaration, or an offer of its own, to which
    /// the answer is appended.
    ///
    /// # Errors
    /// The key, when the value is none that we can live with.
    pub(super) fn take(
        &self,
        (key, value): (&str, &str),
        agreed: &mut Agreed,
        out: &mut Vec<u8>,
    ) -> Result<(), String> {
        let wrong = || format!("{key} is answered with a value that was not offered");
        let first = &self.first;
        let yes = || match value {
            "Yes" => Ok(true),
            "No" => Ok(false),
            _ => Err(wrong()),
        };
        let number = |least: u32, most: u32| {
            let number = keys::number(value).filter(|number| (least..=most).contains(number));
            number.ok_or_else(wrong)
        };
        let digest = |wanted: bool| match value {
            "CRC32C" if wanted => Ok(true),
            "None" => Ok(false),
            _ => Err(wrong()),
        };
        match key {
            // They mean nothing where data is neither immediate nor unsolicited, say.
            _ if value == "Irrelevant" => {}
            "HeaderDigest" | "DataDigest" if is_answer(value) => {}
            "DefaultTime2Wait" | "DefaultTime2Retain" if is_answer(value) => {}
            "HeaderDigest" => agreed.digests.header = digest(first.digests.header)?,
            "DataDigest" => agreed.digests.data = digest(first.digests.data)?,
            "InitialR2T" => agreed.initial_r2t = yes()? || first.initial_r2t,
            "ImmediateData" => agreed.immediate_data = yes()? && first.immediate_data,
            "MaxRecvDataSegmentLength" => agreed.send_segment = number(512, (1 << 24) - 1)?,
            "MaxBurstLength" => agreed.max_burst = number(512, first.max_burst)?,
            "FirstBurstLength" => agreed.first_burst = number(512, first.first_burst)?,
            "MaxOutstandingR2T" => agreed.outstanding_r2t = number(1, first.outstanding_r2t)?,
            "DataPDUInOrder" | "DataSequenceInOrder" => {
                if !yes()? {
                    return Err(wrong());
                }
            }
            "ErrorRecoveryLevel" => _ = number(0, 0)?,
            "MaxConnections" => _ = number(1, 1)?,
            "DefaultTime2Wait" | "DefaultTime2Retain" => _ = number(0, 3600)?,
            "TargetAlias" | "TargetAddress" | "TargetPortalGroupTag" => {}
            _ if is_answer(value) => {}
            _ => keys::push(out, key, "NotUnderstood"),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::iscsi::IscsiName;

    fn offers() -> Offers {
        let name = IscsiName::new("iqn.2026-01.example:one").unwrap();
        let options = SessionOptions { header_digest: true, ..SessionOptions::new(name, [0; 6]) };
        Offers::new(&options)
    }

    fn take(key: &str, value: &str) -> Result<(Agreed, Vec<u8>), String> {
        let (offers, mut out) = (offers(), Vec::new());
        let mut agreed = offers.unanswered();
        offers.take((key, value), &mut agreed, &mut out)?;
        Ok((agreed, out))
    }

    #[test]
    fn answers_within_the_offer_are_taken() {
        assert!(take("HeaderDigest", "CRC32C").unwrap().0.digests.header);
        assert!(!take("HeaderDigest", "Reject").unwrap().0.digests.header);
        assert!(!take("InitialR2T", "No").unwrap().0.initial_r2t);
        assert!(take("InitialR2T", "Yes").unwrap().0.initial_r2t);
        assert!(!take("ImmediateData", "No").unwrap().0.immediate_data);
        assert_eq!(take("MaxBurstLength", "4096").unwrap().0.max_burst, 4096);
        assert_eq!(take("MaxRecvDataSegmentLength", "65536").unwrap().0.send_segment, 65_536);
        assert_eq!(take("X-com.example", "1").unwrap().1, b"X-com.example=NotUnderstood\0");
        assert_eq!(take("TargetAlias", "disk").unwrap().1, b"");
    }

    #[test]
    fn others_are_not() {
        for (key, value) in [
            ("DataDigest", "CRC32C"),
            ("HeaderDigest", "SHA"),
            ("InitialR2T", "maybe"),
            ("MaxBurstLength", "16777215"),
            ("FirstBurstLength", "511"),
            ("MaxOutstandingR2T", "0"),
            ("MaxOutstandingR2T", "Reject"),
            ("DataPDUInOrder", "No"),
            ("ErrorRecoveryLevel", "1"),
            ("MaxRecvDataSegmentLength", "0"),
        ] {
            assert!(take(key, value).is_err(), "{key}={value}");
        }
    }
}
