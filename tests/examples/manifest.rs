// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints the manifest of an image (read through the engine) or of a directory, one JSON object a
//! line, or with `--compare` the differences of two. For comparing by hand with other writers.
//!
//! usage: manifest IMAGE|DIR [DEVICE...] | manifest --compare A B [DEVICE of B...]

use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::OpenOptions;
use ferrofs_tests::manifest::Manifest;
use std::error::Error;
use std::fs::File;
use std::path::Path;
use std::sync::Arc;

fn load(path: &str, devices: &[String]) -> Result<Manifest, Box<dyn Error>> {
    if Path::new(path).is_dir() {
        return Ok(Manifest::of_directory(Path::new(path))?);
    }
    let mut options = OpenOptions::new();
    for device in devices {
        options = options.device(File::open(device)?);
    }
    let image = Arc::new(options.open(File::open(path)?)?);
    let engine = Engine::new(image, EngineConfig::default());
    let open = |inode: &_| {
        let file = engine.open(inode)?;
        let engine = &engine;
        Ok(move |offset, buf: &mut [u8]| engine.read_into(&file, offset, buf))
    };
    Ok(Manifest::of_image_with(engine.image(), 131_072, open)?)
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [flag, a, b, devices @ ..] if flag == "--compare" => {
            let lines = load(a, &[])?.differences(&load(b, devices)?);
            for line in &lines {
                println!("{line}");
            }
            if lines.is_empty() {
                Ok(())
            } else {
                Err(format!("{} differences", lines.len()).into())
            }
        }
        [path, devices @ ..] => {
            for row in load(path, devices)?.rows.values() {
                println!("{}", serde_json::to_string(row)?);
            }
            Ok(())
        }
        [] => Err("usage: manifest IMAGE|DIR [DEVICE...] | manifest --compare A B".into()),
    }
}
