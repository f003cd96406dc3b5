// SPDX-License-Identifier: MIT OR Apache-2.0
//! Registries and image layouts of the Open Container Initiative, and the HTTP client that they and
//! other remote sources use.
//!
//! What it refuses to know: mounts, EROFS, caches. Invariant: whatever a server says, a call ends by
//! its deadline, keeps to the lengths that were asked for, and shows credentials to nobody but the
//! host they are for.
#![forbid(unsafe_code)]
