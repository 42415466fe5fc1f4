//! What a benchmark found: one structure, shown as tables or written as JSON.

use std::fmt;
use std::fs;

use comfy_table::{CellAlignment, Table, presets};
use serde::{Serialize, Serializer};

use super::samples::Samples;

/// The load average up to which a host counts as quiet.
const QUIET: f64 = 0.7;

/// The findings of one benchmark.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Which benchmark this is.
    pub bench: &'static str,
    /// Where it ran.
    pub host: Host,
    /// What was measured, as it was measured.
    pub figures: Vec<Figure>,
    /// What was compared, and with what target.
    pub checks: Vec<Check>,
    /// What the reader has to know: peers that are missing, what a line does not say.
    pub notes: Vec<String>,
}

/// The host of a measurement.
#[derive(Debug, Serialize)]
pub struct Host {
    /// Release of its kernel.
    pub kernel: String,
    /// Model name of its processor.
    pub processor: String,
    /// Processors that this process may use.
    pub processors: usize,
    /// `kvm-pvm`, `kvm-amd`, `kvm-intel`: which KVM runs the guests.
    pub kvm: &'static str,
    /// How many threads were busy on average in the minute before.
    pub load: f64,
}

/// One quantity of one contender.
#[derive(Debug, Serialize)]
pub struct Figure {
    /// The quantity.
    pub what: String,
    /// Whose.
    pub who: String,
    /// The unit of the values.
    pub unit: Unit,
    /// One value a round.
    pub rounds: Samples,
    /// The command line that made the values.
    pub command: String,
}

/// A comparison with a target.
#[derive(Debug, Serialize)]
pub struct Check {
    /// What is compared.
    pub what: String,
    /// The unit of the values.
    pub unit: Unit,
    /// One value a round.
    pub rounds: Samples,
    /// What the median has to keep to.
    pub target: Target,
    /// Whether it does; nothing when nothing was measured.
    pub met: Option<bool>,
}

/// What a median has to keep to.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Target {
    /// It may not be larger.
    AtMost(f64),
    /// It may not be smaller.
    AtLeast(f64),
}

/// The unit of a figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Milliseconds.
    Milliseconds,
    /// Mebibytes.
    Mebibytes,
    /// Mebibytes a second.
    MebibytesPerSecond,
    /// Thousands of operations a second.
    KiloOps,
    /// Microseconds of processor time an operation.
    Microseconds,
    /// How many times something else.
    Times,
}

impl Unit {
    /// The unit's symbol.
    pub fn symbol(self) -> &'static str {
        match self {
            Unit::Milliseconds => "ms",
            Unit::Mebibytes => "MiB",
            Unit::MebibytesPerSecond => "MiB/s",
            Unit::KiloOps => "k/s",
            Unit::Microseconds => "us",
            Unit::Times => "x",
        }
    }
}

impl Serialize for Unit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.symbol())
    }
}

impl Check {
    /// Compares the median of `rounds` with `target`.
    pub fn new(what: impl Into<String>, unit: Unit, rounds: Samples, target: Target) -> Check {
        let met = rounds.median().map(|median| match target {
            Target::AtMost(most) => median <= most,
            Target::AtLeast(least) => median >= least,
        });
        Check { what: what.into(), unit, rounds, target, met }
    }
}

impl Report {
    /// An empty report of the benchmark called `bench`, on this host.
    pub fn new(bench: &'static str) -> Report {
        let host = Host::this();
        let notes = host.busy().into_iter().collect();
        Report { bench, host, figures: vec![], checks: vec![], notes }
    }

    /// The report as one JSON object.
    pub fn json(&self) -> String {
        // The structure has string keys and finite depth: its serialization cannot fail.
        serde_json::to_string_pretty(self).unwrap_or_default()
    }
}

impl Host {
    /// The host this process runs on.
    pub fn this() -> Host {
        let processor = fs::read_to_string("/proc/cpuinfo").ok().and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(": ")?.1.to_owned())
        });
        let modules =
            [("kvm_pvm", "kvm-pvm (software)"), ("kvm_amd", "kvm-amd"), ("kvm_intel", "kvm-intel")];
        let loaded = |module: &str| fs::exists(format!("/sys/module/{module}")).unwrap_or(false);
        let kvm = modules.iter().find(|(module, _)| loaded(module)).map_or("none", |(_, kvm)| kvm);
        Host {
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")
                .map_or_else(|_| "unknown".to_owned(), |text| text.trim().to_owned()),
            processor: processor.unwrap_or_else(|| "unknown".to_owned()),
            processors: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kvm,
            load: fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| text.split_whitespace().next()?.parse().ok())
                .unwrap_or_default(),
        }
    }

    /// What to say when the host was not idle.
    fn busy(&self) -> Option<String> {
        (self.load > QUIET).then(|| {
            format!(
                "other work kept {} threads busy in the minute before, on {} processors; times are \
                 longer and rates lower than on a quiet host, and ratios uncertain",
                digits(self.load),
                self.processors
            )
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Host { kernel, processor, processors, kvm, .. } = &self.host;
        writeln!(
            f,
            "cohort bench {}: Linux {kernel}, {processors} x {processor}, {kvm}",
            self.bench
        )?;
        let mut table = table(&["measured", "who", "median", "lowest", "highest", "unit"]);
        let mut above = "";
        for Figure { what, who, unit, rounds, .. } in &self.figures {
            let [median, low, high] = cells(rounds);
            // What is the same as in the row above is said once.
            let what = if what == above { "" } else { what };
            above = if what.is_empty() { above } else { what };
            table.add_row([what, who, &median, &low, &high, unit.symbol()]);
        }
        right_align(&mut table, 2..5);
        writeln!(f, "\n{table}\n")?;

        let mut table =
            self::table(&["compared", "median", "lowest", "highest", "unit", "target", ""]);
        for Check { what, unit, rounds, target, met } in &self.checks {
            let [median, low, high] = cells(rounds);
            let met = match met {
                Some(true) => "met",
                Some(false) => "short",
                None => "not measured",
            };
            table.add_row([
                what,
                &median,
                &low,
                &high,
                unit.symbol(),
                target.to_string().as_str(),
                met,
            ]);
        }
        right_align(&mut table, 1..4);
        writeln!(f, "{table}")?;
        for note in &self.notes {
            writeln!(f, "note: {note}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Target::AtMost(value) => write!(f, "at most {value}"),
            Target::AtLeast(value) => write!(f, "at least {value}"),
        }
    }
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_FULL_CONDENSED).set_header(header);
    table
}

fn right_align(table: &mut Table, columns: std::ops::Range<usize>) {
    for index in columns {
        if let Some(column) = table.column_mut(index) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
}

/// Median, lowest and highest as cells.
fn cells(rounds: &Samples) -> [String; 3] {
    let (low, high) = rounds.spread().unzip();
    [rounds.median(), low, high].map(|value| value.map_or_else(|| "-".to_owned(), digits))
}

/// About three significant digits.
fn digits(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report { notes: vec![], ..Report::new("boot") };
        let rounds: Samples = [3.0, 1.0, 2.0].into_iter().collect();
        report.figures.push(Figure {
            what: "processor time".to_owned(),
            who: "cohort".to_owned(),
            unit: Unit::Milliseconds,
            rounds: rounds.clone(),
            command: "cohort run".to_owned(),
        });
        for target in [Target::AtMost(2.0), Target::AtLeast(2.5)] {
            report.checks.push(Check::new("it", Unit::Times, rounds.clone(), target));
        }
        let nothing = Check::new("it", Unit::Times, Samples::default(), Target::AtMost(1.0));
        report.checks.push(nothing);
        report.notes.push("a peer is missing".to_owned());
        report
    }

    #[test]
    fn a_check_compares_the_median() {
        let met: Vec<_> = report().checks.iter().map(|check| check.met).collect();
        assert_eq!(met, [Some(true), Some(false), None]);
    }

    #[test]
    fn the_table_says_all_of_it() {
        let text = report().to_string();
        for word in ["cohort", "2.00", "1.00", "3.00", "ms", "met", "short", "not measured"] {
            assert!(text.contains(word), "{word} is missing:\n{text}");
        }
        assert!(text.ends_with("note: a peer is missing\n"));
    }

    #[test]
    fn a_busy_host_is_told_of() {
        let quiet = Host { load: 0.1, processors: 2, ..Host::this() };
        assert_eq!(quiet.busy(), None);
        let busy = Host { load: 5.0, ..quiet }.busy().expect("a note");
        assert!(busy.contains("5.00 threads busy"), "{busy}");
    }

    #[test]
    fn json_holds_every_round() {
        let json: serde_json::Value = serde_json::from_str(&report().json()).expect("JSON");
        assert_eq!(json["figures"][0]["rounds"], serde_json::json!([3.0, 1.0, 2.0]));
        assert_eq!(json["checks"][1]["target"], serde_json::json!({ "at-least": 2.5 }));
        assert_eq!(json["checks"][1]["met"], serde_json::json!(false));
    }

    #[test]
    fn figures_keep_three_digits() {
        assert_eq!([597.4, 65.04, 1.234].map(digits), ["597", "65.0", "1.23"]);
    }
}
