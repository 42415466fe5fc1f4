//! Which guests `cohort mem` was asked about.

use anyhow::anyhow;
use cohort::mem::Guest;

use crate::cli::failure::Failure;

/// The guests that were asked about.
pub(super) struct Selection {
    pub(super) guests: Vec<Guest>,
    /// Names of the others, to tell who misspelt one.
    others: Vec<String>,
}

impl Selection {
    /// Of `guests`, those of the process `what`, else of the lab, else those with that name.
    pub(super) fn of(what: Option<&str>, guests: &[Guest]) -> Selection {
        let Some(what) = what else { return Selection::that(guests, &|_| true) };
        let pid = what.parse().ok();
        let by_pid = |guest: &Guest| Some(guest.process.pid) == pid;
        let by_lab = |guest: &Guest| guest.lab.as_ref().is_some_and(|lab| lab.name == what);
        let by_name = |guest: &Guest| guest.name == what;
        let ways: [&dyn Fn(&Guest) -> bool; 3] = [&by_pid, &by_lab, &by_name];
        for way in ways {
            if guests.iter().any(way) {
                return Selection::that(guests, way);
            }
        }
        Selection::that(guests, &|_| false)
    }

    fn that(guests: &[Guest], wanted: &dyn Fn(&Guest) -> bool) -> Selection {
        let (guests, others): (Vec<&Guest>, Vec<&Guest>) =
            guests.iter().partition(|guest| wanted(guest));
        let guests = guests.into_iter().cloned().collect();
        let name = |guest: &&Guest| match &guest.lab {
            Some(lab) => lab.name.clone(),
            None => guest.name.clone(),
        };
        let mut others: Vec<String> = others.iter().map(name).collect();
        others.dedup();
        Selection { guests, others }
    }

    /// Says that nothing of the name `what` runs.
    pub(super) fn nothing(&self, what: &str) -> Failure {
        const NAMED: usize = 10;
        let error = anyhow!("no lab, guest or guest's process {what:?} runs");
        let named: Vec<&str> = self.others.iter().take(NAMED).map(String::as_str).collect();
        let help = match named.is_empty() {
            true => {
                "no guest of this user runs that was started with this XDG_RUNTIME_DIR".to_owned()
            }
            false => format!("these run: {}; cohort mem shows all", named.join(", ")),
        };
        Failure::usage(error).help(help)
    }
}

#[cfg(test)]
mod tests {
    use cohort::mem::registry::LabRun;
    use cohort::mem::{Given, Process};

    use super::*;

    fn guest(name: &str, lab: Option<&str>, pid: u32) -> Guest {
        let lab = lab.map(|name| LabRun { name: name.to_owned(), supervisor: 1 });
        let process = Process { pid, started: 1 };
        Guest { name: name.to_owned(), lab, process, given: Given::default() }
    }

    fn pids(what: Option<&str>) -> Vec<u32> {
        let guests = vec![
            guest("guest", None, 10),
            guest("a", Some("pair"), 20),
            guest("b", Some("pair"), 21),
            guest("pair", None, 30),
            guest("20", None, 31),
        ];
        let selection = Selection::of(what, &guests);
        selection.guests.iter().map(|guest| guest.process.pid).collect()
    }

    #[test]
    fn processes_come_before_labs_and_labs_before_guests() {
        assert_eq!(pids(None).len(), 5);
        assert_eq!(pids(Some("pair")), [20, 21]);
        assert_eq!(pids(Some("b")), [21]);
        assert_eq!(pids(Some("20")), [20]);
        assert_eq!(pids(Some("guest")), [10]);
        assert!(pids(Some("")).is_empty());
    }

    #[test]
    fn who_asks_for_nothing_hears_what_there_is() {
        let selection = Selection::of(Some("pear"), &[guest("a", Some("pair"), 20)]);
        let failure = selection.nothing("pear");
        assert!(failure.sentence().contains("\"pear\""));
        assert!(failure.advice().is_some_and(|help| help.contains("pair")));
        assert_eq!(failure.status(), 2);
    }
}
