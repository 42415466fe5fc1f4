//! The thread of a session: has one, keeps it, has it again.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver, TryRecvError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::dial::{self, ConnectError, Established};
use super::options::SessionOptions;
use super::port::{Errand, Letter, Mailbox, Port, Request};
use super::session::{End, Function, Session, What};
use super::url::IscsiUrl;
use crate::iscsi::chap::random;
use crate::scsi::{Limit, Outcome, Response, ServiceResponse, TaskManagement};

#[cfg(any(test, feature = "fuzzing"))]
pub(crate) mod fuzzing;

/// A session that lasted so long was a good one: the next attempt is made at once.
const STABLE: Duration = Duration::from_secs(1);
/// How long to sleep at most while a connection is being made.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Without a session.
struct Down {
    since: Instant,
    /// The target does not let us in.
    is_refused: bool,
    next: Next,
}

enum Next {
    /// An attempt at this time.
    At(Instant),
    /// One is under way.
    Dialing(Receiver<Result<Established, ConnectError>>),
}

enum Link {
    Up(Box<Session>),
    Down(Down),
}

/// What the thread has.
pub(super) struct Agent {
    url: IscsiUrl,
    options: SessionOptions,
    port: Arc<Port>,
    link: Link,
    /// Commands that wait to be sent.
    pending: VecDeque<Request>,
    /// And functions.
    functions: VecDeque<Function>,
    /// Attempts that failed, or led to sessions that did not last.
    attempts: u32,
    lines: Limit,
}

/// Answers all letters when the thread ends, however that comes.
struct Closing(Arc<Port>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl Agent {
    pub(super) fn new(
        url: IscsiUrl,
        options: SessionOptions,
        port: Arc<Port>,
        begun: Established,
    ) -> Agent {
        let session = Session::new(begun, &options.limits, url.lun());
        Agent {
            url,
            options,
            port,
            link: Link::Up(Box::new(session)),
            pending: VecDeque::new(),
            functions: VecDeque::new(),
            attempts: 0,
            lines: Limit::default(),
        }
    }

    /// Serves until it is told to stop.
    pub(super) fn run(mut self) {
        let port = Arc::clone(&self.port);
        let _closing = Closing(port);
        let mut letters = Vec::new();
        while let Some(pause) = self.turn(&mut letters) {
            self.sleep(pause);
        }
    }

    /// Does what there is to do. Says how long to sleep then, unless it is told to stop.
    fn turn(&mut self, letters: &mut Vec<Letter>) -> Option<Duration> {
        self.port.take(letters);
        for letter in letters.drain(..) {
            match letter {
                Letter::Command(request) => self.pending.push_back(request),
                Letter::Manage(what, errand) => self.manage(what, errand),
                Letter::Forget(mailbox) => self.forget(&mailbox),
                Letter::NexusLost => self.lose_nexus(),
                Letter::Stop => {
                    if let Link::Up(session) = &mut self.link {
                        session.farewell();
                    }
                    return None;
                }
            }
        }
        let pause = self.work().unwrap_or_else(|end| {
            self.lose(&end);
            Duration::ZERO
        });
        Some(pause)
    }

    fn sleep(&self, pause: Duration) {
        let pause = Timespec::try_from(pause).ok();
        let mut fds = vec![PollFd::from_borrowed_fd(self.port.fd(), PollFlags::IN)];
        if let Link::Up(session) = &self.link {
            let mut flags = PollFlags::IN;
            flags.set(PollFlags::OUT, session.has_output());
            fds.push(PollFd::new(session.socket(), flags));
        }
        // Interrupted or not, all is looked at next.
        let _ = poll(&mut fds, pause.as_ref());
    }

    /// Does what there is to do; says how long to sleep.
    fn work(&mut self) -> Result<Duration, End> {
        let session = match &mut self.link {
            Link::Up(session) => session,
            Link::Down(_) => {
                self.wait();
                return Ok(self.downtime());
            }
        };
        session.receive()?;
        while session.takes_function()
            && let Some(function) = self.functions.pop_front()
        {
            session.manage(function);
        }
        // A function that waits is about the commands before it, not about those behind.
        while self.functions.is_empty()
            && session.takes_command()
            && let Some(request) = self.pending.pop_front()
        {
            session.start(request);
            session.produce();
        }
        session.produce();
        session.flush()?;
        // What was not made ready for want of room is made ready at once if there is room again.
        let more = session.has_more()
            || session.takes_command() && self.functions.is_empty() && !self.pending.is_empty();
        let pause = if more { Duration::ZERO } else { session.patience()? };
        let (received, sent) = session.moved();
        self.port.known.moved(received, sent);
        Ok(pause)
    }

    /// Begins a function: what was not sent ends here.
    fn manage(&mut self, what: TaskManagement, errand: Errand) {
        let since = Instant::now();
        let TaskManagement::AbortTask(tag) = what else {
            // There is one unit, so all commands are about it.
            self.pending.drain(..).for_each(end_silently);
            let what = What::All(what);
            return self.functions.push_back(Function { what, since, errand: Some(errand) });
        };
        let before = self.pending.len();
        self.drop_pending(|request| request.command.tag == tag);
        let sent = match &self.link {
            Link::Up(session) => session.find(|request| request.command.tag == tag),
            Link::Down(_) => Vec::new(),
        };
        let Some((&last, others)) = sent.split_last() else {
            let some = self.pending.len() < before;
            let outcome = if some { Outcome::Complete } else { Outcome::NoSuchTask };
            return errand.answer(ServiceResponse::Managed(outcome));
        };
        // They are carried out one after the other, so that the last is all.
        for &tag in others {
            self.functions.push_back(Function { what: What::Abort(tag), since, errand: None });
        }
        let what = What::Abort(last);
        self.functions.push_back(Function { what, since, errand: Some(errand) });
        if let Link::Up(session) = &mut self.link {
            sent.into_iter().for_each(|tag| session.give_up(tag));
        }
    }

    /// A queue ends: what it asked for is aborted, and answered when that is done.
    fn forget(&mut self, mailbox: &Arc<Mailbox>) {
        self.drop_pending(|request| request.errand.is_of(mailbox));
        // Their effect is wanted all the same, their answer is not.
        for function in &mut self.functions {
            function.errand.take_if(|errand| errand.is_of(mailbox));
        }
        if let Link::Up(session) = &mut self.link {
            let since = Instant::now();
            for tag in session.find(|request| request.errand.is_of(mailbox)) {
                session.give_up(tag);
                self.functions.push_back(Function { what: What::Abort(tag), since, errand: None });
            }
        }
    }

    fn drop_pending(&mut self, which: impl Fn(&Request) -> bool) {
        for request in std::mem::take(&mut self.pending) {
            if which(&request) {
                end_silently(request);
            } else {
                self.pending.push_back(request);
            }
        }
    }

    /// The guest is gone: the session ends, and with it what the guest asked for.
    fn lose_nexus(&mut self) {
        self.pending.drain(..).for_each(end_silently);
        if let Link::Up(session) = &mut self.link {
            session.farewell();
            self.lose(&End::NexusLost);
        }
    }

    /// The session is over.
    fn lose(&mut self, end: &End) {
        let is_wanted = matches!(end, End::NexusLost);
        let now = Instant::now();
        let down = Link::Down(Down { since: now, is_refused: false, next: Next::At(now) });
        let Link::Up(mut session) = std::mem::replace(&mut self.link, down) else { return };
        if self.lines.allows() {
            let peer = session.peer().map(tracing::field::display);
            if is_wanted {
                tracing::info!(url = %self.url, peer, reason = %end, "an iSCSI session ends");
            } else {
                tracing::warn!(url = %self.url, peer, reason = %end, "an iSCSI session is lost");
            }
        }
        if matches!(end, End::Asked) {
            session.farewell();
        }
        if is_wanted || session.age() >= STABLE.min(self.options.limits.retry_most) {
            self.attempts = 0;
        } else if session.is_useful() {
            // A link that breaks all the time must not become slower each time. Nor is a target
            // that ends each session after one command to be asked without a pause.
            self.attempts = self.attempts.min(1);
        }
        let (received, sent) = session.moved();
        self.port.known.moved(received, sent);
        self.port.known.failed(end.to_string());
        let (again, function) = session.dissolve(is_wanted);
        for request in again.into_iter().rev() {
            self.pending.push_front(request);
        }
        if let Some(function) = function {
            self.functions.push_front(function);
        }
        for function in &mut self.functions {
            if matches!(function.what, What::Abort(_)) {
                function.what = What::Gone;
            }
        }
        self.try_later();
    }

    /// Plans the next attempt.
    fn try_later(&mut self) {
        let pause = self.pause();
        self.attempts = self.attempts.saturating_add(1);
        if let Link::Down(down) = &mut self.link {
            let pause = if down.is_refused { self.options.limits.retry_most } else { pause };
            down.next = Next::At(Instant::now() + pause);
        }
    }

    /// How long to wait before the next attempt: not at all first, then twice as long each time,
    /// more or less, so that not all initiators of a target come at once.
    fn pause(&self) -> Duration {
        let limits = &self.options.limits;
        let Some(doublings) = self.attempts.checked_sub(1) else { return Duration::ZERO };
        let pause =
            limits.retry_first.saturating_mul(1 << doublings.min(16)).min(limits.retry_most);
        let [random] = random().unwrap_or([128]);
        // From three to five quarters of it.
        pause * 3 / 4 + pause * u32::from(random) / 512
    }

    /// Without a session: begins an attempt, looks how one went, and fails what waited too long.
    fn wait(&mut self) {
        let Link::Down(down) = &mut self.link else { return };
        let now = Instant::now();
        match &down.next {
            Next::At(at) if *at > now => {}
            Next::At(_) => self.dial(),
            Next::Dialing(result) => match result.try_recv() {
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => self.try_later(),
                Ok(Err(error)) => {
                    down.is_refused = error.is_final();
                    if self.lines.allows() {
                        let cause = std::error::Error::source(&error).map(ToString::to_string);
                        tracing::warn!(url = %self.url, %error, cause, "no iSCSI session yet");
                    }
                    self.port.known.failed(error.to_string());
                    self.try_later();
                }
                Ok(Ok(begun)) => {
                    tracing::info!(url = %self.url, peer = %begun.peer, "the iSCSI session is back");
                    self.port.known.connected(begun.peer);
                    let session = Session::new(begun, &self.options.limits, self.url.lun());
                    self.link = Link::Up(Box::new(session));
                    return;
                }
            },
        }
        let Link::Down(Down { since, is_refused, .. }) = &self.link else { return };
        let (since, all, patience) = (*since, *is_refused, self.options.lost_patience);
        let is_over = |own: Instant| all || now.duration_since(own.max(since)) >= patience;
        for request in std::mem::take(&mut self.pending) {
            if is_over(request.since.min(now)) {
                request.answer(ServiceResponse::DeliveryFailure);
            } else {
                self.pending.push_back(request);
            }
        }
        for function in std::mem::take(&mut self.functions) {
            if is_over(function.since.min(now)) {
                function.answer(ServiceResponse::DeliveryFailure);
            } else {
                self.functions.push_back(function);
            }
        }
    }

    /// Has a thread make a connection.
    fn dial(&mut self) {
        let (send, receive) = mpsc::channel();
        let (url, options) = (self.url.clone(), self.options.clone());
        let port = Arc::clone(&self.port);
        let thread = thread::Builder::new().name("iscsi-dial".to_owned());
        let dialing = move || {
            // Nobody waits for it any more, if this fails.
            let _ = send.send(dial::dial(&url, &options));
            port.wake();
        };
        if let Err(error) = thread.spawn(dialing) {
            self.port.known.failed(error.to_string());
            return self.try_later();
        }
        if let Link::Down(down) = &mut self.link {
            down.next = Next::Dialing(receive);
        }
    }

    /// How long to sleep without a session.
    fn downtime(&self) -> Duration {
        let Link::Down(down) = &self.link else { return Duration::ZERO };
        let now = Instant::now();
        let mut pause = match down.next {
            Next::At(at) => at.saturating_duration_since(now),
            Next::Dialing(_) => LOOK_AGAIN,
        };
        let waiting = self.pending.iter().map(|request| request.since);
        let waiting = waiting.chain(self.functions.iter().map(|function| function.since));
        if let Some(first) = waiting.min() {
            let until = first.max(down.since) + self.options.lost_patience;
            pause = pause.min(until.saturating_duration_since(now));
        }
        pause
    }
}

/// Ends a command that was not sent, and that its initiator gave up.
fn end_silently(request: Request) {
    request.answer(ServiceResponse::Complete(Response::silent()));
}
