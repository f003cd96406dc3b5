// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every golden image comes back exactly as its manifest says, by our reader.

use ferrofs_image::OpenOptions;
use ferrofs_tests::golden::Golden;
use ferrofs_tests::manifest::Manifest;
use std::fs::File;

#[test]
fn library_reads_every_golden_image() {
    let golden = Golden::unpack();
    let names = golden.names();
    assert_eq!(names.len(), 42, "{names:?}");
    let mut failures = vec![];
    for name in names {
        let mut options = OpenOptions::new();
        for device in golden.devices(&name) {
            options = options.device(File::open(device).unwrap());
        }
        let found = options
            .open(File::open(golden.image(&name)).unwrap())
            .and_then(|image| Manifest::of_image(&image));
        match found {
            Err(error) => failures.push(format!("{name}: {error}")),
            Ok(found) => {
                let lines = golden.manifest(&name).differences(&found);
                failures.extend(lines.iter().take(5).map(|line| format!("{name}: {line}")));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
