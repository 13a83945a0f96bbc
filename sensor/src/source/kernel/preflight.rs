//! The requirements on the system, checked before anything is tried.

use std::path::Path;

use rustix::{
    fs::statfs,
    system::uname,
    thread::{CapabilitySet, capabilities},
};
use sensor_ebpf::books::Way;

use super::{Books, Error};
use crate::model::{ByDirection, Hook, Interface};

/// The file system magic of bpffs (linux/magic.h).
const BPF_FS_MAGIC: u64 = 0xcafe_4a11;

/// The oldest kernel that is supported: the oldest that the tests boot, and the first long-term one
/// whose arm64 JIT has all atomic operations (5.18) and whose XDP takes frames in several buffers
/// (5.18).
const OLDEST: (u32, u32) = (6, 1);

/// One thing that was looked at, for `sensor doctor`.
#[derive(Debug)]
pub struct Finding {
    /// The subject of the check.
    pub what: &'static str,
    /// The finding, or the advice to the user.
    pub result: Result<String, String>,
}

/// Checks everything that the daemon needs; the error is that of the first missing requirement.
pub fn check(pin_directory: &Path) -> Result<(), Error> {
    machine()?;
    kernel()?;
    privilege()?;
    bpffs(pin_directory)
}

/// Looks at everything, for a person to read.
pub fn examine(pin_directory: &Path, interfaces: &[&str]) -> Vec<Finding> {
    let say = |result: Result<String, Error>| result.map_err(|error| error.to_string());
    let mut findings = vec![
        Finding {
            what: "machine",
            result: say(machine()),
        },
        Finding {
            what: "kernel",
            result: say(kernel()),
        },
        Finding {
            what: "privilege",
            result: say(privilege().map(|()| "enough".to_owned())),
        },
        Finding {
            what: "resets",
            result: resets(),
        },
        Finding {
            what: "BPF file system",
            result: say(
                bpffs(pin_directory).map(|()| format!("{} can be used", pin_directory.display()))
            ),
        },
        Finding {
            what: "BPF JIT",
            result: jit(),
        },
        Finding {
            what: "softirqs",
            result: softirqs(),
        },
    ];
    findings.extend(interfaces.iter().map(|name| Finding {
        what: "interface",
        result: say(
            super::attach::ifindex(name).map(|index| interface(pin_directory, name, index)),
        ),
    }));
    findings
}

/// An interface, its driver, and the way of answers where a sensor has programs on it.
fn interface(pin_directory: &Path, name: &str, index: u32) -> String {
    let mut text = format!("{name} is number {index}");
    match super::driver(name) {
        Some(driver) => text += &format!(", its driver is {driver}"),
        None => text += ", and its driver does not tell its name",
    }
    let record = Books::look(pin_directory).ok().and_then(|books| {
        let mut records = books.interface_records();
        records.find(|(_, record)| super::text(&record.name) == name)
    });
    let interface = record.map(|(_, record)| {
        let [upload, download] = record.hooks.map(Hook::from_number);
        Interface {
            hooks: ByDirection { upload, download },
            is_noted: record.way == Way::Note as u64,
            ..Interface::default()
        }
    });
    if let Some(way) = interface.as_ref().and_then(Interface::answers) {
        text += &format!("; answers to devices leave at {way}");
    }
    text
}

/// Checks the machine: records are read as little-endian, and where the JIT does not know an atomic
/// addition, the kernel interprets whole programs.
fn machine() -> Result<String, Error> {
    if cfg!(target_endian = "big") {
        return Err(Error::BigEndian);
    }
    let machine = uname().machine().to_string_lossy().into_owned();
    Ok(match machine.as_str() {
        "x86_64" => format!("{machine}, little-endian"),
        arm if arm.starts_with("arm") => format!(
            "{machine}: the kernel's JIT for 32-bit ARM has no atomic addition and interprets the \
             programs, which costs several times as much for each packet; a 64-bit kernel does not"
        ),
        other => format!("{other}, little-endian; the tests run on x86_64 alone"),
    })
}

fn kernel() -> Result<String, Error> {
    let release = uname().release().to_string_lossy().into_owned();
    let mut numbers = release
        .split(['.', '-', '+'])
        .map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    if version < OLDEST {
        return Err(Error::KernelTooOld { found: release });
    }
    Ok(format!("Linux {release}"))
}

pub(super) fn privilege() -> Result<(), Error> {
    let system = |source: rustix::io::Errno| Error::System {
        what: "the process's capabilities cannot be read",
        source: source.into(),
    };
    let held = capabilities(None).map_err(system)?.effective;
    if held.contains(CapabilitySet::SYS_ADMIN) && held.contains(CapabilitySet::NET_ADMIN) {
        return Ok(());
    }
    let needed = [
        (CapabilitySet::BPF, "CAP_BPF"),
        (CapabilitySet::NET_ADMIN, "CAP_NET_ADMIN"),
        (CapabilitySet::PERFMON, "CAP_PERFMON"),
    ];
    let missing: Vec<_> = needed
        .into_iter()
        .filter(|(capability, _)| !held.contains(*capability))
        .map(|(_, name)| name)
        .collect();
    match missing.is_empty() {
        true => Ok(()),
        false => Err(Error::Privilege {
            missing: format!("without {}", missing.join(", ")),
        }),
    }
}

/// Whether the servers of refused connections can be told. Nothing else needs this privilege.
fn resets() -> Result<String, String> {
    let held = capabilities(None)
        .map_err(|error| format!("the process's capabilities cannot be read: {error}"))?
        .effective;
    if held.contains(CapabilitySet::NET_RAW) {
        return Ok("servers of refused connections are told".to_owned());
    }
    Err(
        "servers of refused connections wait until they lose patience, without CAP_NET_RAW: run as \
         root, or give it to the process"
            .to_owned(),
    )
}

pub(super) fn bpffs(pin_directory: &Path) -> Result<(), Error> {
    // The directory itself may not be there yet: its nearest ancestor gives the file system.
    let nearest = pin_directory
        .ancestors()
        .find(|path| path.exists())
        .unwrap_or(Path::new("/"));
    let found = statfs(nearest).map_err(|errno| Error::PinDirectory {
        path: nearest.to_owned(),
        source: errno.into(),
    })?;
    if found.f_type as u64 & 0xffff_ffff == BPF_FS_MAGIC {
        return Ok(());
    }
    Err(Error::NoBpffs {
        path: pin_directory.to_owned(),
        mount: nearest.to_owned(),
    })
}

fn jit() -> Result<String, String> {
    const PLACE: &str = "/proc/sys/net/core/bpf_jit_enable";
    match std::fs::read_to_string(PLACE).as_deref().map(str::trim) {
        Ok("0") => Err(format!(
            "off: every packet is interpreted; `echo 1 > {PLACE}` turns it on"
        )),
        Ok(_) => Ok("on".to_owned()),
        // The file is in the first network namespace only.
        Err(_) => Ok(format!("not known here: {PLACE} cannot be read")),
    }
}

/// Whether programs that run in softirqs can interrupt each other, as the kernel's configuration says.
fn softirqs() -> Result<String, String> {
    let system = uname();
    let release = system.release().to_string_lossy();
    let places = [
        format!("/boot/config-{release}"),
        format!("/lib/modules/{release}/config"),
    ];
    let configuration = places
        .iter()
        .find_map(|place| std::fs::read_to_string(place).ok());
    softirqs_of(
        &system.version().to_string_lossy(),
        configuration.as_deref(),
    )
}

/// The same by the kernel's version and configuration. An option that is not in it is that of a later
/// kernel: the lock cannot be left out there.
fn softirqs_of(version: &str, configuration: Option<&str>) -> Result<String, String> {
    const OPTION: &str = "CONFIG_PREEMPT_RT_NEEDS_BH_LOCK";
    if !version.contains("PREEMPT_RT") {
        return Ok("programs do not interrupt each other".to_owned());
    }
    let Some(configuration) = configuration else {
        return Ok(format!(
            "not known under PREEMPT_RT: the kernel's configuration is not in /boot; \
             `zcat /proc/config.gz | grep {OPTION}` must show `{OPTION}=y` or nothing"
        ));
    };
    let is_left_out = format!("# {OPTION} is not set");
    match configuration.lines().any(|line| line == is_left_out) {
        true => Err(format!(
            "programs interrupt each other and mix up their samples and answers: this PREEMPT_RT \
             kernel was built without {OPTION}; take one that was built with it, or one without \
             PREEMPT_RT"
        )),
        false => Ok("programs do not interrupt each other, by the lock of softirqs".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_whose_programs_interrupt_each_other_is_named() {
        const RT: &str = "#1 SMP PREEMPT_RT Debian 6.12.60-1";
        let of = |version, configuration| softirqs_of(version, configuration).is_ok();
        let without = Some("CONFIG_PREEMPT_RT=y\n# CONFIG_PREEMPT_RT_NEEDS_BH_LOCK is not set\n");
        let with = Some("CONFIG_PREEMPT_RT=y\nCONFIG_PREEMPT_RT_NEEDS_BH_LOCK=y\n");
        assert!(!of(RT, without));
        assert!(of(RT, with));
        assert!(of(RT, Some("CONFIG_PREEMPT_RT=y\n")), "before Linux 6.18");
        assert!(of("#1 SMP PREEMPT_DYNAMIC Debian 6.12.60-1", without));
        let unknown = softirqs_of(RT, None).expect("nothing was found");
        assert!(unknown.starts_with("not known"), "{unknown}");
    }
}
