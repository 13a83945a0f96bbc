//! Which devices a command means: by MAC address, by IP address, or by name.

use std::net::IpAddr;

use sensor_ebpf::parse::Mac;

use crate::{
    config::{Config, arguments},
    model::Device,
    policy::DeviceSelector,
};

/// The places in `devices` of those that a command is about, the records that devices share included
/// (`multicast`, `other`).
///
/// # Errors
/// No device that was seen is called so.
pub fn seen(text: &str, config: &Config, devices: &[Device]) -> Result<Vec<usize>, String> {
    let called = all_called(text, config, devices);
    let lower = text.to_lowercase();
    let is_it = |device: &Device| {
        device.device == lower || device.mac.is_some_and(|mac| called.contains(&mac))
    };
    let places: Vec<_> = (0..devices.len())
        .filter(|place| is_it(&devices[*place]))
        .collect();
    match places.is_empty() {
        true => Err(nobody(text)),
        false => Ok(places),
    }
}

/// The device that a command is about, whether it was seen or not.
///
/// # Errors
/// No device is called so, or several are.
pub fn called(text: &str, config: &Config, devices: &[Device]) -> Result<Mac, String> {
    match &*all_called(text, config, devices) {
        [] => Err(nobody(text)),
        [mac] => Ok(*mac),
        macs => Err(several(text, macs)),
    }
}

fn several(text: &str, macs: &[Mac]) -> String {
    let macs = macs.iter().map(|mac| mac.to_string());
    format!(
        "several devices are called `{text}`: say which by its MAC address, {}",
        macs.collect::<Vec<_>>().join(" or ")
    )
}

fn nobody(text: &str) -> String {
    format!("no device is called `{text}`; `sensor devices` lists those that were seen")
}

/// The devices that a command means. A name that is not in the configuration is one that was found out;
/// it stands for the device that has it now, as it may have another one tomorrow.
///
/// # Errors
/// No device is called so, several are, or none is in that group.
pub fn meant(
    selector: &DeviceSelector,
    config: &Config,
    devices: &[Device],
) -> Result<DeviceSelector, String> {
    let mut configured = config.devices.iter();
    match selector {
        DeviceSelector::Name(name)
            if configured.all(|device| device.name.as_ref() != Some(name)) =>
        {
            match &*all_called(name, config, devices) {
                [] => Err(format!(
                    "no device is called `{name}`, in the configuration of the daemon or by what was seen; \
                     `sensor devices` lists those that were seen, `systemctl reload gateway-sensor` \
                     takes a changed configuration"
                )),
                [mac] => Ok(DeviceSelector::Mac(mac.octets())),
                macs => Err(several(name, macs)),
            }
        }
        DeviceSelector::Group(group) if configured.all(|device| !device.groups.contains(group)) => {
            Err(format!(
                "no device is in the group `{group}` in the configuration of the daemon; `systemctl reload \
                 gateway-sensor` takes a changed one"
            ))
        }
        _ => Ok(selector.clone()),
    }
}

fn all_called(text: &str, config: &Config, devices: &[Device]) -> Vec<Mac> {
    if let Ok(DeviceSelector::Mac(mac)) = arguments::devices(text, &[]) {
        return vec![Mac::new(mac)];
    }
    let lower = text.to_lowercase();
    let is_it = |name: Option<&String>| name.is_some_and(|name| name.to_lowercase() == lower);
    let mut configured = config.devices.iter();
    if let Some(device) = configured.find(|device| is_it(device.name.as_ref())) {
        return vec![Mac::new(device.mac)];
    }
    if let Ok(address) = text.parse::<IpAddr>() {
        let seen = devices.iter();
        let have = seen.filter(|device| device.addresses.contains(&address));
        return have.filter_map(|device| device.mac).collect();
    }
    let seen = devices.iter();
    let seen = seen.filter(|device| is_it(device.identity.name.as_ref()));
    seen.filter_map(|device| device.mac).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_device_is_found_by_every_name_that_it_has() {
        let text = "[[interface]]\nname = \"lan0\"\n[[device]]\nmac = \"02:00:00:00:00:03\"\n\
                    name = \"Lea\"\n";
        let config = Config::parse(text, Path::new("sensor.toml")).expect("it is valid");
        let config = config.config;
        let device = |number: u8, name: Option<&str>| {
            let mac = Mac::new([2, 0, 0, 0, 0, number]);
            let mut device = Device {
                device: mac.to_string(),
                mac: Some(mac),
                addresses: vec![IpAddr::from([192, 168, 1, number])],
                ..Device::default()
            };
            device.identity.name = name.map(str::to_owned);
            device
        };
        let other = Device {
            device: "other".to_owned(),
            ..Device::default()
        };
        let devices = [
            device(1, Some("Änne's Pixel")),
            device(2, Some("änne's pixel")),
            device(3, Some("Lea")),
            other,
        ];
        let places = |text: &str| seen(text, &config, &devices);
        assert_eq!(places("02:00:00:00:00:01"), Ok(vec![0]));
        assert_eq!(places("02:00:00:00:00:02"), Ok(vec![1]));
        assert_eq!(places("192.168.1.3"), Ok(vec![2]));
        assert_eq!(places("LEA"), Ok(vec![2]));
        assert_eq!(places("ÄNNE'S PIXEL"), Ok(vec![0, 1]));
        assert_eq!(places("Other"), Ok(vec![3]));
        for unknown in ["02:00:00:00:00:09", "192.168.1.9", "Nobody", ""] {
            let error = places(unknown).expect_err(unknown);
            assert!(error.starts_with(&format!("no device is called `{unknown}`")));
        }
        // A policy may be about a device that was never seen.
        let new = Mac::new([2, 0, 0, 0, 0, 9]);
        assert_eq!(called("02:00:00:00:00:09", &config, &devices), Ok(new));
        assert!(called("Nobody", &config, &devices).is_err());
    }

    #[test]
    fn a_command_means_devices_that_the_daemon_knows() {
        let text = "[[interface]]\nname = \"lan0\"\n[[device]]\nmac = \"02:00:00:00:00:01\"\n\
                    name = \"Anna's phone\"\ngroups = [\"kids\"]\n";
        let config = Config::parse(text, Path::new("sensor.toml")).expect("it is valid");
        let config = config.config;
        let seen = |number, name: &str| {
            let mut device = Device {
                mac: Some(Mac::new([2, 0, 0, 0, 0, number])),
                ..Device::default()
            };
            device.identity.name = Some(name.to_owned());
            device
        };
        let devices = [
            seen(1, "Pixel-6"),
            seen(2, "Pixel-7"),
            seen(3, "TV"),
            seen(4, "TV"),
        ];
        let meant = |selector: DeviceSelector| meant(&selector, &config, &devices);
        let name = |name: &str| meant(DeviceSelector::Name(name.to_owned()));
        let group = |group: &str| meant(DeviceSelector::Group(group.to_owned()));
        let mac = |number| Ok(DeviceSelector::Mac([2, 0, 0, 0, 0, number]));

        let anna = DeviceSelector::Name("Anna's phone".to_owned());
        assert_eq!(name("Anna's phone"), Ok(anna));
        assert_eq!(name("anna's PHONE"), mac(1));
        // By the name that it says of itself, as `explain` and `devices` take it.
        assert_eq!(name("pixel-7"), mac(2));
        assert_eq!(
            called("pixel-7", &config, &devices),
            Ok(Mac::new([2, 0, 0, 0, 0, 2]))
        );
        let several = called("tv", &config, &devices).expect_err("there are two");
        for error in [name("TV").expect_err("there are two"), several] {
            assert!(
                error.contains("02:00:00:00:00:03 or 02:00:00:00:00:04"),
                "{error}"
            );
        }
        let error = name("Bert's phone").expect_err("nobody has it");
        assert!(
            error.contains("no device is called `Bert's phone`"),
            "{error}"
        );
        let kids = DeviceSelector::Group("kids".to_owned());
        assert_eq!(group("kids"), Ok(kids));
        assert!(group("parents").is_err_and(|error| error.contains("in the group `parents`")));
        let vendor = DeviceSelector::Vendor("Nobody".to_owned());
        assert_eq!(meant(vendor.clone()), Ok(vendor));
    }
}
