// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arguments about how images elsewhere are reached and what of them is believed.

use clap::Args;
use std::path::PathBuf;

/// Proxy and certificates, wherever URLs are taken.
#[derive(Args, Clone, Debug, Default)]
#[command(next_help_heading = "Network")]
pub(crate) struct NetworkArgs {
    /// Trust the authorities whose certificates are in this file (PEM), besides those of the system:
    /// for https:// with certificates of your own
    #[arg(long, value_name = "FILE")]
    pub(crate) ca: Option<PathBuf>,

    /// Fetch through this proxy ([http[s]://][USER:PASSWORD@]HOST[:PORT]), or (none) through none. Without
    /// it the environment tells: FERROFS_PROXY has the same form (a password given here is moved there, where
    /// other users do not see it); ALL_PROXY, HTTPS_PROXY, HTTP_PROXY and
    /// NO_PROXY are as elsewhere
    #[arg(long, value_name = "URL|none")]
    pub(crate) proxy: Option<String>,
}

/// Pins of data blobs.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DevicePinArgs {
    /// The pin of the digest table of one of the image's data blobs (extra devices), by its tag in the
    /// image's device table, which `ferrofs dump` shows, or its number there; repeat it. The table is
    /// beside the blob, its name with .digests
    #[arg(long, value_name = "TAG|NUMBER=blake3:HEX", value_parser = device_pin)]
    pub(crate) pin_device: Vec<(String, String)>,
}

/// Places of data blobs.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct DeviceUrlArgs {
    /// Where the image's data blobs (extra devices) are, in the order of its device table; those that are
    /// not named are found by their tags, beside the image or in its manifest
    #[arg(long, value_name = "URL")]
    pub(crate) device: Vec<PathBuf>,
}

/// The pin's form is checked with that of the image.
fn device_pin(text: &str) -> Result<(String, String), String> {
    match text.rsplit_once('=') {
        Some((tag, pin)) if !tag.is_empty() && !pin.is_empty() => Ok((tag.into(), pin.into())),
        _ => Err(String::from("expected TAG=blake3:HEX")),
    }
}
