//! Where records come from.

pub mod kernel;
pub mod replay;
