//! The maps: each file owns its own, private to it, and exports the verbs by which the programs use them.
//!
//! A verb counts its own failures: no caller needs to know how a table can be full.

pub(crate) mod assemblies;
pub(crate) mod budgets;
pub(crate) mod devices;
pub(crate) mod flows;
pub(crate) mod fragments;
pub(crate) mod held;
pub(crate) mod hits;
pub(crate) mod interfaces;
pub(crate) mod limits;
pub(crate) mod losses;
pub(crate) mod ports;
pub(crate) mod readers;
pub(crate) mod ring;
pub(crate) mod rules;
pub(crate) mod scratch;
pub(crate) mod settings;
pub(crate) mod told;
mod user_space;
