//! The thread of a started device: finds the back end another time when it goes away, and passes
//! on what the hypervisor does not pass on by itself.
//!
//! ```text
//!              hand over            hang-up, or a request fails
//!   connecting ─────────► serving ─────────────────────────────► connecting …
//!                                 └─ requests taken and not recorded ──► broken
//! ```

use std::os::fd::AsFd;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use super::FrontEndError;
use super::back_channel::Told;
use super::rings::{Drained, Rings};
use super::session::{BACKOFF, Session};
use super::space::Space;
use crate::limited::warn_limited;
use crate::sync::lock;
use crate::virtio::device::{ActivateError, Transport};
use crate::virtio::queue::QueueState;
use crate::virtio::worker::Wake;

/// The connection, if there is one; shared with those who write the device's configuration.
pub(super) type Link = Arc<Mutex<Option<Session>>>;

/// What the thread works on.
pub(super) struct Keeper {
    pub(super) path: PathBuf,
    pub(super) space: Arc<Space>,
    pub(super) link: Link,
    pub(super) rings: Rings,
    pub(super) transport: Arc<dyn Transport>,
    pub(super) state: State,
}

/// Where the thread is.
#[derive(Debug)]
pub(super) enum State {
    /// A back end has the queues.
    Serving,
    /// None has. `lost`: one had.
    Connecting { pause: Duration, lost: bool, said: String },
    /// Only a reset by the driver helps.
    Broken,
}

impl State {
    pub(super) fn connecting(lost: bool) -> State {
        State::Connecting { pause: BACKOFF.0, lost, said: String::new() }
    }
}

impl Keeper {
    /// Lets the signals of back ends wake the thread.
    pub(super) fn listen(&self, wake: &Wake) -> Result<(), ActivateError> {
        self.rings.iter().try_for_each(|ring| wake.add_signals(&ring.call))
    }

    /// Works until told to stop.
    pub(super) fn run(&mut self, wake: &Wake) {
        for ring in self.rings.iter() {
            self.transport.connect_used(ring.index, &ring.call);
        }
        while !wake.stopped() {
            let pause = match self.state {
                State::Connecting { .. } => self.connect(wake),
                State::Serving | State::Broken => None,
            };
            wake.sleep_at_most(pause);
            self.pass_on_interrupts();
            if matches!(self.state, State::Serving) && !wake.stopped() {
                self.look_after();
            }
        }
        for ring in self.rings.iter() {
            self.transport.disconnect_used(ring.index);
        }
    }

    fn pass_on_interrupts(&self) {
        for ring in self.rings.iter() {
            if ring.call.read().is_ok() {
                self.transport.notify_used(ring.index);
            }
        }
    }

    /// Tries to give the queues to a back end. Returns when to try again, if that failed.
    fn connect(&mut self, wake: &Wake) -> Option<Duration> {
        let result = self.try_connect(wake);
        let State::Connecting { pause, lost, said } = &mut self.state else { return None };
        let path = self.path.display();
        match result {
            Ok(()) => {
                if *lost {
                    tracing::info!(%path, "the vhost-user back end is back");
                    // What the one before answered, it may not have had the time to tell of.
                    for ring in self.rings.iter() {
                        self.transport.notify_used(ring.index);
                    }
                }
                self.state = State::Serving;
                None
            }
            Err(error) => {
                let sentence = sentence(&error);
                let expected = *lost && (error.is_absent() || error.is_hang_up());
                let news = *said != sentence && !expected;
                if news {
                    warn_limited!("{sentence}; trying again until it works");
                    *said = sentence;
                }
                let now = *pause;
                *pause = (now * 2).min(BACKOFF.1);
                Some(now)
            }
        }
    }

    fn try_connect(&mut self, wake: &Wake) -> Result<(), FrontEndError> {
        let mut link = lock(&self.link);
        // That of a device that has not started yet, or starts again.
        let session = match link.take().filter(|session| !session.is_gone()) {
            Some(session) => session,
            None => {
                let session = Session::open_now(&self.path, self.space.kind)?;
                self.check_successor(&session)?;
                session
            }
        };
        self.listen_to(&session, wake)?;
        self.rings.hand_over(&session)?;
        self.space.restore(&session, self.rings.features)?;
        if let Err(error) = self.rings.begin(&session) {
            drop(session);
            drop(link);
            self.check_lost_requests();
            return Err(error);
        }
        *link = Some(session);
        Ok(())
    }

    /// Lets a back end's hang-up, and what it tells by itself, wake the thread.
    fn listen_to(&self, session: &Session, wake: &Wake) -> Result<(), FrontEndError> {
        let heard = wake.add_hang_up(session.socket()).and_then(|()| match &session.back_channel {
            Some(channel) => wake.add_readable(channel.as_fd()),
            None => Ok(()),
        });
        heard.map_err(|error| FrontEndError::Connect {
            path: self.path.clone(),
            source: std::io::Error::other(error),
        })
    }

    /// Whether the driver can go on with another back end.
    fn check_successor(&self, session: &Session) -> Result<(), FrontEndError> {
        let changed = |what| Err(FrontEndError::Changed { path: self.path.clone(), what });
        if self.rings.features & !session.features != 0 {
            return changed("fewer features");
        }
        if session.queues < self.rings.device_queues {
            return changed("fewer queues");
        }
        if self.rings.recorded() && !session.records_inflight() {
            return changed("no record of requests in flight");
        }
        match self.space.update(session.config.as_deref()) {
            Ok(true) => self.transport.notify_config(),
            Ok(false) => {}
            Err(what) => return changed(what),
        }
        Ok(())
    }

    /// Sees what the back end is up to.
    fn look_after(&mut self) {
        let link = Arc::clone(&self.link);
        let mut link = lock(&link);
        let Some(session) = link.as_mut() else { return };
        let mut gone = session.is_gone();
        match session.back_channel.as_mut().map_or(Told::Nothing, |channel| channel.read()) {
            Told::Nothing => {}
            Told::Broken => session.back_channel = None,
            Told::ConfigChanged if !gone => match session.read_config() {
                Ok(()) => self.take_config(session),
                Err(error) => {
                    warn_limited!("{}", sentence(&error));
                    gone = true;
                }
            },
            Told::ConfigChanged => {}
        }
        if gone {
            *link = None;
            drop(link);
            let path = self.path.display();
            tracing::warn!(%path, "the vhost-user back end is gone; the guest waits for another");
            self.state = State::connecting(true);
            self.check_lost_requests();
        }
    }

    fn take_config(&self, session: &Session) {
        match self.space.update(session.config.as_deref()) {
            Ok(true) => self.transport.notify_config(),
            Ok(false) => {}
            Err(what) => {
                let path = self.path.display();
                warn_limited!(%path, "the vhost-user back end now has {what}, which is ignored");
            }
        }
    }

    /// Requests that a back end took and nobody knows of are never answered.
    fn check_lost_requests(&mut self) {
        if !self.rings.recorded() && self.rings.outstanding(self.space.kind.event_queue()) {
            tracing::error!(
                path = %self.path.display(),
                "the vhost-user back end is gone with requests of the guest, and kept no record of \
                 them (VHOST_USER_PROTOCOL_F_INFLIGHT_SHMFD): the guest has to reset the device"
            );
            self.state = State::Broken;
            self.transport.needs_reset();
        }
    }

    /// Takes the queues back, after the thread has ended.
    pub(super) fn finish(self) -> Vec<QueueState> {
        if matches!(self.state, State::Serving) {
            let mut link = lock(&self.link);
            if let Some(session) = link.as_ref() {
                let ended = self.rings.end(session);
                if let Err(error) = &ended {
                    warn_limited!("{}", sentence(error));
                }
                if !matches!(ended, Ok(Drained::Yes)) {
                    // Whatever it still does, it does not know us any more.
                    *link = None;
                }
            }
        }
        self.rings.states()
    }
}

/// An error and its causes.
pub(super) fn sentence(error: &FrontEndError) -> String {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
