//! The history behind power cuts: a real ext4 on a loop device, on a file that this test serves by FUSE. Writes stay
//! in the disk's cache until a flush; at the cut a random part of the rest is there, sector by sector. Needs root.

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::channel,
    },
    time::{Duration, UNIX_EPOCH},
};

use anyhow::{Context as _, Result, ensure};
use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation,
    INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyWrite,
    Request, WriteFlags,
};
use rusqlite::Connection;
use sensor::{
    model::history::{Batch, Counts, DeviceBatch, Differences, Hour, Party, PartyKind},
    sink::store::{FILE, Settings, Store},
};
use xtask::{command::capture, verify::times};

const SECTOR: usize = 512;
const SIZE: u64 = 48 << 20;
const DEVICE: &str = "02:00:00:00:00:01";

/// Midnight in UTC of a Monday: 2026-11-30.
const MONDAY: i64 = 1_795_996_800;

fn run(program: &str, words: &[&str]) -> Result<String> {
    Ok(capture(Command::new(program).args(words))?
        .trim()
        .to_owned())
}

/// Numbers by chance, the same for the same seed (xorshift).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The content of a disk with a cache.
struct Content {
    /// As the host sees it.
    seen: Vec<u8>,
    /// As it is without power.
    stable: Vec<u8>,
    /// The sectors in the cache.
    cached: BTreeMap<usize, Vec<[u8; SECTOR]>>,
    /// Writes until the power is cut; `None`: it is.
    left: Option<u64>,
    flushes: u64,
}

#[derive(Clone)]
struct Disk(Arc<Mutex<Content>>);

impl Disk {
    fn content(&self) -> MutexGuard<'_, Content> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn attributes(inode: INodeNo) -> FileAttr {
        let is_root = inode == INodeNo::ROOT;
        FileAttr {
            ino: inode,
            size: if is_root { 0 } else { SIZE },
            blocks: SIZE / SECTOR as u64,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind: match is_root {
                true => FileType::Directory,
                false => FileType::RegularFile,
            },
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4_096,
        }
    }
}

impl Filesystem for Disk {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        match name == "image" {
            true => reply.entry(
                &Duration::from_secs(60),
                &Self::attributes(INodeNo(2)),
                Generation(0),
            ),
            false => reply.error(Errno::ENOENT),
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&Duration::from_secs(60), &Self::attributes(inode));
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let content = self.content();
        let start = (offset as usize).min(content.seen.len());
        let end = (start + size as usize).min(content.seen.len());
        reply.data(&content.seen[start..end]);
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let mut content = self.content();
        let start = offset as usize;
        content.left = match content.left {
            None | Some(0) => None,
            Some(left) => Some(left - 1),
        };
        if content.left.is_none() || start + data.len() > content.seen.len() {
            return reply.error(Errno::EIO);
        }
        content.seen[start..start + data.len()].copy_from_slice(data);
        for sector in start / SECTOR..(start + data.len()).div_ceil(SECTOR) {
            let mut octets = [0; SECTOR];
            octets.copy_from_slice(&content.seen[sector * SECTOR..(sector + 1) * SECTOR]);
            content.cached.entry(sector).or_default().push(octets);
        }
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let mut content = self.content();
        if content.left.is_none() {
            return reply.error(Errno::EIO);
        }
        content.flushes += 1;
        for (sector, versions) in std::mem::take(&mut content.cached) {
            if let Some(last) = versions.last() {
                content.stable[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(last);
            }
        }
        reply.ok();
    }
}

/// The disk, mounted.
struct Mounted {
    folder: PathBuf,
    device: String,
    served: Option<BackgroundSession>,
}

impl Mounted {
    /// Mounts a disk, served by FUSE, or a file.
    fn new(folder: &Path, disk: Option<&Disk>) -> Result<Self> {
        let served = match disk {
            Some(disk) => {
                let place = folder.join("fuse");
                fs::create_dir_all(&place)?;
                Some(fuser::spawn_mount(
                    disk.clone(),
                    &place,
                    &Config::default(),
                )?)
            }
            None => None,
        };
        let image = match disk {
            Some(_) => folder.join("fuse/image"),
            None => folder.join("image"),
        };
        fs::create_dir_all(folder.join("mount"))?;
        let mut mounted = Self {
            folder: folder.to_owned(),
            device: String::new(),
            served,
        };
        mounted.device = run(
            "losetup",
            &["--find", "--show", &image.display().to_string()],
        )?;
        run(
            "mount",
            &[
                "-t",
                "ext4",
                &mounted.device,
                &mounted.place().display().to_string(),
            ],
        )?;
        Ok(mounted)
    }

    fn place(&self) -> PathBuf {
        self.folder.join("mount")
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = run("umount", &["-l", &self.place().display().to_string()]);
        let _ = run("losetup", &["--detach", &self.device]);
        if let Some(served) = self.served.take() {
            // The loop device may hold its file a moment longer.
            let _ = run(
                "umount",
                &["-l", &self.folder.join("fuse").display().to_string()],
            );
            drop(served);
        }
    }
}

fn settings(directory: &Path) -> Settings {
    let days = |days: u64| Duration::from_hours(24 * days);
    Settings {
        directory: directory.to_owned(),
        most_bytes: 16 << 20,
        party_hours: days(35),
        device_hours: days(100),
        device_days: days(760),
        calendar: Arc::new(|_| None),
    }
}

/// A batch of one second of the boot with this number, in which each of some parties got so many bytes.
fn batch(boot: u64, second: i64, position: &mut Counts) -> Batch {
    let mut parties = Vec::new();
    for name in 0..40 + second % 20 {
        let counts = Counts {
            bytes: [100, 1_000],
            packets: [1, 2],
            flows: 1,
            ..Counts::default()
        };
        position.add(&counts);
        let party = Party {
            kind: PartyKind::Party,
            name: format!("{name}.{}.example", second % 7).into(),
            category: Some("telemetry"),
            owner: None,
            country: None,
            stacks: Vec::new(),
        };
        parties.push((party, counts));
    }
    let now = MONDAY + second;
    Batch {
        tables: boot.to_string(),
        boot: boot.to_string(),
        steady: second as f64,
        since_boot: second as f64,
        start: (now - 1) as f64,
        end: now as f64,
        hour: Some(Hour {
            // A new one every ten seconds, so that rows are rolled up and the log is emptied often.
            start: MONDAY + second / 10 * 3_600,
            day: "2026-11-30".to_owned(),
        }),
        is_first: false,
        is_last: false,
        of: Differences {
            devices: vec![DeviceBatch {
                device: DEVICE.to_owned(),
                name: None,
                began: 1,
                began_at: 0.0,
                position: Some(*position),
                parties,
                echoes: Vec::new(),
            }],
            ..Differences::default()
        },
    }
}

/// The bytes that the device sent, by all rows of a file, which must be whole.
fn sent(directory: &Path) -> Result<u64> {
    let connection = Connection::open(directory.join(FILE))?;
    let check: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
    ensure!(check == "ok", "{check}");
    let sent: i64 = connection.query_row(
        "SELECT (SELECT coalesce(SUM(upload_bytes), 0) FROM device_hours) + \
         (SELECT coalesce(SUM(upload_bytes), 0) FROM gap_devices)",
        [],
        |row| row.get(0),
    )?;
    Ok(sent.unsigned_abs())
}

#[test]
fn a_power_cut_costs_one_batch_at_most_and_never_the_file() -> Result<()> {
    let cuts = times(5, 50_u64);
    let folder = std::env::temp_dir().join(format!("history-power-{}", std::process::id()));
    fs::create_dir_all(&folder)?;
    let image = folder.join("image");
    fs::File::create(&image)?.set_len(SIZE)?;
    run("mkfs.ext4", &["-q", "-F", &image.display().to_string()])?;
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let (mut second, mut written, mut in_flight) = (0, 0, 0);
    for cut in 1..=cuts {
        let whole = fs::read(&image)?;
        let disk = Disk(Arc::new(Mutex::new(Content {
            seen: whole.clone(),
            stable: whole,
            cached: BTreeMap::new(),
            left: Some(60 + chance.below(1_500)),
            flushes: 0,
        })));
        let mounted = Mounted::new(&folder, Some(&disk))?;
        let store = Store::start(settings(&mounted.place()))?;
        let is_cut = AtomicBool::new(false);
        let mut position = Counts::default();
        while !is_cut.load(Ordering::Relaxed) {
            second += 1;
            let before = position.bytes[0];
            store.send(batch(cut, second, &mut position));
            let (give, given) = channel();
            store.flush(move |outcome| drop(give.send(outcome)));
            match given.recv()? {
                Ok(()) => written += position.bytes[0] - before,
                Err(_) => {
                    in_flight = position.bytes[0] - before;
                    is_cut.store(true, Ordering::Relaxed);
                }
            }
            ensure!(second < 100_000, "the power is never cut");
        }
        let flushes = disk.content().flushes;
        ensure!(flushes > 3, "cut {cut}: {flushes} flushes");
        drop(store);
        drop(mounted);
        // Any sector that was in the cache may be there, in any of its versions.
        let mut content = disk.content();
        let cached = std::mem::take(&mut content.cached);
        for (sector, versions) in cached {
            let chosen = chance.below(versions.len() as u64 + 1) as usize;
            if let Some(octets) = chosen.checked_sub(1).and_then(|at| versions.get(at)) {
                content.stable[sector * SECTOR..(sector + 1) * SECTOR].copy_from_slice(octets);
            }
        }
        fs::write(&image, &content.stable)?;
        drop(content);

        let mounted = Mounted::new(&folder, None).with_context(|| format!("cut {cut}"))?;
        let found = sent(&mounted.place()).with_context(|| format!("cut {cut}"))?;
        ensure!(
            found == written || found == written + in_flight,
            "cut {cut}: {found} bytes are there, {written} were written and {in_flight} were on their way"
        );
        written = found;
        run("umount", &[&mounted.place().display().to_string()])?;
    }
    fs::remove_dir_all(&folder)?;
    Ok(())
}
