// SPDX-License-Identifier: MIT OR Apache-2.0
//! Digest tables, and traces, as they come from servers.
//!
//! Invariants: no panic; no memory beyond what the input has; what is taken is under the pin, and is
//! emitted as it came; what a trace says is written as it was read.
#![no_main]

use ferrofs_store::{Algorithm, BuiltTable, Head, Layout, Pin, TableError, Trace};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(text) = std::str::from_utf8(data)
        && let Ok(trace) = Trace::parse(text)
    {
        assert_eq!(Trace::parse(&trace.emit()).as_ref(), Ok(&trace));
        let merged = Trace::merge(std::slice::from_ref(&trace), 1);
        assert!(merged.touches.iter().all(|touch| touch.len > 0));
    }
    let Ok(layout) = Layout::parse(data) else { return };
    assert_eq!(layout.emit(), data[..64]);
    assert!(layout.head_len() <= layout.len());
    // A pin that fits whatever the head is, so that all behind it is looked at; and one that does not.
    let algorithm = layout.geometry().algorithm;
    let Some(head) = usize::try_from(layout.head_len()).ok().and_then(|len| data.get(..len)) else {
        let pin = Pin { algorithm, digest: [0; 32] };
        assert!(matches!(Head::parse(&pin, data), Err(TableError::Length { .. })));
        return;
    };
    let pin = Pin { algorithm, digest: algorithm.digest(head) };
    let parsed = Head::parse(&pin, head).expect("it is under its own pin");
    assert_eq!(parsed.as_bytes(), head);
    let other = if algorithm == Algorithm::Blake3 { Algorithm::Sha256 } else { Algorithm::Blake3 };
    assert!(Head::parse(&Pin { algorithm: other, digest: other.digest(head) }, head).is_err());
    assert!(Head::parse(&Pin { digest: [0; 32], ..pin }, head).is_err());
    for (page, bytes) in data[head.len()..].chunks(4096).enumerate() {
        drop(parsed.verify_page(page as u64, bytes));
    }
    if let Ok(table) = BuiltTable::parse(&pin, data) {
        assert_eq!(table.to_bytes(), data);
        assert!(table.verify(0, &[]).is_ok());
        if layout.blob_size() > 0 {
            let grain = layout.geometry().grain_len().min(layout.blob_size());
            // Nobody knows a preimage.
            assert!(table.verify(0, &vec![0x5a; grain as usize]).is_err() || grain < 4096);
        }
    }
});
