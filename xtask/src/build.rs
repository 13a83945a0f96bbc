//! Building: the kernel object first, because the daemon carries it, then the daemon.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Result;

use crate::{
    command::{self, run},
    setup::{self, Compiler, Toolchain},
};

const TARGET: &str = "bpfel-unknown-none";

/// The folder of the workspace.
pub fn workspace() -> PathBuf {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package.parent().unwrap_or(package).to_owned()
}

/// The folder that cargo builds into.
pub fn target() -> PathBuf {
    match env::var_os("CARGO_TARGET_DIR") {
        Some(folder) => env::current_dir().unwrap_or_default().join(folder),
        None => workspace().join("target"),
    }
}

/// The kernel object, where [`kernel`] leaves it.
pub fn object() -> PathBuf {
    workspace()
        .join("target/bpf")
        .join(TARGET)
        .join("kernel/sensor-kernel")
}

/// Optimised or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Profile {
    /// As it is installed.
    Release,
    /// Quick to build.
    Debug,
}

/// The daemon's binary, where [`daemon`] leaves it.
pub fn binary(profile: Profile) -> PathBuf {
    target()
        .join(match profile {
            Profile::Release => "release",
            Profile::Debug => "debug",
        })
        .join("sensor")
}

/// Builds the kernel object and the daemon, and gives the daemon's path.
///
/// # Errors
/// Where a tool cannot be installed, or something does not compile: with the compiler's words.
pub fn all(profile: Profile) -> Result<PathBuf> {
    kernel()?;
    daemon(profile)
}

/// Builds the kernel object and gives its path.
///
/// # Errors
/// As [`all`].
pub fn kernel() -> Result<PathBuf> {
    let toolchain = setup::toolchain()?;
    run(kernel_cargo(&toolchain, "build").args(["--bin", "sensor-kernel"]))?;
    Ok(object())
}

/// Builds the daemon and gives its path.
///
/// # Errors
/// As [`all`].
pub fn daemon(profile: Profile) -> Result<PathBuf> {
    let mut cargo = host_cargo();
    cargo.args(["build", "--package", "sensor"]);
    if profile == Profile::Release {
        cargo.arg("--release");
    }
    run(&mut cargo)?;
    Ok(binary(profile))
}

/// A program of the lab, where [`examples`] leaves it.
pub fn example(name: &str) -> PathBuf {
    target().join("debug/examples").join(name)
}

/// Builds the programs of the lab: the HTTP/3 server and client, and the one that makes attempts.
///
/// # Errors
/// Where one does not compile: with the compiler's words.
pub fn examples() -> Result<()> {
    run(host_cargo().args(["build", "--package", "xtask", "--examples"]))
}

/// The cargo that builds for this machine: the one xtask itself was built with.
pub fn host_cargo() -> Command {
    let mut cargo = command::clean(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.current_dir(workspace());
    cargo
}

/// A cargo that does `chore`, `build` or `clippy`, for the kernel's target with the object's
/// features and profile.
///
/// The compiler's warning about unstable features is expected: `core` has no stable name for the
/// target's atomic add.
pub fn kernel_cargo(toolchain: &Toolchain, chore: &str) -> Command {
    let mut cargo = Command::new(match (toolchain.compiler, chore) {
        // Cargo would look for the subcommand where rustup has its own.
        (Compiler::Debian, "clippy") => "/usr/bin/cargo-clippy",
        (Compiler::Debian, _) => "/usr/bin/cargo",
        (Compiler::Nightly, _) => "rustup",
    });
    for (name, _) in env::vars_os() {
        if decides_compiler(&name.to_string_lossy()) {
            cargo.env_remove(name);
        }
    }
    match toolchain.compiler {
        Compiler::Debian => {
            cargo
                .env("CARGO", "/usr/bin/cargo")
                .env("RUSTC", "/usr/bin/rustc")
                .env("RUSTC_BOOTSTRAP", "1")
                .arg(chore);
        }
        Compiler::Nightly => {
            cargo.args(["run", "nightly", "cargo", chore, "-Zbuild-std=core"]);
        }
    }
    cargo
        .current_dir(workspace())
        .env("CARGO_ENCODED_RUSTFLAGS", rustflags(&toolchain.linker))
        .args(["--package", "sensor-ebpf", "--features", "kernel"])
        .args(["--profile", "kernel", "--target", TARGET])
        .args(["--target-dir", "target/bpf"]);
    cargo
}

/// Without `v3` every comparison of 32 bits costs shifts, without misaligned access every header
/// field is read octet by octet; every kernel from 6.1 on has both.
fn rustflags(linker: &Path) -> String {
    [
        format!("-Clinker={}", linker.display()),
        "-Clink-arg=--btf".to_owned(),
        "-Cdebuginfo=2".to_owned(),
        format!("--cfg=bpf_target_arch=\"{}\"", env::consts::ARCH),
        "-Ctarget-cpu=v3".to_owned(),
        "-Ctarget-feature=+allows-misaligned-mem-access".to_owned(),
    ]
    .join("\x1f")
}

/// Variables by which an outer cargo or rustup would decide which compiler runs and how. Those that
/// say where cargo's home and registries are stay.
fn decides_compiler(name: &str) -> bool {
    let kept = ["CARGO_HOME", "CARGO_INCREMENTAL", "RUSTUP_HOME"].contains(&name)
        || [
            "CARGO_HTTP_",
            "CARGO_NET_",
            "CARGO_REGISTR",
            "CARGO_SOURCE_",
        ]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    let decides = ["CARGO", "RUSTC", "RUSTDOC", "RUSTFLAGS", "RUSTUP_"]
        .iter()
        .any(|prefix| name.starts_with(prefix));
    // `cargo run` puts its toolchain's libraries first; another compiler would load them.
    (decides && !kept) || name == "LD_LIBRARY_PATH" || name == "OUT_DIR"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_outer_cargo_does_not_choose_the_kernels_compiler() {
        for gone in [
            "CARGO",
            "RUSTC",
            "RUSTUP_TOOLCHAIN",
            "CARGO_MANIFEST_DIR",
            "CARGO_ENCODED_RUSTFLAGS",
            "RUSTFLAGS",
            "CARGO_TARGET_DIR",
            "LD_LIBRARY_PATH",
        ] {
            assert!(decides_compiler(gone), "{gone}");
        }
        for kept in [
            "CARGO_HOME",
            "CARGO_HTTP_CAINFO",
            "CARGO_REGISTRIES_X_INDEX",
            "PATH",
            "HOME",
        ] {
            assert!(!decides_compiler(kept), "{kept}");
        }
    }
}
