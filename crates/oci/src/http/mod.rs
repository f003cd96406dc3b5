// SPDX-License-Identifier: MIT OR Apache-2.0
//! The HTTP client: one request, one answer, by a deadline.
//!
//! What it refuses to know: redirects (see [`Resource`]), retries, what is asked for. Invariant:
//! nothing of a request but scheme, host and path of its URL gets into a message.

pub mod address;
mod challenge;
mod client;
mod connect;
mod resource;
mod tls;

pub(crate) use challenge::{Challenge, parse_challenges};
pub use client::{Client, ClientOptions, ProxyChoice, Request, Response};
pub(crate) use resource::wait_until;
pub use resource::{Ask, Authorize, Outgoing, Resource};

/// The value of `Authorization` for a user and password.
pub fn basic(user: &str, password: &crate::Secret) -> String {
    use base64::Engine;
    let login = format!("{user}:{}", password.reveal());
    format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(login))
}
