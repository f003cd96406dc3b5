// SPDX-License-Identifier: MIT OR Apache-2.0
//! One blob's sources as one thing that fetches: what to do when they fail.

mod demand;

pub use demand::{Cancel, Clock, Deadline, Demand, SystemClock};
