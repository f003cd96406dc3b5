// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this machine's kernel can mount, as far as it can be told without trying.
//!
//! Trying is the last word; this is for a reason that says more than "invalid argument".

use ferrofs_format::features::{CompatFeatures, IncompatFeatures};
use ferrofs_image::Image;
use std::path::Path;

/// Features and the names of their files in `/sys/fs/erofs/features`. Those that old kernels have
/// and those that share a bit with others are not among them.
const FEATURES: [(IncompatFeatures, &str, &str); 6] = [
    (IncompatFeatures::CHUNKED_FILE, "chunked_file", "chunk-based files (Linux 5.15)"),
    (IncompatFeatures::ZTAILPACKING, "ztailpacking", "inline compressed tails (Linux 5.17)"),
    (IncompatFeatures::FRAGMENTS, "fragments", "fragments (Linux 6.1)"),
    (IncompatFeatures::BIT48, "48bit", "48-bit addresses (Linux 6.15)"),
    (IncompatFeatures::METABOX, "metabox", "compressed metadata (Linux 6.17)"),
    (IncompatFeatures::LZ4_0PADDING, "zero_padding", "LZ4 with padding in front (Linux 5.4)"),
];

/// Why the kernel cannot mount `image`, if that is known.
pub(crate) fn obstacle(image: &Image) -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some(String::from("mounting by the kernel needs root"));
    }
    let block = image.superblock().block_bits.size_usize();
    let page = rustix::param::page_size();
    if block > page {
        return Some(format!(
            "the image's blocks of {block} bytes are larger than this machine's pages of {page}"
        ));
    }
    missing_feature(image, Path::new("/sys/fs/erofs/features"))
}

fn missing_feature(image: &Image, folder: &Path) -> Option<String> {
    // Without the folder the driver is not loaded yet, or older than 5.18: then try.
    if !folder.is_dir() {
        return None;
    }
    let incompat = image.superblock().incompat;
    let missing = FEATURES
        .iter()
        .find(|(feature, file, _)| incompat.has(*feature) && !folder.join(file).exists());
    missing.map(|(_, _, name)| format!("this kernel does not know {name}"))
}

/// The image's features, for people.
pub(crate) fn features(image: &Image) -> String {
    let superblock = image.superblock();
    let mut names: Vec<&str> = superblock.incompat.names().collect();
    if superblock.compat.has(CompatFeatures::XATTR_FILTER) {
        names.push("xattr_filter");
    }
    names.join(", ")
}
