//! Long work on a disk: a bar on a terminal, and the signals that stop it.

use std::cell::Cell;
use std::io::{self, IsTerminal};

use cohort::signals::StopSignals;
use indicatif::{ProgressBar, ProgressStyle};
use storage::tools::Progress;

use super::Failure;

/// Shows how far work is, and hears of signals.
pub(super) struct Watch {
    signals: StopSignals,
    signal: Cell<Option<u8>>,
    bar: Option<ProgressBar>,
}

impl Watch {
    /// From here on a signal stops the work, not the process: no half of a file is left behind.
    pub(super) fn start(what: &'static str) -> Result<Watch, Failure> {
        let signals = StopSignals::block().map_err(Failure::host)?;
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(0).with_message(what);
            let shape = "{msg} {bar:40} {bytes} of {total_bytes}, {eta} left";
            bar.with_style(
                ProgressStyle::with_template(shape)
                    .unwrap_or_else(|_| ProgressStyle::default_bar()),
            )
        });
        Ok(Watch { signals, signal: Cell::new(None), bar })
    }

    /// The signal that stopped the work.
    pub(super) fn signal(&self) -> Option<u8> {
        self.signal.get()
    }
}

impl Progress for Watch {
    fn advance(&self, done: u64, total: u64) {
        if let Some(bar) = &self.bar {
            bar.set_length(total);
            bar.set_position(done);
        }
    }

    fn cancelled(&self) -> bool {
        if let Some(signal) = self.signals.take() {
            self.signal.set(Some(signal));
        }
        self.signal.get().is_some()
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
