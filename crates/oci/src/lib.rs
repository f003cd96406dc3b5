// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registries and image layouts of the Open Container Initiative, and the HTTP client that they and
//! other remote sources use.
//!
//! What it refuses to know: mounts, EROFS, caches. Invariant: whatever a server says, a call ends by
//! its deadline, keeps to the lengths that were asked for, and shows credentials to nobody but the
//! host they are for.
#![forbid(unsafe_code)]

mod credentials;
mod error;
pub mod http;
pub mod layout;
pub mod manifest;
mod push;
mod reference;
mod registry;
mod token;

pub use credentials::{Credential, Credentials};
pub use error::{Error, ErrorKind, Secret};
pub use manifest::{Descriptor, Manifest, Platform};
pub use push::Artifact;
pub use reference::{Digest, Reference};
pub use registry::{Fetched, Registry, RegistryOptions};
