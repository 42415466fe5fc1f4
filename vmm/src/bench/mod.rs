//! Measurements of cohort beside its peers: `cohort bench`.
//!
//! One way of measuring throughout. Every figure is taken from whole processes, as a user would
//! run them: cohort's own binary, QEMU and others started with the same kernel, memory and disk.
//! The candidates take turns for several rounds, forwards and backwards, so that whatever else the
//! host does falls on all of them alike; what is compared are ratios inside one round, and what is
//! reported is their median with the smallest and the largest. A peer that is not installed is
//! named together with the command that installs it, and its lines are left out.
//!
//! | module | holds |
//! | --- | --- |
//! | [`boot`] | starting, sitting idle, booting Linux |
//! | [`blk`] | 4 KiB random reads and writes |
//! | [`chain`] | disks that are chains of layers |
//! | [`pr`] | persistent reservations: fencing, checking |
//! | [`shared`] | disks that guests share, on this host and over iSCSI |
//! | [`share`] | pages of files that guests map instead of reading them |
//! | [`child`] | one measured process: wall time, processor time, output |
//! | [`scratch`] | files without a name, gone with the process |
//! | [`image`] | kernels of a few instructions, synthesized |
//! | [`footprint`] | proportional set sizes from `smaps` |
//! | [`contender`] | cohort and its peers: their command lines |
//! | [`places`] | random places of a disk |
//! | [`samples`], [`report`] | medians and spreads; table and JSON |
//!
//! Nothing is left behind on any way out, SIGKILL included: files have no name, and children die
//! with the process that started them or end by themselves at once.

pub mod blk;
pub mod boot;
pub mod chain;
pub mod child;
pub mod contender;
pub mod footprint;
pub mod image;
pub mod places;
pub mod pr;
pub mod report;
pub mod samples;
pub mod scratch;
pub mod share;
pub mod shared;

mod error;

pub use error::BenchError;
