//! Where facts go: each sink reads the model and nothing else.

pub mod metrics;
pub mod store;
pub mod web;
