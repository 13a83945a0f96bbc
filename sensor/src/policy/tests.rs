//! The semantics of policies, held against a naive reading of them.

use std::collections::HashMap;

use proptest::prelude::*;
use sensor_ebpf::policy::Layer;

use super::*;
use crate::aggregate::{
    knowledge::Knowledge,
    party::lists::{About, Category, Lists},
};

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

fn policy(name: &str, domains: &[&str], action: Action) -> crate::config::Policy {
    crate::config::Policy {
        name: name.to_owned(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        action,
        ..crate::config::Policy::default()
    }
}
