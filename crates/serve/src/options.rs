// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mount options as `-o` has them.
//!
//! Knows which options are for any mount, which for the kernel's EROFS and which for FUSE. Invariant:
//! an option is remembered, or it is one that means nothing to a file system (those that mount(8)
//! keeps for itself), or it is refused.

use crate::settings::{EngineSettings, Taken, show_given};
use crate::{Error, Patience, Result};
use ferrofs_engine::{EngineConfig, Strategy};
use ferrofs_fuse::SessionConfig;
use ferrofs_linux::MountFlags;
use std::ffi::{OsStr, OsString};
use std::net::SocketAddr;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;
use std::time::Duration;

/// Options of a mount.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..MountOptions::default()`")]
pub struct MountOptions {
    /// Extra devices (`device=`), behind those given otherwise.
    pub devices: Vec<PathBuf>,
    /// Bytes in front of the image (`fsoffset=`).
    pub offset: Option<u64>,
    /// `nosuid` or `suid`; without either, FUSE ignores set-user-ID bits and the kernel does not.
    pub nosuid: Option<bool>,
    /// `nodev` or `dev`; without either, device nodes work on kernel mounts only.
    pub nodev: Option<bool>,
    /// `noexec`.
    pub noexec: bool,
    /// `noatime`: means nothing, since nothing is ever written, but shows in the list of mounts.
    pub noatime: bool,
    /// `nodiratime`.
    pub nodiratime: bool,
    /// `nosymfollow`: by the kernel only.
    pub nosymfollow: bool,
    /// Options for the kernel's EROFS that FUSE does not have.
    pub kernel: Vec<(String, Option<String>)>,
    /// Settings of the engine behind FUSE. The kernel's EROFS has one of them, `cache_strategy`.
    pub engine: EngineSettings,
    /// Settings of the FUSE server.
    pub fuse: FuseOptions,
    /// An option that only the FUSE server has, if one was given.
    pub fuse_only: Option<String>,
    /// `remount`: changes the mount that is there; see [`remount`](crate::remount).
    pub remount: bool,
    /// An option, if one was given, that cannot change while the image is mounted.
    pub fixed: Option<String>,
}

/// Settings of the FUSE server.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..FuseOptions::default()`")]
pub struct FuseOptions {
    /// Most worker threads; `None` goes by the number of cores.
    pub threads_max: Option<usize>,
    /// Lets other users in. `None`: if root mounts.
    pub allow_other: Option<bool>,
    /// The mount survives the process that serves it, and readers wait so long for the next one.
    pub patience: Option<Patience>,
    /// Each worker has its own channel to the kernel.
    pub clone_fd: bool,
    /// Largest read in bytes.
    pub max_read: Option<u32>,
    /// What the list of mounts shows as source, instead of the image's path.
    pub fsname: Option<String>,
    /// What the list of mounts shows after "fuse." as type.
    pub subtype: Option<String>,
    /// Gives up cached data while the machine is short of memory: from which share of time on that
    /// somebody waits for memory, in percent.
    pub psi: Option<u8>,
    /// Where counters are served for Prometheus, over HTTP.
    pub metrics: Option<SocketAddr>,
    /// A file that counters are written to, for the textfile collector of node_exporter, and how
    /// often.
    pub metrics_file: Option<(PathBuf, Duration)>,
}

/// Share of time, in percent, at which `psi` without a value takes memory to be short.
const PSI_PERCENT: u8 = 10;

/// A sixteenth of the machine's memory, from 64 MiB to 1 GiB. A limit, not a reservation: decoding a
/// large pcluster again costs far more than keeping it, so it pays to hold what is in use.
fn cache_bytes(total_memory: u64) -> u64 {
    (total_memory / 16).clamp(64 << 20, 1 << 30)
}

/// Bytes of memory in the machine; 0 if the system does not say.
fn total_memory() -> u64 {
    let info = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = info.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0).saturating_mul(1024)
}

/// Options that mount(8) and the init system keep for themselves, or that say what is so anyway.
const MEANINGLESS: [&str; 30] = [
    "defaults",
    "ro",
    "rw",
    "exec",
    "atime",
    "relatime",
    "norelatime",
    "strictatime",
    "diratime",
    "symfollow",
    "sync",
    "async",
    "dirsync",
    "silent",
    "loud",
    "lazytime",
    "nolazytime",
    "auto",
    "noauto",
    "nofail",
    "_netdev",
    "owner",
    "group",
    "iversion",
    "noiversion",
    "mand",
    "nomand",
    "nouser",
    "loop",
    "nostrictatime",
];

/// Options of the kernel's EROFS that go to it as they are.
const OF_KERNEL: [&str; 12] = [
    "user_xattr",
    "nouser_xattr",
    "acl",
    "noacl",
    "dax",
    "directio",
    "nodirectio",
    "fsid",
    "domain_id",
    "inode_share",
    "source",
    "context",
];

impl MountOptions {
    /// Adds options, separated by commas.
    pub fn add(&mut self, text: &OsStr) -> Result<()> {
        for option in text.as_bytes().split(|&byte| byte == b',').filter(|part| !part.is_empty()) {
            self.add_one(option)?;
        }
        Ok(())
    }

    fn add_one(&mut self, option: &[u8]) -> Result<()> {
        let (name, value) = match option.iter().position(|&byte| byte == b'=') {
            Some(at) => (&option[..at], Some(&option[at + 1..])),
            None => (option, None),
        };
        let refuse = |what| {
            let option = String::from_utf8_lossy(option).into_owned();
            Err(Error::Option { option, what })
        };
        let Ok(name) = str::from_utf8(name) else { return refuse("not known") };
        // A device may have any name; the other values are plain text.
        if name == "device" {
            let Some(value) = value else { return refuse("needs a value") };
            self.devices.push(OsString::from_vec(value.to_vec()).into());
            self.fixed = Some(name.to_owned());
            return Ok(());
        }
        let value = match value.map(str::from_utf8) {
            Some(Ok(value)) => Some(value),
            Some(Err(_)) => return refuse("its value is not text"),
            None => None,
        };
        if self.add_flag(name, value) {
            return Ok(());
        }
        match (name, value) {
            ("fsoffset", Some(value)) => match value.parse() {
                Ok(offset) => {
                    self.offset = Some(offset);
                    self.fixed = Some(name.to_owned());
                }
                Err(_) => return refuse("its value is not a number of bytes"),
            },
            ("remount", None) => self.remount = true,
            (name, None) if MEANINGLESS.contains(&name) => {}
            (name, _) if name.starts_with("x-") || name == "comment" => {}
            (name, value) if OF_KERNEL.contains(&name) => {
                self.kernel.push((name.to_owned(), value.map(str::to_owned)));
            }
            (name, value) => match self.engine.take(name, value) {
                Taken::Bad(what) => return refuse(what),
                // The kernel's own, with one word more here.
                Taken::Yes if name == "cache_strategy" => {
                    if self.engine.strategy == Some(Strategy::Split) {
                        self.fuse_only = Some(String::from("cache_strategy=split"));
                    }
                }
                Taken::Yes => {
                    self.fuse_only = Some(name.to_owned());
                    if name == "workers" {
                        self.fixed = Some(name.to_owned());
                    }
                }
                Taken::Unknown => match self.add_fuse(name, value) {
                    Some(true) => {
                        self.fuse_only = Some(name.to_owned());
                        self.fixed = Some(name.to_owned());
                    }
                    Some(false) => return refuse("its value makes no sense"),
                    None => return refuse("not known"),
                },
            },
        }
        Ok(())
    }

    /// Attributes of the mount point. Whether it was one.
    fn add_flag(&mut self, name: &str, value: Option<&str>) -> bool {
        if value.is_some() {
            return false;
        }
        match name {
            "nosuid" => self.nosuid = Some(true),
            "suid" => self.nosuid = Some(false),
            "nodev" => self.nodev = Some(true),
            "dev" => self.nodev = Some(false),
            "noexec" => self.noexec = true,
            "noatime" => self.noatime = true,
            "nodiratime" => self.nodiratime = true,
            "nosymfollow" => self.nosymfollow = true,
            // What mount(8) makes of these two.
            "user" | "users" => {
                self.nosuid.get_or_insert(true);
                self.nodev.get_or_insert(true);
                self.noexec = true;
            }
            _ => return false,
        }
        true
    }

    /// Settings of the FUSE server, by libfuse's names where it has them. `None`: not known;
    /// `Some(false)`: a bad value.
    fn add_fuse(&mut self, name: &str, value: Option<&str>) -> Option<bool> {
        fn number<T: std::str::FromStr>(value: Option<&str>, to: &mut Option<T>) -> bool {
            *to = value.and_then(|value| value.parse().ok());
            to.is_some()
        }
        let fuse = &mut self.fuse;
        Some(match (name, value) {
            ("allow_other", None) => {
                fuse.allow_other = Some(true);
                true
            }
            ("clone_fd", None) => {
                fuse.clone_fd = true;
                true
            }
            // So it is always: attributes and names are kept for ever, permissions checked, and
            // idle threads end by themselves.
            ("default_permissions" | "kernel_cache" | "auto_cache" | "nonempty", None)
            | ("max_idle_threads", Some(_)) => true,
            ("max_threads", value) => number(value, &mut fuse.threads_max),
            ("max_read", value) => number(value, &mut fuse.max_read),
            ("psi", None) => {
                fuse.psi = Some(PSI_PERCENT);
                true
            }
            ("psi", Some(value)) => {
                let number = value.strip_suffix('%').unwrap_or(value).parse().ok();
                fuse.psi = number.filter(|percent| (1..=100).contains(percent));
                fuse.psi.is_some()
            }
            ("hard", None) => {
                fuse.patience = Some(Patience::Hard);
                true
            }
            ("soft", value) => {
                let seconds: Option<u32> = value.and_then(|value| value.parse().ok());
                let seconds = seconds.filter(|seconds| *seconds > 0);
                let time = seconds.map(|seconds| Duration::from_secs(seconds.into()));
                fuse.patience = time.map(Patience::Soft);
                time.is_some()
            }
            ("fsname", Some(value)) => {
                fuse.fsname = Some(value.to_owned());
                true
            }
            ("subtype", Some(value)) => {
                fuse.subtype = Some(value.to_owned());
                true
            }
            _ => return None,
        })
    }

    /// Attributes of a mount by the kernel.
    pub(crate) fn kernel_flags(&self) -> MountFlags {
        MountFlags {
            nosuid: self.nosuid.unwrap_or(false),
            nodev: self.nodev.unwrap_or(false),
            noexec: self.noexec,
            noatime: self.noatime,
            nodiratime: self.nodiratime,
            nosymfollow: self.nosymfollow,
        }
    }

    /// Refuses attributes of the mount point that differ from those in force, a list with commas.
    pub(crate) fn check_attributes(&self, in_force: &str) -> Result<()> {
        let wanted = [
            ("nosuid", self.nosuid),
            ("nodev", self.nodev),
            ("noexec", self.noexec.then_some(true)),
            ("noatime", self.noatime.then_some(true)),
            ("nodiratime", self.nodiratime.then_some(true)),
            ("nosymfollow", self.nosymfollow.then_some(true)),
        ];
        let has = |name: &str| in_force.split(',').any(|option| option == name);
        match wanted.iter().find(|(name, on)| on.is_some_and(|on| on != has(name))) {
            None => Ok(()),
            Some((name, on)) => {
                let name = if *on == Some(true) { name } else { &name[2..] };
                let what = "it is changed by: mount -o remount,bind,OPTION DIR";
                Err(Error::Option { option: String::from(name), what })
            }
        }
    }

    /// Attributes of a mount that puts an image together out of others, which has no options of
    /// EROFS or of FUSE.
    pub fn for_overlay(&self) -> Result<MountFlags> {
        let what = "mounts by overlayfs do not have it";
        let kernel = self.kernel_options();
        let other = self.remount.then_some("remount").or(self.fuse_only.as_deref());
        match other.or(kernel.first().map(|(name, _)| &**name)) {
            Some(option) => Err(Error::Option { option: option.to_owned(), what }),
            None => self.not_for_new().map_or_else(|| Ok(self.kernel_flags()), Err),
        }
    }

    /// Options for the kernel's EROFS.
    pub(crate) fn kernel_options(&self) -> Vec<(String, Option<String>)> {
        let mut options = self.kernel.clone();
        if let Some(strategy) = self.engine.strategy {
            options.push((String::from("cache_strategy"), Some(strategy.to_string())));
        }
        options
    }

    /// Settings of the engine behind a FUSE mount.
    pub(crate) fn engine_config(&self) -> EngineConfig {
        let cache_bytes = self.engine.cache_bytes.unwrap_or_else(|| cache_bytes(total_memory()));
        EngineConfig { cache_bytes, ..self.engine.config() }
    }

    /// Settings of a FUSE session for `source`.
    pub(crate) fn session(&self, source: &str) -> SessionConfig {
        let root = rustix::process::geteuid().is_root();
        let mut config = SessionConfig {
            allow_other: self.fuse.allow_other.unwrap_or(root),
            nosuid: self.nosuid.unwrap_or(true),
            nodev: self.nodev.unwrap_or(true),
            noexec: self.noexec,
            clone_fd: self.fuse.clone_fd,
            ..SessionConfig::default()
        };
        let fsname = self.fuse.fsname.as_deref().unwrap_or(source);
        // What a line of /proc/mounts can show.
        let visible = |c: char| if c.is_control() { '?' } else { c };
        config.fsname = fsname.chars().map(visible).collect();
        if let Some(threads) = self.fuse.threads_max {
            config.threads_max = threads;
        }
        if let Some(max_read) = self.fuse.max_read {
            config.max_read = max_read;
        }
        if let Some(subtype) = &self.fuse.subtype {
            config.subtype = Some(subtype.clone());
        }
        config
    }

    /// Why FUSE cannot honour these options.
    pub(crate) fn not_for_fuse(&self) -> Option<Error> {
        let what = "only mounts by the kernel have it";
        if self.nosymfollow {
            return Some(Error::Option { option: String::from("nosymfollow"), what });
        }
        if let Some((name, _)) = self.kernel.first() {
            return Some(Error::Option { option: name.clone(), what });
        }
        self.not_for_new()
    }

    /// Why a mount cannot begin with these options, however it is done.
    pub(crate) fn not_for_new(&self) -> Option<Error> {
        self.engine.on_change.map(|_| Error::Option {
            option: String::from("on_change"),
            what: "only a change of a mount that is there has it",
        })
    }

    /// An option that only a server of the whole tree has, if one was given: not one that serves
    /// the kernel's EROFS the image's bytes.
    pub(crate) fn only_for_tree(&self) -> Option<String> {
        let kernel_has = |strategy| strategy != Strategy::Split;
        let engine = show_given(&self.engine).into_iter().map(|change| change.name);
        let mut engine = engine.filter(|name| {
            name != "cache_strategy" || !self.engine.strategy.is_none_or(kernel_has)
        });
        let fuse = &self.fuse;
        let others = [
            (fuse.allow_other.is_some(), "allow_other"),
            (fuse.psi.is_some(), "psi"),
            (fuse.max_read.is_some(), "max_read"),
            (fuse.fsname.is_some(), "fsname"),
            (fuse.subtype.is_some(), "subtype"),
        ];
        let mut others = others.iter().filter(|(given, _)| *given);
        engine.next().or_else(|| others.next().map(|(_, name)| String::from(*name)))
    }

    /// An option that mounts in a domain do not have, if one was given.
    pub(crate) fn not_for_shared(&self) -> Option<String> {
        let kernel = self.kernel.first().map(|(name, _)| name.clone());
        kernel
            // Each image of a domain has counters of its own.
            .or_else(|| {
                let metrics = |option: &str| matches!(option, "--metrics" | "--metrics-file");
                self.fuse_only.clone().filter(|option| !metrics(option))
            })
            .or_else(|| self.engine.strategy.map(|strategy| format!("cache_strategy={strategy}")))
    }

    /// Why the kernel cannot honour these options.
    pub(crate) fn not_for_kernel(&self) -> Option<Error> {
        let Some(option) = self.fuse_only.clone() else { return self.not_for_new() };
        Some(Error::Option { option, what: "only mounts by FUSE have it" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cache_follows_the_machine() {
        assert_eq!(cache_bytes(0), 64 << 20);
        assert_eq!(cache_bytes(8 << 30), 512 << 20);
        assert_eq!(cache_bytes(1 << 40), 1 << 30);
        assert!(total_memory() > 0, "Linux says");
    }

    fn parse(text: &str) -> Result<MountOptions> {
        let mut options = MountOptions::default();
        options.add(OsStr::new(text)).map(|()| options)
    }

    #[test]
    fn every_option_finds_its_place() {
        let options = parse(
            "ro,nosuid,dev,noatime,device=/a b,device=c=d,fsoffset=8192,cache_strategy=disabled,\
             x-systemd.automount,,user_xattr",
        )
        .unwrap();
        assert_eq!((options.nosuid, options.nodev), (Some(true), Some(false)));
        assert!(options.noatime && !options.noexec);
        assert_eq!(options.devices, [PathBuf::from("/a b"), PathBuf::from("c=d")]);
        assert_eq!(options.offset, Some(8192));
        assert_eq!(options.kernel, [(String::from("user_xattr"), None)]);
        assert_eq!(options.engine.strategy, Some(Strategy::Disabled));
        let value = Some(String::from("disabled"));
        let expected =
            [(String::from("user_xattr"), None), (String::from("cache_strategy"), value)];
        assert_eq!(options.kernel_options(), expected);
        assert!(options.not_for_fuse().is_some() && options.not_for_kernel().is_none());
    }

    #[test]
    fn settings_of_fuse() {
        let options = parse("allow_other,max_threads=3,fsname=x,noexec,cache_bytes=0").unwrap();
        let config = options.session("y");
        assert!(config.allow_other && config.noexec && config.nosuid);
        assert_eq!((config.threads_max, config.fsname.as_str()), (3, "x"));
        assert_eq!(options.engine_config().cache_bytes, 0);
        assert!(options.not_for_kernel().is_some() && options.not_for_fuse().is_none());
        assert_eq!(parse("suid").unwrap().session("a\nb").fsname, "a?b");
    }

    #[test]
    fn settings_of_the_engine() {
        let options = parse(
            "cache_strategy=split,cache_rule=original,sync_decompress=never,sync_bytes=64K,\
             noreadmore,workers=3,merge=256K,cache=32M,psi=25%",
        )
        .unwrap();
        let config = options.engine_config();
        assert_eq!((config.workers, config.merge_bytes), (3, 256 << 10));
        assert_eq!((config.sync_bytes, config.cache_bytes), (64 << 10, 32 << 20));
        assert!(!config.readmore && options.fuse.psi == Some(25));
        assert!(options.not_for_fuse().is_none() && options.not_for_kernel().is_some());
        // What the kernel has too is no reason for either.
        let options = parse("cache_strategy=readahead").unwrap();
        assert!(options.not_for_fuse().is_none() && options.not_for_kernel().is_none());
        let options = parse("cache_strategy=split").unwrap();
        assert!(options.not_for_fuse().is_none() && options.not_for_kernel().is_some());
        assert!(parse("on_change=flush").unwrap().not_for_fuse().is_some());
        assert!(parse("remount,cache=1M").unwrap().remount);
        assert_eq!(parse("psi").unwrap().fuse.psi, Some(10));
    }

    #[test]
    fn others_are_refused_by_name() {
        for text in [
            "bogus",
            "nosuid=1",
            "fsoffset=x",
            "device",
            "remount=1",
            "max_threads=many",
            "cache_strategy=all",
            "cache_rule=new",
            "sync_decompress=1",
            "merge=1",
            "psi=0",
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(text), "{error}");
        }
    }
}
