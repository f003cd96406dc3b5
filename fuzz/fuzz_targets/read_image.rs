// SPDX-License-Identifier: MIT OR Apache-2.0
//! Arbitrary bytes as an image: opened, walked, and everything read, with bounded work.
//!
//! Invariants: those of `exercise`: no panic, hang or large allocation; every error names a place;
//! the plain reader and the engine agree; listings and lookups agree. The checksum is not looked
//! at, so that the fuzzer gets further. An image that wants one extra device gets one, too.
#![no_main]

use ferrofs_fuzz::exercise::{Budget, exercise, names_its_place};
use ferrofs_image::OpenOptions;
use libfuzzer_sys::fuzz_target;
use std::sync::Arc;

const BUDGET: Budget = Budget { inodes: 64, entries: 64, read: 5000 };

fn options() -> OpenOptions {
    OpenOptions::new().ignore_checksum(true).metadata_cache(64 << 10)
}

fuzz_target!(|data: &[u8]| {
    match options().open(data.to_vec()) {
        Err(error) => assert!(names_its_place(&error), "{error}"),
        Ok(image) => {
            let one_device = image.device_slots().len() == 1;
            let _ = exercise(&Arc::new(image), BUDGET);
            if one_device && let Ok(image) = options().device(data.to_vec()).open(data.to_vec()) {
                let _ = exercise(&Arc::new(image), BUDGET);
            }
        }
    }
});
