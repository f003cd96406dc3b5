// SPDX-License-Identifier: MIT OR Apache-2.0
//! Statistics for people.

use crate::output::Out;
use crate::size;
use ferrofs_check::Statistics;
use std::io::{self, Write};

pub(super) fn show(out: &mut Out, found: &Statistics) -> io::Result<()> {
    for (device, bytes) in found.device_bytes.iter().enumerate() {
        writeln!(out, "device {device:<12} {bytes} bytes ({})", size::show(*bytes))?;
    }
    let record = format!("{} compact, {} extended", found.compact_inodes, found.extended_inodes);
    writeln!(out, "inodes              {} ({record})", found.inodes)?;
    writeln!(out, "hard links          {}", found.hard_links)?;
    for (what, counts) in [("type", &found.types), ("layout", &found.layouts)] {
        for (name, count) in counts {
            writeln!(out, "{what} {name:<width$} {count}", width = 18 - what.len())?;
        }
    }
    for (name, bytes) in [
        ("files", found.file_bytes),
        ("names", found.name_bytes),
        ("holes", found.hole_bytes),
        ("inline", found.inline_bytes),
        ("fragments", found.fragment_bytes),
        ("packed inode", found.packed_bytes),
        ("inode records", found.record_bytes),
        ("xattrs", found.xattr_bytes),
        ("shared clusters", found.shared_bytes),
    ] {
        writeln!(out, "{name:<19} {bytes} bytes ({})", size::show(bytes))?;
    }
    writeln!(out, "ratio               {:.3} bytes of files for each stored", found.ratio())?;
    if !found.encodings.is_empty() {
        writeln!(
            out,
            "{:<12} {:>10} {:>10} {:>14} {:>14} {:>7}",
            "encoding", "extents", "clusters", "decoded", "stored", "ratio"
        )?;
    }
    for (name, encoding) in &found.encodings {
        let ratio = encoding.decoded_bytes as f64 / encoding.encoded_bytes.max(1) as f64;
        writeln!(
            out,
            "{name:<12} {:>10} {:>10} {:>14} {:>14} {ratio:>7.3}",
            encoding.extents, encoding.clusters, encoding.decoded_bytes, encoding.encoded_bytes
        )?;
    }
    writeln!(out, "files by size")?;
    for (power, count) in found.sizes.iter().enumerate().filter(|(_, count)| **count > 0) {
        writeln!(out, "{:>14}      {count}", below(power))?;
    }
    if found.unreadable > 0 {
        writeln!(out, "not readable        {} inodes; see ferrofs check", found.unreadable)?;
    }
    Ok(())
}

/// Sizes that the entry of a histogram counts.
fn below(power: usize) -> String {
    match u32::try_from(power).ok().and_then(|power| 1_u64.checked_shl(power)) {
        Some(1) => String::from("0"),
        Some(limit) => format!("< {}", size::show(limit)),
        None => String::from("more"),
    }
}
