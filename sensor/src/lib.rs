//! The daemon, from the kernel's tables to a scrape.

pub mod cli;
pub mod config;
pub mod health;
pub mod model;
pub mod sink;
pub mod supervisor;
