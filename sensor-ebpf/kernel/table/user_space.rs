//! Maps that no program touches: declared here, so that all are made alike.
#![allow(dead_code, reason = "user space's own")]

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use sensor_ebpf::books::{Journal, MAX_POLICY_IDENTITIES, PolicyName};

/// The change that user space makes as it reaps a flow.
#[map]
static JOURNAL: Array<Journal> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The names of policies, by their identity in the books.
#[map]
static POLICY_NAMES: Array<PolicyName> = Array::with_max_entries(MAX_POLICY_IDENTITIES, 0);
