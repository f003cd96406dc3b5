// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests of the crate's promises over all methods and kinds of data.

mod differential;
mod hostile;
mod roundtrip;
mod vectors;
