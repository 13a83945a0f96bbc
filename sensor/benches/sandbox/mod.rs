//! Namespaces of our own for the calling thread and what it starts: no interface, no pin and no
//! mount of the machine is seen or touched, and all is gone with the process.

use std::{
    env,
    ffi::CString,
    fs, io,
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    process, ptr,
};

use anyhow::{Context, Result, bail};

/// A network and a mount namespace, with a bpffs.
pub(crate) struct Sandbox {
    folder: PathBuf,
}

impl Sandbox {
    /// Moves the calling thread into them. To be called before another thread exists.
    pub(crate) fn enter() -> Result<Self> {
        // SAFETY: the call takes no pointer.
        check("make namespaces (root is needed)", unsafe {
            libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS)
        })?;
        let folder = env::temp_dir().join(format!("sensor-bench-{}", process::id()));
        fs::create_dir(&folder).with_context(|| folder.display().to_string())?;
        let sandbox = Self { folder };
        // Mounts from here on are not seen outside.
        mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_PRIVATE)?;
        mount(Some(c"bpf"), &sandbox.folder, Some(c"bpf"), 0)?;
        Ok(sandbox)
    }

    /// The folder on which the bpffs is mounted.
    pub(crate) fn bpffs(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if let Ok(folder) = CString::new(self.folder.as_os_str().as_bytes()) {
            // SAFETY: the string lives through the call.
            unsafe { libc::umount2(folder.as_ptr(), libc::MNT_DETACH) };
        }
        // Where it stays, an empty folder of temporary files stays.
        let _ = fs::remove_dir(&self.folder);
    }
}

fn mount(
    source: Option<&std::ffi::CStr>,
    place: &Path,
    kind: Option<&std::ffi::CStr>,
    flags: libc::c_ulong,
) -> Result<()> {
    let pointer = |text: Option<&std::ffi::CStr>| text.map_or(ptr::null(), |text| text.as_ptr());
    let place = CString::new(place.as_os_str().as_bytes())?;
    // SAFETY: every string lives through the call, and there is no data.
    check("mount a bpffs of our own", unsafe {
        libc::mount(
            pointer(source),
            place.as_ptr(),
            pointer(kind),
            flags,
            ptr::null(),
        )
    })
}

fn check(what: &str, status: libc::c_int) -> Result<()> {
    if status != 0 {
        bail!("cannot {what}: {}", io::Error::last_os_error());
    }
    Ok(())
}
