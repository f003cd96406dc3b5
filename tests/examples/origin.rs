// SPDX-License-Identifier: MIT OR Apache-2.0
//! The origin as a program, for `bench/lazy.py` and `bench/nydus.py`: serves a folder (or passes on
//! to a server) over a link of a given delay and rate, and says what it sent.
//!
//! `origin FOLDER|ADDRESS DELAY_MS BYTES_PER_S` (0: unlimited). Prints its address. Each line on
//! standard input is answered by one line of JSON about the requests so far; the line `forget`
//! begins a new count afterwards, `list` is answered by the requests themselves. Ends with its
//! standard input.

use ferrofs_tests::origin::{Content, Entry, Ledger, Link, Origin};
use std::collections::BTreeSet;
use std::io::BufRead;
use std::time::{Duration, Instant};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<_> = std::env::args().skip(1).collect();
    let [what, delay_ms, bytes_per_s] = arguments.as_slice() else {
        return Err("usage: origin FOLDER|ADDRESS DELAY_MS BYTES_PER_S".into());
    };
    let content = match what.parse() {
        Ok(address) => Content::Upstream(address),
        Err(_) => Content::Folder(what.into()),
    };
    let link = Link::new(Duration::from_millis(delay_ms.parse()?), Some(bytes_per_s.parse()?));
    let origin = Origin::over(content, link)?;
    println!("{}", origin.address());
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let ledger = origin.ledger();
        if line.trim() == "list" {
            println!("{}", list(&ledger));
            continue;
        }
        let paths: BTreeSet<_> = ledger.entries().iter().map(|entry| path(&entry.target)).collect();
        let runs = paths.iter().flat_map(|path| ledger.served_again(path));
        let again: u64 =
            runs.map(|(run, times)| (run.end - run.start) * u64::from(times - 1)).sum();
        let first = ledger.entries().iter().map(|entry| entry.started).min();
        let last = ledger.entries().iter().map(|entry| entry.ended).max();
        let busy = first.zip(last).map_or(0.0, |(first, last)| (last - first).as_secs_f64());
        let faulty = ledger.entries().iter().filter(|entry| entry.faulty).count();
        println!(
            "{}",
            serde_json::json!({
                "requests": ledger.entries().len(),
                "bytes": ledger.bytes_sent(),
                "round_trips": ledger.round_trips(),
                "faulty": faulty,
                "bytes_again": again,
                "busy_s": busy,
            })
        );
        if line.trim() == "forget" {
            origin.forget();
        }
    }
    Ok(())
}

/// Each request: what, from which byte on, how many, and when it began and ended.
fn list(ledger: &Ledger) -> serde_json::Value {
    let entries = ledger.entries();
    let first = entries.iter().map(|entry| entry.started).min();
    let ms = |at: Instant| first.map_or(0, |first| (at - first).as_millis() as u64);
    let row = |entry: &Entry| {
        serde_json::json!([
            entry.target,
            entry.first,
            entry.sent,
            ms(entry.started),
            ms(entry.ended)
        ])
    };
    entries.iter().map(row).collect()
}

/// Without the query.
fn path(target: &str) -> &str {
    target.split('?').next().unwrap_or_default()
}
