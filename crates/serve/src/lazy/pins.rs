// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the data blobs of an image must be: by the words of whoever mounts it, or of the image itself.
//!
//! Refuses to know where blobs are. What an image says is as good as the image: where its own bytes are
//! verified, so is this.

use crate::{Error, Result};
use ferrofs_image::Image;
use ferrofs_store::Pin;
use std::collections::BTreeMap;

/// The attribute of an image's root that has the pins of its data blobs' tables, in their order, with a
/// space between them; `-` for a blob without one. docs/digest-table.md, "In an image".
pub const PINS_XATTR: &[u8] = b"trusted.ferrofs.pins";

/// The pins of the data blobs with these tags: those that are given by tag or, where no tag is so, by
/// number, then those that the image tells.
pub(super) fn of_devices(
    image: &Image,
    tags: &[String],
    given: &BTreeMap<String, String>,
) -> Result<Vec<Option<Pin>>> {
    let mut pins = in_order(tags, given)?;
    if tags.is_empty() {
        return Ok(pins);
    }
    let fail = |error| Error::Image { path: "/".into(), error };
    let told = image.inode(image.root()).and_then(|root| image.xattr(&root, PINS_XATTR));
    let told = told.map_err(fail)?.unwrap_or_default();
    for (slot, text) in pins.iter_mut().zip(told.split(|&byte| byte == b' ')) {
        if slot.is_none() && !matches!(text, b"" | b"-") {
            *slot = Some(parse(&String::from_utf8_lossy(text))?);
        }
    }
    Ok(pins)
}

fn parse(text: &str) -> Result<Pin> {
    // An image may tell much.
    text.parse().map_err(|_| Error::Pin { text: text.chars().take(100).collect() })
}

/// The pins of data blobs in their order, from those by tag or, where no tag is so, by number.
fn in_order(tags: &[String], given: &BTreeMap<String, String>) -> Result<Vec<Option<Pin>>> {
    let mut pins = vec![None; tags.len()];
    for (name, pin) in given {
        let number = || name.parse::<usize>().ok()?.checked_sub(1);
        let found = tags.iter().position(|tag| tag == name).or_else(number);
        let unknown = || Error::DevicePin { name: name.clone(), tags: tags.to_vec() };
        let slot = found.and_then(|found| pins.get_mut(found)).ok_or_else(unknown)?;
        let parsed = parse(pin)?;
        if slot.is_some_and(|other| other != parsed) {
            return Err(Error::DevicePins { name: name.clone() });
        }
        *slot = Some(parsed);
    }
    Ok(pins)
}
