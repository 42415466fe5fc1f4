//! Starting with a large file: it is mapped, and nothing of it read.

use std::path::Path;
use std::time::Duration;

use crate::bench::BenchError;
use crate::bench::contender::{BUILTIN, Contenders, Machine, listed};
use crate::bench::report::{Check, Figure, Report, Target, Unit};
use crate::bench::samples::{Samples, in_turns};
use crate::bench::scratch::Scratch;

const LIMIT: Duration = Duration::from_secs(60);
/// Bytes of the large file.
const IMAGE: u64 = 10 << 30;
/// How often a guest is started for one value of a round.
const RUNS: usize = 10;
/// Milliseconds that the file may add.
const TARGET: f64 = 1.0;

/// Measures starts into `report`.
pub(super) fn measure(
    report: &mut Report,
    contenders: &Contenders,
    rounds: usize,
) -> Result<(), BenchError> {
    let image = Scratch::in_ram()?;
    // A hole but for its end: whoever read it would take as long.
    image.write(IMAGE - 1, b"!")?;
    let machine = Machine { cmdline: "exit 0", ..Machine::with_kernel(Path::new(BUILTIN)) };
    let without = contenders.cohort("cohort", &machine).brief();
    let with = contenders.cohort("cohort, 10 GiB of pmem", &machine).arg("--pmem");
    let with = with.arg(listed(&image.path())).brief();
    let starts = [without, with];
    let mut times: [Samples; 2] = Default::default();
    for start in &starts {
        start.run(LIMIT)?.with_status(&[0])?;
    }
    in_turns(rounds, starts.len(), |index| {
        let mut walls = Samples::default();
        for _ in 0..RUNS {
            let done = starts[index].run(LIMIT)?.with_status(&[0])?;
            walls.push(done.wall.as_secs_f64() * 1e3);
        }
        walls.median().into_iter().for_each(|wall| times[index].push(wall));
        Ok::<_, BenchError>(())
    })?;
    for (start, rounds) in starts.iter().zip(&times) {
        report.figures.push(Figure {
            what: "a guest that exits at once, wall time".to_owned(),
            who: start.who().to_owned(),
            unit: Unit::Milliseconds,
            rounds: rounds.clone(),
            command: start.shell_line(),
        });
    }
    report.checks.push(Check::new(
        "what 10 GiB of pmem add to the start of a guest",
        Unit::Milliseconds,
        times[1].paired(&times[0], |with, without| with - without),
        Target::AtMost(TARGET),
    ));
    Ok(())
}
