//! Every check and every test, the quick ones first. Slow tests run here in a thin form, and in their long form
//! in [`verify`](crate::verify).

use anyhow::{Context, Result};

use crate::{
    build,
    command::{self, run, run_shown, say},
    laws, prose, qemu,
    setup::{self, Need},
    words,
};

/// Runs everything; the first failure ends it.
///
/// # Errors
/// Where a check fails, with what it found.
pub fn all() -> Result<()> {
    setup::ensure(&Need::ALL)?;
    part("form");
    run(build::host_cargo().args(["fmt", "--all", "--check"]))
        .context("`cargo fmt --all` puts it right")?;
    part("laws of the architecture");
    laws::check()?;
    prose::check()?;
    words::check()?;
    part("licences and sources of the dependencies");
    run(command::clean(setup::deny()?)
        .current_dir(build::workspace())
        .args(["--locked", "check", "--config", "xtask/deny.toml"])
        .args(["bans", "licenses", "sources"]))?;
    part("the kernel object");
    build::kernel()?;
    let toolchain = setup::toolchain_with_lints()?;
    run(build::kernel_cargo(&toolchain, "clippy").args(["--bins", "--", "-D", "warnings"]))?;
    part("lints of what runs on this machine");
    run(build::host_cargo()
        .args(["clippy", "--workspace", "--all-targets", "--"])
        .args(["-D", "warnings"]))?;
    part("documentation");
    run(build::host_cargo()
        .env("RUSTDOCFLAGS", "-D warnings")
        .args([
            "doc",
            "--workspace",
            "--no-deps",
            "--document-private-items",
        ]))?;
    part("tests: pure, in the kernel, in the lab");
    run_shown(build::host_cargo().args(["test", "--workspace"]))?;
    part("other kernels");
    qemu::run()?;
    say("every check and every test passed");
    Ok(())
}

fn part(name: &str) {
    say(&format!("\n· {name}"));
}
