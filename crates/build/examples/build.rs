// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shortest program that builds an image: `build SOURCE IMAGE [METHOD PCLUSTER_SIZE]`.

use std::error::Error;
use std::path::Path;

use ferrofs_build::{BuildOptions, Compression, Method, Silent, Target, build};
use ferrofs_tree::{Walk, WalkOptions};

fn main() -> Result<(), Box<dyn Error>> {
    let args: Vec<String> = std::env::args().collect();
    let [_, source, image, rest @ ..] = &args[..] else {
        return Err("usage: build SOURCE IMAGE [METHOD PCLUSTER_SIZE]".into());
    };
    let mut options = BuildOptions::default();
    if let [method, size] = rest {
        options.compression = Some(Compression {
            method: Method::parse(method)?,
            pcluster_size: size.parse()?,
            legacy_indexes: false,
        });
    }
    let avoid = vec![image.into()];
    let walked = Walk::run(Path::new(source), &WalkOptions { avoid, ..WalkOptions::default() })?;
    let target = Target { image: Path::new(image), blob: None };
    let report = build(&walked.tree, &walked.source, &options, target, &mut Silent)?;
    println!("{report:#?}");
    Ok(())
}
