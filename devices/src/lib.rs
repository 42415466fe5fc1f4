//! The devices of a cohort machine, from bus to backend. They know the hypervisor only through
//! [`platform::Platform`].

pub mod platform;
pub mod power;
