// SPDX-License-Identifier: MIT OR Apache-2.0
//! The compressed copy behind a digest table, as it comes from servers, in pieces of any size.
//!
//! Invariants: no panic; no memory beyond what the index may tell; pieces and tails lie in the blob and
//! in each other as the format says; it makes no difference how the bytes are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| ferrofs_store::fuzzing::table_copy(data));
