// SPDX-License-Identifier: MIT OR Apache-2.0
//! Choosing how an image is mounted, and saying why.

use crate::keeper::Keeper;
use crate::server::Server;
use crate::{Error, ImageFiles, LazySpec, MountOptions, Result, kernel};
use ferrofs_image::Image;
use ferrofs_linux::{MountError, MountHow, MountRequest, MountStep};
use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;

/// Which ways of mounting are wanted.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum MountMethod {
    /// The kernel if it can, else FUSE.
    #[default]
    Auto,
    /// The kernel or none.
    Kernel,
    /// FUSE.
    Fuse,
    /// The kernel, on files that FUSE serves: for images that are read on demand.
    FuseFile,
    /// The kernel, on the cache's own files, before whose reading it asks: for images that are read
    /// on demand.
    Fanotify,
}

/// Which way was taken.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Method {
    /// The kernel reads the image file itself.
    KernelFile,
    /// The kernel reads through these loop devices.
    KernelLoop(Vec<PathBuf>),
    /// The kernel reads a block device.
    KernelDevice,
    /// The kernel reads files that a process of ours serves; through these loop devices, if any.
    FuseFile(Vec<PathBuf>),
    /// The kernel reads the cache's own files, and asks a process of ours before.
    Fanotify,
    /// The kernel reads through its cache, which a daemon fills.
    Cachefiles,
    /// A process of ours serves it.
    Fuse,
    /// A process of ours serves it with the other images of this domain, which share memory.
    Shared(String),
}

/// What was chosen, and why: shown as a sentence.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Chosen {
    /// The way.
    pub method: Method,
    /// Why.
    pub reason: String,
}

impl fmt::Display for Chosen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.method {
            Method::KernelFile => f.write_str("mounted by the kernel (file-backed)")?,
            Method::KernelLoop(devices) => {
                f.write_str("mounted by the kernel (loop device")?;
                for device in devices {
                    write!(f, " {}", device.display())?;
                }
                f.write_str(")")?;
            }
            Method::KernelDevice => f.write_str("mounted by the kernel (block device)")?,
            Method::FuseFile(devices) => {
                f.write_str("mounted by the kernel on a file served by FUSE")?;
                for device in devices {
                    write!(f, " (loop device {})", device.display())?;
                }
            }
            Method::Fanotify => f.write_str("mounted by the kernel, which asks before it reads")?,
            Method::Cachefiles => {
                f.write_str("mounted by the kernel through its cache (cachefiles)")?;
            }
            Method::Fuse => f.write_str("mounted by FUSE")?,
            Method::Shared(domain) => write!(f, "mounted in the domain {domain}")?,
        }
        write!(f, ": {}", self.reason)
    }
}

/// A mount that is wanted.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_structs, reason = "made with `..MountSpec::default()`")]
pub struct MountSpec {
    /// The image.
    pub files: ImageFiles,
    /// The directory to mount on.
    pub target: PathBuf,
    /// Ways that are wanted.
    pub method: MountMethod,
    /// Options.
    pub options: MountOptions,
    /// Its bytes are somewhere else, and fetched when they are read: see [`Keeper::lazy`].
    pub lazy: Option<LazySpec>,
    /// Where a keeper's workers say what goes wrong.
    pub log: WorkerLog,
}

/// Where the worker processes of a keeper say what goes wrong.
#[derive(Clone, Debug, Default)]
#[expect(clippy::exhaustive_enums, reason = "the three things to do with a standard error")]
pub enum WorkerLog {
    /// On the keeper's own standard error.
    #[default]
    Inherit,
    /// Nowhere. For processes in the background: whoever reads the standard error of the one that
    /// was started would wait for the worker to end.
    Discard,
    /// At the end of this file.
    File(Arc<File>),
}

impl WorkerLog {
    pub(crate) fn stdio(&self) -> io::Result<Stdio> {
        Ok(match self {
            Self::Inherit => Stdio::inherit(),
            Self::Discard => Stdio::null(),
            Self::File(file) => Stdio::from(file.try_clone()?),
        })
    }
}

/// How far [`mount`] came.
#[derive(Debug)]
#[expect(clippy::exhaustive_enums, reason = "either the kernel goes on alone, or a process must")]
pub enum Outcome {
    /// The kernel has mounted it; nothing is left to do.
    Kernel(Chosen),
    /// FUSE is to do it: [`FusePlan::start`] mounts.
    Fuse(Box<FusePlan>),
}

/// An opened image that FUSE is to mount. Nothing is mounted yet and no thread runs, so that the
/// process can still go to the background.
#[derive(Debug)]
pub struct FusePlan {
    pub(crate) image: Image,
    pub(crate) spec: MountSpec,
    pub(crate) chosen: Chosen,
}

impl FusePlan {
    /// Mounts. Whoever looks there waits until [`Server::run`] is called.
    pub fn start(self: Box<Self>) -> Result<Server> {
        Server::start(*self)
    }

    /// Whether it is to survive the process that serves it.
    #[must_use]
    pub const fn wants_keeper(&self) -> bool {
        self.spec.options.fuse.patience.is_some()
    }

    /// Mounts, keeps the mount, and has it served by another process of this program, which calls
    /// [`work`](crate::work) if its first argument is [`WORKER_COMMAND`](crate::WORKER_COMMAND).
    pub fn keep(self: Box<Self>) -> Result<Keeper> {
        Keeper::start(self)
    }
}

/// Mounts by the kernel, or prepares to mount by FUSE.
pub fn mount(mut spec: MountSpec) -> Result<Outcome> {
    spec.files.devices.append(&mut spec.options.devices);
    if let Some(offset) = spec.options.offset {
        spec.files.offset = offset;
    }
    spec.options.not_for_new().map_or(Ok(()), Err)?;
    if spec.options.fsid().is_some() {
        return crate::cachefiles::mount(&spec);
    }
    if spec.options.lacks_fsid() {
        let what = "it belongs to fsid= or inode_share";
        return Err(Error::Option { option: String::from("domain_id"), what });
    }
    ferrofs_linux::check_target(&spec.target)?;
    let image = spec.files.open_whole()?;
    let fuse = |image, reason| {
        let chosen = Chosen { method: Method::Fuse, reason };
        Ok(Outcome::Fuse(Box::new(FusePlan { image, spec: spec.clone(), chosen })))
    };
    match spec.method {
        MountMethod::FuseFile | MountMethod::Fanotify => {
            let what =
                "this method is for images that are read on demand, which are named by a URL";
            Err(Error::Option { option: String::from("--method"), what })
        }
        MountMethod::Fuse => {
            spec.options.not_for_fuse().map_or(Ok(()), Err)?;
            fuse(image, String::from("as asked"))
        }
        MountMethod::Kernel => {
            spec.options.not_for_kernel().map_or(Ok(()), Err)?;
            let mounted = by_kernel(&spec).map_err(|error| explain(error, &image))?;
            Ok(Outcome::Kernel(Chosen { reason: String::from("as asked"), ..mounted }))
        }
        MountMethod::Auto => {
            // An option that only one way has decides.
            if let Some(option) = &spec.options.fuse_only {
                spec.options.not_for_fuse().map_or(Ok(()), Err)?;
                return fuse(image, format!("only FUSE has the option {option}"));
            }
            let reason = match kernel::obstacle(&image) {
                Some(obstacle) => obstacle,
                None => match by_kernel(&spec) {
                    Ok(mounted) => {
                        let reason = match kernel::features(&image) {
                            names if names.is_empty() => mounted.reason,
                            names => format!("{}, and knows its features: {names}", mounted.reason),
                        };
                        return Ok(Outcome::Kernel(Chosen { reason, ..mounted }));
                    }
                    Err(error) if is_final(&error) => return Err(Error::Mount(error)),
                    Err(error) => format!("the kernel refused: {error}"),
                },
            };
            match spec.options.not_for_fuse() {
                Some(Error::Option { option, .. }) => Err(Error::KernelOnly { option, reason }),
                Some(error) => Err(error),
                None => fuse(image, reason),
            }
        }
    }
}

/// Whether FUSE would fail for the same reason.
fn is_final(error: &MountError) -> bool {
    matches!(error.step, MountStep::Target | MountStep::Source | MountStep::Attach)
        || (error.step == MountStep::Option && !error.subject.starts_with("fsoffset"))
}

/// A refusal of the kernel with what is known about it.
fn explain(error: MountError, image: &Image) -> Error {
    match kernel::obstacle(image) {
        Some(reason) => Error::Kernel { reason, error },
        None => Error::Mount(error),
    }
}

fn by_kernel(spec: &MountSpec) -> std::result::Result<Chosen, MountError> {
    let mut options = spec.options.kernel_options();
    if spec.files.offset > 0 {
        options.push((String::from("fsoffset"), Some(spec.files.offset.to_string())));
    }
    let mounted = ferrofs_linux::mount_erofs(&MountRequest {
        source: spec.files.image.clone(),
        target: spec.target.clone(),
        devices: spec.files.devices.clone(),
        options,
        flags: spec.options.kernel_flags(),
    })?;
    let (method, reason) = match mounted.how {
        MountHow::FileBacked => (Method::KernelFile, "it can read the image file itself"),
        MountHow::Loop => (
            Method::KernelLoop(mounted.loop_devices),
            "it can read the image, but not as a plain file where that lies",
        ),
        _ => (Method::KernelDevice, "it can read the device"),
    };
    Ok(Chosen { method, reason: String::from(reason) })
}
