//! Distance: frames over a link arrive later, in their order.
//!
//! The kernels that the lab runs on need not have netem. Between the two ends of the link is a host
//! of its own, `relay`, with an interface to either; a thread for each direction takes frames from
//! one and puts them on the other when their time has come.

use std::{
    collections::VecDeque,
    ffi::CString,
    io,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use anyhow::{Context, Result};

use super::Host;

/// Frames that may be under way in one direction; those beyond are lost, as at a full queue.
const CAPACITY: usize = 8_192;
/// Octets of the kernel's queue before a thread.
const SOCKET_BUFFER: i32 = 16 << 20;
/// How often a thread with nothing to do looks whether the lab has ended.
const REST: Duration = Duration::from_millis(100);
/// The longest frame, with room for one that offloads would have made.
const FRAME: usize = 65_600;

/// A link's relay. It ends with this.
#[derive(Debug)]
pub(super) struct Relay {
    running: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
    /// The kernel removes its interfaces with the last process that holds them.
    _host: Host,
}

impl Relay {
    /// Carries frames between two interfaces of `host`, each way after `delay`. Both are to be up,
    /// without offloads, and silent by themselves.
    pub(super) fn start(host: Host, interfaces: [&str; 2], delay: Duration) -> Result<Self> {
        let running = Arc::new(AtomicBool::new(true));
        let lost = Arc::new(AtomicU64::new(0));
        let mut threads = Vec::new();
        let [near, far] = interfaces;
        for (from, to) in [(near, far), (far, near)] {
            let open = || Ok::<_, io::Error>((open(from)?, open(to)?));
            let (from, to) = host
                .enter(open)?
                .context("no packet socket for the relay")?;
            let direction = Direction {
                from,
                to,
                delay,
                under_way: VecDeque::new(),
                running: Arc::clone(&running),
                lost: Arc::clone(&lost),
            };
            threads.push(thread::spawn(move || direction.carry()));
        }
        Ok(Self {
            running,
            lost,
            threads,
            _host: host,
        })
    }

    /// Frames that found the queue full, or the far link closed.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.running.store(false, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            // A panic of it was printed; the lab ends either way.
            let _ = thread.join();
        }
    }
}

struct Direction {
    from: OwnedFd,
    to: OwnedFd,
    delay: Duration,
    /// When each frame is due, and its octets.
    under_way: VecDeque<(Instant, Vec<u8>)>,
    running: Arc<AtomicBool>,
    lost: Arc<AtomicU64>,
}

impl Direction {
    fn carry(mut self) {
        // Before whatever else wants the CPU, or the delay would be the machine's load. Without the
        // privilege it is as precise as the machine is idle.
        let priority = libc::sched_param { sched_priority: 10 };
        // SAFETY: 0 is the calling thread; the parameter lives through the call.
        unsafe { libc::sched_setscheduler(0, libc::SCHED_FIFO, &raw const priority) };
        let mut frame = vec![0; FRAME];
        while self.running.load(Ordering::Relaxed) {
            let wait = self.under_way.front().map_or(REST, |(due, _)| {
                due.saturating_duration_since(Instant::now()).min(REST)
            });
            wait_for(&self.from, wait);
            // A link that is gone gives an error for good: then there is nothing to carry.
            while let Ok(length) = receive(&self.from, &mut frame) {
                if self.under_way.len() < CAPACITY {
                    let due = Instant::now() + self.delay;
                    self.under_way.push_back((due, frame[..length].to_vec()));
                } else {
                    self.lost.fetch_add(1, Ordering::Relaxed);
                }
                // Frames that are due must not wait for those that come.
                self.deliver();
            }
            self.deliver();
        }
    }

    fn deliver(&mut self) {
        while let Some((_, frame)) = self
            .under_way
            .pop_front_if(|(due, _)| *due <= Instant::now())
        {
            // SAFETY: the kernel reads the frame's octets.
            let sent =
                unsafe { libc::send(self.to.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
            if sent < 0 {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }
}

fn wait_for(socket: &OwnedFd, limit: Duration) {
    let mut one = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    let limit = libc::timespec {
        tv_sec: limit.as_secs() as libc::time_t,
        tv_nsec: limit.subsec_nanos().into(),
    };
    // SAFETY: one entry, as is said; the time lives through the call; no signal mask.
    unsafe { libc::ppoll(&raw mut one, 1, &raw const limit, std::ptr::null()) };
}

fn receive(socket: &OwnedFd, frame: &mut [u8]) -> io::Result<usize> {
    // SAFETY: the kernel writes no more than the buffer's length.
    let length = unsafe {
        libc::recv(
            socket.as_raw_fd(),
            frame.as_mut_ptr().cast(),
            frame.len(),
            libc::MSG_DONTWAIT,
        )
    };
    usize::try_from(length).map_err(|_| io::Error::last_os_error())
}

/// A packet socket that receives the frames that come in by an interface, and not its own.
fn open(interface: &str) -> io::Result<OwnedFd> {
    let all = (libc::ETH_P_ALL as u16).to_be();
    // Protocol 0 until it is bound: nothing of another interface comes in between.
    // SAFETY: the call takes numbers.
    let socket = unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
    if socket < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the descriptor is new and nobody else's.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    for (level, option, value) in [
        (libc::SOL_PACKET, libc::PACKET_IGNORE_OUTGOING, 1),
        (libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, SOCKET_BUFFER),
        (libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, SOCKET_BUFFER),
    ] {
        // SAFETY: the value is an int that lives through the call.
        let set = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                level,
                option,
                (&raw const value).cast(),
                size_of_val(&value) as u32,
            )
        };
        if set < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    let name = CString::new(interface)?;
    // SAFETY: the name ends with a zero octet.
    let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
    if index == 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all zero is a value of it.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_protocol = all;
    address.sll_ifindex = index as i32;
    // SAFETY: the address is a sockaddr_ll of the length given.
    let bound = unsafe {
        libc::bind(
            socket.as_raw_fd(),
            (&raw const address).cast(),
            size_of_val(&address) as u32,
        )
    };
    if bound < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(socket)
}
