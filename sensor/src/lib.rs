//! The daemon, from the kernel's tables to a scrape.

pub mod aggregate;
pub mod catalog;
pub mod causes;
pub mod classify;
pub mod cli;
pub mod config;
pub mod control;
pub mod daemon;
pub mod decode;
pub mod enforcement;
pub mod health;
pub mod interned;
pub mod model;
pub mod moment;
pub mod policy;
pub mod quota;
pub mod record;
pub mod report;
pub mod sink;
pub mod slots;
pub mod source;
pub mod state;
