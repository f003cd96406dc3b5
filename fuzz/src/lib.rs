// SPDX-License-Identifier: MIT OR Apache-2.0
//! What fuzz targets share. The makers and readers of crafted images are those of the tests.

#[path = "../../tests/src/craft/mod.rs"]
pub mod craft;
pub mod decoders;
#[path = "../../tests/src/everything.rs"]
pub mod everything;
#[path = "../../tests/src/exercise.rs"]
pub mod exercise;
