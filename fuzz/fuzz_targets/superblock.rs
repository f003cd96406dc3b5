// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fixed records: superblock with configurations, device slot, inode, chunk index.
//!
//! Invariants: parsing never panics; what was parsed can be emitted, and parses to the same.
#![no_main]

use ferrofs_format::chunk::ChunkFormat;
use ferrofs_format::compression::CompressionConfigs;
use ferrofs_format::device::DeviceSlot;
use ferrofs_format::features::IncompatFeatures;
use ferrofs_format::inode::InodeRecord;
use ferrofs_format::superblock::SuperBlock;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(superblock) = SuperBlock::parse(data) {
        let bytes = superblock.emit().expect("parsed, so it can be emitted");
        assert_eq!(SuperBlock::parse(&bytes).as_ref(), Ok(&superblock));
        let _ = superblock.verify_checksum(data);
        let area = data.get(superblock.byte_len()..).unwrap_or(&[]);
        if let Ok(configs) = CompressionConfigs::parse(&superblock, area)
            && superblock.incompat.has(IncompatFeatures::COMPR_CFGS)
        {
            assert_eq!(configs.bitmap(), superblock.u1);
            let again = CompressionConfigs::parse(&superblock, &configs.emit());
            assert_eq!(again, Ok(configs));
        }
    }
    for wide in [false, true] {
        if let Ok(slot) = DeviceSlot::parse(data, wide) {
            let bytes = slot.emit(wide).expect("parsed, so it can be emitted");
            assert_eq!(DeviceSlot::parse(&bytes, wide), Ok(slot));
        }
    }
    if let Ok(inode) = InodeRecord::parse(data) {
        let mut bytes = vec![];
        inode.emit(&mut bytes).expect("parsed, so it can be emitted");
        assert_eq!(InodeRecord::parse(&bytes), Ok(inode));
        assert!(inode.rdev().0 < 1 << 12 && inode.rdev().1 < 1 << 20);
    }
    let Some((word, element)) = data.split_first_chunk::<2>() else { return };
    if let Ok(format) = ChunkFormat::parse(u16::from_le_bytes(*word)) {
        assert_eq!(format.emit(), u16::from_le_bytes(*word));
        if let Ok(chunk) = format.parse_element(element) {
            let mut bytes = vec![];
            format.emit_element(chunk, &mut bytes).expect("parsed, so it can be emitted");
            assert_eq!(format.parse_element(&bytes), Ok(chunk));
        }
    }
});
