//! Explains the verdicts on a name or an address, with what is in force.

use sensor_ebpf::parse::Mac;

use super::Enforcement;
use crate::{
    catalog::Catalog,
    config::Config,
    model::Device,
    moment::Moment,
    policy::explain::{Explanation, Subject, What, explain},
};

impl Enforcement {
    /// The verdicts on a subject for a device.
    pub fn explain(
        &self,
        mac: Mac,
        subject: &Subject,
        config: &Config,
        catalog: &Catalog,
        devices: &[Device],
        now: Moment,
    ) -> Explanation {
        let facts = self.facts(mac, config, devices);
        let mut explanation = explain(&self.deciding(config, catalog, now), &facts, subject);
        if let What::Address(address) = subject.what
            && let Some((policy, verdict)) = self.learned(address, &facts, now)
        {
            explanation.learned(policy, verdict);
        }
        explanation
    }
}
