//! The memory of a lab's guests over time.

use std::io::{self, Write};

use serde::Serialize;

use super::Sizes;

#[cfg(test)]
mod tests;

/// Most points that are kept for a plot. Beyond that, every two are put together.
const POINTS_MAX: usize = 2048;

/// What all guests together held at one moment, in KiB.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Point {
    /// Time since the first guest started, in milliseconds.
    pub at_ms: u64,
    /// The sum of the resident sizes: what guests share counts for each of them.
    pub rss_kib: u64,
    /// The sum of the proportional sizes: what guests share counts once.
    pub pss_kib: u64,
    /// The pages that one process alone has.
    pub private_kib: u64,
}

/// What one guest held at one moment.
#[derive(Clone, Copy, Debug)]
pub struct Sample<'a> {
    /// The guest's name.
    pub name: &'a str,
    /// Its process.
    pub pid: u32,
    /// What it held.
    pub sizes: Sizes,
}

/// The memory of a lab's guests over time: each sample goes to a table at once, sums are kept.
pub struct Series<W> {
    table: W,
    /// The first failure to write the table, which ends it.
    failure: Option<io::Error>,
    points: Vec<Point>,
    count: u64,
}

impl<W: Write> Series<W> {
    /// Writes the head of a table of comma-separated values to `table`.
    pub fn new(table: W) -> Series<W> {
        let mut series = Series { table, failure: None, points: Vec::new(), count: 0 };
        series.write("time_ms,guest,pid,rss_kib,pss_kib,private_kib,shared_kib,swap_kib\n");
        series
    }

    /// Adds what `guests` held at a moment after all earlier ones.
    pub fn add(&mut self, at_ms: u64, guests: &[Sample<'_>]) -> Point {
        let mut sum = Sizes::default();
        let mut lines = String::new();
        for Sample { name, pid, sizes } in guests {
            sum += *sizes;
            let name = cell(name);
            let Sizes { rss_kib, pss_kib, private_kib, shared_kib, swap_kib, .. } = sizes;
            lines += &format!(
                "{at_ms},{name},{pid},{rss_kib},{pss_kib},{private_kib},{shared_kib},{swap_kib}\n"
            );
        }
        self.write(&lines);
        self.count = self.count.saturating_add(1);
        let (rss_kib, pss_kib, private_kib) = (sum.rss_kib, sum.pss_kib, sum.private_kib);
        let point = Point { at_ms, rss_kib, pss_kib, private_kib };
        if self.points.len() >= POINTS_MAX {
            self.points = thinned(&self.points);
        }
        self.points.push(point);
        point
    }

    /// How many samples there are.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// The sums over time, in order.
    pub fn points(&self) -> &[Point] {
        &self.points
    }

    /// The first failure to write the table.
    pub fn failure(&self) -> Option<&io::Error> {
        self.failure.as_ref()
    }

    fn write(&mut self, text: &str) {
        if self.failure.is_none() {
            self.failure = self.table.write_all(text.as_bytes()).err();
        }
    }
}

/// Of every two points the one in which more was held.
fn thinned(points: &[Point]) -> Vec<Point> {
    let larger = |pair: &[Point]| pair.iter().copied().max_by_key(|point| point.rss_kib);
    points.chunks(2).filter_map(larger).collect()
}

/// A cell of a table (RFC 4180).
fn cell(text: &str) -> String {
    if text.contains(['"', ',', '\n', '\r']) {
        format!("\"{}\"", text.replace('"', "\"\""))
    } else {
        text.to_owned()
    }
}
