//! The host's memory of guests that have all read the same file whole.

use std::path::Path;
use std::time::Duration;

use super::Options;
use crate::bench::BenchError;
use crate::bench::child::{Invocation, Running};
use crate::bench::contender::{BUILTIN, Contenders, Machine, listed};
use crate::bench::footprint::Footprint;
use crate::bench::report::{Check, Figure, Report, Target, Unit};
use crate::bench::samples::Samples;
use crate::bench::scratch::Scratch;

/// How long the guests may take to read the file, all together.
const LIMIT: Duration = Duration::from_secs(300);
/// What a guest prints when it has read all.
const READY: &str = "all read";
/// Mebibytes that a guest may add, its monitor included.
const TARGET: f64 = 3.0;
/// A lab is a domain within which pages are shared; so is this.
const DOMAIN: &str = "cohort-bench-share";

/// Measures memory into `report`.
pub(super) fn measure(
    report: &mut Report,
    contenders: &Contenders,
    options: &Options,
) -> Result<(), BenchError> {
    let file = Scratch::in_ram()?;
    file.fill(0, options.shared)?;
    let path = listed(&file.path());
    let machine = |script| Machine { cmdline: script, ..Machine::with_kernel(Path::new(BUILTIN)) };
    let ending = format!("print {READY}; hang");
    let (mapped, read) =
        (format!("pmem.sum; {ending}"), format!("blk.sum 0 {}; {ending}", options.shared));
    let mut disk = path.clone();
    disk.push(",ro,format=raw");
    let ways = [
        contenders
            .cohort("pmem", &machine(&mapped))
            .words("--share-domain")
            .arg(DOMAIN)
            .arg("--pmem")
            .arg(path),
        contenders.cohort("virtio-blk", &machine(&read)).arg("--disk").arg(disk),
    ];
    for (index, way) in ways.iter().enumerate() {
        let mut held = Vec::new();
        for &count in &options.guests {
            let mebibytes = memory_of(way, count)?;
            held.push((count, mebibytes));
            report.figures.push(Figure {
                what: format!("{count} guests that have read {} MiB, PSS", options.shared >> 20),
                who: way.who().to_owned(),
                unit: Unit::Mebibytes,
                rounds: [mebibytes].into_iter().collect(),
                command: way.shell_line(),
            });
        }
        let (Some(first), Some(last)) = (held.first(), held.last()) else { continue };
        if index == 0 && last.0 > first.0 {
            let growth = (last.1 - first.1) / f64::from(last.0 - first.0);
            report.checks.push(Check::new(
                format!("what each of {} guests adds, monitor included", last.0),
                Unit::Mebibytes,
                [growth].into_iter().collect::<Samples>(),
                Target::AtMost(TARGET),
            ));
        }
    }
    Ok(())
}

/// What `count` guests hold together when all have read, in mebibytes: of pages that several have,
/// each its share.
fn memory_of(way: &Invocation, count: u16) -> Result<f64, BenchError> {
    let mut guests = (0..count).map(|_| way.start()).collect::<Result<Vec<Running>, _>>()?;
    for guest in &mut guests {
        guest.printed(READY, LIMIT)?;
    }
    let mut kib = 0;
    for guest in &guests {
        kib += Footprint::of_tree(guest.pid())?.pss_kib;
    }
    #[expect(clippy::cast_precision_loss, reason = "kibibytes of this host")]
    Ok(kib as f64 / 1024.0)
}
