//! Other kernels: those of Debian are booted in a virtual machine, in which the whole sensor works.
//!
//! The verifiers of older kernels are the ones that refuse programs. The virtual machine boots Debian's kernel
//! and nothing else of Debian's: the first process is the guest, an example of the `sensor` package, with the
//! libraries it is linked to, `ip`, `nft`, and the modules that the kernel needs for it.
//!
//! A kernel is downloaded once and kept in the project's cache folder; delete its folder there to
//! get a newer one.

use std::{
    collections::BTreeSet,
    env, fs,
    io::Write,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use anyhow::{Context, Result, bail};

use crate::{
    build,
    command::{self, capture, say},
    setup::{self, Need},
};

/// A kernel by its version and by the release of Debian that has it.
struct Kernel {
    version: &'static str,
    suite: &'static str,
}

const KERNELS: [Kernel; 2] = [
    Kernel {
        version: "6.1",
        suite: "bookworm",
    },
    Kernel {
        version: "6.12",
        suite: "bookworm-backports",
    },
];

/// The package that depends on a release's current kernel.
const METAPACKAGE: &str = "linux-image-amd64";
/// The modules of these kernels that the guest needs; those that these depend on come along.
const MODULES: [&str; 10] = [
    // `libcrc32c` asks for it by another name.
    "crc32c_generic",
    "veth",
    "sch_ingress",
    "cls_bpf",
    "8021q",
    "bonding",
    "bridge",
    "nf_tables",
    "nf_flow_table_inet",
    "nft_flow_offload",
];
/// How long a guest may take: the verifier's work takes many times longer under emulation, and the
/// machine may be busy with other tests.
const LIMIT_SECONDS: u32 = 1_200;
const PASSED: &str = "GUEST PASSED";
const FAILED: &str = "GUEST FAILED";
/// The words that the guest prints for each program.
const VERIFIED: &str = "instructions verified";

/// Boots each kernel and lets the sensor work in it.
///
/// # Errors
/// Where a kernel cannot be had or booted, and where the sensor fails in it: with its reason, or
/// with the end of the console where it gave none.
pub fn run() -> Result<()> {
    if env::consts::ARCH != "x86_64" {
        bail!(
            "the kernels that are booted are x86-64's, and this machine is {}",
            env::consts::ARCH
        );
    }
    setup::ensure(&[Need::Emulator])?;
    build::kernel()?;
    command::run(build::host_cargo().args(["build", "--package", "sensor", "--example", "guest"]))?;
    let root = guest_root()?;
    let mut ready = Vec::new();
    for kernel in KERNELS {
        let folder = kernel.fetch()?;
        let archive = kernel.archive(&folder, &root)?;
        ready.push((kernel, folder, archive));
    }
    // At the same time: each is at work on one CPU for minutes, most of them in the verifier.
    let consoles: Vec<_> = thread::scope(|scope| {
        let booting: Vec<_> = ready
            .iter()
            .map(|(kernel, folder, archive)| scope.spawn(|| kernel.boot(folder, archive)))
            .collect();
        booting
            .into_iter()
            .map(|booted| match booted.join() {
                Ok(console) => console,
                Err(_) => bail!("the thread that boots a guest failed"),
            })
            .collect()
    });
    // Each is told: one that fails does not hide another.
    let mut failures = Vec::new();
    for ((kernel, ..), console) in ready.iter().zip(consoles) {
        if let Err(error) = kernel.judge(&console?) {
            failures.push(format!("on Linux {}: {error:#}", kernel.version));
        }
    }
    if !failures.is_empty() {
        bail!("{}", failures.join("\n"));
    }
    Ok(())
}

impl Kernel {
    /// Shows the findings of a guest, and fails where it did not pass.
    fn judge(&self, console: &str) -> Result<()> {
        for line in console.lines().filter(|line| line.contains(VERIFIED)) {
            say(line.trim());
        }
        let verdict = console
            .lines()
            .find(|line| line.contains(PASSED) || line.contains(FAILED));
        match verdict {
            Some(line) if line.contains(PASSED) => say(line.trim()),
            Some(line) => bail!("{}", line.trim()),
            None => {
                let lines: Vec<_> = console.lines().collect();
                let end = lines[lines.len().saturating_sub(40)..].join("\n");
                bail!(
                    "the guest came to no verdict within {LIMIT_SECONDS} s; its console ended \
                     with:\n{end}"
                )
            }
        }
        Ok(())
    }

    /// The folder that has the kernel as `vmlinuz` and its modules below `modules`.
    fn fetch(&self) -> Result<PathBuf> {
        let kernels = setup::cache()?.join("kernels");
        let folder = kernels.join(self.version);
        if has_modules(&folder.join("modules")) {
            return Ok(folder);
        }
        // Of a version of this program that needed others.
        let _ = fs::remove_dir_all(&folder);
        // Renamed when it is whole: a download that is cut off begins anew.
        let partial = kernels.join(format!("{}.partial", self.version));
        let _ = fs::remove_dir_all(&partial);
        fs::create_dir_all(partial.join("lists/partial"))?;
        fs::create_dir_all(partial.join("cache/archives/partial"))?;
        let view = View::new(&partial, self.suite)?;
        command::run(view.apt("apt-get").args(["update", "-q"]))?;
        let depends = capture(
            view.apt("apt-cache")
                .args(["depends", "--no-recommends", "--no-suggests"])
                .arg(format!("{METAPACKAGE}/{}", self.suite)),
        )?;
        let package = image(&depends).with_context(|| {
            format!(
                "{METAPACKAGE} of {} depends on no kernel:\n{depends}",
                self.suite
            )
        })?;
        if !package.starts_with(&format!("linux-image-{}.", self.version)) {
            bail!(
                "the kernel of {} is {package}, no longer {}: put its version or another release \
                 into {}",
                self.suite,
                self.version,
                file!()
            );
        }
        command::run(
            view.apt("apt-get")
                .args(["download", "-q", package])
                .current_dir(&partial),
        )?;
        let archive = find(&partial, |name| name.ends_with(".deb"))?;
        let unpacked = partial.join("unpacked");
        command::run(
            Command::new("dpkg-deb")
                .arg("--extract")
                .arg(&archive)
                .arg(&unpacked),
        )?;

        fs::rename(
            find(&unpacked.join("boot"), |name| name.starts_with("vmlinuz-"))?,
            partial.join("vmlinuz"),
        )?;
        fs::create_dir(partial.join("modules"))?;
        let mut taken = Vec::new();
        for module in MODULES {
            take_module(&unpacked, &partial.join("modules"), module, &mut taken)
                .with_context(|| package.to_owned())?;
        }
        fs::remove_dir_all(&unpacked)?;
        fs::remove_file(&archive)?;
        view.remove()?;
        fs::rename(&partial, &folder)?;
        Ok(folder)
    }

    /// The archive that has the guest as its first process, and the kernel's modules.
    fn archive(&self, folder: &Path, root: &Path) -> Result<PathBuf> {
        let modules = root.join("modules");
        let _ = fs::remove_dir_all(&modules);
        fs::create_dir(&modules)?;
        for entry in fs::read_dir(folder.join("modules"))? {
            let entry = entry?;
            fs::copy(entry.path(), modules.join(entry.file_name()))?;
        }
        let archive = root.with_file_name(format!("guest-{}.cpio", self.version));
        pack(root, &archive)?;
        Ok(archive)
    }

    /// Boots it with the guest as its first process, and gives what it wrote to its console.
    fn boot(&self, folder: &Path, archive: &Path) -> Result<String> {
        // KVM is not used where there is one: nested in another machine it may hang.
        let mut emulator = Command::new("timeout");
        emulator
            .arg(LIMIT_SECONDS.to_string())
            .args(["qemu-system-x86_64", "-M", "q35", "-accel", "tcg"])
            .args(["-cpu", "max", "-smp", "2", "-m", "512"])
            .args(["-nographic", "-no-reboot", "-nic", "none"])
            .arg("-kernel")
            .arg(folder.join("vmlinuz"))
            .arg("-initrd")
            .arg(archive)
            .args(["-append", "console=ttyS0 panic=-1 quiet"]);
        say(&format!("$ {}", command::line(&emulator)));
        // Its status says nothing: it is 0 whatever the guest did.
        let output = emulator
            .stdin(Stdio::null())
            .output()
            .context("qemu-system-x86_64 cannot be started")?;
        let console = String::from_utf8_lossy(&output.stdout).into_owned();
        fs::write(
            archive.with_file_name(format!("console-{}.log", self.version)),
            &console,
        )?;
        Ok(console + &String::from_utf8_lossy(&output.stderr))
    }
}

/// A private view of Debian's archive: other releases than this machine's, and nothing of it is
/// seen by this machine's own package manager.
struct View {
    folder: PathBuf,
}

impl View {
    fn new(folder: &Path, suite: &str) -> Result<Self> {
        // The mirror that this machine gets Debian from.
        let targets = capture(Command::new("apt-get").args([
            "indextargets",
            "--format",
            "$(ORIGIN)|$(LABEL)|$(REPO_URI)",
            "Created-By: Packages",
        ]))?;
        let mirror = targets
            .lines()
            .find_map(|line| line.strip_prefix("Debian|Debian|"))
            .context(
                "this machine's package manager knows no mirror of Debian: `apt-get update` lets it \
                 learn those in /etc/apt/sources.list.d",
            )?;
        fs::write(
            folder.join("mirror.sources"),
            format!(
                "Types: deb\nURIs: {mirror}\nSuites: {suite}\nComponents: main\n\
                 Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n"
            ),
        )?;
        Ok(Self {
            folder: folder.to_owned(),
        })
    }

    fn apt(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        let option = |name: &str, path: PathBuf| format!("{name}={}", path.display());
        for option in [
            option("Dir::Etc::SourceList", self.folder.join("mirror.sources")),
            option("Dir::Etc::SourceParts", "/dev/null".into()),
            option("Dir::State::Lists", self.folder.join("lists")),
            option("Dir::Cache", self.folder.join("cache")),
            // The folder is the caller's own, and apt's user cannot write there.
            "APT::Sandbox::User=root".to_owned(),
        ] {
            command.args(["-o", &option]);
        }
        command
    }

    fn remove(self) -> Result<()> {
        fs::remove_file(self.folder.join("mirror.sources"))?;
        fs::remove_dir_all(self.folder.join("lists"))?;
        fs::remove_dir_all(self.folder.join("cache"))?;
        Ok(())
    }
}

/// The kernel's package among what `apt-cache depends` says.
fn image(depends: &str) -> Option<&str> {
    depends
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Depends: "))
        .find(|package| package.starts_with("linux-image-"))
}

/// Whether a folder has all that the guest needs.
fn has_modules(folder: &Path) -> bool {
    let names: Vec<_> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    MODULES.iter().all(|module| {
        let wanted = format!("-{module}.ko");
        names.iter().any(|name| name.ends_with(&wanted))
    })
}

/// Takes a module out of a package, after those that it depends on: their names begin with the order in
/// which they are loaded.
fn take_module(
    unpacked: &Path,
    folder: &Path,
    module: &str,
    taken: &mut Vec<String>,
) -> Result<()> {
    if taken.iter().any(|other| other == module) {
        return Ok(());
    }
    let wanted = |name: &str| {
        let name = name.strip_suffix(".xz").unwrap_or(name);
        name.strip_suffix(".ko")
            .is_some_and(|name| name.replace('-', "_") == module)
    };
    let found = find(unpacked, wanted).with_context(|| format!("there is no module {module}"))?;
    let name = found.file_name().context("a file has a name")?;
    let target = folder.join(name);
    fs::rename(&found, &target)?;
    if name.to_string_lossy().ends_with(".xz") {
        command::run(Command::new("xz").arg("--decompress").arg(&target))?;
    }
    let plain = target.with_extension("").with_extension("ko");
    for needed in dependencies(&fs::read(&plain)?) {
        take_module(unpacked, folder, &needed, taken)?;
    }
    let number = taken.len();
    taken.push(module.to_owned());
    fs::rename(&plain, folder.join(format!("{number:02}-{module}.ko")))?;
    Ok(())
}

/// The modules that one depends on, as its section `.modinfo` says.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = &module[at + KEY.len()..];
    let end = value.iter().position(|octet| *octet == 0).unwrap_or(0);
    String::from_utf8_lossy(&value[..end])
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}

/// The first file below a folder whose name is wanted.
fn find(folder: &Path, wanted: impl Fn(&str) -> bool) -> Result<PathBuf> {
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in
            fs::read_dir(&folder).with_context(|| format!("{} cannot be read", folder.display()))?
        {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                folders.push(entry.path());
            } else if wanted(&entry.file_name().to_string_lossy()) {
                return Ok(entry.path());
            }
        }
    }
    bail!("{} has no such file", folder.display())
}

/// The guest's root folder, modules aside: the guest as `init`, `ip`, and the libraries of both.
fn guest_root() -> Result<PathBuf> {
    let root = build::target().join("guest/root");
    let _ = fs::remove_dir_all(&root);
    for folder in ["bin", "proc", "sys", "run/netns", "dev", "etc"] {
        fs::create_dir_all(root.join(folder))?;
    }
    let mut programs = Vec::new();
    for name in ["ip", "nft"] {
        let script = format!("PATH=$PATH:/usr/sbin:/sbin command -v {name}");
        let path = capture(Command::new("sh").args(["-c", &script]))?;
        let path = PathBuf::from(path.trim());
        fs::copy(&path, root.join("bin").join(name))?;
        programs.push(path);
    }
    let guest = build::target().join("debug/examples/guest");
    let init = root.join("init");
    command::run(
        Command::new("strip")
            .arg("-o")
            .arg(&init)
            .arg("--strip-debug")
            .arg(&guest),
    )?;
    let mut libraries = BTreeSet::new();
    programs.push(guest);
    for program in &programs {
        let linked = capture(Command::new("ldd").arg(program))?;
        libraries.extend(paths(&linked).map(str::to_owned));
    }
    for library in libraries {
        let target = root.join(library.trim_start_matches('/'));
        fs::create_dir_all(target.parent().unwrap_or(&root))?;
        fs::copy(&library, &target).with_context(|| format!("{library} cannot be copied"))?;
    }
    Ok(root)
}

/// The files that `ldd` names.
fn paths(linked: &str) -> impl Iterator<Item = &str> {
    linked
        .lines()
        .filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')))
}

/// Makes the archive that a kernel unpacks as its first file system.
fn pack(root: &Path, archive: &Path) -> Result<()> {
    let mut command = Command::new("cpio");
    command
        .args(["--create", "--format=newc", "--quiet", "--owner=0:0"])
        .current_dir(root)
        .stdin(Stdio::piped())
        .stdout(fs::File::create(archive)?);
    let mut child = command.spawn().context("cpio cannot be started")?;
    let mut names = String::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let entry = entry?;
            let path = entry.path();
            names += &format!("{}\n", path.strip_prefix(root)?.display());
            if entry.file_type()?.is_dir() {
                folders.push(path);
            }
        }
    }
    child
        .stdin
        .take()
        .context("cpio reads names")?
        .write_all(names.as_bytes())?;
    let status = child.wait()?;
    if !status.success() {
        bail!("cpio could not make {}: {status}", archive.display());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_of_a_release() {
        let depends = "linux-image-amd64\n  Depends: linux-image-6.1.0-50-amd64\n";
        assert_eq!(image(depends), Some("linux-image-6.1.0-50-amd64"));
        assert_eq!(image("linux-image-amd64\n"), None);
    }

    #[test]
    fn what_a_module_depends_on() {
        let module = b"\x7fELF..license=GPL\0depends=llc,crc32c-generic\0name=stp\0";
        assert_eq!(dependencies(module), ["llc", "crc32c_generic"]);
        assert_eq!(dependencies(b"\0depends=\0"), [""; 0]);
    }

    #[test]
    fn libraries() {
        let linked = "\tlinux-vdso.so.1 (0x00007f)\n\
                      \tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x00007f)\n\
                      \t/lib64/ld-linux-x86-64.so.2 (0x00007f)\n";
        assert_eq!(
            paths(linked).collect::<Vec<_>>(),
            [
                "/lib/x86_64-linux-gnu/libc.so.6",
                "/lib64/ld-linux-x86-64.so.2"
            ]
        );
    }
}
