// SPDX-License-Identifier: MIT OR Apache-2.0
//! Safe wrappers over the Linux calls that ferrofs needs and that std lacks.
//!
//! What it does: mounts (new mount API, loop devices, `mountinfo`), a process that goes to the
//! background, signals as a descriptor, descriptors over sockets, sparse files, early writeback,
//! extended attributes, path resolution that cannot leave a directory, memory pressure. What it
//! refuses to know: everything of ferrofs above it. Invariant: the public interface is safe; `unsafe` stands only where
//! `rustix` has no call, each time with its proof.
//!
//! Thin wrappers return [`std::io::Error`]; mounting has an error of its own, [`MountError`],
//! which knows the step that failed and what the kernel said about it.

pub mod at;
pub mod cachefiles;
pub mod daemon;
pub mod descriptors;
pub mod fanotify;
mod fsmount;
pub mod fuse_device;
mod loopdev;
pub mod memory;
pub mod mount;
pub mod mountinfo;
pub mod ofd;
pub mod pagecache;
pub mod pieces;
pub mod process;
pub mod psi;
pub mod scheduling;
pub mod signals;
pub mod sparse;
pub mod writeback;
pub mod xattr;

pub use fsmount::{
    FsMount, MountError, MountFlags, MountStep, Parameter, mount_tree, probe_flag, probe_option,
    reconfigure,
};
pub use mount::{
    MountHow, MountRequest, Mounted, UnmountFlags, check_target, mount_erofs, mount_erofs_on_files,
    unmount,
};
