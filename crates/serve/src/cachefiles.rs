// SPDX-License-Identifier: MIT OR Apache-2.0
//! Mounts whose bytes come through the kernel's cache: cachefiles in its on-demand mode.
//!
//! Knows what `fsid=` needs of a kernel, and refuses to know who fills the cache (`ferrofs cached`).
//! Invariant: an option of such mounts is obeyed or the mount is refused, never passed over: a kernel
//! without the feature would look for the image elsewhere.

use crate::mount::{Chosen, Method, MountMethod, MountSpec, Outcome};
use crate::{Error, MountOptions, Result};
use ferrofs_linux::{FsMount, MountStep, Parameter};
use std::ffi::OsString;
use std::path::Path;

/// The source that the list of mounts shows, and that is no path.
const SOURCE: &str = "none";
const DEVICE: &str = "/dev/cachefiles";

impl MountOptions {
    /// The image's key, if it is to come through the kernel's cache (`fsid=`).
    #[must_use]
    pub fn fsid(&self) -> Option<&str> {
        let found = self.kernel.iter().find(|(name, _)| name == "fsid");
        found.map(|(_, value)| value.as_deref().unwrap_or_default())
    }

    /// `domain_id=`, which means nothing but for such a mount or for shared inodes.
    pub(crate) fn lacks_fsid(&self) -> bool {
        let has = |wanted| self.kernel.iter().any(|(name, _)| name == wanted);
        has("domain_id") && !has("fsid") && !has("inode_share")
    }
}

/// Mounts through the cache.
pub(crate) fn mount(spec: &MountSpec) -> Result<Outcome> {
    let options = &spec.options;
    let refuse = |option: &str, what| Err(Error::Option { option: option.to_owned(), what });
    if options.fsid().is_none_or(str::is_empty) {
        return refuse("fsid", "it needs the name of an image that `ferrofs cached` serves");
    }
    if !matches!(spec.method, MountMethod::Auto | MountMethod::Kernel) {
        return refuse("fsid", "only mounts by the kernel have it");
    }
    if spec.files.offset > 0 {
        return refuse(
            "fsoffset",
            "an image that comes through the cache begins at its first byte",
        );
    }
    options.not_for_kernel().map_or(Ok(()), Err)?;
    ferrofs_linux::check_target(&spec.target)?;
    if let Some(reason) = obstacle() {
        return Err(Error::KernelOnly { option: String::from("fsid"), reason });
    }
    let named = options.kernel_options();
    let values = named.iter().map(|(name, value)| match value {
        Some(value) => Parameter::Value(name, OsString::from(value)),
        None => Parameter::Flag(name),
    });
    // Here they are names of blobs, not paths.
    let devices = spec.files.devices.iter();
    let devices = devices.map(|name| Parameter::Value("device", name.clone().into_os_string()));
    let wanted = FsMount {
        fs_type: "erofs",
        source: SOURCE.as_ref(),
        parameters: values.chain(devices).collect(),
        flags: options.kernel_flags(),
    };
    wanted.mount(&spec.target).map_err(|error| match error.step {
        MountStep::Create => {
            let reason = format!(
                "it did not get the image through its cache ({error}); see whether `ferrofs cached` \
                 runs and knows the image and its blobs"
            );
            Error::KernelOnly { option: String::from("fsid"), reason }
        }
        _ => Error::Mount(error),
    })?;
    let reason = String::from("fsid= wants it");
    Ok(Outcome::Kernel(Chosen { method: Method::Cachefiles, reason }))
}

/// Why this kernel cannot mount so.
fn obstacle() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some(String::from("mounting by the kernel needs root"));
    }
    let advice = "name the image by its URL instead: `ferrofs mount URL DIRECTORY` needs no cache of \
                  the kernel";
    let misc = std::fs::read_to_string("/proc/misc").unwrap_or_default();
    let listed = misc.lines().any(|line| line.split_whitespace().nth(1) == Some("cachefiles"));
    if !listed && !Path::new(DEVICE).exists() {
        return Some(format!(
            "fsid= reads the image through {DEVICE}, which this kernel does not have (Linux 5.19 to \
             7.1 do with CACHEFILES_ONDEMAND, if the module is loaded); {advice}"
        ));
    }
    // Kernels built without it say so and go on as if nothing had been said.
    match ferrofs_linux::probe_option("erofs", "fsid", "probe") {
        Ok(messages) if messages.is_empty() => None,
        Ok(messages) => Some(format!(
            "its EROFS is built without EROFS_FS_ONDEMAND and says: {}; {advice}",
            messages.join("; ")
        )),
        Err(error) => Some(format!("its EROFS does not take the option: {error}; {advice}")),
    }
}
