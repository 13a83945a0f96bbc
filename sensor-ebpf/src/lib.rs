//! The contract of the sensor's two sides.
//!
//! Everything here is built by both compilers and depends on nothing: the parser, the types that
//! cross a map, and the pure decision. It allocates nothing, reads no clock and writes no log.
//! The kernel programs (`kernel/`) are thin entry points over it; the daemon, the fuzzers and
//! `replay` run the same code on the host.
//!
//! # The maps
//!
//! | map | key → value | kernel | user space | capacity, and when it is full |
//! | --- | --- | --- | --- | --- |
//! | `SETTINGS` | 0 → [`Settings`](books::Settings) | reads | writes | 1 |
//! | `FLOW_LINES` | set → [`FlowLine`](flow::FlowLine)s | claims, adds | reads, rules, reaps | config, and a quarter; new flows go to the device's overflow |
//! | `FLOW_DETAILS` | slot → [`FlowDetail`](flow::FlowDetail) | claims, writes | reads, reaps | as `FLOW_LINES` |
//! | `SPILLED` | set → 1 where flows of it lie in the set behind it | writes | clears | as `FLOW_LINES` |
//! | `DEVICE_INDEX` | MAC → number of a record | reads, inserts | reads, removes | config; the further devices share record 1, until those leave that are not settled and were silent longest |
//! | `DEVICES` | number → [`DeviceRecord`](books::DeviceRecord) | makes, adds | reads, settles, gives bytes of the ring, retires | config, and two that are shared |
//! | `FREE_DEVICES` | queue of numbers | takes, returns where another CPU was first | fills, returns | as `DEVICE_INDEX` |
//! | `INTERFACE_INDEX` | ifindex → number of a record | reads | writes | 64; attaching one more is refused |
//! | `INTERFACES` | number → [`InterfaceRecord`](books::InterfaceRecord) | adds | reads, retires | 64 |
//! | `PORTS` | ifindex → whether policies are about local frames | reads | writes | 64 |
//! | `OWN_ADDRESSES` | MAC → 1 | reads | writes | 4,096; what is routed by the further ones counts as local |
//! | `FRAME_NUMBER`, `LAST_OUT` | one for each CPU | reads, writes | – | 1 |
//! | `FRAGMENTS` | [`FragmentKey`](books::FragmentKey) → ports | reads, writes | – | 4,096, oldest leaves; its later fragments are booked without ports |
//! | `HITS` | [`HitKey`](books::HitKey) → [`Hit`](books::Hit) | makes, adds | reads, writes those of reaped flows, removes those of devices that left | 16,384; further hits are counted as lost |
//! | `DEVICE_RULES` | [`DeviceRulesKey`](policy::DeviceRulesKey) → set of rules | reads | writes | 2 × 8,192 |
//! | `PREFIXES_V4`, `PREFIXES_V6` | prefix → number of a chain | reads | writes | 2 × 1,048,576; a larger policy is refused |
//! | `NAMES` | side → table of [`NameBucket`](name::NameBucket)s | reads | makes, exchanges | 2; a table is as large as it has to be, of 1,000,000 names at most |
//! | `LEARNED` | [`LearnedKey`](policy::LearnedKey) → set of rules | reads | writes | 32,768 addresses, each as often as a device knows it; what is not learned is not refused |
//! | `HELD` | slot → nanoseconds | reads, writes | – | 4,096, oldest leaves; its flow waits no longer |
//! | `CHAINS` | side and number → [`Chain`](policy::Chain) | reads | writes | 2 × 1,024 |
//! | `RULES` | side and number → [`Rule`](policy::Rule) | reads | writes | 2 × 64 |
//! | `LOSSES` | 0 → [`Losses`](books::Losses) | adds | reads, subtracts flows that left, gives bytes of the ring, counts hits that it lost itself | 1 |
//! | `SAMPLES` | ring of [`Judged`](sample::Judged), and of [`Head`](sample::Head)s with pieces of payloads behind them | writes | drains | 1 MiB; under pressure HTTP is left out first, DNS and DHCP last; each is counted by its kind |
//! | `ASSEMBLIES` | number → [`Assembly`](assembly::Assembly) | makes, writes | – | 1,024, 256 on a small machine, or as configured, and one for each CPU; names in several packets are left to user space, counted by reason |
//! | `ASSEMBLIES_OF` | number of a device → which it has | reads, writes | – | 16 for each device, as above |
//! | `ASSEMBLY_HANDS` | 0 → where a search for a free one begins | adds | – | 1 |
//! | `BUDGETS_OF`, `BUDGETS` | number of a device; 0 for all, 1 for those not settled → when its [`Budget`](quic::budget::Budget) of Initials is full again | reads, writes | – | one for each device; 2 |
//! | `QUIET` | 0 → 1 where a record lies in the ring for which user space was not woken | reads, writes | – | 1 |
//! | `JOURNAL` | 0 → [`Journal`](books::Journal) | – | reads, writes | 1 |
//! | `POLICY_NAMES` | identity → [`PolicyName`](books::PolicyName) | – | reads, writes | 4,096; a reload with one more is refused |
//! | `ANSWER` | two buffers for each CPU | writes | – | 2 |
//! | `READERS_XDP`, `READERS_FRAGS`, `READERS_TC` | place → program | goes on in | writes | 2, 2, 3; where none is, packets pass as not judged |
//! | `DEVICE_ANSWERS` | MAC → [`DeviceAnswers`](answer::limit::DeviceAnswers) | reads, writes | – | 1,024, oldest leaves; its device is answered as if it had got no answers |
//! | `FLOW_ANSWERS` | hash of a flow's key → [`FlowAnswers`](answer::limit::FlowAnswers) | reads, writes | – | 4,096, oldest leaves; as above |
//! | `TOLD` | hash of device and name → when it was told last, and how often it was not since | reads, writes | – | 4,096, oldest leaves; its name is told at once |
//! | `READING`, `SAMPLE`, `OPENING`, `SAID`, `REFUSED`, `QUOTED` | one buffer for each CPU | writes | – | 1 |

#![no_std]
#![forbid(clippy::undocumented_unsafe_blocks)]

#[cfg(test)]
extern crate std;

pub mod answer;
pub mod assembly;
pub mod books;
pub mod connection;
pub mod flow;
pub mod judgement;
pub mod key;
pub mod kind;
pub mod name;
pub mod packet;
pub mod parse;
pub mod policy;
pub mod quic;
pub mod quote;
pub mod said;
pub mod sample;
pub mod skip;
pub mod watch;
pub mod wire;
