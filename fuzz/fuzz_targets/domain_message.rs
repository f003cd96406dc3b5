// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said to and by the server of a domain: understood or refused, and understood again when it
//! is written anew.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| ferrofs_serve::fuzzing::domain_message(bytes));
