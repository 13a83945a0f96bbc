//! Which interfaces are to have which programs.

use sensor_ebpf::books::Way;

use super::seat::Role;
use crate::{
    config::{HookChoice, Interface},
    model::Hook,
    source::kernel::links::{Link, Links},
};

/// An interface that is to have programs, and how it is to have them.
pub(super) struct Target<'a> {
    pub(super) link: &'a Link,
    pub(super) choice: HookChoice,
    pub(super) part: Part,
}

/// The part that an interface has for the sensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Devices are behind it.
    Whole,
    /// A bridge whose ports are watched.
    Bridge,
    /// A port of such a bridge; whether policies are about traffic from port to port.
    Port { local: bool },
}

impl Target<'_> {
    /// The program for uploads at TC.
    pub(super) const fn upload(&self) -> Option<&'static str> {
        match self.part {
            Part::Whole => Some("upload_tc"),
            Part::Port { .. } => Some("upload_port"),
            Part::Bridge => None,
        }
    }

    /// The programs that are wanted beside the upload program, all of them at TC. The upload program sits
    /// at `upload`, and answers refused packets in the way `way`.
    pub(super) fn beside(&self, upload: Hook, way: Way) -> Vec<(Role, &'static str)> {
        match self.part {
            Part::Whole
                if way == Way::Note && matches!(upload, Hook::XdpNative | Hook::XdpGeneric) =>
            {
                vec![(Role::Answer, "answer_noted"), (Role::Download, "download")]
            }
            Part::Whole => vec![(Role::Download, "download")],
            Part::Port { .. } => vec![(Role::Download, "download_port")],
            Part::Bridge => vec![(Role::Number, "number")],
        }
    }
}

/// The interfaces that are to have programs, of those that are there.
pub(super) fn targets<'a>(wanted: &[Interface], links: &'a Links) -> Vec<Target<'a>> {
    let mut targets = Vec::new();
    for interface in wanted {
        let Some(link) = links.named(&interface.name) else {
            continue;
        };
        if !interface.ports {
            targets.push(Target {
                link,
                choice: interface.hook,
                part: Part::Whole,
            });
            continue;
        }
        if link.kind != BRIDGE {
            continue;
        }
        // Ports take TC: only there does a program know local frames and copies of one frame.
        let choice = match interface.hook {
            HookChoice::Clsact => HookChoice::Clsact,
            _ => HookChoice::Tc,
        };
        let is_own = |port: &&Link| !wanted.iter().any(|other| other.name == port.name);
        let part = Part::Port {
            local: interface.local,
        };
        // The frames have their numbers before the ports see them.
        let bridge = Target {
            link,
            choice,
            part: Part::Bridge,
        };
        targets.push(bridge);
        targets.extend(links.members(link.index).filter(is_own).map(|link| Target {
            link,
            choice,
            part,
        }));
    }
    targets
}

/// The [`Link::kind`] of a bridge.
pub(super) const BRIDGE: &str = "bridge";

/// The pairs of watched interfaces that see the same frames, and why.
pub fn counted_twice(wanted: &[Interface], links: &Links) -> Vec<String> {
    let targets = targets(wanted, links);
    let mut names: Vec<_> = targets
        .iter()
        .filter(|target| target.part != Part::Bridge)
        .map(|target| target.link.name.as_str())
        .collect();
    // A port that is named itself is seen to as such: it is a port of the other one all the same.
    names.dedup();
    let mut pairs = Vec::new();
    for upper in &names {
        for lower in &names {
            if upper != lower
                && let Some(relation) = links.relation(upper, lower)
            {
                pairs.push(format!(
                    "frames of {lower} are counted at {upper} again: {relation}"
                ));
            }
        }
    }
    let bridges = wanted.iter().filter(|interface| interface.ports);
    for bridge in bridges {
        for own in wanted.iter().filter(|own| own.name != bridge.name) {
            let Some(link) = links.named(&bridge.name) else {
                continue;
            };
            if links.members(link.index).any(|port| port.name == own.name) {
                pairs.push(format!(
                    "{} is a port of {}, which is watched with all its ports",
                    own.name, bridge.name
                ));
            }
        }
    }
    pairs
}
