//! Repeated measurements of one quantity.

use serde::Serialize;

/// Values of one quantity in the order of the rounds that took them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds the value of the next round.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// The values, one a round.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The middle value, or the mean of the middle two; nothing of nothing.
    pub fn median(&self) -> Option<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let upper = *sorted.get(sorted.len() / 2)?;
        if sorted.len() % 2 == 1 {
            return Some(upper);
        }
        Some(f64::midpoint(*sorted.get((sorted.len() / 2).checked_sub(1)?)?, upper))
    }

    /// The smallest and the largest value.
    pub fn spread(&self) -> Option<(f64, f64)> {
        let low = self.0.iter().copied().min_by(f64::total_cmp)?;
        let high = self.0.iter().copied().max_by(f64::total_cmp)?;
        Some((low, high))
    }

    /// These values and `other`'s of the same rounds, combined round by round. Rounds that only
    /// one of them has are left out.
    pub fn paired(&self, other: &Samples, combine: impl Fn(f64, f64) -> f64) -> Samples {
        self.0.iter().zip(&other.0).map(|(a, b)| combine(*a, *b)).collect()
    }

    /// How many times `other` these values are, round by round.
    pub fn over(&self, other: &Samples) -> Samples {
        self.paired(other, |a, b| a / b)
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Samples {
        Samples(values.into_iter().collect())
    }
}

/// Calls `measure` once a round for each of `candidates`, by index, forwards and backwards in turn,
/// so that none of them always follows the same other one.
///
/// # Errors
/// The first error of `measure` ends the rounds.
pub fn in_turns<E>(
    rounds: usize,
    candidates: usize,
    mut measure: impl FnMut(usize) -> Result<(), E>,
) -> Result<(), E> {
    for round in 0..rounds {
        for turn in 0..candidates {
            measure(if round % 2 == 0 { turn } else { candidates - 1 - turn })?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        values.iter().copied().collect()
    }

    #[test]
    fn medians_of_odd_even_and_no_values() {
        assert_eq!(samples(&[3.0, 1.0, 2.0]).median(), Some(2.0));
        assert_eq!(samples(&[4.0, 1.0, 2.0, 3.0]).median(), Some(2.5));
        assert_eq!(samples(&[]).median(), None);
        assert_eq!(samples(&[]).spread(), None);
    }

    #[test]
    fn ratios_are_taken_inside_a_round() {
        let ratio = samples(&[2.0, 30.0, 5.0]).over(&samples(&[1.0, 10.0]));
        assert_eq!(ratio.values(), [2.0, 3.0]);
        assert_eq!(ratio.spread(), Some((2.0, 3.0)));
    }

    #[test]
    fn turns_alternate_in_direction() {
        let mut order = Vec::new();
        in_turns(2, 3, |i| {
            order.push(i);
            Ok::<_, ()>(())
        })
        .expect("no error is made");
        assert_eq!(order, [0, 1, 2, 2, 1, 0]);
    }
}
