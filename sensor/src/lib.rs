//! The daemon, from the kernel's tables to a scrape.

pub mod config;
pub mod model;
