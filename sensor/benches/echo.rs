//! The cost of echoes: the marks of 50 devices with 200 parties each over seven days, and a look at all of them.
//!
//! It fails where a figure is above its limit.

use std::time::Duration;

use anyhow::{Result, ensure};
use rustix::time::{ClockId, clock_gettime};
use sensor::aggregate::echo::{Echo, Recipient, ToldName, Upload};
use sensor_ebpf::parse::Mac;

const DEVICES: u8 = 50;
const PARTIES: usize = 200;
const SECONDS: u32 = 7 * 86_400;
/// Visits of a device, and uploads to a party, in the simulation study: the last look is at 1,280 visits.
const VISITS: u32 = 1_400;
const UPLOADS: u32 = 737;
const START: u32 = 1_796_000_000;

const LONGEST: Duration = Duration::from_secs(3);
const MOST_BYTES: usize = 6 << 20;
/// The steps of a tick, and the longest that one may last.
const STEPS: usize = 100_000;
const LONGEST_TICK: Duration = Duration::from_millis(20);

/// Numbers that look random, the same in each run.
struct Random(u64);

impl Random {
    fn below(&mut self, number: u32) -> u32 {
        self.0 = self.0.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        ((self.0 >> 33) % u64::from(number)) as u32
    }
}

/// The time that this thread has used of its core, whatever else the machine does.
fn used() -> Result<Duration> {
    let used = clock_gettime(ClockId::ThreadCPUTime);
    Ok(Duration::try_from(used)?)
}

fn main() -> Result<()> {
    let mut random = Random(1);
    let device = |number| Mac::new([2, 0, 0, 0, 0, number]);
    let parties: Vec<_> = (0..PARTIES)
        .map(|number| Recipient::party(format!("party{number}.example").into()))
        .collect();
    // Visits, and uploads with the number of their party, by device.
    let mut events = Vec::new();
    for number in 0..DEVICES {
        for _ in 0..VISITS {
            events.push((START + random.below(SECONDS), number, None));
        }
        for party in 0..PARTIES {
            for _ in 0..UPLOADS {
                events.push((START + random.below(SECONDS), number, Some(party)));
            }
        }
    }
    events.sort_unstable();
    let mut echo = Echo::default();
    let mut looks = Duration::ZERO;
    let mut longest = Duration::ZERO;
    let began = used()?;
    let mut tick = START;
    for (time, number, party) in events {
        while tick < time {
            let at = f64::from(tick);
            let is_busy = echo.is_busy(at);
            let before = used()?;
            echo.step(at, STEPS);
            if is_busy {
                let took = used()? - before;
                looks += took;
                longest = longest.max(took);
            }
            tick += 60;
        }
        let at = f64::from(time);
        match party {
            Some(party) => {
                let upload = Upload {
                    stack: None,
                    owner: None,
                    bytes: 1_000,
                };
                echo.upload(device(number), [&parties[party]], upload, at);
            }
            None => {
                let site = format!("site{}.example", random.below(70));
                for (after, name) in [(0.0, &*site), (0.3, "a.example"), (0.6, "b.example")] {
                    let name = ToldName {
                        party: name,
                        can_be_site: true,
                        stack: None,
                        owner: None,
                    };
                    echo.name(device(number), &name, at + after);
                }
            }
        }
    }
    let fed = used()? - began - looks;
    let since: Vec<_> = (0..DEVICES)
        .filter_map(|number| Some(echo.since(device(number))?.0))
        .collect();
    let days = |since: u32| f64::from(START + SECONDS - since) / 86_400.0;
    let shortest = since.iter().copied().max().map_or(0.0, days);
    println!(
        "fed in {fed:.2?}; seven looks at each device {looks:.2?}; the longest tick {longest:.2?}"
    );
    println!(
        "marks: {} bytes, which reach back {shortest:.1} days at least",
        echo.size()
    );
    ensure!(echo.size() <= MOST_BYTES, "marks have more than 6 MiB");
    ensure!(longest <= LONGEST_TICK, "a tick lasts for {longest:?}");
    ensure!(looks <= LONGEST, "looks take {looks:?}");
    Ok(())
}
