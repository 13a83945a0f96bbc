//! The network stacks of devices, told apart by the list of ciphers in their TLS hellos.
//!
//! QUIC tells nothing, because nearly all its hellos have the three suites of TLS 1.3. A name without a told stack
//! has that of a TCP hello of the same name and device within 24 hours.

use std::collections::HashMap;

use sensor_ebpf::parse::Mac;

use super::marks::StackNumber;
use crate::quota::{Limits, Quota};

/// The most hosts whose stack is remembered: some 1 MiB.
const HOSTS: Limits = Limits {
    of_device: 512,
    in_all: 8_192,
};

/// The most stacks of one device that are told apart; a further one is not told.
const MOST: usize = 32;

/// Seconds for which a host's stack is remembered: a day.
const REMEMBERED_FOR: f64 = 86_400.0;

/// The stacks of all devices.
#[derive(Debug)]
pub(super) struct Stacks {
    /// By the place in the list of each device, from 1.
    numbers: HashMap<Mac, Vec<u64>>,
    /// By a hash of the host's name: the stack, and the time at which it was told.
    hosts: Quota<Mac, u64, (StackNumber, f64)>,
}

impl Default for Stacks {
    fn default() -> Self {
        Self {
            numbers: HashMap::new(),
            hosts: Quota::new(HOSTS),
        }
    }
}

impl Stacks {
    /// The number of a device's stack from which a host was contacted; 0 where it is not told. `told` is the stack
    /// that the hello tells, `time` is in seconds.
    pub(super) fn of_name(
        &mut self,
        device: Mac,
        host: u64,
        told: Option<u64>,
        time: f64,
    ) -> StackNumber {
        let Some(told) = told else {
            return match self.hosts.get(device, &host) {
                Some((stack, at)) if (time - at).abs() <= REMEMBERED_FOR => *stack,
                _ => 0,
            };
        };
        let known = self.numbers.entry(device).or_default();
        let place = match known.iter().position(|stack| *stack == told) {
            Some(place) => place,
            None if known.len() >= MOST => return 0,
            None => {
                known.push(told);
                known.len() - 1
            }
        };
        let stack = place as StackNumber + 1;
        let entry = (stack, time);
        self.hosts.insert(device, host, entry, 1, |_, _, _| {});
        stack
    }

    /// Forgets a device.
    pub(super) fn forget(&mut self, device: Mac) {
        self.numbers.remove(&device);
        drop(self.hosts.remove_device(device));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PHONE: Mac = Mac::new([2, 0, 0, 0, 0, 1]);
    const LAPTOP: Mac = Mac::new([2, 0, 0, 0, 0, 2]);

    #[test]
    fn a_host_has_the_stack_of_its_last_hello_for_a_day() {
        let mut stacks = Stacks::default();
        assert_eq!(stacks.of_name(PHONE, 1, None, 0.0), 0);
        assert_eq!(stacks.of_name(PHONE, 1, Some(0xa), 0.0), 1);
        assert_eq!(stacks.of_name(PHONE, 2, Some(0xb), 0.0), 2);
        assert_eq!(stacks.of_name(PHONE, 1, None, 86_400.0), 1);
        assert_eq!(stacks.of_name(PHONE, 1, None, 86_401.0), 0);
        assert_eq!(stacks.of_name(PHONE, 1, Some(0xb), 86_402.0), 2);
        assert_eq!(stacks.of_name(PHONE, 1, None, 86_403.0), 2);
        // Another device has numbers of its own.
        assert_eq!(stacks.of_name(LAPTOP, 1, None, 0.0), 0);
        assert_eq!(stacks.of_name(LAPTOP, 1, Some(0xb), 0.0), 1);
        stacks.forget(PHONE);
        assert_eq!(stacks.of_name(PHONE, 2, None, 0.0), 0);
    }

    #[test]
    fn stacks_that_are_made_up_are_not_told() {
        let mut stacks = Stacks::default();
        for number in 0..1_000 {
            let stack = stacks.of_name(PHONE, number, Some(number), 0.0);
            let expected = match number < MOST as u64 {
                true => number as u8 + 1,
                false => 0,
            };
            assert_eq!(stack, expected);
        }
    }
}
