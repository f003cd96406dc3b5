// SPDX-License-Identifier: MIT OR Apache-2.0
//! `ls`.

use crate::args::LsArgs;
use crate::json::Array;
use crate::output::{Out, kind_letter, mode_text};
use crate::{errors, time};
use ferrofs_check::Listing;
use std::io::Write;
use std::ops::ControlFlow;
use std::os::unix::ffi::OsStrExt;

pub(crate) fn run(args: &LsArgs) -> anyhow::Result<u8> {
    let image = args.image.open()?;
    let mut out = Out::new();
    let mut array = args.json.then(|| Array::begin(&mut out)).transpose()?;
    let mut written = Ok(());
    let mut code = 0;
    let listed =
        ferrofs_check::list(&image, args.path.as_os_str().as_bytes(), args.recursive, |row| {
            written = match (row, &mut array) {
                (Ok(row), Some(array)) => array.push(&mut out, &row),
                (Ok(row), None) => show(&mut out, &row, args),
                (Err(error), _) => {
                    // The rest may be readable.
                    errors::print("ferrofs", &error.into());
                    code = 1;
                    Ok(())
                }
            };
            if written.is_ok() { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
        });
    written?;
    if let Some(array) = array {
        array.end(&mut out)?;
    }
    out.flush()?;
    // Behind what there is: that is whole, also as JSON.
    listed?;
    Ok(code)
}

fn show(out: &mut Out, row: &Listing, args: &LsArgs) -> std::io::Result<()> {
    let path = row.path.as_bytes();
    let name = match path.rsplit(|&byte| byte == b'/').next() {
        Some(name) if !args.recursive && !name.is_empty() => name,
        _ => path,
    };
    if args.long {
        let size = match row.rdev {
            Some((major, minor)) => format!("{major}, {minor}"),
            None => row.size.to_string(),
        };
        write!(
            out,
            "{} {:>4} {:>5} {:>5} {size:>11} {} ",
            mode_text(kind_letter(row.mode), row.mode),
            row.nlink,
            row.uid,
            row.gid,
            time::show(row.mtime)
        )?;
    }
    out.write_name(name)?;
    if let (true, Some(target)) = (args.long, &row.target) {
        write!(out, " -> ")?;
        out.write_name(target.as_bytes())?;
    }
    writeln!(out)
}
