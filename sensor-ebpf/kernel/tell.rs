//! The kernel's rare messages: each at most once while its counter is zero.

use aya_log_ebpf::warn;

/// The events that user space is told about, besides the counter.
#[derive(Clone, Copy)]
#[repr(u32)]
pub(crate) enum News {
    /// The flow table took no further flow.
    FlowTableFull = 1,
    /// A device had its share of the flow table.
    FlowShareUsed = 2,
    /// The device table took no further device.
    DeviceTableFull = 3,
    /// A frame came on an interface without a record.
    InterfaceUnknown = 4,
    /// The ring was too full for a sample of its kind.
    SamplesShed = 5,
    /// The ring had no room for a sample.
    SamplesLost = 6,
}

/// Writes one message. Checked apart from its callers, and out of their way.
#[unsafe(no_mangle)]
#[inline(never)]
pub(crate) extern "C" fn tell(news: u32) -> u32 {
    const FLOW_TABLE_FULL: u32 = News::FlowTableFull as u32;
    const FLOW_SHARE_USED: u32 = News::FlowShareUsed as u32;
    const DEVICE_TABLE_FULL: u32 = News::DeviceTableFull as u32;
    const INTERFACE_UNKNOWN: u32 = News::InterfaceUnknown as u32;
    const SAMPLES_SHED: u32 = News::SamplesShed as u32;
    const SAMPLES_LOST: u32 = News::SamplesLost as u32;

    match news {
        FLOW_TABLE_FULL => warn!(
            (),
            "the flow table is full: new flows are booked to their device's overflow"
        ),
        FLOW_SHARE_USED => warn!(
            (),
            "a device has its share of the flow table: its new flows are booked to its overflow"
        ),
        DEVICE_TABLE_FULL => warn!(
            (),
            "the device table is full: further devices share one record"
        ),
        INTERFACE_UNKNOWN => warn!(
            (),
            "a frame came on an interface that has no record: it is in no book"
        ),
        SAMPLES_SHED => warn!(
            (),
            "the sample ring fills up: HTTP is left out first, then TLS and QUIC; flows stay unnamed"
        ),
        SAMPLES_LOST => warn!((), "the sample ring is full: names and devices go unseen"),
        _ => {}
    }
    0
}
