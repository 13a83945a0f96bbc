//! How many answers devices and flows got of late. Where a table is full, the record leaves that was not
//! used for longest: its device or flow gets answers as if it had got none.

use aya_ebpf::{bindings::BPF_NOEXIST, macros::map, maps::LruHashMap};
use sensor_ebpf::answer::limit::{
    DNS_OF_DEVICE, DeviceAnswers, FlowAnswers, ICMP_OF_DEVICE, ICMP_OF_FLOW, Limited,
    RESET_INTERVAL, Second, Silence,
};

use crate::{
    clock, field,
    shared::{Element, Shared},
};

/// The answers of each device, by its MAC address.
#[map]
static DEVICE_ANSWERS: LruHashMap<u64, DeviceAnswers> = LruHashMap::with_max_entries(1_024, 0);

/// The answers of each flow, by the hash of its key.
#[map]
static FLOW_ANSWERS: LruHashMap<u64, FlowAnswers> = LruHashMap::with_max_entries(4_096, 0);

/// Counts one answer more, or says why there is to be none.
#[inline(always)]
pub(crate) fn admit(limited: Limited, mac: u64, flow: u64) -> Result<(), Silence> {
    let now = clock::nanoseconds();
    match limited {
        Limited::Syn => Ok(()),
        Limited::Segment(direction) => match of_flow(flow) {
            Some(answers) => {
                let reset = field!(answers, reset).of(direction);
                let last = reset.load();
                let due = last == 0 || now.wrapping_sub(last) >= RESET_INTERVAL;
                match due && reset.compare_exchange(last, now) {
                    true => Ok(()),
                    false => Err(Silence::Resets),
                }
            }
            None => Err(Silence::Resets),
        },
        Limited::Icmp => {
            if !of_flow(flow).is_some_and(|answers| {
                has_room(
                    field!(answers, icmp.since),
                    field!(answers, icmp.count),
                    ICMP_OF_FLOW,
                    now,
                )
            }) {
                return Err(Silence::IcmpOfFlow);
            }
            match of_device(mac).is_some_and(|answers| {
                has_room(
                    field!(answers, icmp.since),
                    field!(answers, icmp.count),
                    ICMP_OF_DEVICE,
                    now,
                )
            }) {
                true => Ok(()),
                false => Err(Silence::IcmpOfDevice),
            }
        }
        Limited::Dns => match of_device(mac).is_some_and(|answers| {
            has_room(
                field!(answers, dns.since),
                field!(answers, dns.count),
                DNS_OF_DEVICE,
                now,
            )
        }) {
            true => Ok(()),
            false => Err(Silence::DnsOfDevice),
        },
    }
}

/// Counts one more in the second that runs, and gives whether it is within the limit.
#[inline(always)]
fn has_room(since: Shared<u64>, count: Shared<u64>, limit: u64, now: u64) -> bool {
    let second = Second {
        since: since.load(),
        count: 0,
    };
    if second.is_over(now) && since.compare_exchange(second.since, now) {
        count.store(1);
        return true;
    }
    count.fetch_add(1) < limit
}

#[inline(always)]
fn of_device(mac: u64) -> Option<Element<DeviceAnswers>> {
    if DEVICE_ANSWERS.get_ptr_mut(mac).is_none() {
        let none = DeviceAnswers::default();
        // Another CPU may have been first.
        let _ = DEVICE_ANSWERS.insert(mac, none, u64::from(BPF_NOEXIST));
    }
    DEVICE_ANSWERS.get_ptr_mut(mac).map(Element::new)
}

#[inline(always)]
fn of_flow(flow: u64) -> Option<Element<FlowAnswers>> {
    if FLOW_ANSWERS.get_ptr_mut(flow).is_none() {
        let none = FlowAnswers::default();
        // As above.
        let _ = FLOW_ANSWERS.insert(flow, none, u64::from(BPF_NOEXIST));
    }
    FLOW_ANSWERS.get_ptr_mut(flow).map(Element::new)
}
