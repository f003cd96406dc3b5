// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests that cross crates share: manifests and looks of trees, the golden images, crafted images, an
//! HTTP origin with faults.

pub mod craft;
pub mod everything;
pub mod exercise;
pub mod golden;
pub mod manifest;
pub mod origin;
pub mod seen;
