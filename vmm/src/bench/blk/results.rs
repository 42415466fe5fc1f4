//! The figures in what the built-in guest and fio print.

use crate::bench::BenchError;
use crate::bench::child::{Finished, tail};

/// The rates that the built-in guest printed, `expected` of them, in operations a second: the
/// `iops=N` of its lines, in their order.
pub(in crate::bench) fn of_guest(done: &Finished, expected: usize) -> Result<Vec<f64>, BenchError> {
    let rates: Vec<f64> = done
        .output
        .split_whitespace()
        .filter_map(|word| word.strip_prefix("iops=")?.parse().ok())
        .collect();
    if rates.len() == expected { Ok(rates) } else { Err(missing(done)) }
}

/// The number behind `name`, which ends in `=`, in what the built-in guest printed.
pub(in crate::bench) fn field(
    done: &Finished,
    name: &str,
    what: &'static str,
) -> Result<f64, BenchError> {
    let mut words = done.output.split_whitespace();
    words.find_map(|word| word.strip_prefix(name)?.parse().ok()).ok_or_else(|| {
        BenchError::NoFigure { who: done.who.clone(), what, output: tail(done.output.as_bytes()) }
    })
}

/// The rate that fio printed as JSON, in operations a second.
pub(in crate::bench) fn of_fio(done: &Finished, write: bool) -> Result<f64, BenchError> {
    let start = done.output.find('{').ok_or_else(|| missing(done))?;
    // Messages may follow the object, so only the first value is read.
    let json = done.output.get(start..).unwrap_or_default();
    let mut values = serde_json::Deserializer::from_str(json).into_iter::<serde_json::Value>();
    let job = values.next().and_then(Result::ok);
    let direction = if write { "write" } else { "read" };
    job.and_then(|json| json.get("jobs")?.get(0)?.get(direction)?.get("iops")?.as_f64())
        .ok_or_else(|| missing(done))
}

fn missing(done: &Finished) -> BenchError {
    BenchError::NoFigure {
        who: done.who.clone(),
        what: "rate",
        output: tail(done.output.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::ExitStatus;
    use std::time::Duration;

    use super::*;

    fn printed(output: &str) -> Finished {
        Finished {
            who: "guest".to_owned(),
            status: ExitStatus::from_raw(0),
            wall: Duration::ZERO,
            cpu: Duration::ZERO,
            output: output.to_owned(),
        }
    }

    #[test]
    fn rates_of_the_guest_come_in_order() {
        let done = printed("hello\nbench.randread qd=1 iops=72000 x=1\r\nbench iops=300500\n");
        assert_eq!(of_guest(&done, 2).expect("two rates"), [72_000.0, 300_500.0]);
        let error = of_guest(&done, 3).expect_err("only two").to_string();
        assert!(error.starts_with("guest printed no rate; its last output: hello | "), "{error}");
    }

    #[test]
    fn the_rate_of_fio_is_that_of_the_direction() {
        let done = printed(
            r#"note: something
            {"jobs": [{"read": {"iops": 77000.5}, "write": {"iops": 1.0}}]}
            trailing {"#,
        );
        assert_eq!(of_fio(&done, false).expect("a rate"), 77_000.5);
        assert_eq!(of_fio(&done, true).expect("a rate"), 1.0);
        assert!(of_fio(&printed("no JSON"), false).is_err());
        assert!(of_fio(&printed("{}"), false).is_err());
    }
}
