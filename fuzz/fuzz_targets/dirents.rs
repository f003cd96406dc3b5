// SPDX-License-Identifier: MIT OR Apache-2.0
//! Directory blocks. The first byte is the length of a name that follows, to be searched for.
//!
//! Invariants: a block that parses has names that are fit to be names, in ascending order, each of
//! which is found; packing them again gives the same entries. A search in a block that was not
//! checked ends, and finds nothing but the name it was given.
#![no_main]

use ferrofs_format::dirent::{DirBlock, DirPacker, find_unchecked, first_name};
use ferrofs_format::inode::FileType;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&len, rest)) = data.split_first() else { return };
    let Some((name, block)) = rest.split_at_checked(len.into()) else { return };
    if let Ok(Some(found)) = find_unchecked(block, name) {
        assert_eq!(found.name, name);
    }
    let first = first_name(block);
    let Ok(parsed) = DirBlock::parse(block) else { return };
    assert_eq!(parsed.iter().count(), parsed.len());
    assert_eq!(first.ok(), parsed.get(0).map(|entry| entry.name));
    let mut packer = DirPacker::new(usize::from(u16::MAX) + 1);
    let mut last: &[u8] = b"";
    for entry in parsed.iter() {
        assert!((1..=255).contains(&entry.name.len()) && last < entry.name);
        assert!(!entry.name.contains(&0) && !entry.name.contains(&b'/'));
        assert_eq!(parsed.find(entry.name), Some(entry));
        last = entry.name;
        packer.push(entry.name.len());
    }
    if packer.size() > u64::from(u16::MAX) {
        return;
    }
    let mut bytes = vec![];
    let kind = |kind: Option<FileType>| kind.unwrap_or(FileType::Regular);
    let entries = parsed.iter().map(|entry| (entry.name, entry.nid, kind(entry.file_type)));
    packer.emit(entries, &mut bytes).expect("checked names can be emitted");
    let again = DirBlock::parse(&bytes).expect("what was emitted parses");
    assert!(again.iter().map(|e| (e.name, e.nid)).eq(parsed.iter().map(|e| (e.name, e.nid))));
});
