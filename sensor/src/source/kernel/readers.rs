//! The programs that read payloads: each stands behind the program in which frames come in, in a map of the
//! same object, from before the first frame.
//!
//! The kernel empties such a map when nobody holds it any more but the programs that use it. So it is
//! pinned, under a name of its own for each object: the programs of an earlier start read on as before
//! until the last of them is replaced, and then their pin goes.

use std::{
    collections::HashSet,
    fs, io,
    path::{Path, PathBuf},
};

use aya::{
    Ebpf,
    maps::{Map, MapData, ProgramArray},
    programs::{Program, loaded_programs},
};
use sensor_ebpf::books::Opens;

use super::{
    Error,
    failed::of_map,
    load::{descriptor, loaded},
};

/// A program in which frames come in, the map and the place in it where its reader stands, and that reader.
struct Reader {
    behind: &'static str,
    map: &'static str,
    place: u32,
    program: &'static str,
}

const READERS: [Reader; 6] = [
    Reader {
        behind: "upload",
        map: "READERS_XDP",
        place: 0,
        program: "read_upload",
    },
    Reader {
        behind: "upload_frags",
        map: "READERS_FRAGS",
        place: 0,
        program: "read_upload_frags",
    },
    Reader {
        behind: "upload_tc",
        map: "READERS_TC",
        place: 0,
        program: "read_upload_tc",
    },
    Reader {
        behind: "upload_port",
        map: "READERS_TC",
        place: 0,
        program: "read_upload_tc",
    },
    Reader {
        behind: "download",
        map: "READERS_TC",
        place: 1,
        program: "read_download",
    },
    Reader {
        behind: "download_port",
        map: "READERS_TC",
        place: 1,
        program: "read_download",
    },
];

/// The programs that open Initials of QUIC for the readers behind programs in which frames come in: with the place
/// in the reader's map.
const OPENERS: [Reader; 4] = [
    Reader {
        behind: "upload",
        map: "READERS_XDP",
        place: 1,
        program: "open_upload",
    },
    Reader {
        behind: "upload_frags",
        map: "READERS_FRAGS",
        place: 1,
        program: "open_upload_frags",
    },
    Reader {
        behind: "upload_tc",
        map: "READERS_TC",
        place: 2,
        program: "open_upload_tc",
    },
    Reader {
        behind: "upload_port",
        map: "READERS_TC",
        place: 2,
        program: "open_upload_tc",
    },
];

/// Whether the kernel opens Initials: it has to take the program, and to compile it. The log says where it does not.
pub(super) fn opens(programs: &mut Ebpf) -> Opens {
    const PROGRAM: &str = "open_upload";

    let loaded = loaded(programs, PROGRAM).and_then(|program| {
        program.info().map_err(|source| Error::Program {
            program: PROGRAM,
            source,
        })
    });
    match loaded {
        Ok(info) if info.size_jitted() == 0 => {
            tracing::warn!(
                "names in QUIC are judged by the daemon alone: the kernel interprets its programs, which is too slow \
                 to decrypt by; `sysctl net.core.bpf_jit_enable=1`, and start the sensor again"
            );
            Opens::Interpreted
        }
        Ok(_) => Opens::On,
        Err(error) => {
            tracing::warn!(
                "names in QUIC are judged by the daemon alone: the kernel does not take the program that opens its \
                 packets: {error}"
            );
            Opens::Refused
        }
    }
}

/// How the names of their maps' pins begin.
const PIN: &str = "readers-";

/// Loads the reader behind a program and puts it there. Its map is pinned in the directory, where there is
/// one.
///
/// # Errors
///
/// The error that the kernel gives.
pub(super) fn put(
    programs: &mut Ebpf,
    directory: Option<&Path>,
    behind: &str,
) -> Result<(), Error> {
    let Some(reader) = READERS.iter().find(|reader| reader.behind == behind) else {
        return Ok(());
    };
    let loaded = descriptor(loaded(programs, reader.program)?, reader.program)?;
    let refused = of_map(reader.map);
    let map = programs
        .map_mut(reader.map)
        .expect("the embedded object has the map");
    if let Some(directory) = directory
        && let Map::ProgramArray(data) = &*map
    {
        // Where it is refused, `keep_pins` says so and tries again: this process holds the map meanwhile.
        let _ = pin(data, directory, reader.map);
    }
    ProgramArray::try_from(map)
        .and_then(|mut map| map.set(reader.place, &loaded, 0))
        .map_err(refused)?;
    if let Some(opener) = OPENERS.iter().find(|opener| opener.behind == behind)
        && let Err(error) = put_opener(programs, opener)
    {
        // The reader goes on without it.
        tracing::warn!("names in QUIC are judged by the daemon alone behind `{behind}`: {error}");
    }
    Ok(())
}

fn put_opener(programs: &mut Ebpf, opener: &Reader) -> Result<(), Error> {
    let loaded = descriptor(loaded(programs, opener.program)?, opener.program)?;
    let map = programs
        .map_mut(opener.map)
        .expect("the embedded object has the map");
    ProgramArray::try_from(map)
        .and_then(|mut map| map.set(opener.place, &loaded, 0))
        .map_err(of_map(opener.map))
}

fn pin(map: &MapData, directory: &Path, name: &'static str) -> Result<(), Error> {
    let info = map.info().map_err(of_map(name))?;
    let path = directory.join(format!("{PIN}{}", info.id()));
    if path.exists() {
        return Ok(());
    }
    map.pin(&path).map_err(|error| Error::PinDirectory {
        path,
        source: io::Error::other(error),
    })
}

/// Pins the maps again whose readers are there, where a pin is missing.
///
/// # Errors
///
/// When nothing can be pinned there.
pub(super) fn keep_pins(programs: &Ebpf, directory: &Path) -> Result<(), Error> {
    for reader in &READERS {
        let is_loaded = match programs.program(reader.program) {
            Some(Program::Xdp(program)) => program.fd().is_ok(),
            Some(Program::SchedClassifier(program)) => program.fd().is_ok(),
            _ => false,
        };
        if is_loaded && let Some(Map::ProgramArray(data)) = programs.map(reader.map) {
            pin(data, directory, reader.map)?;
        }
    }
    Ok(())
}

/// Whether a file in the pin directory is the pin of such a map.
pub(super) fn is_pin(name: &str) -> bool {
    id(name).is_some()
}

/// The number of the map that a pin of this name holds.
fn id(name: &str) -> Option<u32> {
    name.strip_prefix(PIN)?.parse().ok()
}

/// Removes the pins of maps that no program uses in which frames come in: those of earlier starts. Where the kernel does
/// not list the loaded programs, all pins stay.
pub(super) fn sweep(directory: &Path) {
    let Some(used) = used() else { return };
    for (path, id) in pins(directory) {
        if !used.contains(&id)
            && let Err(error) = fs::remove_file(&path)
        {
            tracing::debug!("{} stays: {error}", path.display());
        }
    }
}

fn pins(directory: &Path) -> impl Iterator<Item = (PathBuf, u32)> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    entries.filter_map(|entry| {
        let id = id(&entry.file_name().to_string_lossy())?;
        Some((entry.path(), id))
    })
}

/// The numbers of all maps that programs use in which frames come in; `None` where one cannot be asked.
///
/// Readers do not count, nor what opens Initials: they go on to each other by the map that they stand in, and so hold
/// it as long as it holds them.
fn used() -> Option<HashSet<u32>> {
    /// The kernel cuts the names of programs off (`BPF_OBJ_NAME_LEN`).
    const NAME: usize = 15;

    let cut = |name: &'static str| &name.as_bytes()[..name.len().min(NAME)];
    let mut used = HashSet::new();
    for program in loaded_programs() {
        let program = program.ok()?;
        if READERS
            .iter()
            .any(|reader| cut(reader.behind) == program.name())
        {
            used.extend(program.map_ids().ok()??);
        }
    }
    Some(used)
}
