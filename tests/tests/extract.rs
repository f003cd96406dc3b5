// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extraction: golden images come back as their manifests say, and hostile ones stay inside.

use ferrofs_check::{Context, ExtractOptions, ExtractReport, extract};
use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::{Image, OpenOptions};
use ferrofs_tests::golden::Golden;
use ferrofs_tests::manifest::Manifest;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

fn open(golden: &Golden, name: &str) -> Arc<Image> {
    let options = golden
        .devices(name)
        .into_iter()
        .fold(OpenOptions::new(), |options, device| options.device(File::open(device).unwrap()));
    Arc::new(options.open(File::open(golden.image(name)).unwrap()).unwrap())
}

fn run(
    image: &Arc<Image>,
    target: &Path,
    options: &ExtractOptions,
    workers: usize,
) -> ExtractReport {
    let engine = Engine::new(Arc::clone(image), EngineConfig::default());
    let context = Context { workers, ..Context::default() };
    extract(&engine, target, options, context).unwrap()
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn golden_images_come_back() {
    if !is_root() {
        return println!("skipped: owners and device nodes need root");
    }
    let golden = Golden::unpack();
    let mut failures = vec![];
    for (index, name) in golden.names().into_iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("tree");
        let report =
            run(&open(&golden, &name), &target, &ExtractOptions::default(), [1, 2, 5][index % 3]);
        failures.extend(report.problems.iter().take(5).map(|p| format!("{name}: {p:?}")));
        assert_eq!(report.is_clean(), report.problems.is_empty());
        let lines = match Manifest::of_directory(&target) {
            Ok(found) => golden.manifest(&name).differences(&found),
            Err(error) => vec![error.to_string()],
        };
        failures.extend(lines.iter().take(5).map(|line| format!("{name}: {line}")));
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
