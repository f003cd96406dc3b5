// SPDX-License-Identifier: MIT OR Apache-2.0
//! Index areas of compressed files: map headers, compact packs, full indexes, extent records.
//!
//! Input: lcluster bits, flags, start, then the area. Invariants: no panic; every lcluster has one
//! pack, which lies in the area; what was parsed and can be emitted parses to the same.
#![no_main]

use ferrofs_format::lcluster::compact::{self, Pack, PackLayout, PackRules};
use ferrofs_format::lcluster::extents::{EncodedLen, ExtentRecord};
use ferrofs_format::lcluster::header::MapHeader;
use ferrofs_format::lcluster::{Back, DELTA_MAX, Lcluster, full};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let Some((&[bits, flags, start], area)) = data.split_first_chunk::<3>() else { return };
    if let Ok(header) = MapHeader::parse(area) {
        let bytes = header.emit().expect("parsed, so it can be emitted");
        assert_eq!(MapHeader::parse(&bytes), Ok(header));
    }
    for index in area.chunks(full::INDEX_LEN) {
        let size = 1 << (9 + (bits & 7));
        if let Ok(parsed) = full::parse(index, size)
            && in_range(parsed)
        {
            let bytes = full::emit(parsed, 0).expect("parsed, so it can be emitted");
            assert_eq!(full::parse(&bytes, size), Ok(parsed));
        }
    }
    for record_len in [4, 8, 16, 32] {
        for bytes in area.chunks(record_len.into()) {
            let Ok(record) = ExtentRecord::parse(bytes, record_len) else { continue };
            let mut out = vec![];
            record.emit(record_len, &mut out).expect("parsed, so it can be emitted");
            assert_eq!(ExtentRecord::parse(&out, record_len), Ok(record));
            if let Ok(word) = EncodedLen::parse(record.word) {
                assert_eq!(EncodedLen::parse(word.emit().expect("a valid word")), Ok(word));
            }
        }
    }
    packs(9 + (bits & 7), flags, start, area);
});

/// Distances and counts of more than 11 bits can be read, and are refused later; none are written.
fn in_range(lcluster: Lcluster) -> bool {
    match lcluster {
        Lcluster::NonHead { back: Back::Distance(n) | Back::Blocks(n), .. } => n <= DELTA_MAX,
        Lcluster::Head { .. } => true,
    }
}

fn packs(lcluster_bits: u8, flags: u8, start: u8, area: &[u8]) {
    let (two_byte, big) = (flags & 1 != 0, flags & 2 != 0);
    let rules = PackRules { lcluster_bits, big };
    let start = u64::from(start) & !7;
    // As many entries as the area can hold for sure.
    let entries = area.len() as u64 / 4;
    let layout = PackLayout::new(start, entries, two_byte);
    assert!(layout.byte_len() <= entries * 4 + 4);
    let mut decoded = vec![];
    while (decoded.len() as u64) < entries {
        let first = decoded.len() as u64;
        let at = layout.locate(first);
        assert_eq!(at.first, first, "packs follow each other");
        assert_eq!(layout.locate(first + at.pack.entries() as u64 - 1).first, first);
        assert!(at.pack == Pack::Four || (start + at.offset).is_multiple_of(32));
        let end = at.offset as usize + at.pack.byte_len();
        assert!(end as u64 <= layout.byte_len());
        let Some(bytes) = area.get(at.offset as usize..end) else { return };
        let used = (entries - first) as usize;
        let Ok(pack) = compact::parse(bytes, at.pack, used, rules) else { return };
        assert_eq!(pack.entries().len(), used.min(at.pack.entries()));
        decoded.extend_from_slice(pack.entries());
    }
    let mut out = vec![];
    let emitted = compact::emit(&decoded, start, two_byte, rules, &mut out);
    if emitted.is_err() || !decoded.iter().copied().all(in_range) {
        return;
    }
    let mut again = vec![];
    while (again.len() as u64) < entries {
        let at = layout.locate(again.len() as u64);
        let bytes = &out[at.offset as usize..at.offset as usize + at.pack.byte_len()];
        let used = entries as usize - again.len();
        let pack = compact::parse(bytes, at.pack, used, rules).expect("what was emitted parses");
        again.extend_from_slice(pack.entries());
    }
    assert_eq!(again, decoded);
}
