// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file of `--compress-hints`: lines of `SIZE [ALGORITHM] PATTERN`, `#` begins a comment.

use ferrofs_build::PclusterHint;
use regex::bytes::RegexBuilder;
use std::path::Path;

/// Reads a file of hints. A size that is not possible is reported to `warn` and left out.
pub(crate) fn read(
    path: &Path,
    block_size: u32,
    warn: &mut dyn FnMut(String),
) -> anyhow::Result<Vec<PclusterHint>> {
    use anyhow::Context;
    let text =
        std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, block_size, warn).with_context(|| path.display().to_string())
}

fn parse(
    text: &str,
    block_size: u32,
    warn: &mut dyn FnMut(String),
) -> anyhow::Result<Vec<PclusterHint>> {
    const SIZE_MAX: u32 = 1 << 20;
    let mut hints = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let mut words = line.split_whitespace();
        let size = words.next().and_then(|word| crate::size::parse_u32(word).ok());
        let Some(size) = size else { anyhow::bail!("line {number}: no size at its beginning") };
        let rest: Vec<&str> = words.collect();
        let pattern = match rest[..] {
            [pattern] | ["0", pattern] => pattern,
            [algorithm, _] => anyhow::bail!(
                "line {number}: compressor {algorithm}, but only one is supported yet, number 0"
            ),
            _ => anyhow::bail!("line {number}: there must be a size and one pattern"),
        };
        // Names are bytes, not characters, and may hold newlines.
        let mut builder = RegexBuilder::new(pattern);
        let pattern = match builder.unicode(false).dot_matches_new_line(true).build() {
            Ok(pattern) => pattern,
            Err(error) => anyhow::bail!("line {number}: {error}"),
        };
        if size > SIZE_MAX || !size.is_multiple_of(block_size) {
            warn(format!("compress hints, line {number}: {size} is no possible size; left out"));
            continue;
        }
        hints.push(PclusterHint { pattern, pcluster_size: size });
    }
    Ok(hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut warnings = Vec::new();
        let text = "# comment\n0 \\.c$\n1048577  \\.am$\n 8192 0 \\.h$\n\n16k x\n";
        let hints = parse(text, 4096, &mut |text| warnings.push(text)).unwrap();
        let found: Vec<_> =
            hints.iter().map(|hint| (hint.pcluster_size, hint.pattern.as_str())).collect();
        assert_eq!(found, [(0, "\\.c$"), (8192, "\\.h$"), (16384, "x")]);
        assert_eq!(warnings.len(), 1);
        for bad in ["0", "x \\.c$", "4096 a b", "4096 1 b c", "4096 ("] {
            assert!(parse(bad, 4096, &mut |_| ()).is_err(), "{bad}");
        }
    }
}
