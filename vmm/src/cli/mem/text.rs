//! What `cohort mem` prints for people.

use std::fmt::Write;
use std::path::Path;

use cohort::mem::{Account, GuestAccount, Part, Sizes};
use comfy_table::{CellAlignment, Table, TableComponent, presets};

use super::Group;
use crate::cli::mebibytes;

#[cfg(test)]
mod tests;

/// Most guests that are named where a part says with whom it is shared.
const NAMED: usize = 3;

/// The accounts as tables: a line for each guest or, `detailed`, for each part of it.
pub(super) fn of(groups: &[Group], detailed: bool) -> String {
    if groups.iter().all(|group| group.account.guests.is_empty()) {
        return "no guest runs\n".to_owned();
    }
    let mut text = String::new();
    for group in groups.iter().filter(|group| !group.account.guests.is_empty()) {
        if !text.is_empty() {
            text.push('\n');
        }
        let account = &group.account;
        let table = if detailed { parts(account) } else { guests(account) };
        let _ = writeln!(text, "{}", table.trim_fmt());
        let who = match (&group.lab, group.supervisor) {
            (Some(lab), Some(supervisor)) => format!("lab {lab} (process {supervisor})"),
            _ => "guests without a lab".to_owned(),
        };
        let _ = writeln!(text, "{who}: {}", held(account));
    }
    text
}

/// What is held, and what would be.
fn held(account: &Account) -> String {
    held_line(account.guests.len(), account.held_kib, account.unshared_kib)
}

/// The same sentence for labs that run and labs that have ended.
pub(in crate::cli) fn held_line(guests: usize, held_kib: u64, unshared_kib: u64) -> String {
    let (held, unshared) = (mebibytes(held_kib), mebibytes(unshared_kib));
    let (who, shares) = match guests {
        1 => ("1 guest holds".to_owned(), "maps"),
        n => (format!("{n} guests hold"), "map"),
    };
    if held_kib == unshared_kib {
        return format!("{who} {held}, and {shares} no file that guests could share");
    }
    format!("{who} {held}; without sharing it would be {unshared}")
}

fn table(header: &[&str], right: std::ops::Range<usize>) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_style(TableComponent::HeaderLines, '─');
    table.set_style(TableComponent::MiddleHeaderIntersections, '─');
    table.set_header(header);
    for column in right {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table
}

fn sizes(sizes: &Sizes) -> [String; 4] {
    [sizes.rss_kib, sizes.pss_kib, sizes.private_kib, sizes.shared_kib].map(amount)
}

/// An amount of memory; a dash for none. Small ones matter here, where they are parts of others.
fn amount(kib: u64) -> String {
    match kib {
        1..1024 => format!("{kib} KiB"),
        _ => mebibytes(kib),
    }
}

fn guests(account: &Account) -> Table {
    let mut table =
        table(&["guest", "process", "ram", "rss", "pss", "private", "shared", "with"], 1..7);
    for guest in &account.guests {
        let mut others: Vec<&str> = Vec::new();
        for name in
            guest.parts.iter().filter(|part| part.origin.is_shareable()).flat_map(|p| &p.with)
        {
            if !others.contains(&name.as_str()) {
                others.push(name);
            }
        }
        let mut row = vec![guest.name.clone(), guest.pid.to_string(), amount(guest.ram_kib)];
        row.extend(sizes(&guest.total));
        row.push(names(others.iter().copied()));
        table.add_row(row);
    }
    table
}

fn parts(account: &Account) -> Table {
    let mut header = vec!["guest", "what", "file", "rss", "pss", "private", "shared", "with"];
    let frames = account.guests.iter().flat_map(|guest| &guest.parts).any(|p| p.frames.is_some());
    if frames {
        header.push("page frames");
    }
    let mut table = table(&header, 3..7);
    for guest in &account.guests {
        let mut name = guest.name.as_str();
        for part in &shown(guest) {
            let mut row = vec![name.to_owned(), part.origin.words().to_owned(), file(part)];
            row.extend(sizes(&part.sizes));
            row.push(names(part.with.iter().map(String::as_str)));
            if frames {
                row.push(page_frames(part));
            }
            table.add_row(row);
            name = "";
        }
        let mut row = vec![name.to_owned(), "all".to_owned(), String::new()];
        row.extend(sizes(&guest.total));
        table.add_row(row);
    }
    table
}

/// The parts that a table shows: each shareable file, and one line for every other origin.
fn shown(guest: &GuestAccount) -> Vec<Part> {
    let mut shown: Vec<Part> = Vec::new();
    for part in guest.parts.iter().filter(|part| part.sizes != Sizes::default()) {
        match shown.last_mut() {
            Some(last) if last.origin == part.origin && !part.origin.is_shareable() => {
                last.sizes += part.sizes;
                last.path = None;
                last.with = Vec::new();
            }
            _ => {
                let mut part = part.clone();
                if !part.origin.is_shareable() {
                    part.with.clear();
                }
                shown.push(part);
            }
        }
    }
    shown
}

/// The file of a part by its last name.
fn file(part: &Part) -> String {
    match (&part.path, part.files) {
        (_, Some(files)) => format!("{files} more files"),
        (Some(path), _) if part.origin.is_shareable() => {
            let name = Path::new(path).file_name();
            name.map_or_else(|| path.clone(), |name| name.to_string_lossy().into_owned())
        }
        _ => String::new(),
    }
}

fn names<'a>(names: impl ExactSizeIterator<Item = &'a str>) -> String {
    let more = names.len().saturating_sub(NAMED);
    let mut text = names.take(NAMED).collect::<Vec<_>>().join(", ");
    if more > 0 {
        let _ = write!(text, " and {more} more");
    }
    text
}

fn page_frames(part: &Part) -> String {
    let Some(frames) = &part.frames else { return String::new() };
    let mut text = format!("{} of {} shared", frames.shared, frames.count);
    for (at, frame) in frames.first.iter().enumerate() {
        let before = if at == 0 { ": " } else { ", " };
        let _ = write!(text, "{before}{:#x}", frame.number);
        if let Some(mapped) = frame.mapped {
            let _ = write!(text, " ({mapped} times)");
        }
    }
    text
}
