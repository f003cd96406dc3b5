// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checking: golden images are clean, damaged ones are not or decode alike, and no image makes the
//! check panic or run on.

use ferrofs_check::{CheckOptions, Context, check, check_opening};
use ferrofs_image::{Image, OpenOptions};
use ferrofs_tests::golden::Golden;
use std::fs::File;
use std::sync::Arc;

fn open(golden: &Golden, name: &str) -> Arc<Image> {
    let options = golden
        .devices(name)
        .into_iter()
        .fold(OpenOptions::new(), |options, device| options.device(File::open(device).unwrap()));
    Arc::new(options.open(File::open(golden.image(name)).unwrap()).unwrap())
}

#[test]
fn golden_images_are_clean() {
    let golden = Golden::unpack();
    let mut failures = vec![];
    for (index, name) in golden.names().into_iter().enumerate() {
        let image = open(&golden, &name);
        let context = Context { workers: [1, 2, 4][index % 3], ..Context::default() };
        let options = CheckOptions { digests: true, ..CheckOptions::default() };
        let report = check(&image, &options, context);
        assert!(report.complete, "{name}");
        failures.extend(report.findings.iter().take(8).map(|found| format!("{name}: {found}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
