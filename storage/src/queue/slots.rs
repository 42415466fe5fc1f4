//! Requests that are under way.

use crate::error::IoError;
use crate::layer::Ticket;
use crate::request::Operation;

/// A request and what is left of it.
#[derive(Debug)]
pub(super) struct Pending {
    /// The submitter's name for it.
    pub(super) token: u64,
    /// What it does.
    pub(super) operation: Operation,
    /// The layer's hold on its blocks.
    pub(super) ticket: Option<Ticket>,
    /// Transfers that have not ended, and one while it is being submitted.
    pub(super) parts: usize,
    /// The first error of its parts.
    pub(super) error: Option<IoError>,
}

/// A fixed number of places for requests, named by number.
#[derive(Debug)]
pub(super) struct Slots {
    places: Vec<Option<Pending>>,
    free: Vec<usize>,
}

impl Slots {
    /// `count` places, all empty.
    pub(super) fn new(count: usize) -> Slots {
        Slots {
            places: std::iter::repeat_with(|| None).take(count).collect(),
            free: (0..count).rev().collect(),
        }
    }

    /// Requests in their places.
    pub(super) fn len(&self) -> usize {
        self.places.len() - self.free.len()
    }

    /// Whether there is no place left.
    pub(super) fn is_full(&self) -> bool {
        self.free.is_empty()
    }

    /// Gives a request a place; gives it back when there is none.
    pub(super) fn insert(&mut self, pending: Pending) -> Result<usize, Pending> {
        match self.free.pop() {
            Some(number) => {
                self.places[number] = Some(pending);
                Ok(number)
            }
            None => Err(pending),
        }
    }

    /// The request in a place.
    pub(super) fn get(&mut self, number: usize) -> Option<&mut Pending> {
        self.places.get_mut(number)?.as_mut()
    }

    /// Counts one part of a request as ended. The request leaves its place with its last part.
    pub(super) fn end_part(&mut self, number: usize) -> Option<Pending> {
        let place = self.places.get_mut(number)?;
        let pending = place.as_mut()?;
        pending.parts = pending.parts.saturating_sub(1);
        if pending.parts > 0 {
            return None;
        }
        self.free.push(number);
        place.take()
    }
}
