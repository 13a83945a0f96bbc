//! Leaves out policies that do not fit into the tables at a start, because no earlier rules could stay in
//! force then, and a part of the filter is better than none.

use std::collections::HashMap;

use super::{Compiled, Override, PolicyLists, TooMuch, compile};
use crate::{catalog::Catalog, policy::Policy};

/// Policies, compiled as far as they fit into the tables.
#[derive(Debug)]
pub struct Fitting {
    /// The tables.
    pub compiled: Compiled,
    /// The policies that are in them.
    pub policies: Vec<Policy>,
    /// Whether the overrides by commands are in them.
    pub with_commands: bool,
    /// The lists, which also know those that were left out.
    pub lists: PolicyLists,
}

/// Compiles the policies that fit, and logs each part that it leaves out: the largest list where there are
/// too many names, the policy with the most prefixes where there are too many of these, else the overrides
/// by commands, else the last policy; and so on until the rest fits.
pub fn fitting(
    policies: &[Policy],
    temporary: &[Override],
    catalog: &Catalog,
    lists: &PolicyLists,
    identities: &HashMap<String, u16>,
) -> Fitting {
    let (mut policies, mut temporary, mut lists) = (policies.to_vec(), temporary, lists.clone());
    let with_all_commands = temporary.len();
    loop {
        let error = match compile(&policies, temporary, catalog, &lists, identities) {
            Ok(compiled) => {
                return Fitting {
                    compiled,
                    with_commands: temporary.len() == with_all_commands,
                    policies,
                    lists,
                };
            }
            Err(error) => error,
        };
        let left_out = match &error.what {
            TooMuch::Names {
                largest: Some((list, _)),
                ..
            } => {
                lists.leave_out(list);
                format!("the list {list}")
            }
            TooMuch::Prefixes {
                largest: (largest, _),
                ..
            } if policies.iter().any(|policy| policy.name == *largest) => {
                policies.retain(|policy| policy.name != *largest);
                format!("policy `{largest}`")
            }
            _ if !temporary.is_empty() => {
                temporary = &[];
                "what `sensor block` and `allow` said".to_owned()
            }
            _ => {
                // Without a policy everything fits.
                let last = policies.pop().unwrap_or_default();
                format!("policy `{}`", last.name)
            }
        };
        tracing::error!("{left_out} is not in force, for not all has a place: {error}");
    }
}

#[cfg(test)]
mod tests {
    use std::{
        net::IpAddr,
        path::{Path, PathBuf},
    };

    use sensor_ebpf::policy::Layer;

    use super::*;
    use crate::policy::{
        Action, DeviceFacts, DeviceSelector, Holds, Transport, Zone,
        explain::{Deciding, testing::decides},
        policy_names,
    };

    fn policy(name: &str) -> Policy {
        Policy {
            name: name.to_owned(),
            action: Action::Reject,
            ..Policy::default()
        }
    }

    fn blocked(count: u8) -> Vec<Override> {
        let said = (0..count).map(|number| Override {
            domain: "a.example".to_owned(),
            device: Some(DeviceSelector::Mac([2, 0, 0, 0, 0, number])),
            blocks: true,
            since: f64::from(number),
            holds: Holds::Always,
        });
        said.collect()
    }

    fn fit(policies: &[Policy], temporary: &[Override], lists: &PolicyLists) -> Fitting {
        let names = policy_names(policies, temporary).map(str::to_owned);
        let identities = names.zip(1..).collect();
        fitting(policies, temporary, &Catalog::default(), lists, &identities)
    }

    fn names(fitting: &Fitting) -> Vec<&str> {
        let policies = fitting.policies.iter();
        policies.map(|policy| policy.name.as_str()).collect()
    }

    #[test]
    fn what_commands_said_is_left_out_where_it_makes_too_many_rules() {
        let policies = [
            Policy {
                domains: vec!["b.example".to_owned()],
                ..policy("a")
            },
            policy("b"),
        ];
        let lists = PolicyLists::default();
        let fits = fit(&policies, &blocked(62), &lists);
        assert!(fits.with_commands);
        assert_eq!(fits.compiled.rules.len(), 64);
        let most = fit(&policies, &blocked(63), &lists);
        assert!(!most.with_commands);
        assert_eq!(most.compiled.rules.len(), 2);
        assert_eq!(names(&most), ["a", "b"]);
    }

    #[test]
    fn the_largest_list_is_left_out_where_there_are_too_many_names() {
        let text = |of: &str, count: u32| {
            let names = (0..count).map(|number| format!("{number}.{of}\n"));
            names.collect::<String>()
        };
        let [small, large] = ["/small", "/large"].map(PathBuf::from);
        let lists = [
            (small.as_path(), text("s", 450_000)),
            (large.as_path(), text("l", 560_000) + "@@||kept.s^\n"),
        ];
        let lists = lists.each_ref().map(|(file, text)| (*file, text.as_str()));
        let lists: PolicyLists = PolicyLists::of(&lists).expect("memory is read");
        let policies = [
            Policy {
                lists: vec![small, large],
                ..policy("listed")
            },
            Policy {
                domains: vec!["s".to_owned()],
                action: Action::Allow,
                ..policy("named")
            },
        ];
        let part = fit(&policies, &blocked(1), &lists);
        assert_eq!(part.compiled.names.count, 450_002);
        assert!(part.with_commands);
        assert_eq!(names(&part), ["listed", "named"]);
        let left_out: Vec<_> = part.lists.left_out().iter().collect();
        assert_eq!(left_out, ["/large"]);
        // The explanation agrees.
        let catalog = Catalog::default();
        let deciding = Deciding {
            policies: &part.policies,
            temporary: &[],
            catalog: &catalog,
            lists: &part.lists,
            zone: &Zone::default(),
            now: Some(0.0),
            offset: 0.0,
        };
        let decides = |name| {
            let at = (IpAddr::from([192, 0, 2, 1]), Transport::Tcp, 443);
            decides(
                &deciding,
                &DeviceFacts::default(),
                Some(name),
                Layer::Tls,
                at,
            )
        };
        assert_eq!(decides("5.l"), None);
        let rejects = |policy: &str| Some((Some(policy.to_owned()), "reject"));
        assert_eq!(decides("5.s"), rejects("listed"));
        // Exceptions of the list that is left out are some still.
        let allows = Some((Some("named".to_owned()), "allow"));
        assert_eq!(decides("s"), allows);
        assert_eq!(decides("kept.s"), None);
        // It is left out as long as they are not loaded anew.
        let again = fit(&policies, &[], &part.lists);
        assert_eq!(again.compiled.names.count, 450_001);
        assert!(part.lists.get(Path::new("/large")).is_some());
    }

    #[test]
    fn the_last_policies_are_left_out_where_nothing_else_helps() {
        let policies: Vec<_> = (0..70_u8)
            .map(|number| Policy {
                devices: vec![DeviceSelector::Mac([2, 0, 0, 0, 1, number])],
                ..policy(&format!("p{number}"))
            })
            .collect();
        let part = fit(&policies, &blocked(2), &PolicyLists::default());
        assert!(!part.with_commands);
        assert_eq!(part.policies.len(), 64);
        assert_eq!(part.policies[63].name, "p63");
    }
}
