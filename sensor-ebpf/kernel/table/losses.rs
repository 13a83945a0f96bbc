//! The counters of the tables and the ring.

use aya_ebpf::{bindings::BPF_F_MMAPABLE, macros::map, maps::Array};
use sensor_ebpf::books::Losses;

use crate::{
    shared::{Element, Shared},
    tell::{News, tell},
};

/// The counters of the tables and the ring.
#[map]
static LOSSES: Array<Losses> = Array::with_max_entries(1, BPF_F_MMAPABLE);

/// The only record; `None` cannot happen.
#[inline(always)]
pub(crate) fn losses() -> Option<Element<Losses>> {
    LOSSES.get_ptr_mut(0).map(Element::new)
}

/// Counts one loss, and tells of the first.
#[inline(always)]
pub(crate) fn count(of: impl FnOnce(Element<Losses>) -> Shared<u64>, news: Option<News>) {
    if let Some(losses) = losses() {
        count_in(of(losses), news);
    }
}

/// As [`count`], of a counter that was found already. Two CPUs that both read 0 tell it twice.
#[inline(always)]
pub(crate) fn count_in(counter: Shared<u64>, news: Option<News>) {
    if let Some(news) = news
        && counter.load() == 0
    {
        tell(news as u32);
    }
    counter.add(1);
}
