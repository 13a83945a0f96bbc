//! Where the values of a configuration stand in its file, for checks once all is read.

use std::ops::Range;

/// Where things stand, in the order of the configuration.
#[derive(Default)]
pub(super) struct Places {
    /// The files of `config.lists`.
    pub(super) lists: Vec<Range<usize>>,
    /// The files of `config.parties.networks`.
    pub(super) networks: Vec<Range<usize>>,
    /// Those of `config.policies`.
    pub(super) policies: Vec<PolicyPlaces>,
}

/// Where the parts of a policy stand, each list in the order of the policy's.
#[derive(Default)]
pub(super) struct PolicyPlaces {
    pub(super) name: Range<usize>,
    pub(super) domains: Vec<Range<usize>>,
    pub(super) lists: Vec<Range<usize>>,
    pub(super) owners: Vec<Range<usize>>,
    pub(super) categories: Vec<Range<usize>>,
    pub(super) remotes: Vec<Range<usize>>,
    pub(super) countries: Vec<Range<usize>>,
    pub(super) networks: Vec<Range<usize>>,
    /// All of them, or the name where there are none.
    pub(super) ports: Range<usize>,
    pub(super) encrypted_dns: Range<usize>,
    pub(super) quic: Range<usize>,
    pub(super) schedule: Range<usize>,
}
