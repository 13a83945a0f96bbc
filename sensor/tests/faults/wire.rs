//! A cable whose both ends are on the gateway, what is sent over it, and what the kernel has
//! attached to it.
//!
//! Nothing speaks on such a cable by itself: what a test sends is all there is, so that it can say
//! how many packets the sensor must have counted.

use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    thread,
    time::{Duration, Instant},
};

use xtask::lab::Host;

/// The device that sends.
pub(crate) const DEVICE: [u8; 6] = [0x02, 0, 0, 0, 0, 0x31];
/// As the sensor writes it.
pub(crate) const DEVICE_MAC: &str = "02:00:00:00:00:31";
/// The octets of a frame of [`upload`].
pub(crate) const FRAME: u64 = 100;

/// Lays a cable: what is sent at [`far`] of `name` arrives at `name`.
pub(crate) fn lay(host: &Host, name: &str) {
    let far = far(name);
    host.ip(&format!("link add {name} type veth peer name {far}"))
        .expect("a veth");
    for end in [name, &far] {
        host.set(&format!("ipv6/conf/{end}/disable_ipv6"), "1")
            .expect("no IPv6");
        host.ip(&format!("link set {end} arp off up")).expect("up");
    }
}

/// Takes a cable away.
pub(crate) fn cut(host: &Host, name: &str) {
    host.ip(&format!("link del {name}")).expect("deleted");
}

/// The other end of a cable.
pub(crate) fn far(name: &str) -> String {
    format!("{name}-far")
}

/// Sends datagrams of [`DEVICE`] to a documentation address, as uploads at `name`.
pub(crate) fn upload(host: &Host, name: &str, count: usize) {
    let frame = datagram([0x02, 0, 0, 0, 0, 0x01], DEVICE);
    transmit(host, &far(name), &frame, count);
}

/// Sends a frame out of an interface, several times.
pub(crate) fn transmit(host: &Host, interface: &str, frame: &[u8], count: usize) {
    host.enter(|| send(interface, frame, count))
        .expect("entered")
        .expect("sent");
}

/// A UDP datagram of 100 octets over IPv4, Ethernet header included.
pub(crate) fn datagram(to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    datagram_for([198, 51, 100, 10], to, from)
}

/// As [`datagram`], for another IPv4 address.
pub(crate) fn datagram_for(address: [u8; 4], to: [u8; 6], from: [u8; 6]) -> Vec<u8> {
    let mut frame = Vec::new();
    frame.extend(to);
    frame.extend(from);
    frame.extend([0x08, 0x00]);
    let mut header = [
        0x45, 0, 0, 86, 0, 0, 0, 0, 64, 17, 0, 0, 192, 168, 77, 31, 198, 51, 100, 10,
    ];
    header[16..].copy_from_slice(&address);
    let sum: u32 = header
        .as_chunks::<2>()
        .0
        .iter()
        .map(|pair| u32::from(u16::from_be_bytes(*pair)))
        .sum();
    let checksum = !((sum & 0xffff) + (sum >> 16)) as u16;
    header[10..12].copy_from_slice(&checksum.to_be_bytes());
    frame.extend(header);
    // From port 4000 to port 4000, without a checksum.
    frame.extend([0x0f, 0xa0, 0x0f, 0xa0, 0, 66, 0, 0]);
    frame.resize(FRAME as usize, b'u');
    frame
}

fn send(interface: &str, frame: &[u8], count: usize) -> io::Result<()> {
    let wire = Wire::open(interface)?;
    (0..count).try_for_each(|_| wire.send(frame))
}

/// An interface of the calling thread's namespace, to send frames out of.
pub(crate) struct Wire {
    socket: OwnedFd,
    address: libc::sockaddr_ll,
}

impl Wire {
    /// Opens it; the error is the kernel's.
    pub(crate) fn open(interface: &str) -> io::Result<Self> {
        let index = index(interface)?;
        // SAFETY: no pointer is passed.
        let socket =
            unsafe { libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if socket < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor is new and nobody else's.
        let socket = unsafe { OwnedFd::from_raw_fd(socket) };
        // SAFETY: every field may be zero.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_ifindex = index as i32;
        Ok(Self { socket, address })
    }

    /// Sends a frame; the error is the kernel's.
    pub(crate) fn send(&self, frame: &[u8]) -> io::Result<()> {
        // SAFETY: both pointers are valid for the lengths that go with them.
        let sent = unsafe {
            libc::sendto(
                self.socket.as_raw_fd(),
                frame.as_ptr().cast(),
                frame.len(),
                0,
                std::ptr::from_ref(&self.address).cast(),
                size_of_val(&self.address) as u32,
            )
        };
        match sent {
            0.. => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }
}

pub(crate) fn index(interface: &str) -> io::Result<u32> {
    let name = CString::new(interface)?;
    // SAFETY: the name ends with a zero octet.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}

/// The XDP program of an interface, in the words of `ip`.
pub(crate) fn xdp(host: &Host, name: &str) -> Option<serde_json::Value> {
    let text = host
        .run(&format!("ip -j -d link show dev {name}"))
        .expect("the link");
    let links: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    links[0].get("xdp").cloned()
}

/// Closes the link of an XDP program, and waits until the program is off the interface: a process that
/// another test of this run has just forked holds a copy of every descriptor until it runs its own
/// program.
pub(crate) fn release(host: &Host, name: &str, link: OwnedFd) {
    drop(link);
    let end = Instant::now() + Duration::from_secs(5);
    while xdp(host, name).is_some() {
        assert!(
            Instant::now() < end,
            "{name} keeps a program without a link"
        );
        thread::sleep(Duration::from_millis(10));
    }
}

/// How many programs TC has at an interface, both directions, by links (tcx) and by filters.
pub(crate) fn tc(host: &Host, name: &str) -> usize {
    let filters: usize = ["ingress", "egress"]
        .into_iter()
        .map(|direction| {
            let text = host.run(&format!("tc filter show dev {name} {direction}"));
            // Each priority's filters come behind a line of their own.
            let text = text.expect("`tc`");
            text.lines()
                .filter(|line| line.contains(" handle "))
                .count()
        })
        .sum();
    let links: u32 = host
        .enter(|| {
            let index = index(name).expect("the interface");
            [BPF_TCX_INGRESS, BPF_TCX_EGRESS]
                .map(|hook| attached(index, hook))
                .iter()
                .sum()
        })
        .expect("entered");
    filters + links as usize
}

const BPF_PROG_QUERY: i32 = 16;
pub(crate) const BPF_TCX_INGRESS: u32 = 46;
const BPF_TCX_EGRESS: u32 = 47;

/// The part of `union bpf_attr` that asks for programs.
#[repr(C)]
#[derive(Default)]
struct Query {
    ifindex: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    program_ids: u64,
    count: u32,
    _padding: u32,
    more: [u64; 4],
}

/// The programs that links hold at an interface's TC; none on a kernel that has no such links.
pub(crate) fn tcx_programs(host: &Host, name: &str) -> Vec<u32> {
    host.enter(|| {
        let index = index(name).expect("the interface");
        let mut programs = Vec::new();
        for hook in [BPF_TCX_INGRESS, BPF_TCX_EGRESS] {
            let mut ids = [0_u32; 64];
            let mut query = Query {
                ifindex: index,
                attach_type: hook,
                program_ids: ids.as_mut_ptr() as u64,
                count: 64,
                ..Query::default()
            };
            if ask(&mut query).is_ok() {
                programs.extend(&ids[..query.count as usize]);
            }
        }
        programs
    })
    .expect("entered")
}

/// How many programs there are; none on a kernel that does not know the hook.
fn attached(ifindex: u32, attach_type: u32) -> u32 {
    let mut query = Query {
        ifindex,
        attach_type,
        ..Query::default()
    };
    match ask(&mut query) {
        Ok(()) => query.count,
        // Older than 6.6.
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => 0,
        Err(error) => panic!("the kernel does not say what is attached: {error:?}"),
    }
}

fn ask(query: &mut Query) -> io::Result<()> {
    // SAFETY: the kernel reads and writes the attributes within the length that goes with them, and
    // as many program numbers as there is room for.
    let status = unsafe {
        libc::syscall(
            libc::SYS_bpf,
            BPF_PROG_QUERY,
            std::ptr::from_mut(query),
            size_of::<Query>(),
        )
    };
    match status {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
