//! Where records come from.

pub mod kernel;
