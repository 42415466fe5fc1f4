//! What both sides agree on at login (RFC 7143 section 13): a table of keys, each with the rule by
//! which an offer and what we want make the result.

use super::digest::Digests;
use super::keys;
use super::limits::ServerLimits;

/// Bounds of every length in bytes (RFC 7143 section 13.12).
const LENGTHS: (u32, u32) = (512, (1 << 24) - 1);

/// What is agreed on; at first, what holds when nobody says anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Agreed {
    pub(super) digests: Digests,
    /// Whether all data but immediate data waits for an R2T.
    pub(super) initial_r2t: bool,
    pub(super) immediate_data: bool,
    /// Most bytes of data in a PDU that the initiator takes.
    pub(super) send_segment: u32,
    /// Most bytes of a sequence of Data-In or solicited Data-Out.
    pub(super) max_burst: u32,
    /// Most bytes of immediate and other unsolicited data together.
    pub(super) first_burst: u32,
    pub(super) outstanding_r2t: u32,
}

impl Default for Agreed {
    fn default() -> Agreed {
        Agreed {
            digests: Digests::default(),
            initial_r2t: true,
            immediate_data: true,
            send_segment: 8192,
            max_burst: 262_144,
            first_burst: 65_536,
            outstanding_r2t: 1,
        }
    }
}

/// How the result of an offer is found.
enum Rule {
    /// The first of the initiator's list that we have.
    List(&'static [&'static str]),
    /// `Yes` if both sides say so.
    And(bool),
    /// `Yes` if one side says so.
    Or(bool),
    /// The smaller number, within bounds.
    Least(u32, (u32, u32)),
    /// The greater number, within bounds.
    Most(u32, (u32, u32)),
    /// The initiator only says something; there is no answer but to nonsense.
    Declared((u32, u32)),
    /// Not for login, or not from an initiator.
    Refused,
}

/// What an offer led to.
enum Outcome {
    Text(String),
    Bool(bool),
    Number(u32),
    Refused,
}

impl Rule {
    fn of(key: &str, limits: &ServerLimits) -> Option<Rule> {
        const DIGESTS: &[&str] = &["CRC32C", "None"];
        Some(match key {
            "HeaderDigest" | "DataDigest" => Rule::List(DIGESTS),
            "MaxConnections" => Rule::Least(1, (1, 65_535)),
            "InitialR2T" => Rule::Or(false),
            "ImmediateData" => Rule::And(true),
            "MaxRecvDataSegmentLength" => Rule::Declared(LENGTHS),
            "MaxBurstLength" => Rule::Least(limits.max_burst, LENGTHS),
            "FirstBurstLength" => Rule::Least(limits.first_burst, LENGTHS),
            "DefaultTime2Wait" => Rule::Most(2, (0, 3600)),
            // Nothing of a session is kept when its connection is gone.
            "DefaultTime2Retain" => Rule::Least(0, (0, 3600)),
            "MaxOutstandingR2T" => Rule::Least(limits.outstanding_r2t, (1, 65_535)),
            "DataPDUInOrder" | "DataSequenceInOrder" => Rule::Or(true),
            "ErrorRecoveryLevel" => Rule::Least(0, (0, 2)),
            "TaskReporting" => Rule::List(&["RFC3720"]),
            // RFC 7144: 1 is RFC 7143 without what came later.
            "iSCSIProtocolLevel" => Rule::Least(1, (0, 31)),
            // Of RFC 3720, where no is what to answer; gone since.
            "IFMarker" | "OFMarker" => Rule::And(false),
            "SendTargets"
            | "TargetAlias"
            | "TargetAddress"
            | "TargetPortalGroupTag"
            | "AuthMethod" => Rule::Refused,
            _ => return None,
        })
    }

    fn apply(&self, value: &str) -> Outcome {
        let number = |(least, most): (u32, u32)| {
            keys::number(value).filter(|number| (least..=most).contains(number))
        };
        let answer = match *self {
            Rule::List(ours) => value
                .split(',')
                .find(|offer| ours.contains(offer))
                .map(|chosen| Outcome::Text(chosen.to_owned())),
            Rule::And(ours) => bool_of(value).map(|offer| Outcome::Bool(offer && ours)),
            Rule::Or(ours) => bool_of(value).map(|offer| Outcome::Bool(offer || ours)),
            Rule::Least(ours, bounds) => number(bounds).map(|n| Outcome::Number(n.min(ours))),
            Rule::Most(ours, bounds) => number(bounds).map(|n| Outcome::Number(n.max(ours))),
            Rule::Declared(bounds) => number(bounds).map(Outcome::Number),
            Rule::Refused => None,
        };
        answer.unwrap_or(Outcome::Refused)
    }
}

fn bool_of(value: &str) -> Option<bool> {
    match value {
        "Yes" => Some(true),
        "No" => Some(false),
        _ => None,
    }
}

/// Whether the value is an answer to something we said rather than an offer.
pub(super) fn is_answer(value: &str) -> bool {
    matches!(value, "Reject" | "NotUnderstood" | "Irrelevant")
}

impl Agreed {
    /// Takes one operational offer, and appends the answer.
    pub(super) fn offer(
        &mut self,
        key: &str,
        value: &str,
        limits: &ServerLimits,
        out: &mut Vec<u8>,
    ) {
        if is_answer(value) {
            return;
        }
        let Some(rule) = Rule::of(key, limits) else {
            return keys::push(out, key, "NotUnderstood");
        };
        let outcome = rule.apply(value);
        match outcome {
            Outcome::Refused => return keys::push(out, key, "Reject"),
            // Its answer is what we take, which is said once for all.
            Outcome::Number(_) if matches!(rule, Rule::Declared(_)) => {}
            Outcome::Text(ref text) => keys::push(out, key, text),
            Outcome::Bool(yes) => keys::push(out, key, if yes { "Yes" } else { "No" }),
            Outcome::Number(number) => keys::push(out, key, &number.to_string()),
        }
        self.set(key, &outcome);
    }

    fn set(&mut self, key: &str, outcome: &Outcome) {
        match (key, outcome) {
            ("HeaderDigest", Outcome::Text(kind)) => self.digests.header = kind == "CRC32C",
            ("DataDigest", Outcome::Text(kind)) => self.digests.data = kind == "CRC32C",
            ("InitialR2T", &Outcome::Bool(yes)) => self.initial_r2t = yes,
            ("ImmediateData", &Outcome::Bool(yes)) => self.immediate_data = yes,
            ("MaxRecvDataSegmentLength", &Outcome::Number(n)) => self.send_segment = n,
            ("MaxBurstLength", &Outcome::Number(n)) => self.max_burst = n,
            ("FirstBurstLength", &Outcome::Number(n)) => self.first_burst = n,
            ("MaxOutstandingR2T", &Outcome::Number(n)) => self.outstanding_r2t = n,
            _ => {}
        }
    }

    /// What follows from all keys together.
    pub(super) fn settle(&mut self) {
        // RFC 7143 section 13.14: the first burst is no longer than any.
        self.first_burst = self.first_burst.min(self.max_burst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(agreed: &mut Agreed, key: &str, value: &str) -> String {
        let mut out = Vec::new();
        agreed.offer(key, value, &ServerLimits::default(), &mut out);
        String::from_utf8(out).unwrap().trim_end_matches('\0').to_owned()
    }

    #[test]
    fn each_key_follows_its_rule() {
        for (key, offer, answer) in [
            ("HeaderDigest", "CRC32C,None", "CRC32C"),
            ("HeaderDigest", "None,CRC32C", "None"),
            ("DataDigest", "SHA,None", "None"),
            ("DataDigest", "SHA", "Reject"),
            ("MaxConnections", "8", "1"),
            ("MaxConnections", "0", "Reject"),
            ("InitialR2T", "Yes", "Yes"),
            ("InitialR2T", "No", "No"),
            ("InitialR2T", "yes", "Reject"),
            ("ImmediateData", "Yes", "Yes"),
            ("ImmediateData", "No", "No"),
            ("MaxBurstLength", "512", "512"),
            ("MaxBurstLength", "16777215", "1048576"),
            ("MaxBurstLength", "511", "Reject"),
            ("MaxBurstLength", "16777216", "Reject"),
            ("FirstBurstLength", "0x1000", "4096"),
            ("FirstBurstLength", "16777215", "131072"),
            ("DefaultTime2Wait", "0", "2"),
            ("DefaultTime2Wait", "20", "20"),
            ("DefaultTime2Retain", "20", "0"),
            ("MaxOutstandingR2T", "1", "1"),
            ("MaxOutstandingR2T", "65535", "16"),
            ("DataPDUInOrder", "No", "Yes"),
            ("DataSequenceInOrder", "No", "Yes"),
            ("ErrorRecoveryLevel", "2", "0"),
            ("ErrorRecoveryLevel", "3", "Reject"),
            ("TaskReporting", "FastAbort,RFC3720", "RFC3720"),
            ("iSCSIProtocolLevel", "2", "1"),
            ("IFMarker", "No", "No"),
            ("SendTargets", "All", "Reject"),
            ("AuthMethod", "None", "Reject"),
            ("X-com.example.key", "1", "NotUnderstood"),
            ("Frobnicate", "", "NotUnderstood"),
        ] {
            let wanted = format!("{key}={answer}");
            assert_eq!(ask(&mut Agreed::default(), key, offer), wanted, "offered {offer}");
        }
    }

    #[test]
    fn what_is_declared_has_no_answer() {
        let mut agreed = Agreed::default();
        assert_eq!(ask(&mut agreed, "MaxRecvDataSegmentLength", "65536"), "");
        assert_eq!(agreed.send_segment, 65_536);
        assert_eq!(
            ask(&mut agreed, "MaxRecvDataSegmentLength", "1"),
            "MaxRecvDataSegmentLength=Reject"
        );
        assert_eq!(agreed.send_segment, 65_536);
    }

    #[test]
    fn answers_to_us_are_not_answered() {
        for answer in ["NotUnderstood", "Irrelevant", "Reject"] {
            assert_eq!(ask(&mut Agreed::default(), "MaxBurstLength", answer), "");
        }
    }

    #[test]
    fn the_first_burst_is_no_longer_than_any() {
        let mut agreed = Agreed::default();
        ask(&mut agreed, "MaxBurstLength", "4096");
        agreed.settle();
        assert_eq!((agreed.max_burst, agreed.first_burst), (4096, 4096));
    }
}
