//! The laws of the architecture that can be read off the code: which modules may name which things.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{
    build,
    command::capture,
    lexer::{Kind, pieces, without_tests},
};

/// Something is named only in certain places, or never in others. Places are prefixes of paths
/// from the workspace's folder.
struct Law {
    /// The thing that is looked for.
    what: Named,
    /// Where it is looked for.
    within: &'static [&'static str],
    /// Where in there it may be.
    except: &'static [&'static str],
    /// The message for code that breaks the law.
    why: &'static str,
}

/// The thing that a law is about.
enum Named {
    /// A path that starts with this crate.
    Crate(&'static str),
    /// This keyword or type, wherever it stands.
    Word(&'static str),
}

const LAWS: &[Law] = &[
    Law {
        what: Named::Crate("aya"),
        within: &["sensor/src/"],
        except: &["sensor/src/source/kernel/"],
        why: "aya is named only under sensor/src/source/kernel/ (law 8)",
    },
    Law {
        what: Named::Crate("aya_log"),
        within: &["sensor/src/"],
        except: &["sensor/src/source/kernel/"],
        why: "aya is named only under sensor/src/source/kernel/ (law 8)",
    },
    Law {
        what: Named::Crate("aya_obj"),
        within: &["sensor/src/"],
        except: &["sensor/src/source/kernel/"],
        why: "aya is named only under sensor/src/source/kernel/ (law 8)",
    },
    Law {
        what: Named::Crate("tokio"),
        within: &[
            "sensor/src/decode",
            "sensor/src/aggregate",
            "sensor/src/catalog",
            "sensor/src/classify",
            "sensor/src/model",
            "sensor/src/policy",
            "sensor/src/quota",
            "sensor/src/interned",
            "sensor/src/slots",
            "sensor/src/record",
        ],
        except: &[],
        why: "what is computed knows nothing of tokio (law 8)",
    },
    Law {
        what: Named::Crate("prometheus"),
        within: &["sensor/src/"],
        except: &["sensor/src/sink/metrics"],
        why: "prometheus is named only in sink/metrics (law 8)",
    },
    Law {
        what: Named::Word("Instant"),
        within: &[
            "sensor/src/decode",
            "sensor/src/aggregate",
            "sensor/src/catalog",
            "sensor/src/classify",
            "sensor/src/model",
            "sensor/src/policy",
            "sensor/src/quota",
            "sensor/src/interned",
            "sensor/src/slots",
            "sensor/src/record",
        ],
        except: &[],
        why: "below the daemon, time is an argument (law 8)",
    },
    Law {
        what: Named::Word("SystemTime"),
        within: &[
            "sensor/src/decode",
            "sensor/src/aggregate",
            "sensor/src/catalog",
            "sensor/src/classify",
            "sensor/src/model",
            "sensor/src/policy",
            "sensor/src/quota",
            "sensor/src/interned",
            "sensor/src/slots",
            "sensor/src/record",
        ],
        except: &[],
        why: "below the daemon, time is an argument (law 8)",
    },
    Law {
        what: Named::Word("unsafe"),
        within: &["sensor/src/", "sensor-ebpf/src/", "xtask/src/"],
        except: &[
            "sensor/src/source/kernel/",
            "sensor/src/daemon/memory.rs",
            "sensor-ebpf/src/wire.rs",
            "xtask/src/lab/namespace.rs",
            "xtask/src/lab/pass.rs",
            "xtask/src/lab/relay.rs",
            "xtask/src/lab/wire.rs",
        ],
        why: "unsafe code stays where the kernel's memory is, the allocator is set, and namespaces and raw frames are",
    },
    Law {
        what: Named::Crate("aya_ebpf"),
        within: &["sensor-ebpf/src/"],
        except: &[],
        why: "the contract of both sides uses no dependency",
    },
];

/// Which modules of the daemon may name which: those that stand lower in the architecture, from the lowest on.
/// Nothing else is a way from one to another; tests may name what they need.
const IMPORTS: &[(&str, &[&str])] = &[
    ("decode", &[]),
    ("quota", &[]),
    ("interned", &[]),
    ("slots", &[]),
    ("health", &[]),
    ("moment", &[]),
    ("causes", &[]),
    ("model", &[]),
    ("record", &[]),
    ("catalog", &["decode"]),
    (
        "classify",
        &["decode", "quota", "interned", "slots", "record", "catalog"],
    ),
    ("policy", &["model", "catalog"]),
    ("sink", &["model", "health"]),
    (
        "aggregate",
        &[
            "decode", "quota", "interned", "slots", "model", "record", "catalog", "classify",
            "policy",
        ],
    ),
    ("report", &["decode", "model", "policy", "sink"]),
    ("config", &["model", "catalog", "policy"]),
    ("control", &["causes", "model", "policy"]),
    (
        "source",
        &[
            "moment", "causes", "model", "record", "classify", "policy", "config",
        ],
    ),
    (
        "state",
        &["moment", "model", "policy", "aggregate", "config"],
    ),
    (
        "enforcement",
        &[
            "moment",
            "model",
            "catalog",
            "classify",
            "policy",
            "aggregate",
            "config",
            "source",
            "state",
        ],
    ),
    (
        "daemon",
        &[
            "decode",
            "quota",
            "health",
            "moment",
            "causes",
            "model",
            "record",
            "catalog",
            "classify",
            "policy",
            "sink",
            "aggregate",
            "config",
            "control",
            "source",
            "state",
            "enforcement",
        ],
    ),
    (
        "cli",
        &[
            "decode",
            "moment",
            "causes",
            "model",
            "record",
            "catalog",
            "classify",
            "policy",
            "sink",
            "report",
            "aggregate",
            "config",
            "control",
            "source",
            "enforcement",
            "daemon",
        ],
    ),
    ("main", &["cli"]),
    ("lib", &[]),
];

/// Lines that `sensor/src/main.rs` may have.
const MAIN_LINES: usize = 40;

/// A law that is broken, and where.
#[derive(Debug, PartialEq, Eq)]
struct Breach {
    file: PathBuf,
    line: usize,
    why: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.file.display(), self.line, self.why)
    }
}

/// Reads the workspace and holds it against the laws.
///
/// # Errors
/// Where one is broken: every place, with the law.
pub fn check() -> Result<()> {
    let root = build::workspace();
    let mut breaches = Vec::new();
    for folder in ["sensor/src", "sensor-ebpf/src", "xtask/src"] {
        for file in sources(&root.join(folder))? {
            let text = fs::read_to_string(&file)?;
            let name = file.strip_prefix(&root).unwrap_or(&file);
            breaches.extend(breaches_in(name, &text));
            if let Ok(name) = name.strip_prefix("sensor/src") {
                breaches.extend(imports_in(name, &text));
            }
        }
    }
    if fs::read_to_string(root.join("sensor/src/main.rs"))?
        .lines()
        .count()
        > MAIN_LINES
    {
        breaches.push(Breach {
            file: "sensor/src/main.rs".into(),
            line: MAIN_LINES + 1,
            why: "main has at most 40 lines".to_owned(),
        });
    }
    contract_stands_alone()?;
    if breaches.is_empty() {
        return Ok(());
    }
    let list: Vec<_> = breaches.iter().map(Breach::to_string).collect();
    bail!("the architecture's laws are broken:\n{}", list.join("\n"))
}

/// Every dependency of the shared library is optional: only the kernel's binary brings any.
fn contract_stands_alone() -> Result<()> {
    let mut cargo: Command = build::host_cargo();
    let text = capture(cargo.args(["metadata", "--no-deps", "--format-version", "1"]))?;
    let metadata: Value = serde_json::from_str(&text)?;
    let packages = metadata["packages"].as_array().into_iter().flatten();
    let contract = packages
        .into_iter()
        .find(|package| package["name"] == "sensor-ebpf")
        .context("the workspace has no package sensor-ebpf")?;
    for dependency in contract["dependencies"].as_array().into_iter().flatten() {
        let of_library = dependency["kind"].is_null() && dependency["optional"] == false;
        if of_library {
            bail!(
                "the contract of both sides depends on {}: it may depend on nothing",
                dependency["name"]
            );
        }
    }
    Ok(())
}

/// Every source of a folder and those in it.
pub(crate) fn sources(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).with_context(|| format!("no {}", folder.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            found.extend(sources(&path)?);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found.sort();
    Ok(found)
}

fn breaches_in(file: &Path, text: &str) -> Vec<Breach> {
    let starts = |prefixes: &[&str]| {
        let name = file.to_string_lossy();
        prefixes.iter().any(|prefix| name.starts_with(prefix))
    };
    let words = words(text);
    LAWS.iter()
        .filter(|law| starts(law.within) && !starts(law.except))
        .flat_map(|law| {
            let here = |&at: &usize| law.what.is_at(&words, at);
            let breach = |at: usize| Breach {
                file: file.to_owned(),
                line: words[at].line,
                why: law.why.to_owned(),
            };
            (0..words.len())
                .filter(here)
                .map(breach)
                .collect::<Vec<_>>()
        })
        .collect()
}

/// Where a file of the daemon, by its path from `sensor/src`, names a module that [`IMPORTS`] has not.
fn imports_in(file: &Path, text: &str) -> Vec<Breach> {
    let top = file.iter().next().map(Path::new);
    let module = top.and_then(Path::file_stem).unwrap_or_default();
    let module = module.to_string_lossy();
    if is_of_tests(file) {
        return Vec::new();
    }
    let breach = |line, why| Breach {
        file: Path::new("sensor/src").join(file),
        line,
        why,
    };
    let Some((_, allowed)) = IMPORTS.iter().find(|(name, _)| *name == module) else {
        let why = format!("the table of imports does not have the module {module}");
        return vec![breach(1, why)];
    };
    let words = words(without_tests(text));
    let mut breaches = Vec::new();
    for at in 2..words.len() {
        if (words[at - 2].text, words[at - 1].text) != ("crate", "::") {
            continue;
        }
        for named in group(&words[at..]) {
            if named != module && !allowed.contains(&named) {
                let why = format!("{module} may not name {named}: see the table of imports");
                breaches.push(breach(words[at].line, why));
            }
        }
    }
    breaches
}

/// Whether a file has nothing but what tests need, as its parent declares it.
pub(crate) fn is_of_tests(file: &Path) -> bool {
    const OF_TESTS: [&str; 4] = [
        "tests.rs",
        "policy/hostile.rs",
        "policy/reference.rs",
        "source/kernel/faults.rs",
    ];
    OF_TESTS.iter().any(|end| file.ends_with(end))
}

impl Named {
    fn is_at(&self, words: &[Word<'_>], at: usize) -> bool {
        let text = |at: usize| words.get(at).map_or("", |word| word.text);
        let inside_path = at > 0 && text(at - 1) == "::";
        match self {
            Self::Crate(name) => {
                let path = text(at + 1) == "::";
                let import = at > 0 && ["use", "crate"].contains(&text(at - 1));
                text(at) == *name && !inside_path && (path || import)
            }
            Self::Word(name) => text(at) == *name,
        }
    }
}

/// The first names of a path's rest: one, or those of `{a::b, c}`.
fn group<'a>(words: &'a [Word<'a>]) -> impl Iterator<Item = &'a str> {
    let mut depth = 0;
    let mut first = true;
    let mut ended = false;
    words.iter().filter_map(move |word| {
        match word.text {
            _ if ended => return None,
            "{" => {
                depth += 1;
                first = depth == 1;
            }
            "}" => depth -= 1,
            "," => first = depth == 1,
            "::" => {}
            name if first => {
                first = false;
                ended = depth == 0;
                return Some(name);
            }
            _ => {}
        }
        ended = ended || depth == 0;
        None
    })
}

/// A word of a source, `::`, `{`, `}` or a comma.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Word<'a> {
    text: &'a str,
    line: usize,
}

/// The words of a source and the signs that join them, without comments and literals.
fn words(source: &str) -> Vec<Word<'_>> {
    let is_joint = |text: &str| ["::", "{", "}", ","].contains(&text);
    (pieces(source).into_iter())
        .filter(|piece| match piece.kind {
            Kind::Word => true,
            Kind::Sign => is_joint(piece.text),
            Kind::Comment | Kind::Text => false,
        })
        .map(|piece| Word {
            text: piece.text,
            line: piece.line,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(breaches: &[Breach]) -> Vec<usize> {
        breaches.iter().map(|breach| breach.line).collect()
    }

    #[test]
    fn breaches() {
        let check = |file: &str, text: &str, lines: &[usize]| {
            let found = lines_of(&breaches_in(Path::new(file), text));
            assert_eq!(found, lines, "{file}: {text}");
        };
        check(
            "sensor/src/daemon/mod.rs",
            "use std::fs;\nuse aya::Ebpf;\n",
            &[2],
        );
        check("sensor/src/daemon/mod.rs", "fn f() { aya::load() }", &[1]);
        check("sensor/src/daemon/mod.rs", "use aya as kernel;", &[1]);
        check("sensor/src/source/kernel/load.rs", "use aya::Ebpf;", &[]);
        check(
            "sensor/src/daemon/mod.rs",
            "// aya::Ebpf\nlet aya = 1;",
            &[],
        );
        check("sensor/src/daemon/mod.rs", "let a = \"use aya::x\";", &[]);
        check(
            "sensor/src/daemon/mod.rs",
            "let a = r#\"\"use aya::x\"#;",
            &[],
        );
        check(
            "sensor/src/daemon/mod.rs",
            "/* aya::x */ let c = '\"'; aya::y",
            &[1],
        );
        check(
            "sensor/src/daemon/mod.rs",
            "fn f<'a>(x: &'a u8) { aya::y }",
            &[1],
        );
        check("sensor/src/daemon/mod.rs", "let q = '\\''; \"aya::x\"", &[]);
        check("sensor/src/aggregate/mod.rs", "#[tokio::main]", &[1]);
        check("sensor/src/aggregate/books.rs", "\nInstant::now()", &[2]);
        check(
            "sensor/src/daemon/mod.rs",
            "#[tokio::main] fn f() { Instant::now() }",
            &[],
        );
        check(
            "sensor/src/sink/web/mod.rs",
            "use prometheus::Registry;",
            &[1],
        );
        check(
            "sensor/src/sink/metrics.rs",
            "use prometheus::Registry;",
            &[],
        );
        check("sensor/src/config/mod.rs", "unsafe { f() }", &[1]);
        check("sensor-ebpf/src/lib.rs", "#![forbid(unsafe_code)]", &[]);
    }

    #[test]
    fn imports() {
        let check = |file: &str, text: &str, lines: &[usize]| {
            let found = lines_of(&imports_in(Path::new(file), text));
            assert_eq!(found, lines, "{file}: {text}");
        };
        let web = "sink/web/mod.rs";
        check(web, "use crate::model::Snapshot;", &[]);
        check(web, "use crate::sink::metrics;", &[]);
        check(web, "use std::fs;\nuse crate::daemon;", &[2]);
        check(web, "use crate::{health::Health, model::{A, B}};", &[]);
        check(web, "use crate::{model::{A, B}, daemon};", &[1]);
        check(web, "fn f() { crate::config::f() }", &[1]);
        check(
            web,
            "#[cfg(test)]\nmod tests {\nuse crate::config::Config;\n}",
            &[],
        );
        check("policy/tests.rs", "use crate::config::Config;", &[]);
        check("policy/rule.rs", "use crate::config::Config;", &[1]);
        check("quota.rs", "use crate::model::Device;", &[1]);
        check("new.rs", "", &[1]);
    }

    /// Nothing leads upwards, and from nowhere back to where it came from.
    #[test]
    fn the_table_of_imports_has_no_circle() {
        for (place, (module, allowed)) in IMPORTS.iter().enumerate() {
            let lower: Vec<_> = IMPORTS[..place].iter().map(|(name, _)| *name).collect();
            for name in *allowed {
                assert!(lower.contains(name), "{module} and {name}");
            }
        }
    }
}
