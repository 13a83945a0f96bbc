//! The history: a SQLite database of who sent how much with whom, by the hour.
//!
//! One thread writes. Batches come by a bounded queue; one for which there is no room is dropped and counted,
//! because nobody waits for a disk. `schema` has the tables and views, `commit` turns a batch into rows,
//! `upkeep` deletes the rows that are too old or too many, `file` opens the database, and `read` answers
//! questions.

mod commit;
mod file;
pub mod of_device;
pub mod read;
pub mod schema;
mod upkeep;

use std::{
    collections::VecDeque,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, SyncSender, sync_channel},
    },
    thread,
    time::Duration,
};

use rusqlite::Connection;

use self::file::{Opened, Problem};
pub use self::{
    commit::{MOST_NEW_DEVICES, MOST_PARTIES, MOST_SEEN},
    file::{FILE, back_up, forget, restore},
};
use crate::model::history::{Batch, Hour, StoreState};

/// Batches and requests that wait for the thread.
const QUEUE: usize = 8;

/// Rows of batches that wait for a disk that takes nothing. The parties of older ones are lost, and their bytes
/// become unattributed.
const MOST_WAITING_ROWS: usize = 16_384;

/// The settings of a store.
#[derive(Clone)]
pub struct Settings {
    /// The directory of the database.
    pub directory: PathBuf,
    /// The size in bytes at which the oldest rows are deleted.
    pub most_bytes: u64,
    /// How long the rows by device, party and hour are kept.
    pub party_hours: Duration,
    /// How long the rows by device and hour are kept.
    pub device_hours: Duration,
    /// How long the rows by device and day are kept.
    pub device_days: Duration,
    /// The local hour of a time in seconds since the Unix epoch.
    pub calendar: Arc<dyn Fn(f64) -> Option<Hour> + Send + Sync>,
}

/// Work for the thread.
enum Message {
    Batch(Box<Batch>),
    Do(Box<dyn FnOnce(&mut Writer) + Send>),
}

/// The store, as the daemon has it.
pub struct Store {
    queue: Option<SyncSender<Message>>,
    thread: Option<thread::JoinHandle<()>>,
    state: Arc<Mutex<StoreState>>,
}

impl Store {
    /// Starts the thread, which opens the database and goes on trying where it cannot.
    ///
    /// # Errors
    /// There can be no further thread.
    pub fn start(settings: Settings) -> std::io::Result<Self> {
        let (queue, messages) = sync_channel(QUEUE);
        let state = Arc::new(Mutex::new(StoreState {
            file: settings.directory.join(FILE).display().to_string(),
            most_bytes: settings.most_bytes,
            ..StoreState::default()
        }));
        let mut writer = Writer {
            settings,
            opened: None,
            waiting: VecDeque::new(),
            until: 0.0,
            state: Arc::clone(&state),
        };
        let thread = thread::Builder::new()
            .name("history".to_owned())
            .stack_size(512 << 10)
            .spawn(move || writer.run(&messages))?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
            state,
        })
    }

    /// Hands over a batch; it is dropped, and counted, where the thread is behind.
    pub fn send(&self, batch: Batch) {
        let queue = self.queue.as_ref();
        let sent = queue.map(|queue| queue.try_send(Message::Batch(Box::new(batch))));
        if !matches!(sent, Some(Ok(()))) {
            lock(&self.state).batches_lost += 1;
        }
    }

    /// Has `then` called with the outcome, once all that was handed over before is on disk or cannot be.
    pub fn flush(&self, then: impl FnOnce(Result<(), String>) + Send + 'static) {
        self.ask(move |writer| then(writer.outcome()));
    }

    /// Deletes everything of a device, or of all, and calls `then` with whether there was anything.
    pub fn forget(
        &self,
        device: Option<String>,
        then: impl FnOnce(Result<bool, String>) + Send + 'static,
    ) {
        self.ask(move |writer| then(writer.forget(device.as_deref())));
    }

    /// Takes other settings; those about the file's place hold from the next start on.
    pub fn change(&self, settings: Settings) {
        self.ask(move |writer| {
            let directory = std::mem::take(&mut writer.settings.directory);
            lock(&writer.state).most_bytes = settings.most_bytes;
            writer.settings = Settings {
                directory,
                ..settings
            };
        });
    }

    /// The state.
    pub fn state(&self) -> StoreState {
        lock(&self.state).clone()
    }

    /// Has the thread do something. Where its queue is full, the request is dropped, and with it what it would
    /// have called.
    fn ask(&self, work: impl FnOnce(&mut Writer) + Send + 'static) {
        if let Some(queue) = &self.queue {
            let _ = queue.try_send(Message::Do(Box::new(work)));
        }
    }
}

impl Drop for Store {
    /// Waits until everything that was handed over is written.
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn lock(state: &Mutex<StoreState>) -> std::sync::MutexGuard<'_, StoreState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The thread.
struct Writer {
    settings: Settings,
    opened: Option<Opened>,
    /// Batches that are not on disk, the oldest first.
    waiting: VecDeque<Batch>,
    /// Seconds since the Unix epoch up to which everything is on disk.
    until: f64,
    state: Arc<Mutex<StoreState>>,
}

impl Writer {
    fn run(&mut self, messages: &Receiver<Message>) {
        let opened = self.open().map(drop);
        self.tell(opened);
        while let Ok(message) = messages.recv() {
            match message {
                Message::Batch(batch) => {
                    self.keep(*batch);
                    let written = self.write();
                    self.tell(written);
                }
                Message::Do(work) => work(self),
            }
        }
        if let Some(opened) = self.opened.take() {
            // A reader may be at it: the next start does it.
            let _ = upkeep::checkpoint(&opened.connection);
        }
    }

    /// Keeps a batch until it is on disk. Of too many the oldest is lost.
    fn keep(&mut self, batch: Batch) {
        self.waiting.push_back(batch);
        while self.waiting.len() > 1
            && self.waiting.iter().map(Batch::rows).sum::<usize>() > MOST_WAITING_ROWS
        {
            self.waiting.pop_front();
            lock(&self.state).batches_lost += 1;
        }
    }

    fn open(&mut self) -> Result<&mut Connection, Problem> {
        let is_there = self.opened.as_ref().is_some_and(Opened::is_there);
        if !is_there {
            self.opened = None;
            let (opened, set_aside) = file::open(&self.settings.directory)?;
            if let Some(aside) = set_aside {
                tracing::error!(
                    "the history was damaged ({}) and is now {}; a new one begins, and `sensor history restore` \
                     takes a backup",
                    aside.why,
                    aside.to.display()
                );
                lock(&self.state).set_aside = Some(aside.to.display().to_string());
            }
            let end = "SELECT coalesce(max(end), 0.0) FROM state";
            let end = opened.connection.query_row(end, [], |row| row.get(0));
            self.until = end.map_err(|error| Problem::of(&self.settings.directory, error))?;
            self.opened = Some(opened);
        }
        match &mut self.opened {
            Some(opened) => Ok(&mut opened.connection),
            None => unreachable!("it was opened just now"),
        }
    }

    /// Writes all batches that wait.
    fn write(&mut self) -> Result<(), Problem> {
        let outcome = self.try_write();
        if let Err(problem) = &outcome {
            lock(&self.state).failures += 1;
            // A damaged file is found so at the next opening, and a disk may be back with another file.
            if !problem.is_lack_of_space() {
                self.opened = None;
            }
        }
        outcome
    }

    fn try_write(&mut self) -> Result<(), Problem> {
        let settings = self.settings.clone();
        let problem = |error| Problem::of(&settings.directory, error);
        while let Some(batch) = self.waiting.pop_front() {
            let (end, is_last, until) = (batch.end, batch.is_last, self.until);
            let committed = self.open().and_then(|connection| {
                // The file may be another one than before.
                commit::commit(connection, &settings, &batch, until.min(batch.start))
                    .map_err(problem)
            });
            let committed = match committed {
                Ok(committed) => committed,
                Err(problem) => {
                    self.waiting.push_front(batch);
                    return Err(problem);
                }
            };
            drop(batch);
            self.until = end;
            if !committed.is_written {
                lock(&self.state).until = end;
                continue;
            }
            let connection = self.open()?;
            if committed.hour_is_over {
                upkeep::expire(connection, &settings, end as i64).map_err(problem)?;
            }
            if committed.day_is_over {
                upkeep::tidy(connection).map_err(problem)?;
            }
            let evicted = upkeep::shrink(connection, settings.most_bytes).map_err(problem)?;
            if committed.hour_is_over || is_last {
                // Most of the free pages are written again soon.
                let free: i64 = connection
                    .pragma_query_value(None, "freelist_count", |row| row.get(0))
                    .map_err(problem)?;
                let pages: i64 = connection
                    .pragma_query_value(None, "page_count", |row| row.get(0))
                    .map_err(problem)?;
                if free > pages / 8 {
                    upkeep::give_back(connection).map_err(problem)?;
                }
            }
            let used = upkeep::used(connection).map_err(problem)?;
            let mut state = lock(&self.state);
            state.commits += 1;
            state.until = end;
            state.bytes = used;
            state.rows_evicted += evicted;
        }
        Ok(())
    }

    /// Whether everything that was handed over is on disk, and otherwise why not.
    fn outcome(&mut self) -> Result<(), String> {
        let written = self.write();
        let outcome = written.as_ref().copied().map_err(ToString::to_string);
        self.tell(written);
        outcome
    }

    fn forget(&mut self, device: Option<&str>) -> Result<bool, String> {
        self.outcome()?;
        let directory = self.settings.directory.clone();
        let connection = self.open().map_err(|problem| problem.to_string())?;
        let forgotten = upkeep::forget(connection, device)
            .and_then(|forgotten| upkeep::checkpoint(connection).map(|()| forgotten));
        forgotten.map_err(|error| Problem::of(&directory, error).to_string())
    }

    /// Says in the log when writing fails, for another reason than before, and when it works again.
    fn tell<T>(&self, outcome: Result<T, Problem>) {
        let problem = outcome.err().map(|problem| problem.to_string());
        let mut state = lock(&self.state);
        match (&state.problem, &problem) {
            (before, Some(problem)) if before.as_ref() != Some(problem) => {
                tracing::warn!(
                    "{problem}; accounting goes on, and the history is written when it can be"
                );
            }
            (Some(_), None) => tracing::info!("the history is written again"),
            _ => {}
        }
        state.problem = problem;
    }
}
