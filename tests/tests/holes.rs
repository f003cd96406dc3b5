// SPDX-License-Identifier: MIT OR Apache-2.0
//! Holes in the indexes of compressed files, which Linux 7.2 reads and no writer is known to make: our
//! reader gives zeros there, and so does a kernel that knows them.

use ferrofs_image::Image;
use ferrofs_image::format::features::IncompatFeatures;
use ferrofs_linux::{MountRequest, UnmountFlags};
use ferrofs_tests::craft::{Compressed, Craft, Crafted, text};
use std::collections::BTreeMap;

const BLOCK: usize = 4096;
/// Bit of `di_advise`.
const HOLE: u8 = 0x40;
const NONHEAD: u8 = 2;
/// `delta[0]` of the first lcluster behind a head: a count of blocks, and it is 0.
const BLOCKS_NONE: [u8; 2] = [0, 8];

/// Makes holes of every third extent, and of the last one, of a file with full indexes: by the bit, and
/// where a count of blocks follows, of every third by the count 0. Returns what it holds then.
fn punch(image: &mut Crafted, name: &str) -> Vec<u8> {
    let mut content = image.contents[&format!("/{name}")].clone();
    let first = image.at(&format!("{name}.map")) + 16;
    let heads: Vec<(usize, usize)> = (0..content.len().div_ceil(BLOCK))
        .map(|lcluster| (lcluster, first + lcluster * 8))
        .filter(|(_, at)| image.bytes[*at] & 3 != NONHEAD)
        .map(|(lcluster, at)| {
            let within = u16::from_le_bytes([image.bytes[at + 2], image.bytes[at + 3]]);
            (at, lcluster * BLOCK + usize::from(within))
        })
        .collect();
    assert!(heads.len() > 5, "{name}: {} heads", heads.len());
    for (number, (at, start)) in heads.iter().enumerate() {
        let end = heads.get(number + 1).map_or(content.len(), |(_, start)| *start);
        // Where nothing follows, the last head stands for the end of the file only.
        if (number % 3 == 1 || number + 2 == heads.len()) && start < &end {
            image.bytes[at + 1] |= HOLE;
            // Beyond any device: who does not see the bit fails.
            image.put(at + 4, &[0xff, 0xff, 0xff, 0x7f]);
            content[*start..end].fill(0);
        } else if number % 3 == 2
            && image.bytes[at + 8] & 3 == NONHEAD
            && image.bytes[at + 13] & 8 != 0
        {
            image.put(at + 12, &BLOCKS_NONE);
            content[*start..end].fill(0);
        }
    }
    content
}

/// An image, and what its files hold. Holes begin at blocks, or anywhere.
fn crafted(aligned: bool) -> (Vec<u8>, BTreeMap<&'static str, Vec<u8>>) {
    let mut craft = Craft::new(12);
    craft.superblock.incompat =
        IncompatFeatures(IncompatFeatures::LZ4_0PADDING.0 | IncompatFeatures::COMPR_CFGS.0);
    let files = [
        ("small", Compressed { aligned, ..Compressed::default() }),
        ("big", Compressed { aligned, blocks: 4, ..Compressed::default() }),
    ];
    for (name, options) in &files {
        craft.compressed(name, &text(300_000 + name.len() * 1000, 7), options);
    }
    let mut image = craft.finish();
    let contents = files.iter().map(|(name, _)| (*name, punch(&mut image, name))).collect();
    image.seal();
    (image.bytes, contents)
}

#[test]
fn holes_of_indexes_read_as_zeros() {
    for aligned in [true, false] {
        let (bytes, contents) = crafted(aligned);
        let image = Image::open(bytes).unwrap();
        for (name, content) in contents {
            let inode = image.resolve(name.as_bytes()).unwrap();
            let map = image.map(&inode).unwrap();
            let mut read = vec![1; content.len()];
            assert_eq!(image.read(&map, 0, &mut read).unwrap(), content.len());
            assert!(read == content, "{name}, aligned: {aligned}");
        }
    }
}

/// Numbers of blocks in which these differ.
fn differing(one: &[u8], two: &[u8]) -> Vec<usize> {
    assert_eq!(one.len(), two.len());
    let pairs = one.chunks(BLOCK).zip(two.chunks(BLOCK)).enumerate();
    pairs.filter(|(_, (one, two))| one != two).map(|(block, _)| block).collect()
}

/// Linux 7.2 and later.
fn kernel_knows_holes() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
    (numbers.next(), numbers.next()) >= (Some(7), Some(2))
}

#[test]
fn the_kernel_reads_holes_of_indexes_the_same() {
    if !rustix::process::geteuid().is_root() || !kernel_knows_holes() {
        println!("skipped: needs root and Linux 7.2; see `make test-new-kernel`");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (path, target) = (folder.path().join("image"), folder.path().join("mnt"));
    // Linux 7.2.13 reads zeros of an extent, too, if a hole begins inside its last block: what the hole's
    // index says of its length is left when the kernel looks back for the extent before it.
    let (bytes, contents) = crafted(true);
    std::fs::write(&path, bytes).unwrap();
    std::fs::create_dir(&target).unwrap();
    let request = MountRequest { source: path, target: target.clone(), ..MountRequest::default() };
    ferrofs_linux::mount_erofs(&request).unwrap();
    let read = contents.into_iter().map(|(name, content)| {
        std::fs::read(target.join(name)).map(|read| (name, differing(&read, &content)))
    });
    let read: Vec<_> = read.collect();
    ferrofs_linux::unmount(&target, UnmountFlags::default()).unwrap();
    for file in read {
        let (name, differing) = file.unwrap();
        assert!(differing.is_empty(), "{name}: other bytes in blocks {differing:?}");
    }
}
