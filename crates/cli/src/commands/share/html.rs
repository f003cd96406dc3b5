// SPDX-License-Identifier: MIT OR Apache-2.0
//! The estimate as one page: a bar for each method, a piece of it for each image.

use super::estimate::{megabytes, title};
use crate::commands::inspect::html::{COLOURS, Page, Text};
use ferrofs_share::estimate::Estimate;

/// Of the picture, in its own units.
const WIDTH: f64 = 960.0;
const LEFT: f64 = 190.0;
const RIGHT: f64 = 130.0;
const ROW: usize = 34;
const BAR: usize = 24;

/// The page.
pub(super) fn page(found: &Estimate) -> String {
    let mut page = Page::new("What sharing would save");
    section(&mut page, found);
    page.end_as("share estimate")
}

/// The estimate as a part of a page.
pub(in crate::commands) fn section(page: &mut Page, found: &Estimate) {
    let facts: Vec<_> = found
        .trees
        .iter()
        .enumerate()
        .map(|(index, tree)| {
            let name = format!("image {}", index + 1);
            let (files, size) = (tree.files, megabytes(tree.page_bytes));
            (name, format!("{}: {files} files, {size} MB in pages", tree.name))
        })
        .collect();
    page.facts(&facts.iter().map(|(name, text)| (&**name, text.clone())).collect::<Vec<_>>());
    chart(page, found);
    table(page, found);
}

fn chart(page: &mut Page, found: &Estimate) {
    page.put(format_args!("<h2>Memory when all files are read</h2>\n<p>MB."));
    for index in 0..found.trees.len() {
        let (colour, number) = (COLOURS[index % COLOURS.len()], index + 1);
        page.put(format_args!(
            "<span class=\"key\" style=\"background:{colour}\"></span>{}image {number}",
            if index > 0 { "added by " } else { "" }
        ));
    }
    page.put(format_args!(
        "</p>\n<svg viewBox=\"0 0 {WIDTH} {}\" role=\"img\" aria-label=\"memory by method\" \
         font-size=\"14\" fill=\"currentColor\">\n",
        found.methods.len() * ROW + 10
    ));
    let most = found.methods.iter().map(|row| row.unique_bytes).max().unwrap_or(0).max(1);
    for (index, row) in found.methods.iter().enumerate() {
        let y = index * ROW + 8;
        let text = y + BAR / 2 + 5;
        let name = Text(title(row.method));
        page.put(format_args!("<text x=\"8\" y=\"{text}\">{name}</text>\n"));
        let mut x = LEFT;
        for (tree, &added) in row.added_bytes.iter().enumerate() {
            let width = added as f64 / most as f64 * (WIDTH - LEFT - RIGHT);
            page.put(format_args!(
                "<rect class=\"{}\" x=\"{x:.2}\" y=\"{y}\" width=\"{width:.2}\" height=\"{BAR}\" \
                 fill=\"{}\"><title>image {}: {} MB</title></rect>\n",
                Text(row.method),
                COLOURS[tree % COLOURS.len()],
                tree + 1,
                megabytes(added)
            ));
            x += width;
        }
        let saved = match row.unique_bytes {
            all if all == row.total_bytes => String::new(),
            _ => format!(" (-{:.1} %)", row.saved_percent),
        };
        page.put(format_args!(
            "<text x=\"{:.2}\" y=\"{text}\">{}{saved}</text>\n",
            x + 8.0,
            megabytes(row.unique_bytes)
        ));
    }
    page.put(format_args!("</svg>\n"));
}

fn table(page: &mut Page, found: &Estimate) {
    page.put(format_args!("<h2>In figures</h2>\n<table><tr><th>together, MB</th><th>saved</th>"));
    for index in 0..found.trees.len() {
        page.put(format_args!("<th>{}image {}</th>", if index > 0 { "+ " } else { "" }, index + 1));
    }
    page.put(format_args!("<th>shared by</th></tr>\n"));
    for row in &found.methods {
        let together = megabytes(row.unique_bytes);
        page.put(format_args!("<tr><td>{together}</td><td>{:.1} %</td>", row.saved_percent));
        for &added in &row.added_bytes {
            page.put(format_args!("<td>{}</td>", megabytes(added)));
        }
        page.put(format_args!("<td>{}</td></tr>\n", Text(title(row.method))));
    }
    page.put(format_args!(
        "</table>\n<p>Whole files, pages and chunks of 64 KiB count pages of memory; \
         content-defined chunks count bytes.</p>\n"
    ));
}
