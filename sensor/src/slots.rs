//! Values by the numbers of slots, of which few may be in use: a slot takes four bytes, and a value is there for
//! each used one only.

/// A value for each slot that is in use.
#[derive(Debug)]
pub struct Slots<T> {
    /// The place of each slot's value among the values.
    places: Vec<u32>,
    values: Vec<T>,
    /// The slot of each value.
    slots: Vec<u32>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Self {
            places: Vec::new(),
            values: Vec::new(),
            slots: Vec::new(),
        }
    }
}

impl<T> Slots<T> {
    /// In the place of a value: the slot has none.
    const FREE: u32 = u32::MAX;

    /// The value of a slot.
    pub fn get(&self, slot: u32) -> Option<&T> {
        self.values.get(self.place(slot)?)
    }

    /// As [`get`](Self::get).
    pub fn get_mut(&mut self, slot: u32) -> Option<&mut T> {
        let place = self.place(slot)?;
        self.values.get_mut(place)
    }

    /// The value of a slot, which is made where there is none.
    pub fn get_or_insert_with(&mut self, slot: u32, make: impl FnOnce() -> T) -> &mut T {
        let place = match self.place(slot) {
            Some(place) => place,
            None => {
                if slot as usize >= self.places.len() {
                    self.places.resize(slot as usize + 1, Self::FREE);
                }
                let place = self.values.len();
                self.places[slot as usize] = place as u32;
                self.slots.push(slot);
                self.values.push(make());
                place
            }
        };
        &mut self.values[place]
    }

    /// Takes the value of a slot out.
    pub fn remove(&mut self, slot: u32) -> Option<T> {
        const FEW: usize = 1_024;

        let place = self.place(slot)?;
        let value = self.values.swap_remove(place);
        self.slots.swap_remove(place);
        self.places[slot as usize] = Self::FREE;
        // The last value has moved into the gap.
        if let Some(moved) = self.slots.get(place) {
            self.places[*moved as usize] = place as u32;
        }
        if self.values.capacity() > 4 * self.values.len().max(FEW) {
            self.values.shrink_to(2 * self.values.len());
            self.slots.shrink_to(2 * self.values.len());
        }
        Some(value)
    }

    /// Every value, in no order.
    pub fn values_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.values.iter_mut()
    }

    /// Every value, in no order.
    pub fn values(&self) -> impl Iterator<Item = &T> {
        self.values.iter()
    }

    /// A number that is higher than that of every slot that ever had a value.
    pub fn end(&self) -> u32 {
        self.places.len() as u32
    }

    fn place(&self, slot: u32) -> Option<usize> {
        let place = self.places.get(slot as usize)?;
        (*place != Self::FREE).then_some(*place as usize)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn they_are_a_map(steps in proptest::collection::vec((0_u32..20, any::<bool>()), 0..200)) {
            let mut slots = Slots::default();
            let mut map = BTreeMap::new();
            for (number, (slot, is_removed)) in steps.into_iter().enumerate() {
                if is_removed {
                    prop_assert_eq!(slots.remove(slot), map.remove(&slot));
                } else {
                    let there = *slots.get_or_insert_with(slot, || number);
                    prop_assert_eq!(there, *map.entry(slot).or_insert(number));
                }
                for slot in 0..20 {
                    prop_assert_eq!(slots.get(slot), map.get(&slot));
                }
                prop_assert_eq!(slots.values().count(), map.len());
            }
        }
    }

    #[test]
    fn slots_that_are_free_again_leave_little_memory() {
        let mut slots = Slots::default();
        for slot in 0..100_000 {
            slots.get_or_insert_with(slot, || [0_u64; 5]);
        }
        for slot in 0..99_990 {
            slots.remove(slot);
        }
        assert!(slots.values.capacity() <= 4_096);
        assert_eq!((slots.values().count(), slots.end()), (10, 100_000));
    }
}
