// SPDX-License-Identifier: MIT OR Apache-2.0
//! Extracts or checks an image: `extract IMAGE [DIRECTORY [WORKERS]]`. For measuring.

use ferrofs_check::{CheckOptions, Context, ExtractOptions, check, extract};
use ferrofs_engine::{Engine, EngineConfig};
use ferrofs_image::Image;
use std::error::Error;
use std::sync::Arc;

fn main() -> Result<(), Box<dyn Error>> {
    let mut arguments = std::env::args().skip(1);
    let image = arguments.next().ok_or("no image given")?;
    let image = Arc::new(Image::open(std::fs::File::open(image)?)?);
    let target = arguments.next();
    let workers = arguments.next().map_or(Ok(0), |workers| workers.parse())?;
    let context = Context { workers, ..Context::default() };
    let Some(target) = target.filter(|target| target != "-") else {
        println!("{:#?}", check(&image, &CheckOptions::default(), context));
        return Ok(());
    };
    let engine = Engine::new(image, EngineConfig::default());
    let report = extract(&engine, target.as_ref(), &ExtractOptions::default(), context)?;
    println!("{report:?}");
    Ok(())
}
