//! A table that devices share: each device has entries of its own, and a limit of its own.
//!
//! A device at its limit loses its own oldest entry for a new one. When all devices together reach the limit of
//! the table, the device with the most entries loses its oldest one. So a device with less than an equal share
//! loses nothing, however many devices somebody makes up. Room that no device uses is free for the others.

use std::{
    borrow::Borrow,
    cmp::Reverse,
    collections::{BTreeSet, HashMap, hash_map::RandomState},
    hash::Hash,
};

use hashlink::LinkedHashMap;

/// The capacity of a table, in the unit of its entries' cost: 1 for each, or bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The limit of one device.
    pub of_device: usize,
    /// The limit of all devices together.
    pub in_all: usize,
}

/// Entries by device and key, those of each device in the order of their age.
#[derive(Debug)]
pub struct Quota<D, K, V> {
    limits: Limits,
    /// No share is empty.
    shares: HashMap<D, Share<K, V>>,
    /// The devices, those with most last; among equals, the device with the oldest entry is last.
    ranking: BTreeSet<(usize, Reverse<u64>, D)>,
    cost: usize,
    /// The number of the next entry, by which ages are compared between devices.
    next: u64,
    evicted: u64,
}

#[derive(Debug)]
struct Share<K, V> {
    /// The oldest first.
    entries: LinkedHashMap<K, Entry<V>, RandomState>,
    cost: usize,
}

#[derive(Debug)]
struct Entry<V> {
    value: V,
    cost: u32,
    number: u64,
}

impl<D: Copy + Eq + Hash + Ord, K: Eq + Hash, V> Quota<D, K, V> {
    /// An empty table.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            shares: HashMap::new(),
            ranking: BTreeSet::new(),
            cost: 0,
            next: 0,
            evicted: 0,
        }
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.shares.values().map(|share| share.entries.len()).sum()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.shares.is_empty()
    }

    /// How many entries a device has.
    pub fn len_of(&self, device: D) -> usize {
        self.shares
            .get(&device)
            .map_or(0, |share| share.entries.len())
    }

    /// The cost of all entries together.
    pub fn cost(&self) -> usize {
        self.cost
    }

    /// The cost of a device's entries.
    pub fn cost_of(&self, device: D) -> usize {
        self.shares.get(&device).map_or(0, |share| share.cost)
    }

    /// The number of entries that were evicted to make room, since the table was made.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// A device's entry.
    pub fn get<Q>(&self, device: D, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let entry = self.shares.get(&device)?.entries.get(key)?;
        Some(&entry.value)
    }

    /// A device's entry; its cost and its age stay as they are.
    pub fn get_mut<Q>(&mut self, device: D, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let entry = self.shares.get_mut(&device)?.entries.get_mut(key)?;
        Some(&mut entry.value)
    }

    /// A device's entry, which becomes its newest.
    pub fn renew<Q>(&mut self, device: D, key: &Q) -> Option<&mut V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let number = self.number();
        let share = self.shares.get_mut(&device)?;
        let before = share.rank(device);
        let entry = share.entries.to_back(key)?;
        entry.number = number;
        let after = share.rank(device);
        if before != after {
            self.ranking.remove(&before);
            self.ranking.insert(after);
        }
        let entry = self.shares.get_mut(&device)?.entries.get_mut(key)?;
        Some(&mut entry.value)
    }

    /// Inserts an entry as the device's newest, and returns the one that it replaces. `leaves` is called with
    /// each entry that makes room: with the new one too, if its cost is above a limit.
    pub fn insert(
        &mut self,
        device: D,
        key: K,
        value: V,
        cost: usize,
        mut leaves: impl FnMut(D, K, V),
    ) -> Option<V> {
        let before = self.remove(device, &key);
        let number = self.number();
        let share = self.shares.entry(device).or_insert_with(|| Share {
            entries: LinkedHashMap::with_hasher(RandomState::new()),
            cost: 0,
        });
        if !share.entries.is_empty() {
            self.ranking.remove(&share.rank(device));
        }
        let cost = u32::try_from(cost).unwrap_or(u32::MAX);
        let entry = Entry {
            value,
            cost,
            number,
        };
        share.entries.insert(key, entry);
        share.cost += cost as usize;
        self.cost += cost as usize;
        self.ranking.insert(share.rank(device));
        while self.cost_of(device) > self.limits.of_device
            && let Some((key, value)) = self.take_oldest(device)
        {
            self.evicted += 1;
            leaves(device, key, value);
        }
        while self.cost > self.limits.in_all
            && let Some((.., most)) = self.ranking.last().copied()
            && let Some((key, value)) = self.take_oldest(most)
        {
            self.evicted += 1;
            leaves(most, key, value);
        }
        before
    }

    /// Takes a device's entry out.
    pub fn remove<Q>(&mut self, device: D, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
        Q: Eq + Hash + ?Sized,
    {
        let share = self.shares.get_mut(&device)?;
        let rank = share.rank(device);
        let entry = share.entries.remove(key)?;
        self.ranking.remove(&rank);
        self.take_cost(device, entry.cost);
        Some(entry.value)
    }

    /// Removes all entries of a device and returns them, the oldest first.
    pub fn remove_device(&mut self, device: D) -> impl Iterator<Item = (K, V)> + use<D, K, V> {
        let share = self.shares.remove(&device);
        if let Some(share) = &share {
            self.ranking.remove(&share.rank(device));
            self.cost -= share.cost;
        }
        let entries = share.into_iter().flat_map(|share| share.entries);
        entries.map(|(key, entry)| (key, entry.value))
    }

    /// Visits every entry: `keep` returns its cost from now on, or `None` to remove it.
    pub fn retain(&mut self, mut keep: impl FnMut(D, &K, &mut V) -> Option<usize>) {
        self.ranking.clear();
        self.cost = 0;
        for (device, share) in &mut self.shares {
            share.cost = 0;
            share.entries.retain(|key, entry| {
                let Some(cost) = keep(*device, key, &mut entry.value) else {
                    return false;
                };
                entry.cost = u32::try_from(cost).unwrap_or(u32::MAX);
                share.cost += entry.cost as usize;
                true
            });
            share.shrink();
        }
        self.shares.retain(|_, share| !share.entries.is_empty());
        for (device, share) in &self.shares {
            self.cost += share.cost;
            self.ranking.insert(share.rank(*device));
        }
    }

    /// Removes the oldest entries of each device, up to its first that is not due, and calls `leaves` with
    /// each.
    pub fn expire(&mut self, is_due: impl Fn(&V) -> bool, mut leaves: impl FnMut(D, K, V)) {
        let is_late = |share: &Share<K, V>| {
            let first = share.entries.front();
            first.is_some_and(|(_, entry)| is_due(&entry.value))
        };
        let late = self.shares.iter().filter(|(_, share)| is_late(share));
        let late: Vec<_> = late.map(|(device, _)| *device).collect();
        for device in late {
            while self.shares.get(&device).is_some_and(is_late)
                && let Some((key, value)) = self.take_oldest(device)
            {
                leaves(device, key, value);
            }
            if let Some(share) = self.shares.get_mut(&device) {
                share.shrink();
            }
        }
    }

    /// Every entry, the oldest of each device first.
    pub fn iter(&self) -> impl Iterator<Item = (D, &K, &V)> {
        self.shares.iter().flat_map(|(device, share)| {
            let entries = share.entries.iter();
            entries.map(|(key, entry)| (*device, key, &entry.value))
        })
    }

    /// The entries of a device, the oldest first.
    pub fn iter_of(&self, device: D) -> impl Iterator<Item = (&K, &V)> {
        let entries = self.shares.get(&device).into_iter();
        let entries = entries.flat_map(|share| share.entries.iter());
        entries.map(|(key, entry)| (key, &entry.value))
    }

    /// The devices that have entries.
    pub fn devices(&self) -> impl Iterator<Item = D> {
        self.shares.keys().copied()
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn take_oldest(&mut self, device: D) -> Option<(K, V)> {
        let share = self.shares.get_mut(&device)?;
        let rank = share.rank(device);
        let (key, entry) = share.entries.pop_front()?;
        self.ranking.remove(&rank);
        self.take_cost(device, entry.cost);
        Some((key, entry.value))
    }

    /// Subtracts the cost of a removed entry, of a device that has no rank at the moment.
    fn take_cost(&mut self, device: D, cost: u32) {
        let Some(share) = self.shares.get_mut(&device) else {
            return;
        };
        share.cost -= cost as usize;
        self.cost -= cost as usize;
        if share.entries.is_empty() {
            self.shares.remove(&device);
        } else {
            self.ranking.insert(share.rank(device));
        }
    }
}

impl<K: Eq + Hash, V> Share<K, V> {
    fn rank<D>(&self, device: D) -> (usize, Reverse<u64>, D) {
        let oldest = self.entries.front().map_or(0, |(_, entry)| entry.number);
        (self.cost, Reverse(oldest), device)
    }

    /// Gives memory back where most of it is unused.
    fn shrink(&mut self) {
        const FEW: usize = 64;
        if self.entries.capacity() > 4 * self.entries.len().max(FEW) {
            self.entries.shrink_to_fit();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        of_device: 4,
        in_all: 8,
    };

    fn filled(entries: &[(u8, u32)]) -> Quota<u8, u32, ()> {
        let mut quota = Quota::new(LIMITS);
        for (device, key) in entries {
            quota.insert(*device, *key, (), 1, |_, _, ()| {});
        }
        quota
    }

    /// Puts an entry in, and gives those that make room.
    fn leaving(quota: &mut Quota<u8, u32, ()>, device: u8, key: u32) -> Vec<(u8, u32)> {
        let mut left = Vec::new();
        quota.insert(device, key, (), 1, |device, key, ()| {
            left.push((device, key));
        });
        left
    }

    #[test]
    fn a_device_at_its_limit_loses_its_own_oldest() {
        let mut quota = filled(&[(2, 20), (1, 10), (1, 11), (1, 12), (1, 13)]);
        assert_eq!(leaving(&mut quota, 1, 14), [(1, 10)]);
        quota.renew(1, &11);
        assert_eq!(leaving(&mut quota, 1, 15), [(1, 12)]);
        assert!(quota.get(2, &20).is_some());
        assert_eq!((quota.len(), quota.evicted()), (5, 2));
    }

    #[test]
    fn the_device_that_has_most_makes_room_for_all() {
        let mut quota = filled(&[
            (1, 10),
            (2, 20),
            (2, 21),
            (2, 22),
            (3, 30),
            (3, 31),
            (3, 32),
            (1, 11),
        ]);
        let order = [40, 41, 42, 43].map(|key| leaving(&mut quota, 4, key));
        // Of those with as much, the one with the oldest; one with less than an equal share keeps all.
        assert_eq!(
            order,
            [vec![(2, 20)], vec![(3, 30)], vec![(4, 40)], vec![(4, 41)]]
        );
    }

    #[test]
    fn made_up_devices_take_nothing_from_each_other_but_the_oldest() {
        let mut quota = Quota::new(LIMITS);
        for device in 0..8 {
            assert_eq!(leaving(&mut quota, device, 1), []);
        }
        // The newest has a place, whatever its number.
        assert_eq!(leaving(&mut quota, 200, 1), [(0, 1)]);
        assert_eq!(leaving(&mut quota, 9, 1), [(1, 1)]);
    }

    #[test]
    fn what_is_too_large_makes_way_itself() {
        let mut quota = filled(&[(2, 20), (1, 10)]);
        let mut left = Vec::new();
        quota.insert(1, 11, (), 5, |device, key, ()| left.push((device, key)));
        assert_eq!(left, [(1, 10), (1, 11)]);
        assert_eq!((quota.len(), quota.cost()), (1, 1));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Insert(u8, u32, usize),
        Renew(u8, u32),
        Remove(u8, u32),
        RemoveDevice(u8),
        Retain(usize),
        Expire(u32),
    }

    fn step() -> impl Strategy<Value = Step> {
        let device = || 0..4_u8;
        let key = || 0..6_u32;
        prop_oneof![
            8 => (device(), key(), 0..3_usize).prop_map(|(d, k, c)| Step::Insert(d, k, c)),
            2 => (device(), key()).prop_map(|(d, k)| Step::Renew(d, k)),
            2 => (device(), key()).prop_map(|(d, k)| Step::Remove(d, k)),
            1 => device().prop_map(Step::RemoveDevice),
            1 => (0..3_usize).prop_map(Step::Retain),
            1 => key().prop_map(Step::Expire),
        ]
    }

    /// The same, by going through everything each time: entries in the order of their age.
    #[derive(Default)]
    struct Model(Vec<(u8, u32, usize)>);

    impl Model {
        fn cost_of(&self, device: u8) -> usize {
            let of_device = self.0.iter().filter(|(of, ..)| *of == device);
            of_device.map(|(.., cost)| cost).sum()
        }

        fn take(&mut self, device: u8, key: u32) -> Option<(u8, u32, usize)> {
            let is_it = |(of, other, _): &(u8, u32, usize)| *of == device && *other == key;
            let place = self.0.iter().position(is_it)?;
            Some(self.0.remove(place))
        }

        fn take_oldest(&mut self, device: u8) {
            let place = self.0.iter().position(|(of, ..)| *of == device);
            self.0.remove(place.expect("it has one"));
        }

        fn insert(&mut self, device: u8, key: u32, cost: usize) {
            self.take(device, key);
            self.0.push((device, key, cost));
            while self.cost_of(device) > LIMITS.of_device {
                self.take_oldest(device);
            }
            while self.0.iter().map(|(.., cost)| cost).sum::<usize>() > LIMITS.in_all {
                let most = self.0.iter().map(|(of, ..)| self.cost_of(*of)).max();
                let mut all = self.0.iter();
                let first = all.find(|(of, ..)| Some(self.cost_of(*of)) == most);
                let (device, ..) = *first.expect("there is one");
                self.take_oldest(device);
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn it_is_what_going_through_everything_gives(
            steps in prop::collection::vec(step(), 1..120),
        ) {
            let mut quota = Quota::new(LIMITS);
            let mut model = Model::default();
            for step in steps {
                match step {
                    Step::Insert(device, key, cost) => {
                        let (entries, evicted) = (quota.len(), quota.evicted());
                        let mut left = 0;
                        let before = quota.insert(device, key, cost, cost, |_, _, _| left += 1);
                        prop_assert_eq!(
                            quota.len() + left,
                            entries + usize::from(before.is_none())
                        );
                        prop_assert_eq!(quota.evicted() - evicted, left as u64);
                        model.insert(device, key, cost);
                    }
                    Step::Renew(device, key) => {
                        quota.renew(device, &key);
                        if let Some(entry) = model.take(device, key) {
                            model.0.push(entry);
                        }
                    }
                    Step::Remove(device, key) => {
                        let gone = model.take(device, key).map(|(.., cost)| cost);
                        prop_assert_eq!(quota.remove(device, &key), gone);
                    }
                    Step::RemoveDevice(device) => {
                        let gone: Vec<_> = quota.remove_device(device).map(|(key, _)| key).collect();
                        let expected = model.0.iter().filter(|(of, ..)| *of == device);
                        prop_assert_eq!(gone, expected.map(|(_, key, _)| *key).collect::<Vec<_>>());
                        model.0.retain(|(of, ..)| *of != device);
                    }
                    // Entries of this cost or more are removed, and the rest becomes cheaper by 1.
                    Step::Retain(limit) => {
                        quota.retain(|_, _, cost| {
                            let is_kept = *cost < limit;
                            *cost = cost.saturating_sub(1);
                            is_kept.then_some(*cost)
                        });
                        model.0.retain(|(.., cost)| *cost < limit);
                        model.0.iter_mut().for_each(|(.., cost)| *cost = cost.saturating_sub(1));
                    }
                    Step::Expire(limit) => {
                        let mut left = 0;
                        quota.expire(|cost| (*cost as u32) < limit, |_, _, _| left += 1);
                        let mut stays = [false; 4];
                        let before = model.0.len();
                        model.0.retain(|(device, _, cost)| {
                            let stays = &mut stays[usize::from(*device)];
                            *stays |= *cost as u32 >= limit;
                            *stays
                        });
                        prop_assert_eq!(before - model.0.len(), left);
                    }
                }
                let mut entries = BTreeMap::<u8, Vec<_>>::new();
                for (device, key, cost) in quota.iter() {
                    entries.entry(device).or_default().push((*key, *cost));
                }
                let mut expected = BTreeMap::<u8, Vec<_>>::new();
                for (device, key, cost) in &model.0 {
                    expected.entry(*device).or_default().push((*key, *cost));
                    prop_assert_eq!(quota.get(*device, key), Some(cost));
                }
                prop_assert_eq!(&entries, &expected);
                prop_assert_eq!(quota.len(), model.0.len());
                prop_assert_eq!(quota.cost(), model.0.iter().map(|(.., cost)| cost).sum::<usize>());
                prop_assert_eq!(quota.ranking.len(), quota.shares.len());
                for (device, of_device) in &entries {
                    prop_assert_eq!(quota.len_of(*device), of_device.len());
                    prop_assert_eq!(quota.cost_of(*device), model.cost_of(*device));
                    let keys: Vec<_> = quota.iter_of(*device).map(|(key, _)| *key).collect();
                    prop_assert_eq!(keys, of_device.iter().map(|(key, _)| *key).collect::<Vec<_>>());
                }
            }
        }
    }
}
