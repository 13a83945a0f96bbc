//! The daemon, from the kernel's tables to a scrape.

pub mod aggregate;
pub mod asked;
pub mod cli;
pub mod commands;
pub mod config;
pub mod decode;
pub mod enforcement;
pub mod health;
pub mod hearing;
pub mod model;
pub mod moment;
pub mod pipeline;
pub mod policy;
pub mod quota;
pub mod record;
pub mod remembered;
pub mod sink;
pub mod source;
mod state;
pub mod supervisor;
