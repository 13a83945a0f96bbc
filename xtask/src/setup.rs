//! The tools that must be on the machine before anything else: Debian packages, a compiler that has a `core`
//! for the BPF target, and the linker that makes one object of it.

use std::{
    collections::BTreeSet,
    env,
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::command::{self, capture, run, say};

/// The needs of a chore beyond a host compiler.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Need {
    /// Building the kernel object.
    Kernel,
    /// The home lab.
    Lab,
    /// A browser for the lab's phone.
    Browser,
    /// Scraping the sensor and checking what it serves.
    Prometheus,
    /// Other programs that read capture files.
    Captures,
    /// The yardsticks of `bench`.
    Bench,
    /// Booting other kernels.
    Emulator,
    /// Checking the dependencies.
    Deny,
}

impl Need {
    /// All there are.
    pub const ALL: [Self; 8] = [
        Self::Kernel,
        Self::Lab,
        Self::Browser,
        Self::Prometheus,
        Self::Captures,
        Self::Bench,
        Self::Emulator,
        Self::Deny,
    ];

    /// The Debian packages that bring it; those of the compiler are chosen by [`compiler`].
    const fn packages(self) -> &'static [&'static str] {
        match self {
            Self::Kernel | Self::Deny => &[],
            Self::Lab => &[
                "iproute2",
                "nftables",
                "dnsmasq-base",
                "udhcpc",
                "nginx-light",
                "curl",
                "iputils-ping",
                "ethtool",
                "e2fsprogs",
            ],
            Self::Browser => &["chromium"],
            Self::Prometheus => &["prometheus"],
            Self::Captures => &["wireshark-common", "libndpi-bin"],
            Self::Bench => &["xdp-tools", "dnsperf", "unbound"],
            Self::Emulator => &[
                "qemu-system-x86",
                "cpio",
                "xz-utils",
                "iproute2",
                "nftables",
                "binutils",
            ],
        }
    }
}

/// Debian's compiler with a prebuilt `core` for bpfel-unknown-none, and the LLVM of the linker.
const DEBIAN_COMPILER: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];
/// Lints by the same compiler.
const DEBIAN_CLIPPY: [&str; 1] = ["rust-web-clippy"];
/// The packages for building the linker.
const LINKER_PACKAGES: [&str; 3] = ["llvm-22-dev", "g++", "zlib1g-dev"];
const LINKER_VERSION: &str = "0.13.0";
const LLVM_MAJOR: u32 = 22;
/// Checks licences and sources of the dependencies.
const DENY_VERSION: &str = "0.18.9";

/// Seconds to wait for another package manager to finish.
const LOCK_LIMIT: u32 = 600;

/// How the kernel object is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Compiler {
    /// Debian's rustc, which has `core` for the target.
    Debian,
    /// A rustup nightly, which builds `core` from its source.
    Nightly,
}

/// The tools for building the kernel object, once they are there.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The compiler.
    pub compiler: Compiler,
    /// The path of bpf-linker.
    pub linker: PathBuf,
}

/// Installs whatever is missing for `needs`, and says what it runs.
///
/// # Errors
/// Where something is missing that it cannot install: the error says what, and what to do.
pub fn ensure(needs: &[Need]) -> Result<()> {
    let mut packages = BTreeSet::new();
    for need in needs {
        packages.extend(need.packages());
    }
    install(&packages.into_iter().collect::<Vec<_>>())?;
    if needs.contains(&Need::Kernel) {
        toolchain()?;
    }
    if needs.contains(&Need::Deny) {
        deny()?;
    }
    Ok(())
}

/// The tools that make the kernel object, installed where they are missing.
///
/// # Errors
/// As [`ensure`].
pub fn toolchain() -> Result<Toolchain> {
    let compiler = compiler()?;
    Ok(Toolchain {
        linker: linker()?,
        compiler,
    })
}

/// As [`toolchain`], with lints.
///
/// # Errors
/// As [`ensure`].
pub fn toolchain_with_lints() -> Result<Toolchain> {
    let toolchain = toolchain()?;
    if toolchain.compiler == Compiler::Debian {
        install(&DEBIAN_CLIPPY)?;
    }
    Ok(toolchain)
}

fn compiler() -> Result<Compiler> {
    if nightly_has_source() {
        return Ok(Compiler::Nightly);
    }
    if debian_release().is_some_and(|release| release >= 12) {
        install(&DEBIAN_COMPILER)?;
        return Ok(Compiler::Debian);
    }
    bail!(
        "this system has no Rust compiler with a `core` for the BPF target: \
         it is not Debian 12 or newer, and rustup has no nightly toolchain with its source; \
         install one with `rustup toolchain install nightly --component rust-src`, then run this again"
    )
}

/// Whether rustup's nightly has the source of `core`, and an LLVM that the linker can read.
fn nightly_has_source() -> bool {
    if !command::exists("rustup") {
        return false;
    }
    let ask = |arguments: &[&str]| {
        capture(
            Command::new("rustup")
                .args(["run", "nightly", "rustc"])
                .args(arguments)
                .env_remove("RUSTUP_TOOLCHAIN"),
        )
        .ok()
    };
    let Some(root) = ask(&["--print", "sysroot"]) else {
        return false;
    };
    let source = Path::new(root.trim()).join("lib/rustlib/src/rust/library/core");
    source.is_dir()
        && ask(&["-vV"])
            .and_then(|version| llvm_major(&version))
            .is_some_and(|major| major <= LLVM_MAJOR)
}

fn llvm_major(version: &str) -> Option<u32> {
    let llvm = version
        .lines()
        .find_map(|line| line.strip_prefix("LLVM version: "))?;
    llvm.split('.').next()?.parse().ok()
}

/// The number of the Debian release; `None` on anything else.
fn debian_release() -> Option<u32> {
    parse_release(&fs::read_to_string("/etc/os-release").ok()?)
}

fn parse_release(text: &str) -> Option<u32> {
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .map(|value| value.trim_matches('"'))
    };
    match (value("ID")?, value("VERSION_ID")) {
        ("debian", Some(number)) => number.parse().ok(),
        // Testing and unstable have no number, and are newer than any that has.
        ("debian", None) => Some(u32::MAX),
        _ => None,
    }
}

/// The folder where this project keeps the programs that it builds for itself.
pub(crate) fn cache() -> Result<PathBuf> {
    let folder = match env::var_os("XDG_CACHE_HOME").filter(|path| Path::new(path).is_absolute()) {
        Some(folder) => PathBuf::from(folder),
        None => env::home_dir()
            .context("neither XDG_CACHE_HOME nor HOME says where to keep bpf-linker; set one")?
            .join(".cache"),
    };
    Ok(folder.join("gateway-sensor"))
}

fn linker() -> Result<PathBuf> {
    let root = cache()?.join(format!("bpf-linker-{LINKER_VERSION}-llvm-{LLVM_MAJOR}"));
    let linker = root.join("bin/bpf-linker");
    // It is linked to libLLVM: present is not enough, it must start.
    if linker.is_file() && capture(Command::new(&linker).arg("--version")).is_ok() {
        return Ok(linker);
    }
    let prefix = format!("/usr/lib/llvm-{LLVM_MAJOR}");
    if debian_release().is_some() {
        install(&LINKER_PACKAGES)?;
    } else if !Path::new(&prefix).is_dir() {
        bail!(
            "bpf-linker {LINKER_VERSION} needs LLVM {LLVM_MAJOR} with its headers in {prefix}; \
             install the development package of LLVM {LLVM_MAJOR}, then run this again"
        );
    }
    say("bpf-linker is built once, about a minute:");
    run(command::clean("cargo")
        .env("LLVM_PREFIX", &prefix)
        .args(["install", "bpf-linker", "--version", LINKER_VERSION])
        .args(["--no-default-features", "--features"])
        .arg(format!("llvm-{LLVM_MAJOR}"))
        .args(["--force", "--root"])
        .arg(&root))?;
    Ok(linker)
}

/// The path of cargo-deny, which is built once where it is missing.
///
/// # Errors
/// Where it cannot be built.
pub fn deny() -> Result<PathBuf> {
    let root = cache()?.join(format!("cargo-deny-{DENY_VERSION}"));
    let deny = root.join("bin/cargo-deny");
    if !deny.is_file() {
        say("cargo-deny is built once, some minutes:");
        // Built without optimisation, it is there sooner, and checks within seconds all the same.
        run(command::clean("cargo")
            .args(["install", "cargo-deny", "--version", DENY_VERSION])
            .args(["--locked", "--debug", "--no-default-features", "--root"])
            .arg(&root))?;
    }
    Ok(deny)
}

/// Installs the Debian packages that are not there.
fn install(packages: &[&str]) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .copied()
        .filter(|package| !is_installed(package))
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let list = missing.join(" ");
    if debian_release().is_none() || !command::exists("apt-get") {
        bail!(
            "this is no Debian system, so that xtask cannot install what is missing; \
             install what these Debian packages bring, then run this again: {list}"
        );
    }
    if !rustix::process::geteuid().is_root() {
        bail!(
            "these packages are missing, and installing them takes root: run `apt-get install {list}`"
        );
    }
    let _quiet = NoServices::new()?;
    let apt = || {
        let mut command = Command::new("apt-get");
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .arg(format!("-oDPkg::Lock::Timeout={LOCK_LIMIT}"));
        command
    };
    run(apt().args(["update", "-q"]))?;
    run(apt()
        .args(["install", "-q", "-y", "--no-install-recommends"])
        .args(&missing))
    .with_context(|| format!("Debian's packages {list} could not be installed"))
}

fn is_installed(package: &str) -> bool {
    capture(Command::new("dpkg-query").args(["-W", "-f=${db:Status-Status}", package]))
        .is_ok_and(|status| status == "installed")
}

/// While it lives, packages that bring a service do not start it: nginx and Prometheus are wanted
/// as programs for the lab, not as servers of this machine.
struct NoServices(bool);

impl NoServices {
    const POLICY: &str = "/usr/sbin/policy-rc.d";

    fn new() -> Result<Self> {
        if Path::new(Self::POLICY).exists() {
            return Ok(Self(false));
        }
        fs::write(Self::POLICY, "#!/bin/sh\nexit 101\n")
            .and_then(|()| fs::set_permissions(Self::POLICY, Permissions::from_mode(0o755)))
            .with_context(|| format!("cannot write {}", Self::POLICY))?;
        Ok(Self(true))
    }
}

impl Drop for NoServices {
    fn drop(&mut self) {
        if self.0
            && let Err(error) = fs::remove_file(Self::POLICY)
        {
            eprintln!(
                "{} could not be removed ({error}); remove it, or no package will start its service",
                Self::POLICY
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn releases() {
        let check = |text, expected| assert_eq!(parse_release(text), expected, "{text}");
        check("ID=debian\nVERSION_ID=\"12\"\n", Some(12));
        check("VERSION_ID=\"11\"\nID=debian\n", Some(11));
        check("ID=debian\nVERSION_CODENAME=forky\n", Some(u32::MAX));
        check("ID=ubuntu\nVERSION_ID=\"24.04\"\nID_LIKE=debian\n", None);
        check("", None);
    }

    #[test]
    fn llvm_versions() {
        assert_eq!(
            llvm_major("rustc 1.97.0-nightly\nLLVM version: 22.1.8\n"),
            Some(22)
        );
        assert_eq!(llvm_major("rustc 1.97.0-nightly\n"), None);
    }
}
