//! Later fragments find the ports of the first.

use sensor_ebpf::books::FragmentKey;

use crate::{global, seen::Seen, table::fragments};

global! {
    /// Remembers the ports of a packet's first fragment.
    pub(crate) fn remember(seen: &Seen) -> u32 {
        fragments::remember(&key(seen), seen.key.ports());
        0
    }
}

global! {
    /// The ports of a later fragment's first one; 0 where it is not known.
    pub(crate) fn ports_of_first(seen: &Seen) -> u32 {
        fragments::ports_of(&key(seen)).unwrap_or(0)
    }
}

#[inline(always)]
fn key(seen: &Seen) -> FragmentKey {
    FragmentKey {
        flow: seen.key.with_ports(0),
        identification: seen.identification,
        direction: u32::from(seen.direction),
    }
}
