//! Every chore of the project behind one door, and the home lab, which integration tests use too.

pub mod bench;
pub mod build;
pub mod command;
pub mod demo;
pub mod documents;
pub mod fuzz;
pub mod lab;
pub mod laws;
mod lexer;
pub mod oui;
pub mod play;
pub mod prose;
pub mod qemu;
pub mod setup;
pub mod test;
pub mod verify;
pub mod words;
