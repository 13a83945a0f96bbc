//! Questions to a daemon, and clients that do not behave. The daemon is the real listener; what it
//! would say is given here.

use std::{
    io::{Read as _, Write as _},
    os::{
        linux::net::SocketAddrExt as _,
        unix::net::{SocketAddr, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use sensor::{
    asked::{self, Question},
    cli::Output,
};
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};

type Asked = (Question, oneshot::Sender<String>);

/// A listener of its own, and what it hands on.
fn listen(name: &str) -> Result<(Runtime, mpsc::Receiver<Asked>, PathBuf)> {
    let path = PathBuf::from(format!("/test/{}/{name}", std::process::id()));
    let runtime = Runtime::new()?;
    let (commands, inbox) = mpsc::channel(8);
    let listener = runtime.block_on(async { asked::bind(&path) })?;
    runtime.spawn(asked::answer(listener, commands, |question, tell| {
        (question, tell)
    }));
    Ok((runtime, inbox, path))
}

fn status() -> Question {
    Question::Status(Output { json: false })
}

fn connect(path: &Path) -> Result<UnixStream> {
    let name = [b"gateway-sensor:", path.as_os_str().as_encoded_bytes()].concat();
    Ok(UnixStream::connect_addr(&SocketAddr::from_abstract_name(
        name,
    )?)?)
}

/// Answers so many questions with this text.
fn tell(
    runtime: &Runtime,
    mut inbox: mpsc::Receiver<Asked>,
    times: usize,
    text: String,
) -> tokio::task::JoinHandle<()> {
    runtime.spawn(async move {
        for _ in 0..times {
            if let Some((_, answer)) = inbox.recv().await {
                let _ = answer.send(text.clone());
            }
        }
    })
}

#[test]
fn one_that_never_ends_its_question_holds_up_nobody() -> Result<()> {
    let (runtime, inbox, path) = listen("endless")?;
    let mut endless = connect(&path)?;
    endless.write_all(b"{")?;
    let _told = tell(&runtime, inbox, 1, "fine".into());
    assert_eq!(asked::ask(&path, &status())?.as_deref(), Some("fine"));
    let began = Instant::now();
    let mut nothing = Vec::new();
    endless.set_read_timeout(Some(Duration::from_secs(20)))?;
    endless.read_to_end(&mut nothing)?;
    assert!(nothing.is_empty() && began.elapsed() < Duration::from_secs(15));
    Ok(())
}

#[test]
fn many_at_once_and_answers_of_many_megabytes() -> Result<()> {
    let (runtime, inbox, path) = listen("large")?;
    let text = "flow ".repeat(8 << 20);
    let _told = tell(&runtime, inbox, 4, text.clone());
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let path = path.clone();
            thread::spawn(move || asked::ask(&path, &status()))
        })
        .collect();
    for client in clients {
        let answer = client.join().expect("it does not panic")?;
        assert!(answer == Some(text.clone()), "the whole answer");
    }
    Ok(())
}

#[test]
fn a_daemon_that_stops_in_between_is_said_not_to_answer() -> Result<()> {
    let (runtime, mut inbox, path) = listen("stops")?;
    runtime.spawn(async move {
        let asked = inbox.recv().await;
        drop((asked, inbox));
    });
    match asked::ask(&path, &status()) {
        // Who is not root takes it for one that does not trust it.
        Ok(answer) => assert_eq!((answer, rustix::process::geteuid().is_root()), (None, false)),
        Err(error) => assert!(error.to_string().contains("does not answer"), "{error:#}"),
    }
    Ok(())
}

#[test]
fn questions_that_are_none_or_too_long_are_hung_up_on() -> Result<()> {
    let (_runtime, _inbox, path) = listen("garbage")?;
    for question in [&b"{}"[..], b"", &[b' '; 5000]] {
        let mut client = connect(&path)?;
        // It may hang up before all is written.
        let _ = client.write_all(question);
        let _ = client.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // What it did not read is a reset.
        let _ = client.read_to_end(&mut answer);
        assert!(answer.is_empty());
    }
    Ok(())
}

#[test]
fn one_path_has_one_listener_and_no_more_than_its_octets() -> Result<()> {
    let (runtime, _inbox, path) = listen("twice")?;
    let _guard = runtime.enter();
    let refused = asked::bind(&path).err().context("it is taken")?;
    assert!(refused.to_string().contains("another process"), "{refused}");
    let long = PathBuf::from(format!("/{}", "p".repeat(200)));
    let refused = asked::bind(&long).err().context("it is too long")?;
    assert!(refused.to_string().contains("octets"), "{refused}");
    assert!(asked::ask(&long, &status())?.is_none());
    assert!(asked::ask(Path::new("/test/nobody"), &status())?.is_none());
    Ok(())
}

/// Whoever makes the daemon use up its descriptors does not end it. In a process of its own, whose
/// other threads need none.
#[test]
fn without_a_descriptor_it_waits_for_one() -> Result<()> {
    const ALONE: &str = "SENSOR_TEST_WITHOUT_DESCRIPTORS";
    if std::env::var_os(ALONE).is_none() {
        let itself = std::process::Command::new(std::env::current_exe()?)
            .args(["--exact", "without_a_descriptor_it_waits_for_one"])
            .env(ALONE, "1")
            .output()?;
        let said = String::from_utf8_lossy(&itself.stdout).into_owned();
        assert!(itself.status.success(), "{said}");
        return Ok(());
    }
    let (runtime, inbox, path) = listen("descriptors")?;
    let _told = tell(&runtime, inbox, 1, "fine".into());
    let mut client = connect(&path)?;
    let limit = getrlimit(Resource::Nofile);
    let used = std::fs::read_dir("/proc/self/fd")?.count() as u64;
    let _ = client.set_nonblocking(false);
    setrlimit(
        Resource::Nofile,
        Rlimit {
            current: Some(used.saturating_sub(2)),
            ..limit.clone()
        },
    )?;
    // A second one, made before, is not needed: the next accept has no number left.
    thread::sleep(Duration::from_millis(300));
    setrlimit(Resource::Nofile, limit)?;
    client.write_all(&serde_json::to_vec(&status())?)?;
    client.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    assert_eq!(answer, "fine");
    Ok(())
}
