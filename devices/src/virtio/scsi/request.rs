//! What a driver asks for on a request queue (virtio 1.3, 5.6.6.1), parsed once. Nothing of it is
//! read from guest memory again.

use memshare::GuestMemory;
use storage::Owner;
use storage::scsi::{Command, Response, ServiceResponse};

use super::config::Sizes;
use super::lun;
use super::space::Space;
use crate::virtio::parts::Parts;
use crate::virtio::queue::{Chain, Queue, RingError};

/// Bytes of a request's header before the CDB: LUN, identifier, task attribute, priority, CRN.
const HEADER_LEN: usize = 19;
/// Bytes of a CDB that are passed on. No command has more.
const CDB_MAX: u8 = 32;
/// Bytes of a response before the sense data.
const RESPONSE_LEN: usize = 12;
/// Bytes of sense data that are written at most.
const SENSE_MAX: usize = 96;

/// How a request ended, for the driver (virtio 1.3, 5.6.6.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Code {
    Ok = 0,
    Overrun = 1,
    Aborted = 2,
    BadTarget = 3,
    TransportFailure = 6,
    Failure = 9,
}

/// Where the answer goes, and what it is measured by.
#[derive(Debug)]
pub(super) struct Reply {
    /// The response and what is written of the sense data.
    space: Space,
    /// Bytes of the sense field.
    sense_size: u32,
    /// Bytes of the data-in buffer and of the data-out buffer.
    data_in: u64,
    data_out: u64,
}

/// Parses the request in `chain`: the command for the target, or how it ends without one. `owner`
/// keeps `memory` mapped. An error means that the chain is none a driver may make.
pub(super) fn parse(
    chain: &Chain,
    memory: &GuestMemory,
    owner: &Owner,
    sizes: &Sizes,
) -> Result<(Reply, Result<Command, Code>), RingError> {
    let parts = Parts::new(chain, memory, owner);
    let (cdb_size, sense_size) = (sizes.cdb(), sizes.sense());
    let request_len = HEADER_LEN as u64 + u64::from(cdb_size);
    let response_len = RESPONSE_LEN as u64 + u64::from(sense_size);
    let data_out = parts.readable().checked_sub(request_len).ok_or_else(|| parts.short())?;
    let data_in = parts.writable().checked_sub(response_len).ok_or_else(|| parts.short())?;
    let written = response_len.min((RESPONSE_LEN + SENSE_MAX) as u64);
    let reply = Reply { space: Space::new(chain, written, memory)?, sense_size, data_in, data_out };

    // One look into guest memory is enough for the header and the CDB after it.
    let mut bytes = [0; HEADER_LEN + CDB_MAX as usize];
    let cdb_len = u8::try_from(cdb_size).unwrap_or(u8::MAX).min(CDB_MAX);
    if let Some(given) = bytes.get_mut(..HEADER_LEN + usize::from(cdb_len)) {
        parts.read(0, given)?;
    }
    let [l0, l1, l2, l3, l4, l5, l6, l7, rest @ ..] = bytes;
    let [t0, t1, t2, t3, t4, t5, t6, t7, _attribute, _priority, _crn, cdb @ ..] = rest;
    let Some(lun) = lun::of_target([l0, l1, l2, l3, l4, l5, l6, l7]) else {
        return Ok((reply, Err(Code::BadTarget)));
    };
    if data_in > 0 && data_out > 0 {
        // Without VIRTIO_SCSI_F_INOUT.
        return Ok((reply, Err(Code::Failure)));
    }
    let command = Command {
        lun,
        cdb,
        cdb_len,
        tag: u64::from_le_bytes([t0, t1, t2, t3, t4, t5, t6, t7]),
        data_out: parts.data_out(request_len, data_out)?,
        data_in: parts.data_in(response_len, data_in)?,
    };
    Ok((reply, Ok(command)))
}

impl Reply {
    /// Returns a request that the target has not got.
    pub(super) fn refuse(&self, code: Code, queue: &mut Queue) {
        self.finish(code, None, queue);
    }

    /// Returns a request that the target has answered.
    pub(super) fn answer(&self, answer: &ServiceResponse, queue: &mut Queue) {
        match answer {
            ServiceResponse::Complete(response) if response.silent => {
                self.finish(Code::Aborted, None, queue);
            }
            ServiceResponse::Complete(response) => {
                let room = self.data_in.saturating_add(self.data_out);
                let code = if response.wanted > room { Code::Overrun } else { Code::Ok };
                self.finish(code, Some(response), queue);
            }
            ServiceResponse::DeliveryFailure => {
                tracing::debug!("a command did not reach its target, or its answer got lost");
                self.finish(Code::TransportFailure, None, queue);
            }
            ServiceResponse::Managed(_) => self.finish(Code::Failure, None, queue),
        }
    }

    fn finish(&self, code: Code, response: Option<&Response>, queue: &mut Queue) {
        let sense = response.map(|response| response.sense.bytes()).unwrap_or_default();
        let sense_room = SENSE_MAX.min(usize::try_from(self.sense_size).unwrap_or(SENSE_MAX));
        let sense = sense.get(..sense_room).unwrap_or(sense);
        let filled = response.map_or(0, |response| response.data_in.min(self.data_in));
        let used = response.map_or(0, |response| response.data_out.min(self.data_out));
        let residual = (self.data_in - filled).saturating_add(self.data_out - used);

        let [l0, l1, l2, l3] = u32::try_from(sense.len()).unwrap_or_default().to_le_bytes();
        let [r0, r1, r2, r3] = u32::try_from(residual).unwrap_or(u32::MAX).to_le_bytes();
        let status = response.map_or(0, |response| response.status as u8);
        // The status qualifier is 0: there is none.
        let fixed = [l0, l1, l2, l3, r0, r1, r2, r3, 0, 0, status, code as u8];
        // The rest of the sense field is left as it is: most answers have none, and every line of
        // memory that is written has to come from the processor that the driver runs on.
        if sense.is_empty() {
            self.space.write(&fixed, queue.memory());
        } else {
            self.space.write(&[&fixed, sense].concat(), queue.memory());
        }
        // What was written from the first device-writable byte on without a gap (virtio 1.3,
        // 2.7.8.2): with data only if the sense field before it is full.
        let mut written = (RESPONSE_LEN + sense.len()) as u64;
        if sense.len() as u64 == u64::from(self.sense_size) {
            written = written.saturating_add(filled);
        }
        queue.push_used(self.space.head(), u32::try_from(written).unwrap_or(u32::MAX));
        queue.publish();
    }
}
