//! Faults for tests: calls of bpf(2) and mappings of maps that fail as the kernel lets them fail.
//!
//! A seccomp filter (seccomp(2), `SECCOMP_RET_USER_NOTIF`) over the thread of a test asks another thread of
//! the test about each call, before the kernel makes it. So the code under test is that of the daemon, with
//! nothing in it for tests, and the error comes from where it would come from.

use std::{
    io,
    os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd},
    sync::{
        Arc,
        atomic::{AtomicI32, AtomicU64, Ordering},
    },
    thread,
};

use rustix::event::{PollFd, PollFlags, poll};

/// A call of the filter's language (linux/filter.h): code, jumps, value.
const fn step(code: u32, jt: u8, jf: u8, k: u32) -> libc::sock_filter {
    libc::sock_filter {
        code: code as u16,
        jt,
        jf,
        k,
    }
}

/// The faults of the calling thread's map calls. They end with the thread.
pub(crate) struct Faults(Arc<Plan>);

#[derive(Default)]
struct Plan {
    /// Calls made since the plan was made.
    calls: AtomicU64,
    /// Which of them fails, from 0.
    fails: AtomicU64,
    /// With which error; 0: none fails.
    errno: AtomicI32,
}

impl Faults {
    /// From now on the calling thread's map calls go by the plan; at first none fails.
    ///
    /// # Errors
    ///
    /// The error that the kernel gives: the filter takes root.
    pub(crate) fn of_this_thread() -> io::Result<Self> {
        let listener = filter_this_thread()?;
        let plan = Arc::new(Plan::default());
        let shared = Arc::clone(&plan);
        thread::spawn(move || answer(&listener, &shared));
        Ok(Self(plan))
    }

    /// Lets the call with this number fail, counted from now and from 0; none before and none behind it.
    pub(crate) fn fail(&self, number: u64, errno: i32) {
        self.0.errno.store(0, Ordering::SeqCst);
        self.0.calls.store(0, Ordering::SeqCst);
        self.0.fails.store(number, Ordering::SeqCst);
        self.0.errno.store(errno, Ordering::SeqCst);
    }

    /// Lets none fail, and gives how many calls there were since the last plan.
    pub(crate) fn end(&self) -> u64 {
        self.0.errno.store(0, Ordering::SeqCst);
        self.0.calls.load(Ordering::SeqCst)
    }
}

fn filter_this_thread() -> io::Result<OwnedFd> {
    const LOAD: u32 = libc::BPF_LD | libc::BPF_W | libc::BPF_ABS;
    const EQUALS: u32 = libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K;
    const HAS: u32 = libc::BPF_JMP | libc::BPF_JSET | libc::BPF_K;
    const RETURN: u32 = libc::BPF_RET | libc::BPF_K;
    // `struct seccomp_data` (linux/seccomp.h): the call's number, and the lower halves of its arguments.
    const NUMBER: u32 = 0;
    const FLAGS: u32 = 16 + 3 * 8;
    const DESCRIPTOR: u32 = 16 + 4 * 8;

    let mut steps = [
        step(LOAD, 0, 0, NUMBER),
        step(EQUALS, 5, 0, libc::SYS_bpf as u32),
        step(EQUALS, 0, 5, libc::SYS_mmap as u32),
        step(LOAD, 0, 0, FLAGS),
        step(HAS, 0, 3, libc::MAP_SHARED as u32),
        step(LOAD, 0, 0, DESCRIPTOR),
        step(EQUALS, 1, 0, u32::MAX),
        step(RETURN, 0, 0, libc::SECCOMP_RET_USER_NOTIF),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog {
        len: steps.len() as u16,
        filter: steps.as_mut_ptr(),
    };
    // SAFETY: the kernel copies the program, which lives as long as the call.
    let listener = unsafe {
        libc::syscall(
            libc::SYS_seccomp,
            libc::SECCOMP_SET_MODE_FILTER,
            libc::SECCOMP_FILTER_FLAG_NEW_LISTENER,
            std::ptr::from_ref(&program),
        )
    };
    match listener {
        ..0 => Err(io::Error::last_os_error()),
        // SAFETY: the call has just given the descriptor, and nobody else has it.
        listener => Ok(unsafe { OwnedFd::from_raw_fd(listener as i32) }),
    }
}

/// Answers until the thread has ended that is asked about.
fn answer(listener: &OwnedFd, plan: &Plan) {
    loop {
        let mut waits = [PollFd::new(listener, PollFlags::IN)];
        let polled = poll(&mut waits, None);
        if polled.is_err() || !waits[0].revents().contains(PollFlags::IN) {
            return;
        }
        // SAFETY: plain numbers, for which zeros are values; the kernel wants them zero.
        let mut asked: libc::seccomp_notif = unsafe { std::mem::zeroed() };
        // SAFETY: as above.
        let mut said: libc::seccomp_notif_resp = unsafe { std::mem::zeroed() };
        // SAFETY: the kernel writes one record, which lives as long as the call.
        let received = unsafe {
            libc::ioctl(
                listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_RECV,
                std::ptr::from_mut(&mut asked),
            )
        };
        if received != 0 {
            continue;
        }
        let number = plan.calls.fetch_add(1, Ordering::SeqCst);
        let errno = plan.errno.load(Ordering::SeqCst);
        said.id = asked.id;
        if errno != 0 && number == plan.fails.load(Ordering::SeqCst) {
            said.error = -errno;
        } else {
            said.flags = libc::SECCOMP_USER_NOTIF_FLAG_CONTINUE as u32;
        }
        // SAFETY: the kernel reads one record, which lives as long as the call.
        unsafe {
            libc::ioctl(
                listener.as_raw_fd(),
                libc::SECCOMP_IOCTL_NOTIF_SEND,
                std::ptr::from_mut(&mut said),
            );
        }
    }
}
