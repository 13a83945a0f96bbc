//! Later fragments find the ports of the first.

use sensor_ebpf::books::FragmentKey;

use crate::{global, seen::Seen, table::fragments};

global! {
    /// Remembers the ports of a packet's first fragment.
    pub(crate) fn remember(seen: &Seen, identification: u32) -> u32 {
        fragments::remember(&key(seen, identification), seen.key.ports());
        0
    }
}

global! {
    /// The ports of a later fragment's first one; 0 where it is not known.
    pub(crate) fn ports_of_first(seen: &Seen, identification: u32) -> u32 {
        fragments::ports_of(&key(seen, identification)).unwrap_or(0)
    }
}

#[inline(always)]
fn key(seen: &Seen, identification: u32) -> FragmentKey {
    FragmentKey {
        flow: seen.key.with_ports(0),
        identification,
        direction: u32::from(seen.direction & 1),
    }
}
