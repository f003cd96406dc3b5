// SPDX-License-Identifier: MIT OR Apache-2.0
//! Xattr bodies, shared entries and long prefixes.
//!
//! Invariants: no panic; entries lie inside the body; what was parsed can be emitted, and parses to
//! the same; a name that is split and joined is the same name.
#![no_main]

use ferrofs_format::xattr::{
    LongPrefix, XattrBody, XattrEntry, base_prefix, filter_bit, split_name,
};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(body) = XattrBody::parse(data) {
        let shared: Vec<u32> = body.shared_ids().collect();
        let (good, bad): (Vec<_>, Vec<_>) = body.inline_entries().partition(Result::is_ok);
        assert!(bad.len() <= 1, "an error ends the iteration");
        let entries: Vec<XattrEntry<'_>> = good.into_iter().flatten().collect();
        assert!(entries.iter().map(XattrEntry::emitted_len).sum::<usize>() <= data.len() + 3);
        let mut bytes = vec![];
        XattrBody::emit(body.filter, &shared, &entries, &mut bytes).expect("it can be emitted");
        // A body without anything is not one that is stored.
        if !shared.is_empty() || !entries.is_empty() {
            let again = XattrBody::parse(&bytes).expect("what was emitted parses");
            assert!(again.shared_ids().eq(shared));
            assert!(again.inline_entries().map(Result::ok).eq(entries.into_iter().map(Some)));
        }
    }
    if let Ok((entry, len)) = XattrEntry::parse(data) {
        assert_eq!(XattrEntry::len_from_header(data), Ok(len));
        assert_eq!(entry.emitted_len(), len);
        assert_eq!(filter_bit(entry.index, b"", entry.name).count_ones(), 1);
    }
    if let Ok((prefix, len)) = LongPrefix::parse(data) {
        let mut bytes = vec![];
        prefix.emit(&mut bytes).expect("parsed, so it can be emitted");
        assert_eq!((LongPrefix::parse(&bytes), bytes.len()), (Ok((prefix, len)), len));
    }
    let (index, rest) = split_name(data);
    assert_eq!([base_prefix(index).expect("a known prefix"), rest].concat(), data);
});
