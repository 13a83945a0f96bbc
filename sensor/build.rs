//! Embeds the kernel object that `cargo xtask build` made.

use std::{env, path::PathBuf};

fn main() {
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
