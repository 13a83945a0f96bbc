//! Requests to a daemon, and clients that do not behave. The daemon is the real server; a handler of the test
//! carries the requests out.

use std::{
    env, fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::Shutdown,
    os::unix::{
        fs::{MetadataExt as _, symlink},
        net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    process,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    fd::OwnedFd,
    net::{AddressFamily, SocketAddrUnix, SocketType},
    process::{Resource, Rlimit, geteuid, getrlimit, setrlimit},
};
use sensor::{
    control::{
        client,
        protocol::{About, Hello, Order, PROTOCOL, Request, Response},
        server::{Handler, MOST_CLIENTS, Responses, serve},
        socket::{self, Place},
    },
    model::{Flow, OverrideState},
};
use tokio::{runtime::Builder, time::sleep};

/// The place of a daemon in a folder of the test's own.
fn place(name: &str) -> Result<Place> {
    let folder = env::temp_dir().join(format!("sensor-control-{}", process::id()));
    fs::create_dir_all(&folder)?;
    Ok(Place::new(&folder, &PathBuf::from("/test").join(name)))
}

/// The answer of a handler to a request.
#[derive(Clone, Copy)]
enum Does {
    /// Sends a response that names the request.
    Names,
    /// Fails.
    Fails,
    /// Sends so many flows.
    Flows(u64),
    /// Takes its time.
    TakesTime(Duration),
    /// Ends the daemon.
    Stops,
}

#[derive(Clone)]
struct Test {
    does: Does,
    done: mpsc::Sender<()>,
    sent: Arc<AtomicUsize>,
    stop: tokio::sync::mpsc::Sender<()>,
}

/// The one response that has any text.
fn named(text: &str) -> Response {
    let name = text.to_owned();
    Response::Forgotten {
        about: About {
            name: name.clone(),
            devices: None,
        },
        forgotten: Some(OverrideState {
            name,
            is: "blocked",
            devices: None,
            since: 1_795_000_000.123_456_7,
            until: None,
            rest: None,
        }),
        others: Vec::new(),
        time_zone: None,
    }
}

fn flow(number: u64) -> Flow {
    Flow {
        device: "02:00:00:00:00:01".to_owned(),
        device_name: Some("Anna's phone".to_owned()),
        interface: "lan0".to_owned(),
        protocol: "tcp".to_owned(),
        local: format!("192.168.1.20:{number}"),
        remote: "203.0.113.5:443".to_owned(),
        traffic: Default::default(),
        opened_by: "upload",
        tcp_flags: Default::default(),
        facts: Default::default(),
        verdict: "pass",
        policy: None,
        first_seen: 0.1 + 0.2,
        last_seen: 1_795_000_000.3,
    }
}

impl Handler for Test {
    async fn handle(&self, request: Request, responses: &mut Responses) -> Result<u64> {
        match self.does {
            Does::Names => responses.send(&named(&format!("{request:?}"))).await?,
            Does::Fails => bail!("there is no room"),
            Does::Flows(count) => {
                for number in 0..count {
                    let flow = Response::Flow(Box::new(flow(number)));
                    responses.send(&flow).await?;
                    self.sent.fetch_add(1, Ordering::Relaxed);
                }
                return Ok(7);
            }
            Does::TakesTime(time) => {
                sleep(time).await;
                let _ = self.done.send(());
                responses.send(&named("done")).await?;
            }
            Does::Stops => {
                let _ = self.stop.send(()).await;
                sleep(Duration::from_secs(60)).await;
            }
        }
        Ok(0)
    }
}

/// A daemon of the test.
struct Daemon {
    place: Place,
    is_done: mpsc::Receiver<()>,
    sent: Arc<AtomicUsize>,
}

fn daemon(name: &str, does: Does) -> Result<Daemon> {
    let place = place(name)?;
    let (bound, is_bound) = mpsc::channel();
    let (done, is_done) = mpsc::channel();
    let sent = Arc::<AtomicUsize>::default();
    let (at, counter) = (place.clone(), Arc::clone(&sent));
    thread::spawn(move || {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        runtime.block_on(async move {
            let listener = match socket::bind(&at) {
                Ok(listener) => listener,
                Err(error) => return Ok(bound.send(Err(error))?),
            };
            bound.send(Ok(()))?;
            let (stop, mut stopped) = tokio::sync::mpsc::channel(1);
            let test = Test {
                does,
                done,
                sent: counter,
                stop,
            };
            tokio::select! {
                () = serve(listener, test) => {}
                _ = stopped.recv() => {}
            }
            Ok::<_, anyhow::Error>(())
        })
    });
    is_bound.recv()??;
    Ok(Daemon {
        place,
        is_done,
        sent,
    })
}

/// The text of the only response.
fn asked(place: &Place, request: &Request) -> Result<Option<String>> {
    let Some(answer) = client::ask(place, request)? else {
        return Ok(None);
    };
    match answer.only()? {
        Response::Forgotten { about, .. } => Ok(Some(about.name)),
        response => bail!("{response:?}"),
    }
}

fn status_is(place: &Place, text: &str) -> Result<()> {
    assert_eq!(asked(place, &Request::Status)?.as_deref(), Some(text));
    Ok(())
}

/// The lines of a client that behaves.
fn lines(protocol: u32, request: &str) -> Result<String> {
    let hello = Hello {
        protocol,
        ..Hello::ours()
    };
    Ok(format!("{}\n{request}\n", serde_json::to_string(&hello)?))
}

fn status() -> Result<String> {
    lines(PROTOCOL, &serde_json::to_string(&Request::Status)?)
}

#[test]
fn one_that_never_ends_its_request_holds_up_nobody() -> Result<()> {
    let daemon = daemon("endless", Does::Names)?;
    let mut endless = UnixStream::connect(daemon.place.file())?;
    endless.write_all(b"{")?;
    status_is(&daemon.place, "Status")?;
    let began = Instant::now();
    let mut text = String::new();
    endless.set_read_timeout(Some(Duration::from_secs(20)))?;
    endless.read_to_string(&mut text)?;
    assert_eq!(text.lines().count(), 1, "the daemon's hello: {text}");
    assert!(began.elapsed() < Duration::from_secs(15));
    Ok(())
}

#[test]
fn a_request_arrives_as_it_was_made_and_its_failure_too() -> Result<()> {
    let about = || About {
        name: "ads.example".to_owned(),
        devices: Some("group:kids".to_owned()),
    };
    let requests = [
        Request::Override {
            about: about(),
            holds_for: Some(7_200),
            blocks: true,
        },
        Request::Forget(about()),
        Request::Flows {
            device: Some("Anna's \"phone\"\n".to_owned()),
            order: Order::Largest(40),
        },
        Request::Explain {
            device: "anna".to_owned(),
            subject: "a.example:443".to_owned(),
        },
        Request::Devices { device: None },
        Request::Refused { device: None },
    ];
    let does = daemon("command", Does::Names)?;
    let fails = daemon("failure", Does::Fails)?;
    for request in requests {
        let arrived = asked(&does.place, &request)?.context("a daemon runs")?;
        assert_eq!(arrived, format!("{request:?}"));
        let failed = asked(&fails.place, &request).err().context("it fails")?;
        assert_eq!(failed.to_string(), "there is no room");
    }
    // A number arrives with every bit.
    let answer = client::ask(&does.place, &Request::Status)?.context("a daemon runs")?;
    let Response::Forgotten {
        forgotten: Some(said),
        ..
    } = answer.only()?
    else {
        panic!("another response");
    };
    assert_eq!((said.is, said.since), ("blocked", 1_795_000_000.123_456_7));
    Ok(())
}

/// Longer than either side waits for what is at hand.
const LONG: Duration = Duration::from_secs(12);

#[test]
fn a_request_that_takes_long_is_answered() -> Result<()> {
    let daemon = daemon("slow", Does::TakesTime(LONG))?;
    status_is(&daemon.place, "done")
}

#[test]
fn a_request_is_carried_out_though_its_client_has_gone() -> Result<()> {
    let daemon = daemon("left", Does::TakesTime(Duration::from_millis(200)))?;
    let mut client = UnixStream::connect(daemon.place.file())?;
    client.write_all(status()?.as_bytes())?;
    client.shutdown(Shutdown::Both)?;
    drop(client);
    daemon.is_done.recv_timeout(Duration::from_secs(10))?;
    // And the next one is answered.
    status_is(&daemon.place, "done")
}

#[test]
fn long_lists_of_several_clients_arrive_whole() -> Result<()> {
    const FLOWS: u64 = 20_000;
    let daemon = daemon("large", Does::Flows(FLOWS))?;
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let place = daemon.place.clone();
            thread::spawn(move || -> Result<_> {
                let answer = client::ask(&place, &Request::Status)?;
                let mut answer = answer.context("a daemon runs")?;
                for number in 0..FLOWS {
                    let response = answer.next().context("one more")??;
                    let Response::Flow(arrived) = response else {
                        bail!("{response:?}");
                    };
                    let sent = serde_json::to_string(&flow(number))?;
                    assert_eq!(serde_json::to_string(&arrived)?, sent);
                }
                assert!(answer.next().is_none());
                Ok(answer.left_out())
            })
        })
        .collect();
    for client in clients {
        assert_eq!(client.join().expect("it does not panic")?, 7);
    }
    Ok(())
}

#[test]
fn one_that_reads_nothing_holds_up_nobody_and_fills_no_memory() -> Result<()> {
    let daemon = daemon("unread", Does::Flows(u64::MAX))?;
    let mut idle = UnixStream::connect(daemon.place.file())?;
    idle.write_all(status()?.as_bytes())?;
    let mut before = usize::MAX;
    // Until the socket is full.
    while daemon.sent.load(Ordering::Relaxed) != before {
        before = daemon.sent.load(Ordering::Relaxed);
        thread::sleep(Duration::from_millis(300));
    }
    // The buffers of a socket hold some hundred KiB, and a flow has some hundred bytes.
    assert!((1..20_000).contains(&before), "{before} flows");
    let mut other = client::ask(&daemon.place, &Request::Status)?.context("a daemon runs")?;
    assert!(matches!(other.next(), Some(Ok(Response::Flow(_)))));
    drop(other);
    // The daemon does not wait for ever: the idle client finds the end of the connection.
    thread::sleep(LONG);
    let mut rest = Vec::new();
    idle.read_to_end(&mut rest)?;
    assert!(!rest.is_empty());
    Ok(())
}

#[test]
fn a_user_has_a_limited_number_of_clients() -> Result<()> {
    let daemon = daemon("many", Does::Names)?;
    let connect = || -> Result<_> {
        let client = UnixStream::connect(daemon.place.file())?;
        let mut reader = BufReader::new(client.try_clone()?);
        let mut hello = String::new();
        reader.read_line(&mut hello)?;
        let hello: Hello = serde_json::from_str(&hello)?;
        assert_eq!(hello, Hello::ours());
        Ok(client)
    };
    let mut clients: Vec<_> = (0..MOST_CLIENTS)
        .map(|_| connect())
        .collect::<Result<_>>()?;
    let refused = asked(&daemon.place, &Request::Status).err();
    let refused = refused.context("it is one too many")?.to_string();
    assert!(
        refused.contains("takes no more until one is over"),
        "{refused}"
    );
    clients.pop();
    let began = Instant::now();
    while asked(&daemon.place, &Request::Status).is_err() {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "there is room again"
        );
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

#[test]
fn a_daemon_that_stops_in_between_is_said_not_to_answer() -> Result<()> {
    let daemon = daemon("stops", Does::Stops)?;
    let error = asked(&daemon.place, &Request::Status).err();
    let error = error.context("it does not answer")?;
    assert!(error.to_string().contains("does not answer"), "{error:#}");
    // A list that ends too early is an error too, and not a short list.
    let place = place("cut")?;
    let listener = UnixListener::bind(place.file())?;
    thread::spawn(move || -> Result<()> {
        let (mut client, _) = listener.accept()?;
        let flow = serde_json::to_string(&Response::Flow(Box::new(flow(1))))?;
        let hello = serde_json::to_string(&Hello::ours())?;
        Ok(client.write_all(format!("{hello}\n{flow}\n").as_bytes())?)
    });
    let mut answer = client::ask(&place, &Request::Status)?.context("it listens")?;
    assert!(matches!(answer.next(), Some(Ok(Response::Flow(_)))));
    let error = answer.next().context("more")?.err().context("an error")?;
    assert!(error.to_string().contains("does not answer"), "{error:#}");
    Ok(())
}

#[test]
fn another_version_of_either_side_is_told() -> Result<()> {
    // A newer program and this daemon.
    let daemon = daemon("old", Does::Names)?;
    let mut client = UnixStream::connect(daemon.place.file())?;
    client.write_all(lines(PROTOCOL + 1, "{\"Unheard\":{}}")?.as_bytes())?;
    let mut told = String::new();
    client.read_to_string(&mut told)?;
    assert!(
        told.contains("which do not understand each other"),
        "{told}"
    );
    // This program and a newer daemon.
    let place = place("new")?;
    let listener = UnixListener::bind(place.file())?;
    thread::spawn(move || -> Result<()> {
        let (mut client, _) = listener.accept()?;
        Ok(client.write_all(b"{\"protocol\":99,\"version\":\"9.9.9\",\"more\":1}\n")?)
    });
    let error = asked(&place, &Request::Status).err().context("told")?;
    let error = error.to_string();
    assert!(
        error.contains("the daemon is of version 9.9.9") && error.contains("restart the daemon"),
        "{error}"
    );
    Ok(())
}

#[test]
fn requests_that_are_none_or_too_long_are_told() -> Result<()> {
    let daemon = daemon("garbage", Does::Names)?;
    let long = format!("{{\"Explain\":{{\"device\":\"{}\"", "x".repeat(5_000));
    for (sent, says) in [
        ("{}\n".to_owned(), "no request of the sensor"),
        ("GET / HTTP/1.1\n".to_owned(), "no request of the sensor"),
        (" ".repeat(5_000), "no request of the sensor"),
        (lines(PROTOCOL, "{}")?, "none of this version"),
        (lines(PROTOCOL, &long)?, "too long"),
    ] {
        let mut client = UnixStream::connect(daemon.place.file())?;
        // The daemon may hang up before all is written.
        let _ = client.write_all(sent.as_bytes());
        let _ = client.shutdown(Shutdown::Write);
        let mut told = String::new();
        // Data that the daemon did not read makes a reset.
        let _ = client.read_to_string(&mut told);
        assert!(told.contains("\"Failed\"") && told.contains(says), "{told}");
    }
    // One that wants nothing is told nothing but who is there.
    let mut client = UnixStream::connect(daemon.place.file())?;
    client.shutdown(Shutdown::Write)?;
    let mut told = String::new();
    client.read_to_string(&mut told)?;
    assert_eq!(told.lines().count(), 1, "{told}");
    status_is(&daemon.place, "Status")
}

#[test]
fn a_place_has_one_listener_and_others_have_theirs() -> Result<()> {
    let first = daemon("twice", Does::Names)?;
    let refused = daemon("twice", Does::Names).err().context("it is taken")?;
    let refused = format!("{refused:#}");
    assert!(refused.contains("another process listens at"), "{refused}");
    status_is(&first.place, "Status")?;
    // However long the path of the pin directory is.
    let long = daemon(&"p".repeat(200), Does::Names)?;
    status_is(&long.place, "Status")?;
    let nobody = place(&"p".repeat(201))?;
    assert!(client::ask(&nobody, &Request::Status)?.is_none());
    // Not so the runtime directory's.
    let too_long = Place::new(
        &env::temp_dir().join("r".repeat(100)),
        &PathBuf::from("/test"),
    );
    let error = socket::bind(&too_long).err().context("it is too long")?;
    assert!(
        format!("{error:#}").contains("daemon.runtime_directory"),
        "{error:#}"
    );
    Ok(())
}

#[test]
fn a_dead_daemons_socket_is_replaced_and_nothing_else_is() -> Result<()> {
    let name = "squatted";
    let place = place(name)?;
    let file = place.file();
    // As a daemon leaves it that was killed.
    drop(UnixListener::bind(file)?);
    assert!(file.exists());
    let replaced = daemon(name, Does::Stops)?;
    let error = asked(&place, &Request::Status).err().context("it stops")?;
    assert!(error.to_string().contains("does not answer"), "{error:#}");
    drop(replaced);
    let began = Instant::now();
    while file.exists() {
        assert!(
            began.elapsed() < Duration::from_secs(5),
            "it goes with its daemon"
        );
        thread::sleep(Duration::from_millis(10));
    }
    let refused = |what: &str| -> Result<()> {
        let error = daemon(name, Does::Names).err();
        let error = format!("{:#}", error.context("the place is taken")?);
        let owner = fs::symlink_metadata(file)?.uid();
        let sentence = format!(
            "{} is {what} of user {owner}, and no socket",
            file.display()
        );
        assert!(error.contains(&sentence), "{error}");
        assert!(error.contains("remove it"), "{error}");
        Ok(())
    };
    fs::create_dir(file)?;
    refused("a directory")?;
    fs::remove_dir(file)?;
    fs::write(file, "")?;
    refused("a file")?;
    fs::remove_file(file)?;
    symlink("/run/nowhere", file)?;
    refused("a symbolic link")?;
    fs::remove_file(file)?;
    if geteuid().is_root() {
        drop(UnixListener::bind(file)?);
        std::os::unix::fs::chown(file, Some(65_534), None)?;
        refused("a socket")?;
        fs::remove_file(file)?;
    }
    Ok(())
}

/// A client's socket, to be connected.
fn socket() -> Result<OwnedFd> {
    Ok(rustix::net::socket(
        AddressFamily::UNIX,
        SocketType::STREAM,
        None,
    )?)
}

/// A client that makes the daemon use up its descriptors does not end it. The test has a process of
/// its own, whose other threads need none.
#[test]
fn without_a_descriptor_it_waits_for_one() -> Result<()> {
    const ALONE: &str = "SENSOR_TEST_WITHOUT_DESCRIPTORS";
    if env::var_os(ALONE).is_none() {
        let itself = process::Command::new(env::current_exe()?)
            .args(["--exact", "without_a_descriptor_it_waits_for_one"])
            .env(ALONE, "1")
            .output()?;
        let said = String::from_utf8_lossy(&itself.stdout).into_owned();
        assert!(itself.status.success(), "{said}");
        return Ok(());
    }
    let daemon = daemon("descriptors", Does::Names)?;
    let socket = socket()?;
    let limit = getrlimit(Resource::Nofile);
    let none = Rlimit {
        current: Some(0),
        ..limit
    };
    setrlimit(Resource::Nofile, none)?;
    rustix::net::connect(&socket, &SocketAddrUnix::new(daemon.place.file())?)?;
    let mut client = UnixStream::from(socket);
    // Until it has tried to accept.
    thread::sleep(Duration::from_millis(300));
    setrlimit(Resource::Nofile, limit)?;
    client.write_all(status()?.as_bytes())?;
    client.shutdown(Shutdown::Write)?;
    let mut answer = String::new();
    client.read_to_string(&mut answer)?;
    assert!(
        answer.contains("\"Status\"") && answer.contains("\"End\""),
        "{answer}"
    );
    Ok(())
}
