//! Lists that were made to harm, and lists that are none.

use std::{
    collections::HashMap,
    fs,
    net::IpAddr,
    path::{Path, PathBuf},
};

use sensor_ebpf::{
    name::{MAX_LABELS, NAME_BUCKET_ENTRIES, NAME_BUCKETS_PROBED, Suffixes, longest},
    policy::MAX_PREFIXES,
};

use super::*;
use crate::{
    catalog::{
        Catalog,
        lists::{MOST_NAMES, Reason},
    },
    policy::Policy,
};

/// A folder that goes when the test ends.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("sensor-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder for temporary files");
        Self(folder)
    }

    fn file(&self, text: &[u8]) -> PathBuf {
        let file = self.0.join("list.txt");
        fs::write(&file, text).expect("a temporary file");
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn refusing(list: &Path) -> [Policy; 1] {
    [Policy {
        name: "list".to_owned(),
        lists: vec![list.to_owned()],
        action: Action::Reject,
        ..Policy::default()
    }]
}

fn compiled(
    policies: &[Policy],
    temporary: &[Override],
    lists: &PolicyLists,
) -> Result<Compiled, TooLarge> {
    let names = policy_names(policies, temporary);
    let identities: HashMap<_, _> = names.map(str::to_owned).zip(1..).collect();
    compile(policies, temporary, &Catalog::default(), lists, &identities)
}

fn is_refused(compiled: &Compiled, name: &str) -> bool {
    let suffixes = Suffixes::of(name.as_bytes(), compiled.names.secret);
    longest(&compiled.names, &suffixes).is_some_and(|chain| compiled.chains[chain as usize].len > 0)
}

#[test]
fn a_name_of_too_many_labels_is_a_bad_line_and_taken_for_no_other() {
    let most = "a.".repeat(MAX_LABELS - 2) + "b.example";
    let most = most.strip_prefix("a.").expect("it begins so");
    assert_eq!(most.split('.').count(), MAX_LABELS - 1);
    let folder = Folder::new("labels");
    // Of the last two, the last labels are the same.
    let text = format!("c.{most}\nx.c.{most}\ny.d.{most}\nz.d.{most}\n");
    let policies = refusing(&folder.file(text.as_bytes()));
    let lists = PolicyLists::load(&policies, MOST_NAMES, &PolicyLists::default());
    let (_, list) = lists.iter().next().expect("a list");
    assert_eq!((list.report.used, list.report.bad), (1, 3));
    assert_eq!(list.report.shown[0].line, 2);
    assert_eq!(list.report.shown[0].reason, Reason::TooManyLabels);

    let said = Override {
        domain: format!("x.e.{most}"),
        device: None,
        blocks: true,
        since: 0.0,
        holds: Holds::Always,
    };
    let compiled = compiled(&policies, &[said], &lists).expect("it fits");
    assert!(is_refused(&compiled, &format!("c.{most}")));
    assert!(is_refused(&compiled, &format!("x.c.{most}")));
    for other in ["d", "e"] {
        assert!(!is_refused(&compiled, &format!("{other}.{most}")));
    }
}

#[test]
fn nobody_can_know_where_names_lie_in_the_table() {
    let folder = Folder::new("secret");
    let policies = refusing(&folder.file(b"a.example"));
    let lists = PolicyLists::load(&policies, MOST_NAMES, &PolicyLists::default());
    let secret = || {
        compiled(&policies, &[], &lists)
            .expect("it fits")
            .names
            .secret
    };
    assert_ne!(secret(), secret());
}

#[test]
fn names_that_crowd_into_one_place_take_another_secret_not_more_memory() {
    let crowd = |count: u64| {
        (0..count)
            .map(|number| (number << 40, 0))
            .collect::<Vec<_>>()
    };
    let most = u64::from(NAME_BUCKETS_PROBED) * NAME_BUCKET_ENTRIES as u64;
    let fits = NameTable::new(0, crowd(most));
    assert!(fits.is_ok());
    // More tables would have them no less crowded.
    assert!(NameTable::new(0, crowd(most + 1)).is_err());
    assert!(NameTable::new(0, vec![(1 << 40, 0), (1 << 40, 1)]).is_err());
}

#[test]
fn a_list_of_garbage_gives_what_is_good_in_it_and_what_it_was_when_it_cannot_be_read() {
    let folder = Folder::new("garbage");
    let mut text = b"a.example\n".to_vec();
    text.extend(b"\xff\xfeb\0.\0e\0\n\0".repeat(500_000));
    text.extend(vec![b'a'; 10_000_000]);
    text.extend(b"\nb\xfccher.example\n||b.example^\n");
    for number in 0..1_000_000 {
        text.extend(format!("{number} %garbage%\n").as_bytes());
    }
    text.extend(b"last.example");
    let file = folder.file(&text);
    let policies = refusing(&file);
    let first = PolicyLists::load(&policies, MOST_NAMES, &PolicyLists::default());
    let list = first.get(&file).expect("it is read");
    assert!(list.problem.is_none());
    // Every second line of UTF-16 holds the octets before the low octet of its end.
    assert_eq!((list.report.used, list.report.bad), (3, 1_500_002));
    let shown: Vec<_> = list.report.shown.iter().map(|bad| bad.line).collect();
    assert_eq!(shown, [2, 3, 4, 5, 6]);
    let check = |lists: &PolicyLists| {
        let compiled = compiled(&policies, &[], lists).expect("it fits");
        for name in ["a.example", "x.b.example", "last.example"] {
            assert!(is_refused(&compiled, name), "{name}");
        }
        assert!(!is_refused(&compiled, "c.example"));
    };
    check(&first);

    fs::remove_file(&file).expect("it was made above");
    fs::create_dir(&file).expect("a folder in its place");
    let second = PolicyLists::load(&policies, MOST_NAMES, &first);
    let kept = second.get(&file).expect("it is kept");
    assert!(kept.problem.is_some());
    assert_eq!(kept.report.bad, 1_500_002);
    check(&second);
    check(&PolicyLists::load(&policies, MOST_NAMES, &second));
}

/// The page that a portal or a proxy serves in the place of a list, with a status of success.
const PAGE: &str = "<!doctype html>\n<html><body>\n<p>Please sign in.</p>\n</body></html>\n";

#[test]
fn a_file_of_which_no_line_can_be_used_is_no_list_and_an_empty_one_is() {
    let folder = Folder::new("page");
    let file = folder.file(b"a.example\nb.example\n");
    let policies = refusing(&file);
    let first = PolicyLists::load(&policies, MOST_NAMES, &PolicyLists::default());
    let refused = |lists: &PolicyLists| {
        let compiled = compiled(&policies, &[], lists).expect("it fits");
        ["a.example", "b.example"].map(|name| is_refused(&compiled, name))
    };
    assert_eq!(refused(&first), [true, true]);

    let mut lists = first;
    for no_list in [
        PAGE.as_bytes(),
        &b"\xff\xfea\0.\0e\0x\0\n\0".repeat(1_000),
        b"# ads\nword\n",
        &[0; 10_000],
    ] {
        folder.file(no_list);
        lists = PolicyLists::load(&policies, MOST_NAMES, &lists);
        let kept = lists.get(&file).expect("it is kept");
        let problem = kept.problem.as_deref().expect("it is said");
        assert!(problem.contains("can be used"), "{problem}");
        assert_eq!((kept.report.used, kept.report.bad), (2, 0));
        assert_eq!(refused(&lists), [true, true]);
    }
    folder.file(format!("{PAGE}b.example\n").as_bytes());
    lists = PolicyLists::load(&policies, MOST_NAMES, &lists);
    let list = lists.get(&file).expect("it is read");
    assert!(list.problem.is_none());
    assert_eq!((list.report.used, list.report.bad), (1, 4));
    assert_eq!(refused(&lists), [false, true]);

    for empty in [&b""[..], b"\n\n", b"# no more names\n! none\n"] {
        folder.file(b"a.example\nb.example\n");
        lists = PolicyLists::load(&policies, MOST_NAMES, &lists);
        assert_eq!(refused(&lists), [true, true]);
        folder.file(empty);
        lists = PolicyLists::load(&policies, MOST_NAMES, &lists);
        assert!(lists.get(&file).expect("it is read").problem.is_none());
        assert_eq!(refused(&lists), [false, false]);
    }
    // Where there was no list before, no name is in force, and the list's problem says so.
    folder.file(PAGE.as_bytes());
    let lists = PolicyLists::load(&policies, MOST_NAMES, &PolicyLists::default());
    assert!(lists.get(&file).expect("it is there").problem.is_some());
    assert_eq!(refused(&lists), [false, false]);
}

#[test]
fn more_prefixes_than_the_kernel_has_room_for_are_refused_before_anything_is_written() {
    let hosts = |first: u32, count: usize| -> Vec<IpNet> {
        let addresses = (first..).take(count);
        let addresses = addresses.map(|address| IpAddr::V4(address.into()));
        addresses.map(IpNet::from).collect()
    };
    let about = |name: &str, remotes: Vec<IpNet>| Policy {
        name: name.to_owned(),
        remotes,
        action: Action::Reject,
        ..Policy::default()
    };
    // The second has some of the first's, and one prefix of the other family, which is no matter.
    let mut few = hosts(0x0100_0000 + MAX_PREFIXES as u32 - 12, 10);
    few.push("2001:db8::/32".parse().expect("a prefix"));
    let mut policies = [
        about("most", hosts(0x0100_0000, MAX_PREFIXES - 7)),
        about("few", few),
    ];
    let all = compiled(&policies, &[], &PolicyLists::default()).expect("it fits");
    assert_eq!(all.prefixes.len(), MAX_PREFIXES - 1);
    policies[1].remotes.extend(hosts(0x0200_0000, 3));
    let error = compiled(&policies, &[], &PolicyLists::default()).expect_err("it is too large");
    assert_eq!(
        error.to_string(),
        "the policies are about 1048577 IPv4 prefixes, and there is room for 1048576: policy `most` \
         is about 1048569 of them; have it name fewer countries, networks or remotes"
    );
}
