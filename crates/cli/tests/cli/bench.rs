// SPDX-License-Identifier: MIT OR Apache-2.0
//! The harness that measures sharing, on trees so small that all its figures are known.

use super::{Ended, FERROFS};
use std::process::Command;

#[test]
fn the_harness_of_sharing_counts_right() {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../../bench/sharing/self_test.py");
    let mut command = Command::new("python3");
    command.args(["-B", script, "--ferrofs", FERROFS]);
    let Ok(output) = command.output() else {
        println!("skipped: needs python3");
        return;
    };
    let said = Ended::new(&output).ok();
    print!("{said}");
    assert!(said.ends_with("passed\n"), "{said}");
}
