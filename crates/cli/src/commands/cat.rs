// SPDX-License-Identifier: MIT OR Apache-2.0
//! `cat`.

use crate::args::CatArgs;
use crate::output::{Out, shown};
use anyhow::Context;
use ferrofs_format::inode::FileType;
use ferrofs_image::Inode;
use ferrofs_serve::{Engine, EngineConfig};
use std::io::Write;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// Bytes read at a time: a few pclusters of the largest kind.
const STEP: usize = 4 << 20;

pub(crate) fn run(args: &CatArgs) -> anyhow::Result<u8> {
    let image = Arc::new(args.image.open_whole()?);
    let engine = Engine::new(Arc::clone(&image), EngineConfig::default());
    let mut out = Out::new();
    for path in &args.paths {
        let path = path.as_os_str().as_bytes();
        let inode = ferrofs_check::find(&image, path, None)?;
        copy(&engine, &inode, &mut out).with_context(|| shown(path))?;
    }
    out.flush()?;
    Ok(0)
}

/// Writes a file's content.
pub(crate) fn copy(engine: &Engine, inode: &Inode, out: &mut Out) -> anyhow::Result<()> {
    if inode.file_type != FileType::Regular {
        anyhow::bail!("not a regular file");
    }
    let file = engine.open(inode)?;
    let mut buf = vec![0; STEP.min(usize::try_from(file.size()).unwrap_or(STEP))];
    let mut offset = 0;
    while offset < file.size() {
        let len = engine.whole_extents(&file, offset, buf.len());
        let count = engine.read_into(&file, offset, &mut buf[..len])?;
        out.write_all(&buf[..count])?;
        offset += count as u64;
    }
    Ok(())
}
