//! What is wrong or doubtful about a configuration that can be read.

pub(super) mod files;
pub(super) mod shadowed;
pub(super) mod unreachable;
