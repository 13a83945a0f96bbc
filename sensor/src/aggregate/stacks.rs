//! The TLS stacks by which devices reach names.
//!
//! A hello over TCP tells the stack of its flow. A hello over QUIC tells none: its flow has the stack of the
//! device's hellos over TCP for the same name, where there were some in the last 24 hours, and all of one stack.

use std::sync::Arc;

use sensor_ebpf::parse::Mac;

use crate::{
    decode::tls::Stack,
    quota::{Limits, Quota},
};

/// Names that are remembered; the one whose last hello is longest ago is evicted first.
pub(super) const NAMES: Limits = Limits {
    of_device: 512,
    in_all: 4_096,
};

/// How long a hello over TCP tells the stack of QUIC flows, in seconds: 24 hours.
pub(super) const TELLS_FOR: f64 = 24.0 * 60.0 * 60.0;

/// The stacks of hellos over TCP.
#[derive(Debug)]
pub(super) struct Stacks(Quota<Mac, Arc<str>, LastHello>);

/// The last hello of a device for a name.
#[derive(Clone, Copy, Debug)]
struct LastHello {
    stack: Stack,
    /// Seconds since the Unix epoch.
    at: f64,
    /// Seconds since the Unix epoch of the last hello by another stack.
    by_another: f64,
}

impl Default for Stacks {
    fn default() -> Self {
        Self(Quota::new(NAMES))
    }
}

impl Stacks {
    /// Takes a hello over TCP. `now` is in seconds since the Unix epoch.
    pub(super) fn learn(&mut self, device: Mac, name: &Arc<str>, stack: Stack, now: f64) {
        if let Some(last) = self.0.renew(device, &**name) {
            if last.stack != stack {
                last.by_another = last.at;
            }
            (last.stack, last.at) = (stack, now);
            return;
        }
        let last = LastHello {
            stack,
            at: now,
            by_another: f64::NEG_INFINITY,
        };
        self.0
            .insert(device, Arc::clone(name), last, 1, |_, _, _| {});
    }

    /// The stack of a QUIC flow. `now` is in seconds since the Unix epoch.
    pub(super) fn find(&self, device: Mac, name: &str, now: f64) -> Option<Stack> {
        let last = self.0.get(device, name)?;
        let is_told = !last.is_over(now) && now - last.by_another > TELLS_FOR;
        is_told.then_some(last.stack)
    }

    /// Forgets the hellos that tell nothing any more.
    pub(super) fn forget_expired(&mut self, now: f64) {
        self.0.expire(|last| last.is_over(now), |_, _, _| {});
    }

    /// Forgets a device.
    pub(super) fn forget_device(&mut self, device: Mac) {
        drop(self.0.remove_device(device));
    }
}

impl LastHello {
    fn is_over(&self, now: f64) -> bool {
        now - self.at > TELLS_FOR
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::{
        Progress,
        tls::{Transport, handshake},
    };

    const DEVICE: Mac = Mac::new([2, 0, 0, 0, 0, 1]);

    /// The stack of a client that offers one suite.
    fn stack(suite: u8) -> Stack {
        let mut hello = vec![1, 0, 0, 41, 3, 3];
        hello.resize(hello.len() + 32, 0);
        hello.extend([0, 0, 2, 0x13, suite, 1, 0]);
        match handshake(&hello, Transport::Tcp) {
            Ok(Progress::Complete(hello)) => hello.ja4.unwrap().stack().unwrap(),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_hello_tells_for_a_day_and_for_its_device_and_name_alone() {
        let mut stacks = Stacks::default();
        let name = Arc::from("a.example");
        stacks.learn(DEVICE, &name, stack(1), 10.0);
        assert_eq!(stacks.find(DEVICE, "a.example", 20.0), Some(stack(1)));
        assert_eq!(stacks.find(DEVICE, "b.example", 20.0), None);
        let other = Mac::new([2, 0, 0, 0, 0, 2]);
        assert_eq!(stacks.find(other, "a.example", 20.0), None);
        let last = 10.0 + TELLS_FOR;
        assert_eq!(stacks.find(DEVICE, "a.example", last), Some(stack(1)));
        assert_eq!(stacks.find(DEVICE, "a.example", last + 1.0), None);
        stacks.forget_expired(last);
        assert_eq!(stacks.0.len(), 1);
        stacks.forget_expired(last + 1.0);
        assert!(stacks.0.is_empty());
    }

    #[test]
    fn two_stacks_for_one_name_tell_nothing_until_a_day_after_the_first() {
        let mut stacks = Stacks::default();
        let name = Arc::from("a.example");
        stacks.learn(DEVICE, &name, stack(1), 0.0);
        stacks.learn(DEVICE, &name, stack(2), 100.0);
        stacks.learn(DEVICE, &name, stack(2), TELLS_FOR);
        assert_eq!(stacks.find(DEVICE, "a.example", TELLS_FOR), None);
        let later = TELLS_FOR + 1.0;
        assert_eq!(stacks.find(DEVICE, "a.example", later), Some(stack(2)));
        stacks.learn(DEVICE, &name, stack(1), later);
        assert_eq!(stacks.find(DEVICE, "a.example", later), None);
    }

    #[test]
    fn a_device_that_makes_up_names_loses_its_own() {
        let mut stacks = Stacks::default();
        let other = Mac::new([2, 0, 0, 0, 0, 2]);
        let name = Arc::from("a.example");
        stacks.learn(other, &name, stack(1), 0.0);
        for number in 0..10_000 {
            stacks.learn(DEVICE, &number.to_string().into(), stack(1), 1.0);
        }
        assert_eq!(stacks.0.len_of(DEVICE), NAMES.of_device);
        assert_eq!(stacks.find(other, "a.example", 1.0), Some(stack(1)));
    }
}
