//! The policy: two sides of each table, of which the generation names one.

use aya_ebpf::{
    bindings::{BPF_F_INNER_MAP, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC},
    btf_maps,
    macros::{btf_map, map},
    maps::{Array, HashMap, LpmTrie, lpm_trie},
};
use sensor_ebpf::{
    books::Settings,
    flow::FlowKey,
    name::{NameBucket, Names},
    parse::{Address, Family, Mac},
    policy::{
        Chain, DeviceRulesKey, LearnedKey, MAX_CHAINS, MAX_DEVICES, MAX_PREFIXES, MAX_RULES,
        PREFIX_SIDE_BITS, PrefixV4, PrefixV6, Rule, Rules,
    },
};

/// The rules that name a device.
#[map]
static DEVICE_RULES: HashMap<DeviceRulesKey, u64> =
    HashMap::with_max_entries(2 * MAX_DEVICES as u32, BPF_F_NO_PREALLOC);

/// Chains of rules by remote IPv4 prefix.
#[map]
static PREFIXES_V4: LpmTrie<PrefixV4, u32> =
    LpmTrie::with_max_entries(2 * MAX_PREFIXES as u32, BPF_F_NO_PREALLOC);

/// Chains of rules by remote IPv6 prefix.
#[map]
static PREFIXES_V6: LpmTrie<PrefixV6, u32> =
    LpmTrie::with_max_entries(2 * MAX_PREFIXES as u32, BPF_F_NO_PREALLOC);

/// The tables of names of both sides: each is made as large as it is needed, and put here whole.
#[btf_map]
static NAMES: btf_maps::ArrayOfMaps<NameTable, 2> = btf_maps::ArrayOfMaps::new();

/// A table of names.
type NameTable = btf_maps::Array<NameBucket, 1, { (BPF_F_INNER_MAP | BPF_F_MMAPABLE) as usize }>;

/// The rules that refuse every name that a device knows at an address.
#[map]
static LEARNED: HashMap<LearnedKey, u64> = HashMap::with_max_entries(32_768, BPF_F_NO_PREALLOC);

/// The chains of both sides; the first of each side is that of every address.
#[map]
static CHAINS: Array<Chain> = Array::with_max_entries(2 * MAX_CHAINS as u32, 0);

/// The rules of both sides.
#[map]
static RULES: Array<Rule> = Array::with_max_entries(2 * MAX_RULES as u32, 0);

/// The policy tables of the side that a generation names.
pub(crate) struct Rulebook<'a> {
    side: u32,
    settings: &'a Settings,
}

impl<'a> Rulebook<'a> {
    #[inline(always)]
    pub(crate) fn new(generation: u32, settings: &'a Settings) -> Self {
        Self {
            side: generation & 1,
            settings,
        }
    }

    /// The rules about names.
    #[inline(always)]
    pub(crate) fn name_rules(&self) -> u64 {
        self.of_side(&self.settings.name_rules)
    }

    /// The rules whose verdicts are waited for.
    #[inline(always)]
    pub(crate) fn strict_rules(&self) -> u64 {
        self.of_side(&self.settings.strict_rules)
    }

    /// The secret of the hashes of names.
    #[inline(always)]
    pub(crate) fn name_secret(&self) -> u64 {
        self.of_side(&self.settings.name_secret)
    }

    /// The rules that refuse every name that the device knows at a remote address.
    #[inline(always)]
    pub(crate) fn learned(&self, key: &FlowKey) -> u64 {
        let key = LearnedKey {
            address: key.remote().octets(),
            mac: key.mac().octets(),
            side: self.side as u8,
            family: key.family() as u8,
        };
        // SAFETY: the value is copied.
        unsafe { LEARNED.get(key).copied() }.unwrap_or(0)
    }

    #[inline(always)]
    fn of_side<T: Copy>(&self, both: &[T; 2]) -> T {
        match self.side {
            0 => both[0],
            _ => both[1],
        }
    }
}

impl Names for Rulebook<'_> {
    #[inline(always)]
    fn bucket(&self, number: u32) -> Option<&NameBucket> {
        NAMES.get_value(self.side, &number)
    }

    #[inline(always)]
    fn mask(&self) -> u32 {
        self.of_side(&self.settings.name_mask)
    }
}

impl Rules for Rulebook<'_> {
    #[inline(always)]
    fn for_device(&self, mac: Mac) -> u64 {
        let key = DeviceRulesKey {
            mac: mac.octets(),
            side: self.side as u16,
        };
        // SAFETY: user space does not touch the side in force.
        match unsafe { DEVICE_RULES.get(key) } {
            Some(rules) => *rules,
            None if self.side == 0 => self.settings.default_rules[0],
            None => self.settings.default_rules[1],
        }
    }

    #[inline(always)]
    fn for_remote(&self, family: Family, remote: Address) -> Option<&Chain> {
        let side = self.side.to_be_bytes();
        let octets = remote.octets();
        let number = match family {
            Family::Other => None,
            Family::V4 => {
                let [a, b, c, d, ..] = octets;
                let data = PrefixV4 {
                    side,
                    address: [a, b, c, d],
                };
                PREFIXES_V4.get(lpm_trie::Key::new(PREFIX_SIDE_BITS + 32, data))
            }
            Family::V6 => {
                let data = PrefixV6 {
                    side,
                    address: octets,
                };
                PREFIXES_V6.get(lpm_trie::Key::new(PREFIX_SIDE_BITS + 128, data))
            }
        };
        CHAINS.get(self.side * MAX_CHAINS as u32 + number.copied().unwrap_or(0))
    }

    #[inline(always)]
    fn chain(&self, number: u32) -> Option<&Chain> {
        CHAINS.get(self.side * MAX_CHAINS as u32 + number)
    }

    #[inline(always)]
    fn rule(&self, number: u8) -> Option<&Rule> {
        RULES.get(self.side * MAX_RULES as u32 + u32::from(number))
    }
}
