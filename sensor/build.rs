//! Embeds the kernel object that `cargo xtask build` made, and the date of the source.

use std::{env, path::PathBuf, process::Command};

/// The date of the source, in seconds since the Unix epoch: `SOURCE_DATE_EPOCH` where it is set
/// (reproducible-builds.org), else that of the last commit, else that of this line.
fn source_date() -> u64 {
    const WRITTEN: u64 = 1_795_910_400;

    println!("cargo:rerun-if-env-changed=SOURCE_DATE_EPOCH");
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        let said = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| said.trim().to_owned())
    };
    if let Some(head) = git(&["rev-parse", "--git-path", "logs/HEAD"]) {
        println!("cargo:rerun-if-changed={head}");
    }
    let given = env::var("SOURCE_DATE_EPOCH").ok();
    let date = given.or_else(|| git(&["log", "-1", "--format=%ct"]));
    date.and_then(|date| date.parse().ok())
        .unwrap_or(WRITTEN)
        .max(WRITTEN)
}

fn main() {
    println!("cargo:rustc-env=SENSOR_SOURCE_DATE={}", source_date());
    println!("cargo:rerun-if-env-changed=SENSOR_EBPF_OBJECT");
    let object = match env::var_os("SENSOR_EBPF_OBJECT") {
        Some(path) => PathBuf::from(path),
        None => PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("cargo sets it"))
            .join("../target/bpf/bpfel-unknown-none/kernel/sensor-kernel"),
    };
    println!("cargo:rerun-if-changed={}", object.display());
    match object.canonicalize() {
        Ok(object) => println!("cargo:rustc-env=SENSOR_EBPF_OBJECT={}", object.display()),
        Err(error) => {
            println!(
                "cargo::error=the kernel object {} cannot be read ({error}): \
                 run `cargo xtask build`, which makes it",
                object.display(),
            );
        }
    }
}
