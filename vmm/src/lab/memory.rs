//! What a lab's guests hold of the host's memory, watched while they run.
//!
//! A thread takes a sample each second, and some more in the first one, from `smaps_rollup`. Only
//! when guests together have grown does it look at every mapping: the last such account is the
//! lab's peak. After each sample it rests at least [`REST`] times as long as that has worked, since
//! the kernel walks all pages for it: watching takes 5 % of a processor at most.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::Lab;
use super::process::Process;
use super::report::{GuestReport, LabMemory, LabPeak};
use super::results::Results;
use crate::machine::usage::cpu_of_thread;
use crate::mem::registry::LabRun;
use crate::mem::series::{Sample, Series};
use crate::mem::{self, Account, Given, Guest, OriginUse, Sizes, plot, smaps};
use crate::outcome::write_json;

#[cfg(test)]
mod tests;

/// When the first sample is taken, after the first guest has started; the next ones at twice that
/// and so on, up to one each second.
const FIRST: Duration = Duration::from_millis(50);
/// The shortest rest after a sample, in times the processor time that the sample took; and that in the first second,
/// in which short labs are over.
const REST: u32 = 20;
const REST_AT_FIRST: u32 = 10;

const SECOND: Duration = Duration::from_secs(1);

/// A lab's memory being watched.
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<Seen>>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// The guests that run.
    guests: Vec<Guest>,
    ended: bool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What was seen of a lab's memory.
pub(super) struct Seen {
    series: Series<File>,
    /// Processor time that samples took.
    cost: Duration,
    peak: Option<Peak>,
    /// What each guest held when it held most.
    most: HashMap<String, Sizes>,
}

#[derive(Serialize)]
struct Peak {
    at_ms: u64,
    /// The sum of resident sizes, by which peaks are told.
    #[serde(skip)]
    rss_kib: u64,
    #[serde(flatten)]
    account: Account,
}

/// `memory.json`.
#[derive(Serialize)]
struct Document<'a> {
    schema: u32,
    lab: &'a str,
    samples: u64,
    sampling_ms: u64,
    peak: &'a Option<Peak>,
    /// What each guest held at its own end.
    r#final: Vec<Final<'a>>,
}

#[derive(Serialize)]
struct Final<'a> {
    name: &'a str,
    origins: &'a [OriginUse],
}

impl<'a> Final<'a> {
    fn of(guest: &'a GuestReport) -> Final<'a> {
        let outcome = &guest.outcome;
        Final { name: &outcome.name, origins: &outcome.memory.origins }
    }
}

impl Watch {
    /// Starts to watch; samples go to the table of `results`.
    ///
    /// # Errors
    /// The table cannot be made, or no thread be started.
    pub(super) fn start(results: &Results) -> io::Result<Watch> {
        let series = Series::new(File::create(results.memory("csv"))?);
        let shared = Arc::new(Shared::default());
        let seen = Seen { series, cost: Duration::ZERO, peak: None, most: HashMap::new() };
        let of_thread = Arc::clone(&shared);
        let thread =
            thread::Builder::new().name("memory".into()).spawn(move || seen.collect(&of_thread))?;
        Ok(Watch { shared, thread: Some(thread) })
    }

    /// A guest of `lab`, which was `given` these things, has started.
    pub(super) fn watch(&self, lab: &Lab, name: &str, given: Given, process: &Process) {
        // One that has ended already is not there to be seen.
        let Ok(Some(process)) = mem::Process::with_pid(process.pid()) else { return };
        let name = name.to_owned();
        let lab = Some(LabRun { name: lab.name.clone(), supervisor: std::process::id() });
        let guest = Guest { name, lab, process, given };
        self.shared.state().guests.push(guest);
        self.shared.changed.notify_one();
    }

    /// The guest `name` has ended.
    pub(super) fn ended(&self, name: &str) {
        self.shared.state().guests.retain(|guest| guest.name != name);
    }

    /// Ends watching.
    pub(super) fn finish(mut self) -> Option<Seen> {
        self.end()
    }

    fn end(&mut self) -> Option<Seen> {
        self.shared.state().ended = true;
        self.shared.changed.notify_one();
        // A panic has told of itself.
        self.thread.take()?.join().ok()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ = self.end();
    }
}

impl Seen {
    /// Adds to the reports on `guests` what each held when it held most.
    pub(super) fn add_to(&self, guests: &mut [GuestReport]) {
        for guest in guests {
            guest.memory_peak = self.most.get(&guest.outcome.name).copied();
        }
    }

    /// What the guests held together.
    pub(super) fn report(&self) -> LabMemory {
        let peak = self.peak.as_ref().map(|peak| LabPeak {
            at_ms: peak.at_ms,
            guests: peak.account.guests.len(),
            held_kib: peak.account.held_kib,
            unshared_kib: peak.account.unshared_kib,
        });
        let sampling_ms = super::millis(self.cost);
        LabMemory { samples: self.series.count(), sampling_ms, peak }
    }

    /// Writes the files of the lab `lab`.
    ///
    /// # Errors
    /// A file cannot be written, or the table could not while the lab ran.
    pub(super) fn write(
        &self,
        lab: &str,
        guests: &[GuestReport],
        results: &Results,
    ) -> io::Result<()> {
        let document = Document {
            schema: 1,
            lab,
            samples: self.series.count(),
            sampling_ms: super::millis(self.cost),
            peak: &self.peak,
            r#final: guests.iter().map(Final::of).collect(),
        };
        write_json(&results.memory("json"), &document)?;
        fs::write(results.memory("svg"), plot::svg(lab, self.series.points()))?;
        match self.series.failure() {
            Some(failure) => Err(io::Error::new(failure.kind(), failure.to_string())),
            None => Ok(()),
        }
    }

    /// Takes samples until the end.
    fn collect(mut self, shared: &Shared) -> Seen {
        let mut start: Option<Instant> = None;
        let mut due: Option<Instant> = None;
        loop {
            let mut state = shared.state();
            let guests = loop {
                if state.ended {
                    return self;
                }
                let now = Instant::now();
                if start.is_none() && !state.guests.is_empty() {
                    start = Some(now);
                    due = now.checked_add(FIRST);
                }
                // Nobody runs, or none has yet: the next change is waited for.
                let left = due
                    .filter(|_| !state.guests.is_empty())
                    .map(|due| due.saturating_duration_since(now));
                state = match left {
                    Some(Duration::ZERO) => break state.guests.clone(),
                    Some(left) => {
                        let waited = shared.changed.wait_timeout(state, left);
                        waited.map_or_else(|poisoned| poisoned.into_inner().0, |(state, _)| state)
                    }
                    None => shared.changed.wait(state).unwrap_or_else(PoisonError::into_inner),
                };
            };
            drop(state);
            let Some(start) = start else { continue };
            let at = start.elapsed();
            let before = cpu_of_thread();
            self.sample(at, &guests);
            // Not what it has waited, as for a guest that is busy with its own map.
            let took = cpu_of_thread().saturating_sub(before);
            self.cost = self.cost.saturating_add(took);
            let rest = if at < SECOND { REST_AT_FIRST } else { REST };
            let next = next(at);
            let rested = Instant::now().checked_add(took.saturating_mul(rest));
            due = start.checked_add(next).max(rested);
        }
    }

    fn sample(&mut self, at: Duration, guests: &[Guest]) {
        let sizes = |guest: &'_ Guest| smaps::rollup(guest.process.pid).ok().flatten();
        let found: Vec<(&Guest, Sizes)> =
            guests.iter().filter_map(|guest| Some((guest, sizes(guest)?))).collect();
        // A process that ended while it was looked at may have had nothing any more.
        let found = found.into_iter().filter(|(_, sizes)| sizes.rss_kib > 0);
        let found: Vec<(&Guest, Sizes)> = found.collect();
        if found.is_empty() {
            return;
        }
        for (guest, sizes) in &found {
            match self.most.get_mut(&guest.name) {
                Some(most) if most.rss_kib >= sizes.rss_kib => {}
                Some(most) => *most = *sizes,
                None => {
                    self.most.insert(guest.name.clone(), *sizes);
                }
            }
        }
        let samples: Vec<Sample<'_>> = found
            .iter()
            .map(|(guest, sizes)| Sample {
                name: &guest.name,
                pid: guest.process.pid,
                sizes: *sizes,
            })
            .collect();
        let at_ms = super::millis(at);
        let rss_kib = self.series.add(at_ms, &samples).rss_kib;
        // Growth by a part at a time: looking at every mapping costs more.
        let before = self.peak.as_ref().map_or(0, |peak| peak.rss_kib);
        if rss_kib > before.saturating_add(before / 32) {
            let account = Account::of(guests, false);
            // Guests may have ended meanwhile, or be about to: then an earlier account is better.
            let seen: u64 = account.guests.iter().map(|guest| guest.total.rss_kib).sum();
            if seen > before {
                self.peak = Some(Peak { at_ms, rss_kib: seen, account });
            }
        }
    }
}

/// When the next sample is taken after one at `at`.
fn next(at: Duration) -> Duration {
    if at < SECOND {
        at.saturating_mul(2).clamp(FIRST, SECOND)
    } else {
        Duration::from_secs(at.as_secs().saturating_add(1))
    }
}
