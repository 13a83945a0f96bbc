//! Explains the verdicts on a name or an address, with what is in force.

use sensor_ebpf::parse::Mac;

use super::Enforcement;
use crate::{
    aggregate::address_names::AddressNames,
    catalog::Catalog,
    config::Config,
    model::Device,
    moment::Moment,
    policy::explain::{Explanation, Subject, What, explain},
};

impl Enforcement {
    /// The verdicts on a subject for a device. `names` has the names to which DNS answers led the device.
    #[expect(
        clippy::too_many_arguments,
        reason = "everything that a verdict depends on"
    )]
    pub fn explain(
        &self,
        mac: Mac,
        subject: &Subject,
        config: &Config,
        catalog: &Catalog,
        devices: &[Device],
        names: &AddressNames,
        now: Moment,
    ) -> Explanation {
        let facts = self.facts(mac, config, devices);
        let deciding = self.deciding(config, catalog, now);
        let mut explanation = explain(&deciding, &facts, subject);
        match &subject.what {
            What::Address(address) => {
                if let Some((policy, verdict)) = self.learned(*address, &facts, now) {
                    explanation.learned(policy, verdict);
                }
            }
            What::Name(name) => {
                let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
                let targets = names.aliases(mac, &name, now.steady);
                explanation.add_aliases(&deciding, &facts, (&name, subject.port), targets);
            }
        }
        let pause = self.pauses.of(&facts);
        explanation.paused = pause.map(|pause| pause.shown(now.offset()));
        explanation
    }
}
