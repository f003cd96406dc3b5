// SPDX-License-Identifier: MIT OR Apache-2.0
//! One page about an image that needs nothing but itself: no scripts, no fonts, no network.
//!
//! Invariant: what comes out of an image is text in the page, never markup.

use crate::output::uuid_text;
use crate::size;
use ferrofs_check::{DeviceCells, Inspection, Share};
use ferrofs_image::Image;
use ferrofs_store::BlobInfo;
use std::fmt::Write;
use std::ops::Range;

/// Cells in a row of a map.
const COLUMNS: usize = 96;
/// Width and height of a cell, in units of the picture.
const CELL: usize = 10;
/// Colours of kinds, in the order in which they are met; then they repeat. Told apart by people who
/// see few colours, too (Okabe and Ito).
pub(in crate::commands) const COLOURS: [&str; 8] =
    ["#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00", "#b8ae0a", "#7f7f7f"];
/// Rows of tables.
const ROWS: usize = 25;

const STYLE: &str = "
:root{color-scheme:light dark;--line:#8884;--soft:#8882}
body{font:15px/1.5 system-ui,sans-serif;max-width:1040px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem;margin:0 0 .2rem}h2{font-size:1.1rem;margin:2.2rem 0 .6rem}
p{margin:.3rem 0}table{border-collapse:collapse;width:100%}
th,td{padding:.15rem .6rem;text-align:right;border-bottom:1px solid var(--line);
font-variant-numeric:tabular-nums;white-space:nowrap}
th:last-child,td:last-child{text-align:left;width:60%;white-space:normal;overflow-wrap:anywhere}
td.bar{position:relative}.fill{background:var(--soft);position:absolute;inset:2px auto 2px 0}
.key{display:inline-block;width:.8em;height:.8em;border-radius:2px;margin:0 .3em 0 1em}
svg{width:100%;height:auto;background:var(--soft);border-radius:4px}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.1rem 1rem;margin:.6rem 0}
dt{opacity:.7}dd{margin:0}footer{margin:3rem 0 1rem;opacity:.6;font-size:.85em}";

/// The page about an image.
pub(in crate::commands) fn page(title: &str, image: &Image, found: &Inspection) -> Page {
    let mut page = Page::new(title);
    page.facts(&facts(image, found));
    for (index, device) in found.devices.iter().enumerate() {
        if device.bytes > 0 {
            page.map(index, device);
        }
    }
    page.table("Below the root", &found.tops);
    page.table("By suffix", &found.suffixes);
    page.table("Largest files", &found.largest);
    page
}

/// Parts of a blob, all of the same length, and how much of each is there: 0 to 1.
pub(in crate::commands) struct Shares {
    pub(in crate::commands) cell_bytes: u64,
    pub(in crate::commands) of: Vec<f64>,
}

/// Cuts a blob into `cells_max` parts at most.
pub(in crate::commands) fn shares(size: u64, runs: &[Range<u64>], cells_max: u64) -> Shares {
    let cell_bytes = size.div_ceil(cells_max).next_multiple_of(4096).max(4096);
    let mut bytes = vec![0_u64; size.div_ceil(cell_bytes) as usize];
    for run in runs {
        let mut at = run.start;
        while at < run.end.min(size) {
            let cell = at / cell_bytes;
            let stop = run.end.min((cell + 1) * cell_bytes);
            bytes[cell as usize] += stop - at;
            at = stop;
        }
    }
    let whole = |cell: usize| cell_bytes.min(size - cell as u64 * cell_bytes);
    let share = |(cell, &bytes): (usize, &u64)| bytes as f64 / whole(cell) as f64;
    Shares { cell_bytes, of: bytes.iter().enumerate().map(share).collect() }
}

/// The page about a blob of a cache.
pub(in crate::commands) fn presence(info: &BlobInfo, runs: &[Range<u64>]) -> String {
    let size = info.size.unwrap_or(0);
    let mut page = Page::new(&info.id.to_string());
    let there: u64 = runs.iter().map(|run| run.end - run.start).sum();
    page.facts(&[
        ("from", info.source.clone().unwrap_or_else(|| String::from("?"))),
        ("pin", info.pin.clone().unwrap_or_else(|| String::from("none: not verified"))),
        ("size", format!("{} ({size} bytes)", size::show(size))),
        ("there", format!("{} in {} runs", size::show(there), runs.len())),
        ("on disk", size::show(info.disk_bytes)),
    ]);
    page.presence(&shares(size, runs, (COLUMNS * 32) as u64));
    page.end()
}

fn facts(image: &Image, found: &Inspection) -> Vec<(&'static str, String)> {
    let statistics = &found.statistics;
    let superblock = image.superblock();
    let stored: u64 = statistics.device_bytes.iter().sum();
    let mut facts = vec![
        ("stored", format!("{} ({stored} bytes)", size::show(stored))),
        ("content of files", size::show(statistics.file_bytes)),
        ("ratio", format!("{:.3} bytes of files for each stored", statistics.ratio())),
        (
            "inodes",
            format!(
                "{} ({} of 32 bytes, {} of 64); {} further names",
                statistics.inodes,
                statistics.compact_inodes,
                statistics.extended_inodes,
                statistics.hard_links
            ),
        ),
        ("block size", size::show(u64::from(statistics.block_size))),
        ("UUID", uuid_text(&superblock.uuid)),
        ("holes", size::show(statistics.hole_bytes)),
        ("beside inodes", size::show(statistics.inline_bytes)),
        ("shared clusters", format!("{} saved", size::show(statistics.shared_bytes))),
    ];
    for (name, encoding) in &statistics.encodings {
        facts.push((
            name,
            format!(
                "{} in {} for {} clusters",
                size::show(encoding.decoded_bytes),
                size::show(encoding.encoded_bytes),
                encoding.clusters
            ),
        ));
    }
    if statistics.unreadable > 0 {
        facts.push(("unreadable inodes", statistics.unreadable.to_string()));
    }
    facts
}

/// A page being written.
pub(in crate::commands) struct Page(String);

impl Page {
    pub(in crate::commands) fn new(title: &str) -> Self {
        let title = Text(title);
        Self(format!(
            "<!DOCTYPE html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
             <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n"
        ))
    }

    pub(super) fn end(self) -> String {
        self.end_as("inspect")
    }

    /// Ends the page of a command.
    pub(in crate::commands) fn end_as(mut self, command: &str) -> String {
        let version = env!("CARGO_PKG_VERSION");
        self.put(format_args!("<footer>ferrofs {version} {command}</footer>\n</body></html>\n"));
        self.0
    }

    pub(in crate::commands) fn facts(&mut self, facts: &[(&str, String)]) {
        self.0.push_str("<dl>");
        for (name, value) in facts {
            self.put(format_args!("<dt>{}</dt><dd>{}</dd>", Text(name), Text(value)));
        }
        self.0.push_str("</dl>\n");
    }

    /// What lies where on a device: a cell has the colour of what takes most of it.
    fn map(&mut self, index: usize, device: &DeviceCells) {
        let rows = device.cells.len().div_ceil(COLUMNS);
        self.put(format_args!(
            "<h2>Device {index}: {}</h2>\n<p>From left to right and down, {} a cell.",
            size::show(device.bytes),
            size::show(device.cell_bytes)
        ));
        for (kind, name) in device.kinds.iter().enumerate() {
            let colour = COLOURS[kind % COLOURS.len()];
            self.put(format_args!(
                "<span class=\"key\" style=\"background:{colour}\"></span>{}",
                Text(name)
            ));
        }
        self.put(format_args!(
            "</p>\n<svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"map of device {index}\">\n",
            COLUMNS * CELL,
            rows * CELL
        ));
        for (cell, counts) in device.cells.iter().enumerate() {
            let Some((kind, &most)) = counts.iter().enumerate().max_by_key(|&(_, bytes)| bytes)
            else {
                continue;
            };
            let used: u64 = counts.iter().sum();
            let share = used.min(device.cell_bytes) as f64 / device.cell_bytes as f64;
            self.put(format_args!(
                "<rect x=\"{}\" y=\"{}\" width=\"{side}\" height=\"{side}\" fill=\"{}\" \
                 opacity=\"{:.2}\"><title>{} from {}: {} {}</title></rect>\n",
                cell % COLUMNS * CELL,
                cell / COLUMNS * CELL,
                COLOURS[kind % COLOURS.len()],
                0.25 + 0.75 * share,
                size::show(used),
                size::show(cell as u64 * device.cell_bytes),
                size::show(most),
                Text(device.kinds.get(kind).copied().unwrap_or_default()),
                side = CELL - 1,
            ));
        }
        self.0.push_str("</svg>\n");
    }

    /// How much of each part is there: the more, the darker.
    fn presence(&mut self, shares: &Shares) {
        let rows = shares.of.len().div_ceil(COLUMNS);
        self.put(format_args!(
            "<h2>What is there</h2>\n<p>From left to right and down, {} a cell.</p>\n\
             <svg viewBox=\"0 0 {} {}\" role=\"img\" aria-label=\"what is there\">\n",
            size::show(shares.cell_bytes),
            COLUMNS * CELL,
            rows * CELL
        ));
        for (cell, &share) in shares.of.iter().enumerate().filter(|&(_, &share)| share > 0.0) {
            self.put(format_args!(
                "<rect x=\"{}\" y=\"{}\" width=\"{side}\" height=\"{side}\" fill=\"{}\" \
                 opacity=\"{:.2}\"><title>from {}: {:.0} %</title></rect>\n",
                cell % COLUMNS * CELL,
                cell / COLUMNS * CELL,
                COLOURS[0],
                0.25 + 0.75 * share,
                size::show(cell as u64 * shares.cell_bytes),
                share * 100.0,
                side = CELL - 1,
            ));
        }
        self.0.push_str("</svg>\n");
    }

    fn table(&mut self, title: &str, shares: &[Share]) {
        if shares.is_empty() {
            return;
        }
        let most = shares.iter().map(|share| share.stored).max().unwrap_or(0).max(1);
        self.put(format_args!(
            "<h2>{}</h2>\n<table><tr><th>stored</th><th>content</th><th>inodes</th><th></th></tr>\n",
            Text(title)
        ));
        for share in shares.iter().take(ROWS) {
            let name = share.name.to_string();
            let name = if name.is_empty() { "(none)" } else { &name };
            self.put(format_args!(
                "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"bar\">\
                 <span class=\"fill\" style=\"width:{:.1}%\"></span>{}</td></tr>\n",
                size::show(share.stored),
                size::show(share.bytes),
                share.inodes,
                share.stored as f64 * 100.0 / most as f64,
                Text(name)
            ));
        }
        self.0.push_str("</table>\n");
        if let Some(more) = shares.len().checked_sub(ROWS).filter(|&more| more > 0) {
            self.put(format_args!("<p>and {more} more</p>\n"));
        }
    }

    pub(in crate::commands) fn heading(&mut self, text: &str) {
        self.put(format_args!("<h2>{}</h2>\n", Text(text)));
    }

    /// Appends markup.
    pub(in crate::commands) fn put(&mut self, text: std::fmt::Arguments<'_>) {
        // Writing to a string cannot fail.
        let _ = self.0.write_fmt(text);
    }
}

/// Text, made harmless.
pub(in crate::commands) struct Text<'a>(pub(in crate::commands) &'a str);

impl std::fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for c in self.0.chars() {
            match c {
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '&' => f.write_str("&amp;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                _ => f.write_char(c)?,
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_add_up() {
        let shares = shares(100_000, &[0..4096, 8192..20_000, 98_304..100_000], 10);
        assert_eq!((shares.cell_bytes, shares.of.len()), (12_288, 9));
        assert!((shares.of[0] - 8192.0 / 12_288.0).abs() < 1e-9, "{:?}", shares.of);
        assert!((shares.of[8] - 1.0).abs() < 1e-9 && shares.of[4] == 0.0, "{:?}", shares.of);
        assert!(super::shares(0, &[], 10).of.is_empty());
    }

    #[test]
    fn names_are_text() {
        let hostile = "</title><script>alert(\"1\" & '2')</script>";
        let mut page = Page::new(hostile);
        let share = Share { name: hostile.as_bytes().into(), stored: 5, ..Share::default() };
        page.table(hostile, &[share]);
        page.facts(&[(hostile, String::from(hostile))]);
        let page = page.end();
        assert!(!page.contains("<script") && page.matches("&lt;script&gt;").count() >= 5, "{page}");
    }
}
