//! Questions to a daemon, and clients that do not behave. The daemon is the real listener; what it
//! would say is given here.

use std::{
    io::{Read as _, Write as _},
    os::{fd::OwnedFd, unix::net::UnixStream},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use rustix::{
    net::{AddressFamily, SocketAddrUnix, SocketType},
    process::{Resource, Rlimit, getrlimit, setrlimit},
};
use sensor::{
    cli::args::Output,
    control::{self, Request, Said, Told},
    policy::DeviceSelector,
};
use tokio::{
    runtime::Builder,
    sync::{mpsc, oneshot},
};

/// A daemon that says this to whoever asks, or stops at the first question.
fn daemon(name: &str, answer: Option<String>) -> Result<PathBuf> {
    let path = PathBuf::from(format!("/test/{}/{name}", std::process::id()));
    let (bound, is_bound) = std::sync::mpsc::channel();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    thread::spawn({
        let path = path.clone();
        move || runtime.block_on(serve(&path, answer, bound))
    });
    is_bound.recv()??;
    Ok(path)
}

async fn serve(path: &Path, answer: Option<String>, bound: std::sync::mpsc::Sender<Result<()>>) {
    let listener = match control::bind(path) {
        Ok(listener) => listener,
        Err(error) => return drop(bound.send(Err(error))),
    };
    let _ = bound.send(Ok(()));
    let (commands, mut inbox) = mpsc::channel::<(Request, oneshot::Sender<String>)>(8);
    let answers = control::answer(listener, commands, |question, tell| (question, tell));
    let owner = async {
        while let Some((_, tell)) = inbox.recv().await {
            let Some(answer) = &answer else { return };
            let _ = tell.send(answer.clone());
        }
    };
    tokio::select! {
        () = answers => {}
        () = owner => {}
    }
}

fn status() -> Request {
    Request::Status(Output { json: false })
}

/// A client's socket, to be connected.
fn socket() -> Result<OwnedFd> {
    Ok(rustix::net::socket(
        AddressFamily::UNIX,
        SocketType::STREAM,
        None,
    )?)
}

fn connect(socket: OwnedFd, path: &Path) -> Result<UnixStream> {
    let name = [b"gateway-sensor:", path.as_os_str().as_encoded_bytes()].concat();
    let address = SocketAddrUnix::new_abstract_name(&name)?;
    rustix::net::connect(&socket, &address)?;
    Ok(socket.into())
}

#[test]
fn one_that_never_ends_its_question_holds_up_nobody() -> Result<()> {
    let path = daemon("endless", Some("fine".into()))?;
    let mut endless = connect(socket()?, &path)?;
    endless.write_all(b"{")?;
    assert_eq!(control::ask(&path, &status())?.as_deref(), Some("fine"));
    let began = Instant::now();
    let mut nothing = Vec::new();
    endless.set_read_timeout(Some(Duration::from_secs(20)))?;
    endless.read_to_end(&mut nothing)?;
    assert!(nothing.is_empty() && began.elapsed() < Duration::from_secs(15));
    Ok(())
}

#[test]
fn a_command_arrives_as_it_was_said_and_its_refusal_too() -> Result<()> {
    let said = Said {
        domain: "ads.example".to_owned(),
        device: Some(DeviceSelector::Group("kids".to_owned())),
    };
    let question = Request::Say {
        said: said.clone(),
        holds_for: Some(7_200),
        blocks: true,
    };
    let told: Told = Err("there is no room".to_owned());
    let path = daemon("command", Some(serde_json::to_string(&told)?))?;
    let answer = control::ask(&path, &question)?.context("a daemon runs")?;
    assert_eq!(serde_json::from_str::<Told>(&answer)?, told);
    let sent = serde_json::from_slice(&serde_json::to_vec(&question)?)?;
    let Request::Say {
        said: arrived,
        holds_for: Some(7_200),
        blocks: true,
    } = sent
    else {
        panic!("{sent:?}");
    };
    assert_eq!(arrived, said);
    Ok(())
}

/// A daemon that takes its time, and what it was asked.
fn slow_daemon(name: &str, takes: Duration) -> Result<(PathBuf, std::sync::mpsc::Receiver<()>)> {
    let path = PathBuf::from(format!("/test/{}/{name}", std::process::id()));
    let (bound, is_bound) = std::sync::mpsc::channel();
    let (done, is_done) = std::sync::mpsc::channel();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let listens = path.clone();
    thread::spawn(move || {
        runtime.block_on(async {
            let listener = control::bind(&listens);
            let _ = bound.send(
                listener
                    .as_ref()
                    .map(drop)
                    .map_err(|error| format!("{error:#}")),
            );
            let (commands, mut inbox) = mpsc::channel::<(Request, oneshot::Sender<String>)>(8);
            let answers = control::answer(listener?, commands, |question, tell| (question, tell));
            let owner = async {
                while let Some((_, tell)) = inbox.recv().await {
                    tokio::time::sleep(takes).await;
                    // Whether anybody hears it or not.
                    let _ = tell.send("done".to_owned());
                    let _ = done.send(());
                }
            };
            tokio::select! {
                () = answers => {}
                () = owner => {}
            }
            Ok::<_, anyhow::Error>(())
        })
    });
    is_bound.recv()?.map_err(anyhow::Error::msg)?;
    Ok((path, is_done))
}

/// Longer than either side waits for what is at hand.
const LONG: Duration = Duration::from_secs(12);

#[test]
fn what_takes_long_is_answered() -> Result<()> {
    let (path, _is_done) = slow_daemon("slow", LONG)?;
    assert_eq!(control::ask(&path, &status())?.as_deref(), Some("done"));
    Ok(())
}

#[test]
fn what_was_asked_is_done_though_its_client_has_gone() -> Result<()> {
    let (path, is_done) = slow_daemon("left", Duration::from_millis(200))?;
    let mut client = connect(socket()?, &path)?;
    client.write_all(&serde_json::to_vec(&status())?)?;
    client.shutdown(std::net::Shutdown::Both)?;
    drop(client);
    is_done.recv_timeout(Duration::from_secs(10))?;
    // And the next one is answered.
    assert_eq!(control::ask(&path, &status())?.as_deref(), Some("done"));
    Ok(())
}

#[test]
fn many_at_once_and_answers_of_many_megabytes() -> Result<()> {
    let text = "flow ".repeat(8 << 20);
    let path = daemon("large", Some(text.clone()))?;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let path = path.clone();
            thread::spawn(move || control::ask(&path, &status()))
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
    let path = daemon("stops", None)?;
    match control::ask(&path, &status()) {
        // A client that is not root takes the daemon for one that does not trust it.
        Ok(answer) => assert_eq!(
            (answer, rustix::process::geteuid().is_root()),
            (None, false)
        ),
        Err(error) => assert!(error.to_string().contains("does not answer"), "{error:#}"),
    }
    Ok(())
}

#[test]
fn questions_that_are_none_or_too_long_are_hung_up_on() -> Result<()> {
    let path = daemon("garbage", Some("nothing".into()))?;
    for question in [&b"{}"[..], b"", &[b' '; 5000]] {
        let mut client = connect(socket()?, &path)?;
        // The daemon may hang up before all is written.
        let _ = client.write_all(question);
        let _ = client.shutdown(std::net::Shutdown::Write);
        let mut answer = Vec::new();
        // Data that the daemon did not read makes a reset.
        let _ = client.read_to_end(&mut answer);
        assert!(answer.is_empty());
    }
    Ok(())
}

#[test]
fn one_path_has_one_listener_however_long_it_is() -> Result<()> {
    let _path = daemon("twice", Some(String::new()))?;
    let refused = daemon("twice", None).err().context("it is taken")?;
    assert!(refused.to_string().contains("another process"), "{refused}");
    // A name of a socket has 107 octets.
    let long = "p".repeat(200);
    let path = daemon(&long, Some("answered".to_owned()))?;
    assert_eq!(control::ask(&path, &status())?.as_deref(), Some("answered"));
    assert!(daemon(&long, None).is_err());
    let other = PathBuf::from(format!("{}q", path.display()));
    assert!(control::ask(&other, &status())?.is_none());
    assert!(control::ask(Path::new("/test/nobody"), &status())?.is_none());
    Ok(())
}

/// A client that makes the daemon use up its descriptors does not end it. The test has a process of
/// its own, whose other threads need none.
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
    let path = daemon("descriptors", Some("fine".into()))?;
    let socket = socket()?;
    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    setrlimit(Resource::Nofile, none)?;
    let mut client = connect(socket, &path)?;
    // Until it has tried to accept.
    thread::sleep(Duration::from_millis(300));
    setrlimit(Resource::Nofile, limit)?;
    client.write_all(&serde_json::to_vec(&status())?)?;
    client.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    assert_eq!(answer, "fine");
    Ok(())
}
