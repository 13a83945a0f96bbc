//! Entries of devices in the order in which they came, of which one goes where there are too many.

use std::collections::{HashMap, VecDeque};

use sensor_ebpf::parse::Mac;

/// Entries, the oldest first, and how many of them each device has.
#[derive(Debug)]
pub(super) struct Queue<T> {
    entries: VecDeque<(Mac, T)>,
    of_device: HashMap<Mac, usize>,
}

impl<T> Default for Queue<T> {
    fn default() -> Self {
        Self {
            entries: VecDeque::new(),
            of_device: HashMap::new(),
        }
    }
}

impl<T> Queue<T> {
    /// How many entries there are.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// How many entries a device has.
    pub(super) fn len_of(&self, mac: Mac) -> usize {
        self.of_device.get(&mac).copied().unwrap_or(0)
    }

    /// Adds the newest entry.
    pub(super) fn push(&mut self, mac: Mac, entry: T) {
        self.entries.push_back((mac, entry));
        *self.of_device.entry(mac).or_default() += 1;
    }

    /// Takes the oldest entry, if it is one that is to go.
    pub(super) fn take_first_if(&mut self, is_due: impl FnOnce(&T) -> bool) -> Option<T> {
        let (_, first) = self.entries.front()?;
        if is_due(first) { self.take(0) } else { None }
    }

    /// Takes the oldest entry of a device.
    pub(super) fn take_of(&mut self, mac: Mac) -> Option<T> {
        let at = self.entries.iter().position(|(of, _)| *of == mac)?;
        self.take(at)
    }

    /// Takes the oldest entry of the device that has most, or of those that do: devices that are made
    /// up to fill the queue lose their own.
    pub(super) fn take_of_most(&mut self) -> Option<T> {
        let most = self.of_device.values().copied().max()?;
        let mut entries = self.entries.iter();
        let at = entries.position(|(mac, _)| self.len_of(*mac) == most)?;
        self.take(at)
    }

    fn take(&mut self, at: usize) -> Option<T> {
        let (mac, entry) = self.entries.remove(at)?;
        if let Some(count) = self.of_device.get_mut(&mac) {
            *count -= 1;
            if *count == 0 {
                self.of_device.remove(&mac);
            }
        }
        Some(entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_device_that_has_most_loses_its_oldest() {
        let device = |number| Mac::new([2, 0, 0, 0, 0, number]);
        let mut queue = Queue::default();
        for (mac, entry) in [(1, 10), (2, 20), (2, 21), (3, 30), (3, 31), (2, 22)] {
            queue.push(device(mac), entry);
        }
        let order: Vec<_> = std::iter::from_fn(|| queue.take_of_most()).collect();
        assert_eq!(order, [20, 21, 30, 10, 31, 22]);
        assert_eq!((queue.len(), queue.of_device.len()), (0, 0));
    }
}
