//! cohort.
fn main() {}
