//! The file of the database: opened, checked, set aside, copied.

use std::{
    fmt, fs,
    io::ErrorKind,
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use rusqlite::{Connection, ErrorCode, OpenFlags};

use super::{schema, upkeep};

/// The name of the file, in the directory of the history.
pub const FILE: &str = "history.db";

/// The length of the log (`-wal`) in bytes at which SQLite writes it into the file and begins it anew in the same
/// place. Several hours fit in: pages that each hour changes are then written into the file once for all of them.
const LONGEST_LOG: i64 = 3 << 20;

/// Pages that SQLite keeps in memory, in KiB.
const CACHE_KIB: i64 = 512;

/// Bytes of a page in a new file. A commit writes a few rows of several tables and the rows of the present hour, and
/// each page of them whole: with pages of 4,096 bytes, a fifth more.
const PAGE: i64 = 1_024;

/// How long a writer waits for another process that has the file.
const BUSY: Duration = Duration::from_secs(5);

/// An open database.
pub(super) struct Opened {
    pub(super) connection: Connection,
    path: PathBuf,
    /// The device and number of the file.
    inode: Option<(u64, u64)>,
}

impl Opened {
    /// Whether the file that is open is still the one at its path.
    pub(super) fn is_there(&self) -> bool {
        inode(&self.path) == self.inode
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    let about = fs::metadata(path).ok()?;
    Some((about.dev(), about.ino()))
}

/// The reason why a database cannot be used.
#[derive(Debug)]
pub(super) struct Problem {
    directory: PathBuf,
    code: Option<ErrorCode>,
    what: String,
}

impl Problem {
    pub(super) fn of(directory: &Path, error: rusqlite::Error) -> Self {
        Self {
            directory: directory.to_owned(),
            code: error.sqlite_error_code(),
            what: error.to_string(),
        }
    }

    fn saying(directory: &Path, what: String) -> Self {
        Self {
            directory: directory.to_owned(),
            code: None,
            what,
        }
    }

    pub(super) fn is_lack_of_space(&self) -> bool {
        self.code == Some(ErrorCode::DiskFull)
    }

    fn is_damage(&self) -> bool {
        matches!(
            self.code,
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase)
        )
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let advice = match self.code {
            Some(ErrorCode::DiskFull) => {
                "; free space there, lower `max_mib`, or have `directory` in [history] name another disk"
            }
            Some(ErrorCode::ReadOnly) => "; mount its file system writable (`mount -o remount,rw`)",
            Some(ErrorCode::CannotOpen | ErrorCode::PermissionDenied) => {
                "; see that the directory is there and that the daemon's user may write to it"
            }
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
                "; another program holds a write lock on it: end that program"
            }
            Some(ErrorCode::SystemIoFailure) => {
                "; the kernel's log (`dmesg`) says more of the disk"
            }
            _ => "",
        };
        write!(
            f,
            "the history in {} cannot be used: {}{advice}",
            self.directory.display(),
            self.what
        )
    }
}

impl std::error::Error for Problem {}

/// A damaged file that was renamed.
pub(super) struct Aside {
    pub(super) to: PathBuf,
    pub(super) why: String,
}

/// Opens the database to write, and makes it where there is none. A damaged one is renamed, and a new one made.
pub(super) fn open(directory: &Path) -> Result<(Opened, Option<Aside>), Problem> {
    let path = directory.join(FILE);
    match open_at(directory, &path) {
        Ok(opened) => Ok((opened, None)),
        Err(problem) if problem.is_damage() => {
            let to = set_aside(&path).map_err(|error| {
                Problem::saying(
                    directory,
                    format!("{problem}, and it cannot be renamed: {error}"),
                )
            })?;
            let opened = open_at(directory, &path)?;
            let why = problem.what;
            Ok((opened, Some(Aside { to, why })))
        }
        Err(problem) => Err(problem),
    }
}

fn open_at(directory: &Path, path: &Path) -> Result<Opened, Problem> {
    let made = fs::create_dir_all(directory);
    made.map_err(|error| Problem::saying(directory, format!("it cannot be made: {error}")))?;
    // Made here, for the daemon's user alone: SQLite gives its log and its index the same mode.
    let made = fs::OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path);
    if let Err(error) = made {
        return Err(Problem {
            directory: directory.to_owned(),
            code: match error.kind() {
                ErrorKind::ReadOnlyFilesystem => Some(ErrorCode::ReadOnly),
                ErrorKind::StorageFull => Some(ErrorCode::DiskFull),
                _ => Some(ErrorCode::CannotOpen),
            },
            what: error.to_string(),
        });
    }
    let problem = |error| Problem::of(directory, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let mut connection = Connection::open_with_flags(path, flags).map_err(problem)?;
    connection.busy_timeout(BUSY).map_err(problem)?;
    check(&connection, directory)?;
    set_up(&mut connection).map_err(problem)?;
    Ok(Opened {
        connection,
        path: path.to_owned(),
        inode: inode(path),
    })
}

/// Finds out whether a file is whole, and ours.
fn check(connection: &Connection, directory: &Path) -> Result<(), Problem> {
    let problem = |error| Problem::of(directory, error);
    let verdict: String = connection
        .pragma_query_value(None, "quick_check", |row| row.get(0))
        .map_err(problem)?;
    if verdict != "ok" {
        return Err(Problem {
            directory: directory.to_owned(),
            code: Some(ErrorCode::DatabaseCorrupt),
            what: verdict,
        });
    }
    let version = schema::version(connection).map_err(problem)?;
    let application = schema::application(connection).map_err(problem)?;
    if application != schema::APPLICATION && (application, version) != (0, 0) {
        return Err(Problem::saying(
            directory,
            format!(
                "{FILE} is of another program: move it away, or have `directory` in [history] name another one"
            ),
        ));
    }
    if version > schema::VERSION {
        return Err(Problem::saying(
            directory,
            format!(
                "{FILE} is of version {version}, and this program knows versions up to {}: install the newer \
                 program again, or move the file away",
                schema::VERSION
            ),
        ));
    }
    Ok(())
}

fn page_size(connection: &Connection) -> rusqlite::Result<i64> {
    connection.pragma_query_value(None, "page_size", |row| row.get(0))
}

fn set_up(connection: &mut Connection) -> rusqlite::Result<()> {
    // Before the first table: later both take a copy of the whole file.
    connection.pragma_update(None, "page_size", PAGE)?;
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL")?;
    connection.pragma_update(None, "journal_mode", "WAL")?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    connection.pragma_update(
        None,
        "wal_autocheckpoint",
        LONGEST_LOG / page_size(connection)?,
    )?;
    // A log that became large for once, for example beside a reader, is cut where it begins anew.
    connection.pragma_update(None, "journal_size_limit", 2 * LONGEST_LOG)?;
    connection.pragma_update(None, "cache_size", -CACHE_KIB)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    // Deleted rows are overwritten: they are somebody's traffic.
    connection.pragma_update(None, "secure_delete", "ON")?;
    connection.set_prepared_statement_cache_capacity(64);
    schema::migrate(connection)
}

/// Renames a file and those beside it, and gives the new name.
fn set_aside(path: &Path) -> std::io::Result<PathBuf> {
    let number = (1..).find(|number| !aside(path, *number).exists());
    let to = aside(path, number.unwrap_or(1));
    fs::rename(path, &to)?;
    for end in ["-wal", "-shm"] {
        let renamed = fs::rename(beside(path, end), beside(&to, end));
        if let Err(error) = renamed
            && error.kind() != ErrorKind::NotFound
        {
            return Err(error);
        }
    }
    Ok(to)
}

fn aside(path: &Path, number: u32) -> PathBuf {
    beside(path, &format!(".damaged-{number}"))
}

fn beside(path: &Path, end: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(end);
    name.into()
}

/// Opens the database to read.
///
/// # Errors
/// There is none, or it cannot be read.
pub(super) fn open_to_read(directory: &Path) -> anyhow::Result<Connection> {
    let path = directory.join(FILE);
    anyhow::ensure!(
        path.exists(),
        "{} does not exist: the daemon writes the history there every few minutes, unless `keep = \"off\"` \
         stands in [history]",
        path.display()
    );
    // To write, because a reader of a log has to make its index where no writer is.
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = Connection::open_with_flags(&path, flags)
        .with_context(|| format!("{} cannot be opened", path.display()))?;
    connection.busy_timeout(BUSY)?;
    let version = schema::version(&connection)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    anyhow::ensure!(
        version == schema::VERSION && schema::application(&connection)? == schema::APPLICATION,
        "{} is of version {version}, and this program reads version {}: start the daemon of this program once, \
         which brings older ones up to date",
        path.display(),
        schema::VERSION
    );
    connection.pragma_update(None, "query_only", "ON")?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    Ok(connection)
}

/// Writes a copy of the database into a new file, while the daemon goes on.
///
/// # Errors
/// The file is there already, or one of the two cannot be used.
pub fn back_up(directory: &Path, to: &Path) -> anyhow::Result<()> {
    anyhow::ensure!(
        !to.exists(),
        "{} is there already: name a new file, because a backup overwrites nothing",
        to.display()
    );
    let connection = open_to_read(directory)?;
    // SQLite counts a copy as a write.
    connection.pragma_update(None, "query_only", "OFF")?;
    let name = to.to_str().context("the file's name is not UTF-8")?;
    // Made here, for its owner alone.
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(to)
        .with_context(|| format!("{} cannot be made", to.display()))?;
    connection
        .execute("VACUUM INTO ?1", [name])
        .with_context(|| format!("{} cannot be written", to.display()))?;
    fs::File::open(to)?.sync_all()?;
    Ok(())
}

/// Puts a backup in the place of the database. No daemon may run.
///
/// # Errors
/// The backup is none, or the database cannot be replaced; it is as before then.
pub fn restore(directory: &Path, from: &Path) -> anyhow::Result<()> {
    let connection = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .with_context(|| format!("{} cannot be opened", from.display()))?;
    check(&connection, directory).map_err(|problem| {
        anyhow::anyhow!(
            "{} is no backup of a history: {}",
            from.display(),
            problem.what
        )
    })?;
    let version = schema::version(&connection)?;
    anyhow::ensure!(version > 0, "{} is empty", from.display());
    drop(connection);
    let path = directory.join(FILE);
    let new = beside(&path, ".new");
    fs::create_dir_all(directory)?;
    // Its log goes before it does: without one, the old file is whole at every moment. Where it cannot be opened,
    // there is nothing to keep whole.
    if path.exists()
        && let Ok(opened) = open_at(directory, &path)
    {
        upkeep::checkpoint(&opened.connection)?;
    }
    let copied = fs::copy(from, &new)
        .and_then(|_| fs::File::open(&new)?.sync_all())
        .and_then(|()| {
            // The old log would be read into the new file.
            for end in ["-wal", "-shm"] {
                match fs::remove_file(beside(&path, end)) {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
                    _ => {}
                }
            }
            fs::rename(&new, &path)?;
            fs::File::open(directory)?.sync_all()
        });
    copied.with_context(|| format!("{} cannot be replaced", path.display()))
}

/// Deletes everything of a device, or of all, where no daemon runs; gives whether there was anything.
///
/// # Errors
/// The database cannot be written.
pub fn forget(directory: &Path, device: Option<&str>) -> anyhow::Result<bool> {
    if !directory.join(FILE).exists() {
        return Ok(false);
    }
    let (mut opened, _) = open(directory)?;
    let forgotten = upkeep::forget(&mut opened.connection, device)?;
    upkeep::checkpoint(&opened.connection)?;
    Ok(forgotten)
}
