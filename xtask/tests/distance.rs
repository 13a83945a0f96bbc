//! The lab's own distance: a delayed link adds its delay, keeps order and loses nothing. Needs root.

use std::{
    env,
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use rustix::process::geteuid;
use xtask::{
    lab::{Device, ECHO_PORT, Lab, NAME_SERVER, Options, WEB},
    setup::{self, Need},
};

const DELAY: Duration = Duration::from_millis(5);
/// Pings, every 10 ms.
const PINGS: usize = 200;
/// Datagrams that are all under way at once, several thousand in a second.
const BURST: u32 = 100;
const BURSTS: u32 = 100;

#[test]
fn a_round_trip_takes_the_delay_and_not_much_more() -> Result<()> {
    if !geteuid().is_root() && env::var_os("CI").is_none() {
        eprintln!("not run: namespaces take root");
        return Ok(());
    }
    setup::ensure(&[Need::Lab])?;
    let mut lab = Lab::start(Options {
        delay: Some(DELAY),
        ..Options::default()
    })?;
    lab.plug(Device::Phone)?;
    for address in [NAME_SERVER, WEB[1]] {
        let said = lab
            .phone
            .run(&format!("ping -n -c {PINGS} -i 0.01 {address}"))?;
        let mut times: Vec<f64> = said
            .lines()
            .filter_map(|line| {
                line.split_once("time=")?
                    .1
                    .strip_suffix(" ms")?
                    .parse()
                    .ok()
            })
            .collect();
        ensure!(times.len() == PINGS, "{said}");
        times.sort_by(f64::total_cmp);
        let (least, median) = (times[0], times[PINGS / 2]);
        println!(
            "{address}: least {least} ms, median {median} ms, most {} ms",
            times[PINGS - 1]
        );
        ensure!(least >= 5.0, "{least} ms is less than the delay");
        ensure!(median < 5.9, "the median of {median} ms is too much");
    }

    let begun = Instant::now();
    let address = SocketAddr::new(WEB[0].parse()?, ECHO_PORT);
    lab.phone.enter(|| -> Result<()> {
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(address)?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        for burst in 0..BURSTS {
            let numbers = burst * BURST..(burst + 1) * BURST;
            for number in numbers.clone() {
                socket.send(&number.to_be_bytes())?;
                // A veth's ring holds 256 frames.
                if number % 100 == 99 {
                    std::thread::sleep(Duration::from_micros(500));
                }
            }
            for number in numbers {
                let mut echoed = [0; 4];
                socket
                    .recv(&mut echoed)
                    .with_context(|| format!("datagram {number} is lost"))?;
                ensure!(
                    u32::from_be_bytes(echoed) == number,
                    "{number} is out of order"
                );
            }
        }
        Ok(())
    })??;
    println!(
        "{} datagrams and back in {:?}",
        BURST * BURSTS,
        begun.elapsed()
    );
    ensure!(lab.lost_on_the_way() == 0, "the relay has lost frames");
    Ok(())
}
