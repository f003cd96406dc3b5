// SPDX-License-Identifier: MIT OR Apache-2.0
//! How images elsewhere are reached, from arguments and environment; and the password of a proxy, which
//! is not to stay where everybody sees it.

use crate::args::{DevicePinArgs, NetworkArgs};
use crate::errors::Advice;
use anyhow::Context as _;
use ferrofs_store::source::remote::Location;
use ferrofs_store::{Network, ProxySetting};
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;

/// A proxy, as `--proxy` has it.
const VARIABLE: &str = "FERROFS_PROXY";

impl NetworkArgs {
    /// What they say, checked as far as that is possible without asking anybody.
    pub(crate) fn network(&self) -> anyhow::Result<Network> {
        let text = match &self.proxy {
            Some(text) => Some(text.clone()),
            None => match std::env::var(VARIABLE) {
                Ok(text) => Some(text).filter(|text| !text.is_empty()),
                Err(std::env::VarError::NotPresent) => None,
                Err(_) => anyhow::bail!("{VARIABLE} is no proxy's URL"),
            },
        };
        let network = Network {
            ca: self.absolute_ca()?.map(PathBuf::into_os_string),
            proxy: text.as_deref().map_or(ProxySetting::Environment, ProxySetting::parse),
        };
        network.check().map_err(|error| {
            let help = "--ca FILE names certificates in PEM form, --proxy URL a proxy or `none`";
            Advice::error(error.to_string(), help)
        })?;
        Ok(network)
    }

    /// Servers in the background have another working directory.
    fn absolute_ca(&self) -> anyhow::Result<Option<PathBuf>> {
        let absolute = self.ca.as_ref().map(std::path::absolute).transpose();
        absolute.context("the file of certificates")
    }

    /// The words that say the same to a process that we start: with the environment, which it has, too.
    pub(crate) fn words(&self) -> anyhow::Result<Vec<OsString>> {
        let mut words = Vec::new();
        if let Some(ca) = self.absolute_ca()? {
            words.extend([OsString::from("--ca"), ca.into()]);
        }
        if let Some(proxy) = &self.proxy {
            words.extend([OsString::from("--proxy"), proxy.into()]);
        }
        Ok(words)
    }

    /// The first of these options that was given.
    pub(crate) fn given(&self) -> Option<&'static str> {
        match (&self.ca, &self.proxy) {
            (Some(_), _) => Some("--ca"),
            (None, Some(_)) => Some("--proxy"),
            (None, None) => None,
        }
    }
}

/// URLs of data blobs.
pub(crate) fn device_urls(devices: &[PathBuf]) -> anyhow::Result<Vec<String>> {
    let url = |path: &PathBuf| match path.to_str() {
        Some(text) if Location::is_location(text) => Ok(text.to_owned()),
        _ => Err(Advice::error(
            format!("the device {} is no place to fetch from", path.display()),
            "devices of an image at a URL are named by URLs, too: file:///PATH, https://...",
        )),
    };
    devices.iter().map(url).collect()
}

impl DevicePinArgs {
    /// By tag.
    pub(crate) fn by_tag(&self) -> anyhow::Result<BTreeMap<String, String>> {
        let mut pins = BTreeMap::new();
        for (tag, pin) in &self.pin_device {
            if pins.insert(tag.clone(), pin.clone()).is_some_and(|other| other != *pin) {
                anyhow::bail!("two pins are given for the data blob `{tag}`");
            }
        }
        Ok(pins)
    }

    /// The words that say the same to a process that we start.
    pub(crate) fn words(&self) -> impl Iterator<Item = OsString> {
        self.pin_device
            .iter()
            .flat_map(|(tag, pin)| [OsString::from("--pin-device"), format!("{tag}={pin}").into()])
    }
}

/// Moves the password of a proxy from the command line, which all users of the machine see as long as the
/// process lives, to its environment, which only its own user does. Comes back if there is none, or if
/// that fails.
pub(crate) fn hide_password(words: &[OsString]) -> anyhow::Result<()> {
    let Some((shown, proxy)) = without_password(words) else { return Ok(()) };
    let (name, rest) = shown.split_first().context("no name of the program")?;
    let found = std::env::current_exe().ok().filter(|path| path.exists());
    let program = found.unwrap_or_else(|| PathBuf::from("/proc/self/exe"));
    let error = Command::new(program).arg0(name).args(rest).env(VARIABLE, proxy).exec();
    Err(error).with_context(|| {
        format!("cannot hide the proxy's password; give the proxy by the variable {VARIABLE}")
    })
}

/// The words without a proxy that has a password, and that proxy.
fn without_password(words: &[OsString]) -> Option<(Vec<&OsStr>, &OsStr)> {
    let mut shown: Vec<&OsStr> = Vec::new();
    let mut found = None;
    let mut rest = words.iter().map(OsString::as_os_str);
    while let Some(word) = rest.next() {
        let joined = word.as_bytes().strip_prefix(b"--proxy=").map(OsStr::from_bytes);
        match joined {
            _ if word == "--" => {
                shown.push(word);
                shown.extend(rest);
                break;
            }
            Some(value) if has_login(value) => found = Some(value),
            None if word == "--proxy" => match rest.next() {
                Some(value) if has_login(value) => found = Some(value),
                value => shown.extend(std::iter::once(word).chain(value)),
            },
            _ => shown.push(word),
        }
    }
    found.map(|found| (shown, found))
}

fn has_login(value: &OsStr) -> bool {
    value.as_bytes().contains(&b'@')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxys_password_leaves_the_command_line() {
        let split = |line: &str| line.split(' ').map(OsString::from).collect::<Vec<_>>();
        for (line, shown, proxy) in [
            ("f mount --proxy http://u:p@h a b", "f mount a b", "http://u:p@h"),
            ("f mount --proxy=u:p@h a b", "f mount a b", "u:p@h"),
            (
                "f trace record --proxy u@h a -- x --proxy v@h",
                "f trace record a -- x --proxy v@h",
                "u@h",
            ),
        ] {
            let words = split(line);
            let (found, value) = without_password(&words).unwrap();
            assert_eq!((found.join(OsStr::new(" ")), value), (shown.into(), OsStr::new(proxy)));
        }
        for line in ["f mount --proxy h a u@h", "f x -- --proxy u@h", "f --proxy", "f --proxy none"]
        {
            assert!(without_password(&split(line)).is_none(), "{line}");
        }
    }
}
