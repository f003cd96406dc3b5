// SPDX-License-Identifier: MIT OR Apache-2.0
//! Superblock checksum: CRC-32C without the final inversion. format.md §2.1.
//!
//! The sum covers at most one block once a mount, so a table-free bitwise loop would do; the table
//! keeps `check` on 64 KiB blocks cheap and needs no `std`.

use crate::num::usize_from_u32;
use crate::{BlockBits, FormatError, Result, limits};

const POLYNOMIAL: u32 = 0x82F6_3B78;

#[expect(clippy::indexing_slicing, reason = "evaluated by the compiler")]
const TABLE: [u32; 256] = {
    let mut table = [0u32; 256];
    let mut index: u32 = 0;
    while index < 256 {
        let mut register = index;
        let mut bit = 0;
        while bit < 8 {
            register = if register & 1 != 0 { (register >> 1) ^ POLYNOMIAL } else { register >> 1 };
            bit += 1;
        }
        table[usize_from_u32(index)] = register;
        index += 1;
    }
    table
};

/// CRC-32C register after `bytes`, starting from `register`; no inversion at either end.
#[must_use]
pub fn crc32c_update(register: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(register, |register, &byte| {
        let slot = usize::from(register.to_le_bytes()[0] ^ byte);
        // The table has 256 entries and the slot is one byte.
        (register >> 8) ^ TABLE.get(slot).copied().unwrap_or(0)
    })
}

/// Bytes that the checksum covers, counted from byte 1024 of the primary device.
#[must_use]
pub const fn covered_len(bits: BlockBits) -> usize {
    let block = bits.size_usize();
    if block > 1024 { block.wrapping_sub(1024) } else { block }
}

/// Checksum of `area`: [`covered_len`] bytes from byte 1024. The four bytes of the checksum field
/// itself count as zero.
pub fn superblock_checksum(area: &[u8], bits: BlockBits) -> Result<u32> {
    let truncated = FormatError::Truncated {
        what: "superblock checksum area",
        needed: crate::num::u64_from_usize(covered_len(bits)),
        have: crate::num::u64_from_usize(area.len()),
    };
    let area = area.get(..covered_len(bits)).ok_or(truncated)?;
    let (magic, rest) = area.split_at_checked(4).ok_or(truncated)?;
    let (_, rest) = rest.split_at_checked(4).ok_or(truncated)?;
    let register = crc32c_update(u32::MAX, magic);
    let register = crc32c_update(register, &[0; 4]);
    Ok(crc32c_update(register, rest))
}

const _: () = assert!(limits::SUPERBLOCK_OFFSET == 1024);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_vector_and_library_agree() {
        // format.md §2.1 gives this vector.
        assert_eq!(crc32c_update(u32::MAX, b"123456789"), 0x1CF9_6D7C);
        let bytes: alloc::vec::Vec<u8> = (0..5000u32).map(|i| (i * 7 % 251) as u8).collect();
        assert_eq!(crc32c_update(u32::MAX, &bytes), !crc32c::crc32c(&bytes));
    }

    #[test]
    fn register_after_magic_and_zeroed_field_is_the_documented_constant() {
        let register = crc32c_update(u32::MAX, &[0xe2, 0xe1, 0xf5, 0xe0, 0, 0, 0, 0]);
        assert_eq!(register, 0x5045_B54A);
    }
}
