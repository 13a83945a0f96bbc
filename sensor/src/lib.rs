//! The daemon, from the kernel's tables to a scrape.

pub mod aggregate;
pub mod config;
pub mod model;
pub mod record;
pub mod source;
