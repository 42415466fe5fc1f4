//! Sizes and durations as people write them: always with a unit, so that `64` can never be
//! taken for bytes by one reader and for megabytes by another.

use std::time::Duration;

#[cfg(test)]
mod tests;

/// Text that is no size or no duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct UnitError {
    what: String,
    /// What to write instead, where that is known.
    instead: Option<String>,
    hint: String,
}

impl UnitError {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> UnitError {
        UnitError { what: what.into(), instead: None, hint: hint.into() }
    }

    fn instead(mut self, text: impl Into<String>) -> UnitError {
        self.instead = Some(text.into());
        self
    }

    /// What to do, on a command line.
    pub fn help(&self) -> String {
        match &self.instead {
            Some(text) => format!("write {text}{}", self.hint),
            None => self.hint.clone(),
        }
    }

    /// What to do, in a file whose strings are quoted.
    pub fn help_in_file(&self) -> String {
        match &self.instead {
            Some(text) => format!("write {text:?}{}", self.hint),
            None => self.hint.clone(),
        }
    }
}

const SIZE_HELP: &str =
    "write a whole number and one of B, K, M, G, T (powers of 1024), as in 256M";

/// Reads a size: a whole number followed by `B`, `K`, `M`, `G` or `T`, or the longer `KiB`,
/// `MiB`, `GiB`, `TiB`; powers of 1024, in bytes.
///
/// # Errors
/// Without a unit, with an unknown one, or with a value that 64 bits cannot hold.
pub fn parse_size(text: &str) -> Result<u64, UnitError> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(UnitError::new(format!("{text:?} is not a size"), SIZE_HELP));
    }
    let shift = match unit.to_ascii_lowercase().as_str() {
        "" => {
            let example = if number.len() <= 4 { format!("{number}M") } else { "256M".into() };
            return Err(UnitError::new(
                format!("the size {number} has no unit"),
                " for MiB, or use B, K, G or T",
            )
            .instead(example));
        }
        "b" => 0,
        "k" | "kib" => 10,
        "m" | "mib" => 20,
        "g" | "gib" => 30,
        "t" | "tib" => 40,
        _ => {
            return Err(UnitError::new(
                format!("the size {text:?} has the unknown unit {unit:?}"),
                SIZE_HELP,
            ));
        }
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(1 << shift))
        .ok_or_else(|| UnitError::new(format!("the size {text} is too large"), SIZE_HELP))
}

/// Reads the memory of a guest: a size that is a multiple of 4 KiB and at least `min`.
///
/// # Errors
/// As [`parse_size`], or the value is unfit for guest memory.
pub fn parse_memory(text: &str, min: u64) -> Result<u64, UnitError> {
    let size = parse_size(text)?;
    if size < min {
        return Err(UnitError::new(
            format!("{text} of memory is too little for any guest"),
            format!("give it at least {}", show_size(min)),
        ));
    }
    if size > MEMORY_MAX {
        return Err(UnitError::new(
            format!("{text} of memory is more than a guest can address"),
            format!("give it at most {}", show_size(MEMORY_MAX)),
        ));
    }
    if !size.is_multiple_of(4096) {
        return Err(UnitError::new(format!("{text} of memory is not a multiple of 4 KiB"), "")
            .instead(show_size(size & !4095)));
    }
    Ok(size)
}

/// Reads the size of a raw disk: whole sectors of 512 bytes, at least one.
///
/// # Errors
/// As [`parse_size`], or the size is no number of whole sectors.
pub fn parse_disk_size(text: &str) -> Result<u64, UnitError> {
    let size = parse_size(text)?;
    if size == 0 || !size.is_multiple_of(512) {
        return Err(UnitError::new(
            format!("a disk cannot have {text}"),
            "give it a multiple of 512 bytes, as in 64M",
        ));
    }
    Ok(size)
}

/// Largest guest memory: well inside the 46 bits of physical address that hosts have.
pub const MEMORY_MAX: u64 = 16 << 40;

/// Reads a duration: `500ms`, `60s`, `5m`, `1h 30m`.
///
/// # Errors
/// Without a unit, with an unknown one, zero, or longer than a year.
pub fn parse_duration(text: &str) -> Result<Duration, UnitError> {
    const HELP: &str = "write a number and a unit, as in 500ms, 60s, 5m or 2h";
    const YEAR: Duration = Duration::from_secs(366 * 24 * 3600);
    let duration = humantime::parse_duration(text).map_err(|_| {
        let all_digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if all_digits {
            UnitError::new(
                format!("the duration {text} has no unit"),
                " for seconds, or use ms, m or h",
            )
            .instead(format!("{text}s"))
        } else {
            UnitError::new(format!("{text:?} is not a duration"), HELP)
        }
    })?;
    if duration.is_zero() {
        return Err(UnitError::new(format!("the duration {text} is zero"), HELP));
    }
    if duration > YEAR {
        return Err(UnitError::new(
            format!("the duration {text} is longer than a year"),
            "leave it out for no limit",
        ));
    }
    Ok(duration)
}

/// A size in the largest unit that holds it exactly, in the form that [`parse_size`] reads.
pub fn show_size(bytes: u64) -> String {
    let (shift, unit) = [(40, "T"), (30, "G"), (20, "M"), (10, "K")]
        .into_iter()
        .find(|(shift, _)| bytes != 0 && bytes.trailing_zeros() >= *shift)
        .unwrap_or((0, "B"));
    format!("{}{unit}", bytes >> shift)
}

/// A duration in the form that [`parse_duration`] reads.
pub fn show_duration(duration: Duration) -> String {
    humantime::format_duration(duration).to_string()
}
