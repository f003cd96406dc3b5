// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this machine's kernel can mount, as far as it can be told without trying.
//!
//! Trying is the last word; this is for a reason that says more than "invalid argument".

use ferrofs_format::features::{CompatFeatures, IncompatFeatures};
use ferrofs_image::Image;
use std::path::Path;

/// Features and the names of their files in `/sys/fs/erofs/features`. Those that old kernels have
/// and those that share a bit with others are not among them: the folder is there since Linux 5.18, and
/// Linux 7.2 took `zero_padding` away, since nothing else is left.
const FEATURES: [(IncompatFeatures, &str, &str); 5] = [
    (IncompatFeatures::CHUNKED_FILE, "chunked_file", "chunk-based files (Linux 5.15)"),
    (IncompatFeatures::ZTAILPACKING, "ztailpacking", "inline compressed tails (Linux 5.17)"),
    (IncompatFeatures::FRAGMENTS, "fragments", "fragments (Linux 6.1)"),
    (IncompatFeatures::BIT48, "48bit", "48-bit addresses (Linux 6.15)"),
    (IncompatFeatures::METABOX, "metabox", "compressed metadata (Linux 6.17)"),
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
    missing_feature(image.superblock().incompat, Path::new("/sys/fs/erofs/features"))
}

fn missing_feature(incompat: IncompatFeatures, folder: &Path) -> Option<String> {
    // Without the folder the driver is not loaded yet, or older than 5.18: then try.
    if !folder.is_dir() {
        return None;
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    /// What Linux 6.18 and 7.2.13 have there.
    const LINUX_6_18: &str = "48bit big_pcluster chunked_file compr_cfgs compr_head2 dedupe \
        device_table fragments metabox sb_chksum zero_padding ztailpacking";
    const LINUX_7_2: &str = "48bit big_pcluster chunked_file compr_cfgs compr_head2 dedupe \
        device_table fragments metabox sb_chksum xattr_prefixes ztailpacking";

    #[test]
    fn kernels_know_what_they_have_no_file_for_any_more() {
        for names in [LINUX_6_18, LINUX_7_2] {
            let folder = tempfile::tempdir().unwrap();
            let files = names.split_whitespace().map(|name| folder.path().join(name));
            files.for_each(|path| std::fs::write(path, "supported\n").unwrap());
            assert_eq!(missing_feature(IncompatFeatures(0x1ff), folder.path()), None);
            std::fs::remove_file(folder.path().join("fragments")).unwrap();
            let missing = missing_feature(IncompatFeatures(0x1ff), folder.path()).unwrap();
            assert!(missing.contains("fragments (Linux 6.1)"), "{missing}");
            assert_eq!(missing_feature(IncompatFeatures(1), folder.path()), None);
        }
    }
}
