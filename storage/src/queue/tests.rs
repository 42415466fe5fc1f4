//! The queue with engines that work and engines that do not.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex};

use crate::buffers::{AlignedBuffer, Buffers, Owner};
use crate::chain::Chain;
use crate::disk::{Disk, DiskOptions, EngineChoice};
use crate::engine::fault::{Fault, Faulty, Script};
use crate::error::IoError;
use crate::format::Format;
use crate::identity::Identity;
use crate::image::ImageFile;
use crate::layer::{
    Erase, Extent, FileId, Finding, Layer, LayerError, LayerInfo, Outcome, Source, Ticket,
    WriteStep,
};
use crate::link::ParentLink;
use crate::request::{DiskRequest, Operation};
use crate::testkit;
use crate::transfer::{Action, SpaceChange};
use crate::units::{Bytes, DiskRange, FileOffset};
use crate::{Answer, DiskQueue};

mod devices;
mod faults;
mod model;
mod pieces;

const ENGINES: [EngineChoice; 2] = [EngineChoice::IoUring, EngineChoice::Positional];

fn options(engine: EngineChoice) -> DiskOptions {
    DiskOptions { engine, ..DiskOptions::default() }
}

fn request(operation: Operation, start: u64, len: u64, buffers: Buffers) -> DiskRequest {
    DiskRequest { operation, range: DiskRange::new(start, len).unwrap(), buffers }
}

/// Submits one request and waits for its answer.
fn ask(queue: &mut DiskQueue, request: DiskRequest) -> Result<(), IoError> {
    if let Some(result) = queue.submit(77, request) {
        return result;
    }
    let mut done = Vec::new();
    queue.drain(&mut done);
    assert_eq!(done.len(), 1);
    let (token, result) = done.remove(0);
    assert_eq!(token, 77);
    assert_eq!(queue.in_flight(), 0);
    result
}

fn filled(bytes: &[u8]) -> Arc<AlignedBuffer> {
    let mut memory = AlignedBuffer::new(bytes.len());
    memory.bytes().copy_from_slice(bytes);
    Arc::new(memory)
}

fn write(queue: &mut DiskQueue, start: u64, bytes: &[u8]) -> Result<(), IoError> {
    let memory = filled(bytes);
    ask(queue, request(Operation::Write, start, bytes.len() as u64, Buffers::whole(&memory)))
}

fn read(queue: &mut DiskQueue, start: u64, len: usize) -> Result<Vec<u8>, IoError> {
    let mut memory = Arc::new(AlignedBuffer::new(len));
    ask(queue, request(Operation::Read, start, len as u64, Buffers::whole(&memory)))?;
    Ok(Arc::get_mut(&mut memory).expect("the request is over").bytes().to_vec())
}

/// Bytes that differ from sector to sector.
fn pattern(seed: u8, len: usize) -> Vec<u8> {
    (0..len).map(|at| seed.wrapping_add(u8::try_from(at / 512 % 199 + at % 7).unwrap())).collect()
}
