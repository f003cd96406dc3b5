// SPDX-License-Identifier: MIT OR Apache-2.0
//! What goes into an image: names, metadata, and where content comes from.
//!
//! * [`Tree`] is an arena of inodes. A hard link is a second entry that names the same inode; a
//!   directory's entries are sorted by their raw bytes; xattrs that many inodes share are stored
//!   once. [`TreeBuilder`] makes one, whatever the input is: today a directory ([`Walk`]); tar
//!   streams, OCI layers and other images fill the same arena.
//! * Content stays where it is. A [`Source`] opens the content of one inode on demand and says so
//!   if it is no longer what the tree describes.
//!
//! This crate refuses to know block addresses, layouts and compression. The invariants it keeps:
//!
//! * A finished tree has one root directory, every other inode is reachable from it, no directory
//!   has two parents, no directory has two entries of one name, every name is 1 to 255 bytes
//!   without `/` and NUL, and is neither `.` nor `..`.
//! * The same input and options give the same tree, whatever order a directory is read in.
//! * Reading never hands out bytes of a file that is not the one that was walked: that is an error
//!   with the file's path.
#![forbid(unsafe_code)]

mod error;
mod source;
mod tree;
mod walk;
mod xattr;

pub use error::{Change, Error, Result};
pub use source::{FileData, Source};
pub use tree::{
    Content, Entry, FileType, Inode, InodeId, Metadata, NewContent, Timestamp, Tree, TreeBuilder,
};
pub use walk::{
    DirectorySource, Exclude, Ownership, PatternError, Times, Walk, WalkOptions, WalkReport, Walked,
};
pub use xattr::{Xattr, XattrSetId};
