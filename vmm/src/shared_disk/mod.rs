//! A disk that several guests share: the server's process, and how operators talk to it.

pub mod control;
pub mod serve;
