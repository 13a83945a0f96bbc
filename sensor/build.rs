//! Embeds the kernel object that `cargo xtask build` made, without what debuggers need, and the date of the source.

use std::{
    env,
    error::Error,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use object::{
    build::elf::{Builder, SectionData},
    elf::SHT_STRTAB,
};

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
    let given = env::var("SOURCE_DATE_EPOCH").ok();
    let date = given.or_else(|| git(&["log", "-1", "--format=%ct"]));
    date.and_then(|date| date.parse().ok())
        .unwrap_or(WRITTEN)
        .max(WRITTEN)
}

/// Writes the object without its DWARF sections, which are four fifths of it. `.BTF` and `.BTF.ext` stay: the
/// kernel reads them.
fn strip(object: &Path, stripped: &Path) -> Result<(), Box<dyn Error>> {
    let bytes = fs::read(object)?;
    let mut builder = Builder::read(&*bytes)?;
    for section in &mut builder.sections {
        let name = section.name.to_string();
        section.delete = name.starts_with(".debug_") || name.starts_with(".rel.debug_");
    }
    // LLVM has one table for names of sections and symbols; the writer wants one for each.
    let names = builder.sections.add();
    names.name = ".shstrtab".into();
    names.sh_type = SHT_STRTAB;
    names.data = SectionData::SectionString;
    let mut out = Vec::new();
    builder.write(&mut out)?;
    fs::write(stripped, out)?;
    Ok(())
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
    let stripped = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets it"));
    let stripped = stripped.join("sensor-kernel");
    match strip(&object, &stripped) {
        Ok(()) => println!("cargo:rustc-env=SENSOR_EBPF_OBJECT={}", stripped.display()),
        Err(error) => {
            println!(
                "cargo::error=the kernel object {} cannot be read ({error}): \
                 run `cargo xtask build`, which makes it",
                object.display(),
            );
        }
    }
}
