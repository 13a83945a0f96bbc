//! How long the kernel programs take for a packet, by `BPF_PROG_TEST_RUN`.

#[path = "../tests/programs/mod.rs"]
#[allow(dead_code, reason = "ring 2 uses the other half")]
mod programs;

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use programs::{Programs, Tables};

const XDP_PASS: u32 = 2;
const REPEATS: u32 = 1_000_000;
const ROUNDS: usize = 9;

fn main() -> Result<()> {
    programs::enter_own_namespace()?;
    let pins = Bpffs::mount()?;
    let drivers = Programs::load_drivers()?;
    let sensor = Programs::load(Tables::default())?;
    let filter = Programs::load_foreign(
        Path::new("/usr/lib/x86_64-linux-gnu/bpf/xdpfilt_alw_all.o"),
        &pins.0,
    )?;
    let ipv4 = tcp_ipv4();
    let ipv6 = tcp_ipv6();
    let cases: [(&str, &Programs, &str, &[u8]); 6] = [
        ("noop ipv4", &drivers, "noop", &ipv4),
        ("noop ipv6", &drivers, "noop", &ipv6),
        ("sensor ipv4", &sensor, "upload", &ipv4),
        ("sensor ipv6", &sensor, "upload", &ipv6),
        ("xdp-filter ipv4", &filter, "xdpfilt_alw_all", &ipv4),
        ("xdp-filter ipv6", &filter, "xdpfilt_alw_all", &ipv6),
    ];
    let mut samples = [(); 6].map(|()| Vec::new());
    for _ in 0..ROUNDS {
        for ((name, programs, program, frame), samples) in cases.iter().zip(&mut samples) {
            let before = cpu_time();
            let outcome = programs.run_xdp(program, frame, REPEATS)?;
            let ns = (cpu_time() - before) / f64::from(REPEATS);
            ensure!(
                outcome.verdict == XDP_PASS,
                "{name} gave {}",
                outcome.verdict
            );
            samples.push((ns, outcome.duration.as_nanos()));
        }
    }
    for ((name, ..), samples) in cases.iter().zip(&mut samples) {
        samples.sort_by(|a, b| a.0.total_cmp(&b.0));
        println!(
            "{name:16} median {:6.1} ns (kernel says {:3}), lowest {:6.1}, highest {:6.1}",
            samples[ROUNDS / 2].0,
            samples[ROUNDS / 2].1,
            samples[0].0,
            samples[ROUNDS - 1].0
        );
    }
    for flow in sensor.flows()? {
        println!(
            "{} packets {} bytes",
            flow.upload_packets, flow.upload_bytes
        );
    }
    Ok(())
}

fn cpu_time() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    time.tv_sec as f64 * 1e9 + time.tv_nsec as f64
}

struct Bpffs(std::path::PathBuf);
impl Bpffs {
    fn mount() -> Result<Self> {
        let place = std::env::temp_dir().join(format!("sensor-bench-{}", std::process::id()));
        std::fs::create_dir(&place)?;
        // SAFETY: plain system calls; strings are C literals or live through the call.
        unsafe {
            ensure!(libc::unshare(libc::CLONE_NEWNS) == 0, "unshare");
            ensure!(
                libc::mount(
                    std::ptr::null(),
                    c"/".as_ptr(),
                    std::ptr::null(),
                    libc::MS_REC | libc::MS_PRIVATE,
                    std::ptr::null()
                ) == 0,
                "private"
            );
            let c = std::ffi::CString::new(place.to_str().context("path")?)?;
            ensure!(
                libc::mount(
                    c"bpf".as_ptr(),
                    c.as_ptr(),
                    c"bpf".as_ptr(),
                    0,
                    std::ptr::null()
                ) == 0,
                "mount"
            );
        }
        Ok(Self(place))
    }
}
impl Drop for Bpffs {
    fn drop(&mut self) {
        let c = std::ffi::CString::new(self.0.to_str().unwrap_or_default()).unwrap_or_default();
        // SAFETY: string lives through the call.
        unsafe { libc::umount2(c.as_ptr(), libc::MNT_DETACH) };
        let _ = std::fs::remove_dir(&self.0);
    }
}

fn tcp_ipv4() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0];
    frame.extend([
        0x45, 0, 0, 40, 0, 0, 0x40, 0, 64, 6, 0, 0, 192, 168, 1, 2, 203, 0, 113, 5,
    ]);
    frame.extend([
        0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    frame
}

fn tcp_ipv6() -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x86, 0xdd];
    frame.extend([0x60, 0, 0, 0, 0, 20, 6, 64]);
    frame.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    frame.extend([0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5]);
    frame.extend([
        0x9c, 0x40, 1, 0xbb, 0, 0, 0, 1, 0, 0, 0, 1, 0x50, 0x10, 0xff, 0xff, 0, 0, 0, 0,
    ]);
    frame
}
