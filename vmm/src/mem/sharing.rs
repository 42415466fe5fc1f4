//! Several guests beside each other: who shares what with whom, and what that saves.

use std::collections::HashMap;

use serde::Serialize;

use super::frames;
use super::registry::{Guest, LabRun};
use super::smaps::FileId;
use super::{GuestAccount, MemError};

#[cfg(test)]
mod tests;

/// What guests hold together.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Account {
    /// What they hold, pages that they share counted once; among these guests, what others on the
    /// host map as well counts in part.
    pub held_kib: u64,
    /// What they would hold if each had pages of its own.
    pub unshared_kib: u64,
    /// The guests.
    pub guests: Vec<GuestAccount>,
    /// Guests of which nothing can be told, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub unknown: Vec<Unknown>,
    /// Why there are no page frames, where they were asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub no_frames: Option<String>,
}

/// A guest of which nothing can be told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Unknown {
    /// Its name.
    pub name: String,
    /// Its process.
    pub pid: u32,
    /// Why.
    pub why: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub help: Option<&'static str>,
}

impl Account {
    /// What `guests` hold now, those that have ended left out; with `frames`, which page frames
    /// they share. They are looked at one after the other, so what they do meanwhile shows.
    pub fn of<'a>(guests: impl IntoIterator<Item = &'a Guest>, frames: bool) -> Account {
        let mut account = Account::default();
        for guest in guests {
            match GuestAccount::read(guest) {
                Ok(read) => account.guests.push(read),
                Err(MemError::Gone { .. }) => {}
                Err(error) => account.unknown.push(unknown(guest, &error)),
            }
        }
        account.sum_up();
        if frames {
            account.no_frames = frames::add(&mut account.guests).err();
        }
        account
    }

    /// Finds who shares with whom, and sums up.
    pub(super) fn sum_up(&mut self) {
        let guests: Vec<(Option<LabRun>, String)> = self.guests.iter().map(known_as).collect();
        let mut who: HashMap<FileId, Vec<usize>> = HashMap::new();
        for (at, guest) in self.guests.iter().enumerate() {
            for file in guest.parts.iter().filter_map(|part| part.file) {
                let who = who.entry(file).or_default();
                if who.last() != Some(&at) {
                    who.push(at);
                }
            }
        }
        for (at, guest) in self.guests.iter_mut().enumerate() {
            for part in &mut guest.parts {
                let who = part.file.and_then(|file| who.get(&file)).map_or(&[][..], Vec::as_slice);
                let others = who.iter().filter(|other| **other != at);
                let name = |other: &usize| {
                    let (lab, name) = guests.get(*other)?;
                    Some(match lab {
                        Some(lab) if guest.lab.as_ref() != Some(lab) => {
                            format!("{}/{name}", lab.name)
                        }
                        _ => name.clone(),
                    })
                };
                part.with = others.filter_map(name).collect();
            }
        }
        self.add_up();
    }

    fn add_up(&mut self) {
        self.held_kib = self.guests.iter().map(GuestAccount::held_kib).sum();
        self.unshared_kib = self.guests.iter().map(GuestAccount::unshared_kib).sum();
    }

    /// The part of the account that is about those of its guests whose processes are `wanted`;
    /// whom they share with, be it one of the others, stays.
    pub fn only(&self, wanted: impl Fn(u32) -> bool) -> Account {
        let mut part = self.clone();
        part.guests.retain(|guest| wanted(guest.pid));
        part.unknown.retain(|unknown| wanted(unknown.pid));
        part.add_up();
        part
    }
}

/// The lab of a guest, and how others call it: names are unique in a lab alone.
fn known_as(guest: &GuestAccount) -> (Option<LabRun>, String) {
    let name = match &guest.lab {
        Some(_) => guest.name.clone(),
        None => format!("{} ({})", guest.name, guest.pid),
    };
    (guest.lab.clone(), name)
}

fn unknown(guest: &Guest, error: &MemError) -> Unknown {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    Unknown {
        name: guest.name.clone(),
        pid: guest.process.pid,
        why: format!("{error}{}", cause.unwrap_or_default()),
        help: error.help(),
    }
}
