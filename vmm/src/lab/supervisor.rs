//! Runs the guests of a lab, each in a process of its own, from one thread.
//!
//! The thread polls three things for each guest: its end, its messages, and (with
//! [`Options::echo`]) the growth of its console file; and one for the lab: the signals that stop
//! it. A guest is asked to stop with SIGTERM and killed when it does not within [`GRACE`].

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::Signal;
use tempfile::TempDir;

use super::echo::{Follower, Lines};
pub use super::guest_process::GuestCommand;
use super::guest_process::GuestProcess;
use super::memory::{Seen, Watch};
use super::process::Death;
use super::report::{GuestReport, Report, SharedDiskReport};
use super::results::Results;
use super::sealed::SealedCopies;
use super::server::{Server, is_readable};
use super::{Guest, Lab, millis};
use crate::mem::Given;
use crate::outcome::{Ending, MemoryUse, Outcome, write_json};
use crate::signals::StopSignals;
use crate::spec::VmSpec;
use crate::units::show_duration;

#[cfg(test)]
mod tests;

/// How long a guest may take to stop when it is asked to.
pub const GRACE: Duration = Duration::from_secs(2);
/// How often console files are looked at for `echo`.
const ECHO_EVERY: Duration = Duration::from_millis(40);

/// How to run a lab.
#[derive(Clone, Debug)]
pub struct Options {
    /// Most guests that run at the same time; all of them when there is no limit.
    pub jobs: Option<usize>,
    /// Whether console output is passed on, line by line.
    pub echo: bool,
    /// The program that runs one guest.
    pub command: GuestCommand,
}

/// Why guests are being stopped.
#[derive(Clone, Copy, Debug)]
enum Stop {
    Signal(u8),
    Timeout,
    /// A shared disk is not served any more.
    Server,
}

enum State {
    Waiting,
    Running(Box<Running>),
    Ended(Outcome),
}

struct Running {
    guest: GuestProcess,
    started: Instant,
    messages: Lines,
    /// No more messages will come.
    silent: bool,
    console: Option<Follower>,
    kill_at: Option<Instant>,
}

struct Supervisor<'a> {
    lab: &'a Lab,
    options: &'a Options,
    results: &'a Results,
    messages: &'a mut dyn Write,
    states: Vec<State>,
    /// What serves the shared disks; guests start when all of them do.
    servers: Vec<Server>,
    /// What went wrong with servers.
    lost: Vec<SharedDiskReport>,
    /// Where the servers' sockets are, if there are servers.
    sockets: Option<TempDir>,
    /// What guests share in place of files that could be changed.
    sealed: SealedCopies,
    /// Guests of the same domain share pages of files.
    share_domain: String,
    stop: Option<Stop>,
    memory: Watch,
}

/// Runs the lab to its end and writes its files; messages and echoed console lines go to
/// `messages`. To be called from a thread that lives as long as the process: guests die with it.
///
/// # Errors
/// When a result cannot be written, or the host cannot poll. No guest is left running.
pub fn run(
    lab: &Lab,
    options: &Options,
    results: &Results,
    signals: &StopSignals,
    messages: &mut dyn Write,
) -> io::Result<Report> {
    let started = Instant::now();
    let deadline = lab.timeout.and_then(|timeout| started.checked_add(timeout));
    let states = lab.guests.iter().map(|_| State::Waiting).collect();
    let (servers, lost) = (Vec::new(), Vec::new());
    let mut supervisor = Supervisor {
        lab,
        options,
        results,
        messages,
        states,
        servers,
        lost,
        sockets: None,
        sealed: SealedCopies::default(),
        share_domain: lab.share_domain.clone().unwrap_or_else(|| domain_of_this_run(&lab.name)),
        stop: None,
        memory: Watch::start(results)?,
    };
    supervisor.start_servers()?;
    let mut behind = false;
    loop {
        supervisor.start_waiting();
        if supervisor.states.iter().all(|state| matches!(state, State::Ended(_))) {
            break;
        }
        let mut wake = supervisor.next_kill().into_iter().chain(deadline).min();
        if options.echo {
            let pause = if behind { Duration::ZERO } else { ECHO_EVERY };
            wake = wake.into_iter().chain(Instant::now().checked_add(pause)).min();
        }
        if supervisor.stop.is_some() {
            wake = supervisor.next_kill().into_iter().chain(wake.filter(|_| options.echo)).min();
        }
        supervisor.wait(signals, wake)?;
        while let Some(signal) = signals.take() {
            supervisor.stop(Stop::Signal(signal));
        }
        if supervisor.stop.is_none() && deadline.is_some_and(|at| at <= Instant::now()) {
            supervisor.stop(Stop::Timeout);
        }
        behind = supervisor.attend();
    }
    supervisor.stop_servers();
    supervisor.report(started)
}

impl Supervisor<'_> {
    /// Starts the server of every shared disk that some guest asks for.
    fn start_servers(&mut self) -> io::Result<()> {
        if self.lab.guests.iter().all(|guest| guest.shared.is_empty()) {
            return Ok(());
        }
        let asked = |name: &str| {
            self.lab.guests.iter().any(|guest| guest.shared.values().any(|of| of == name))
        };
        // Short, as paths of sockets must be.
        let folder = tempfile::Builder::new().prefix("cohort-lab-").tempdir()?;
        for disk in self.lab.shared_disks.iter().filter(|disk| asked(&disk.name)) {
            let args = disk.command(self.lab, folder.path());
            let program = &self.options.command.program;
            let started = match disk.create() {
                Ok(()) => Server::spawn(program, &disk.name, &args)
                    .map_err(|error| format!("its server cannot be started: {error}")),
                Err(error) => Err(format!("it cannot be made: {error}")),
            };
            match started {
                Ok(server) => self.servers.push(server),
                Err(detail) => {
                    self.lost.push(SharedDiskReport { name: disk.name.clone(), detail });
                    self.stop.get_or_insert(Stop::Server);
                }
            }
        }
        self.sockets = Some(folder);
        Ok(())
    }

    /// Attends to servers: without one of them, the guests are stopped.
    fn attend_servers(&mut self) {
        let mut index = 0;
        while let Some(server) = self.servers.get_mut(index) {
            match server.attend(self.messages) {
                None => index += 1,
                Some(how) => {
                    let detail = format!("its server {how}");
                    let name = server.name().to_owned();
                    self.lost.push(SharedDiskReport { name, detail });
                    self.servers.remove(index);
                    if self.stop.is_none() {
                        self.stop(Stop::Server);
                    }
                }
            }
        }
    }

    /// Ends the servers, once no guest needs them.
    fn stop_servers(&mut self) {
        for server in std::mem::take(&mut self.servers) {
            let name = server.name().to_owned();
            if let Some(how) = server.stop(self.messages) {
                self.lost.push(SharedDiskReport { name, detail: format!("its server {how}") });
            }
        }
    }

    /// Starts guests while there is room for them.
    fn start_waiting(&mut self) {
        let limit = match self.servers.iter().all(Server::is_ready) {
            true => self.options.jobs.unwrap_or(usize::MAX),
            false => 0,
        };
        let mut running =
            self.states.iter().filter(|state| matches!(state, State::Running(_))).count();
        for (at, state) in self.states.iter_mut().enumerate() {
            let guest = &self.lab.guests[at];
            if !matches!(state, State::Waiting) {
                continue;
            }
            if let Some(stop) = self.stop {
                *state = State::Ended(Outcome {
                    detail: Some("it was never started".into()),
                    ..Outcome::new(&guest.spec.name, ending(stop))
                });
            } else if running < limit {
                let mut spec = match &self.sockets {
                    Some(folder) => self.lab.spec_with_sockets(at, folder.path()),
                    None => guest.spec.clone(),
                };
                spec.share_domain = Some(self.share_domain.clone());
                let handed = self.sealed.hand_over(&mut spec);
                // Before what the guest inherits is closed here.
                let given = Given::of(&spec);
                *state = match handed {
                    Ok(handed) => start(&spec, self.options, self.results, handed),
                    Err(error) => State::Ended(Outcome::vmm_error(
                        &spec.name,
                        format!("a file for its memory cannot be sealed: {error}"),
                        None,
                    )),
                };
                if let State::Running(running) = state {
                    self.memory.watch(self.lab, &spec.name, given, &running.guest.process);
                }
                running += usize::from(matches!(state, State::Running(_)));
            }
        }
    }

    /// When the next guest that was asked to stop is to be killed.
    fn next_kill(&self) -> Option<Instant> {
        self.running().filter_map(|running| running.kill_at).min()
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        self.states.iter().filter_map(|state| match state {
            State::Running(running) => Some(&**running),
            _ => None,
        })
    }

    /// Sleeps until something happens, at most until `wake`.
    fn wait(&self, signals: &StopSignals, wake: Option<Instant>) -> io::Result<()> {
        let mut fds = vec![PollFd::new(signals, PollFlags::IN)];
        let of_servers = self.servers.iter().flat_map(Server::fds);
        fds.extend(of_servers.map(|fd| PollFd::from_borrowed_fd(fd, PollFlags::IN)));
        for running in self.running() {
            fds.push(PollFd::from_borrowed_fd(running.guest.process.end(), PollFlags::IN));
            if !running.silent {
                fds.push(PollFd::from_borrowed_fd(running.guest.process.messages(), PollFlags::IN));
            }
        }
        let timeout = wake.map(|at| {
            // Rounded up to a millisecond, so as not to wake just before the moment.
            let left = at.saturating_duration_since(Instant::now());
            let left = if left.is_zero() { left } else { left + Duration::from_millis(1) };
            Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 3600, tv_nsec: 0 })
        });
        match poll(&mut fds, timeout.as_ref()) {
            Err(error) if error != rustix::io::Errno::INTR => Err(error.into()),
            _ => Ok(()),
        }
    }

    /// Asks every guest to stop. The first reason stays; asked again, guests are killed at once.
    fn stop(&mut self, why: Stop) {
        let again = self.stop.is_some();
        self.stop.get_or_insert(why);
        let now = Instant::now();
        for state in &mut self.states {
            let State::Running(running) = state else { continue };
            if again {
                running.kill_at = Some(now);
            } else {
                running.guest.process.signal(Signal::TERM);
                running.kill_at = now.checked_add(GRACE);
            }
        }
    }

    /// Passes on what guests wrote, kills those that do not stop, reaps those that have ended.
    /// Says whether there is more to pass on.
    fn attend(&mut self) -> bool {
        self.attend_servers();
        let now = Instant::now();
        let mut behind = false;
        for (guest, state) in self.lab.guests.iter().zip(&mut self.states) {
            let State::Running(running) = state else { continue };
            if let Some(console) = &mut running.console {
                behind |= console.advance(self.messages);
            }
            if running.kill_at.is_some_and(|at| at <= now) {
                running.guest.process.signal(Signal::KILL);
                running.kill_at = None;
            }
            let ended = is_readable(running.guest.process.end());
            // A pipe that is readable and empty has no writer any more.
            if !running.silent && is_readable(running.guest.process.messages()) {
                let text = running.guest.process.take_messages();
                running.silent = text.is_empty();
                running.messages.feed(&text, self.messages);
            }
            if ended {
                let outcome = finish(guest, running, self.stop, self.messages);
                self.memory.ended(&guest.spec.name);
                *state = State::Ended(outcome);
            }
        }
        behind
    }

    /// Writes every file and sums up.
    fn report(self, started: Instant) -> io::Result<Report> {
        let mut guests = Vec::with_capacity(self.states.len());
        for (guest, state) in self.lab.guests.iter().zip(self.states) {
            let State::Ended(outcome) = state else { continue };
            let console = self.results.console(&guest.spec.name);
            write_json(&self.results.outcome(&guest.spec.name), &outcome)?;
            guests.push(GuestReport::new(guest, outcome, console));
        }
        let seen = self.memory.finish();
        if let Some(seen) = &seen {
            seen.add_to(&mut guests);
        }
        let interrupted = match self.stop {
            Some(Stop::Signal(signal)) => Some(signal),
            _ => None,
        };
        let status = match interrupted {
            Some(signal) => 128u8.saturating_add(signal),
            None if !self.lost.is_empty() => 125,
            None => Report::exit_status(&guests),
        };
        let report = Report {
            schema: 1,
            lab: self.lab.name.clone(),
            status,
            interrupted,
            wall_ms: millis(started.elapsed()),
            lost_shared_disks: self.lost,
            memory: seen.as_ref().map(Seen::report),
            guests,
        };
        write_json(&self.results.report(), &report)?;
        if let Some(seen) = seen {
            seen.write(&report.lab, &report.guests, self.results)?;
        }
        Ok(report)
    }
}

/// The share domain of a lab that names none: of this run alone.
fn domain_of_this_run(name: &str) -> String {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    format!("lab {name} {} {}", std::process::id(), since.as_nanos())
}

/// Starts one guest; a failure to start is its outcome.
fn start(spec: &VmSpec, options: &Options, results: &Results, handed: Vec<OwnedFd>) -> State {
    let name = &spec.name;
    let path = results.console(name);
    let failed = |what: &str, error: io::Error| {
        State::Ended(Outcome::vmm_error(name, format!("{what}: {error}"), None))
    };
    let console = match File::create(&path) {
        Ok(console) => console,
        Err(error) => return failed("its console file cannot be written", error),
    };
    let follower =
        if options.echo { Follower::open(&path, format!("{name}| ")).ok() } else { None };
    let started = Instant::now();
    match GuestProcess::spawn(&options.command, spec, console, handed) {
        Ok(guest) => State::Running(Box::new(Running {
            guest,
            started,
            messages: Lines::new(format!("{name}: ")),
            silent: false,
            console: follower,
            kill_at: None,
        })),
        Err(error) => failed("its process cannot be started", error),
    }
}

/// Reaps a guest process that has ended and finds its outcome.
fn finish(
    guest: &Guest,
    running: &mut Running,
    stop: Option<Stop>,
    messages: &mut dyn Write,
) -> Outcome {
    let name = &guest.spec.name;
    let death = running.guest.process.reap();
    let text = running.guest.process.take_messages();
    running.messages.feed(&text, messages);
    running.messages.finish(messages);
    if let Some(console) = running.console.take() {
        console.finish(messages);
    }
    let said = serde_json::from_slice::<Outcome>(running.guest.outcome_text());
    let mut outcome = match (said, death) {
        (Ok(outcome), _) => Outcome { name: name.clone(), ..outcome },
        (Err(_), Ok(death)) => Outcome {
            wall_ms: millis(running.started.elapsed()),
            cpu_ms: millis(death.cpu),
            memory: MemoryUse::new(death.peak_rss_kib, Vec::new()),
            ..without_word(name, death, stop)
        },
        (Err(_), Err(error)) => {
            Outcome::vmm_error(name, format!("its process was lost: {error}"), None)
        }
    };
    let asked = Ending::Signaled { signal: 15 };
    if let Some(stop) = stop
        && outcome.ending == asked
    {
        outcome.ending = ending(stop);
        outcome.detail = Some(match stop {
            Stop::Signal(signal) => format!("the lab was stopped by signal {signal}"),
            Stop::Timeout => "the lab's timeout stopped it".into(),
            Stop::Server => "a shared disk was lost".into(),
        });
    }
    outcome
}

/// The outcome of a guest whose process ended without telling one.
fn without_word(name: &str, death: Death, stop: Option<Stop>) -> Outcome {
    use std::os::unix::process::ExitStatusExt;
    match (death.status.signal(), stop) {
        (Some(15), Some(_)) => Outcome::new(name, Ending::Signaled { signal: 15 }),
        (Some(9), Some(stop)) => Outcome {
            detail: Some(format!("it did not stop within {} and was killed", show_duration(GRACE))),
            ..Outcome::new(name, ending(stop))
        },
        (Some(signal), _) => {
            let help = (signal == 9)
                .then(|| "if nobody killed it, the host ran out of memory: see dmesg".to_owned());
            Outcome::vmm_error(name, format!("its process was killed by signal {signal}"), help)
        }
        (None, _) => {
            let status = death.status.code().unwrap_or_default();
            let detail = format!("its process ended with status {status} and told no outcome");
            Outcome::vmm_error(name, detail, None)
        }
    }
}

fn ending(stop: Stop) -> Ending {
    match stop {
        Stop::Signal(signal) => Ending::Signaled { signal },
        Stop::Timeout => Ending::Timeout,
        Stop::Server => Ending::VmmError,
    }
}
