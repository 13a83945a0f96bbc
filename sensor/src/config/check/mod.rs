//! Checks for errors and doubts in a configuration that can be read.

pub(super) mod files;
pub(super) mod shadowed;
pub(super) mod unreachable;
