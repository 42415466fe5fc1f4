//! Console (virtio 1.3, 5.3): one port, both ways.

mod input;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use vm_memory::{Bytes, GuestMemoryBackend};

use super::device::{
    ActivateError, Activation, DeviceInfo, DeviceType, StartedQueue, Transport, VirtioDevice,
};
use super::queue::{Chain, QueueState, RingError, pieces};
use super::worker::{Wake, Worker};
use crate::limited::warn_limited;
use crate::sync::lock;
use input::InputBuffer;
pub use input::VirtioConsoleInput;

const QUEUE_SIZE: u16 = 64;
const RECEIVE: u16 = 0;
const TRANSMIT: u16 = 1;
/// Bytes that go to the output at a time.
const CHUNK: usize = 4096;
/// Bytes that are still sent when the device is to stop.
const LAST_WORDS: usize = 1 << 20;
/// How long that may take, between the first of these bytes and the beginning of the last write.
const LAST_WORDS_TIME: Duration = Duration::from_millis(500);

/// A console. A thread serves its queues while it is started. Output that blocks holds up the
/// guest's output, and a reset of the device, which waits for the write that is under way:
/// nothing else of the guest. An output that may block is to return once the guest is to stop.
pub struct Console {
    info: DeviceInfo,
    output: Arc<Mutex<Box<dyn Write + Send>>>,
    input: Arc<InputBuffer>,
    worker: Option<Worker<Service>>,
}

impl Console {
    /// A stopped console that sends to `output`. Fails when the host has no event descriptor
    /// left.
    pub fn new(output: Box<dyn Write + Send>) -> io::Result<Console> {
        let info = DeviceInfo {
            id: DeviceType::Console,
            queue_sizes: vec![QUEUE_SIZE; 2],
            features: 0,
            external_backend: false,
        };
        let input = Arc::new(InputBuffer::new()?);
        Ok(Console { info, output: Arc::new(Mutex::new(output)), input, worker: None })
    }

    /// The host's end of the console's input. Input waits for a driver.
    pub fn input(&self) -> VirtioConsoleInput {
        VirtioConsoleInput::new(Arc::clone(&self.input))
    }
}

impl VirtioDevice for Console {
    fn info(&self) -> &DeviceInfo {
        &self.info
    }

    /// Without `VIRTIO_CONSOLE_F_SIZE` and `_MULTIPORT`, no field is valid.
    fn read_config(&self, _offset: usize, out: &mut [u8]) {
        out.fill(0);
    }

    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    fn start(&mut self, with: Activation) -> Result<(), ActivateError> {
        let wake = Wake::new()?;
        wake.add_signals(self.input.arrived())?;
        let (mut receive, mut transmit) = (None, None);
        for queue in with.queues {
            wake.add_signals(&queue.doorbell)?;
            match queue.index {
                RECEIVE => receive = Some(queue),
                TRANSMIT => transmit = Some(queue),
                _ => {}
            }
        }
        let service = Service {
            receive,
            transmit,
            input: Arc::clone(&self.input),
            output: Arc::clone(&self.output),
            transport: with.transport,
            chain: Chain::default(),
        };
        self.worker = Some(Worker::start("virtio-console", service, wake, Service::run)?);
        Ok(())
    }

    fn stop(&mut self) -> Vec<QueueState> {
        let Some(service) = self.worker.take().and_then(Worker::stop) else { return Vec::new() };
        [service.receive, service.transmit].iter().flatten().map(StartedQueue::state).collect()
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The queues while the device is started. A driver that goes only one way enables only one.
struct Service {
    receive: Option<StartedQueue>,
    transmit: Option<StartedQueue>,
    input: Arc<InputBuffer>,
    output: Arc<Mutex<Box<dyn Write + Send>>>,
    transport: Arc<dyn Transport>,
    chain: Chain,
}

impl Service {
    fn run(&mut self, wake: &Wake) {
        loop {
            // What was sent before the order to stop is not lost: the rings are looked at once
            // more after it.
            let last = wake.stopped();
            let served = self.send(wake).and_then(|()| self.deliver());
            if let Err(error) = served {
                warn_limited!(%error, "a queue of the console is broken");
                self.transport.needs_reset();
                while !wake.stopped() {
                    wake.sleep();
                }
                return;
            }
            if last {
                return;
            }
            let has_more = |queue: &Option<StartedQueue>| {
                queue.as_ref().is_some_and(|queue| queue.queue.request_notifications())
            };
            let more_to_send = has_more(&self.transmit);
            let more_room = has_more(&self.receive);
            let idle = !(more_to_send || more_room && self.input.is_waiting());
            if idle {
                wake.sleep();
            }
        }
    }

    /// Sends what the driver has made available, one round of the ring at most. Buffers can be as
    /// large as memory: when the device is to stop, they are sent only so far.
    fn send(&mut self, wake: &Wake) -> Result<(), RingError> {
        let output = Arc::clone(&self.output);
        let mut output = lock(&output);
        let sent = self.send_to(&mut **output, wake);
        if let Err(error) = output.flush() {
            lost(&error);
        }
        show(&*self.transport, self.transmit.as_mut());
        sent
    }

    fn send_to(&mut self, output: &mut dyn Write, wake: &Wake) -> Result<(), RingError> {
        let Some(StartedQueue { queue, .. }) = &mut self.transmit else { return Ok(()) };
        let mut last_words = LastWords::new();
        queue.suppress_notifications();
        for _ in 0..queue.size() {
            if !queue.pop(&mut self.chain)? {
                break;
            }
            let mut bytes = [0; CHUNK];
            for segment in self.chain.readable() {
                let invalid = RingError::Address(self.chain.head());
                let memory = queue.memory();
                // Looked up as a whole, so that a length beyond memory ends here.
                let slice =
                    memory.get_slice(segment.address, segment.len as usize).map_err(|_| invalid)?;
                let mut at = 0;
                while at < slice.len() {
                    if wake.stopped() && !last_words.permit(Instant::now()) {
                        break;
                    }
                    let rest = slice.offset(at).map_err(|_| invalid)?;
                    let count = rest.copy_to(&mut bytes[..]);
                    if let Err(error) = output.write_all(&bytes[..count]) {
                        lost(&error);
                    }
                    at += count;
                }
            }
            queue.push_used(self.chain.head(), 0);
            queue.publish();
        }
        Ok(())
    }

    /// Puts input into the driver's buffers, as far as there are both.
    fn deliver(&mut self) -> Result<(), RingError> {
        let filled = self.fill();
        show(&*self.transport, self.receive.as_mut());
        filled
    }

    fn fill(&mut self) -> Result<(), RingError> {
        let Some(StartedQueue { queue, .. }) = &mut self.receive else { return Ok(()) };
        queue.suppress_notifications();
        for _ in 0..queue.size() {
            if !self.input.is_waiting() || !queue.pop(&mut self.chain)? {
                break;
            }
            let room = self.chain.writable().iter().map(|segment| u64::from(segment.len)).sum();
            let bytes = self.input.take(room);
            let mut left = bytes.as_slice();
            for piece in pieces(self.chain.writable(), 0, left.len() as u64) {
                let (now, later) = left.split_at(piece.len as usize);
                queue
                    .memory()
                    .write_slice(now, piece.address)
                    .map_err(|_| RingError::Address(self.chain.head()))?;
                left = later;
            }
            queue.push_used(self.chain.head(), u32::try_from(bytes.len()).unwrap_or(u32::MAX));
        }
        Ok(())
    }
}

fn lost(error: &io::Error) {
    warn_limited!(%error, "console output is lost");
}

/// What may still be sent once the device is to stop.
struct LastWords {
    chunks: usize,
    until: Option<Instant>,
}

impl LastWords {
    fn new() -> LastWords {
        LastWords { chunks: LAST_WORDS / CHUNK, until: None }
    }

    /// Whether one more chunk may be sent at `now`. Somebody waits for the device to stop, so an
    /// output that takes long over every chunk is not given them all.
    fn permit(&mut self, now: Instant) -> bool {
        let until = *self.until.get_or_insert(now + LAST_WORDS_TIME);
        self.chunks = self.chunks.saturating_sub(1);
        self.chunks > 0 && now < until
    }
}

/// Returns used buffers to the driver, also when the queue has been found to be broken since.
fn show(transport: &dyn Transport, queue: Option<&mut StartedQueue>) {
    let Some(StartedQueue { index, queue, .. }) = queue else { return };
    queue.publish();
    if queue.needs_notification() {
        transport.notify_used(*index);
    }
}

impl fmt::Debug for Console {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Console").field("started", &self.worker.is_some()).finish_non_exhaustive()
    }
}
