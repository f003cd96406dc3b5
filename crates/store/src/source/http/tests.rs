// SPDX-License-Identifier: MIT OR Apache-2.0
//! Odd answers, from a scripted server.
