// SPDX-License-Identifier: MIT OR Apache-2.0
//! What tests that cross crates share: manifests of trees and the golden images.

pub mod golden;
pub mod manifest;
