// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file of `--compress-hints`: lines of `SIZE [ALGORITHM] PATTERN`, `#` begins a comment.

use std::path::Path;

/// One line.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Hint {
    /// Bytes of a compressed cluster; 0: not compressed.
    pub(super) pcluster_size: u32,
    /// Which of the compressors of `-z`.
    pub(super) algorithm: u32,
    /// Files whose path this expression matches.
    pub(super) pattern: String,
}

/// Reads a file of hints. A size that is not possible is reported to `warn` and left out.
pub(super) fn read(
    path: &Path,
    block_size: u32,
    warn: &mut dyn FnMut(String),
) -> anyhow::Result<Vec<Hint>> {
    use anyhow::Context;
    let text = std::fs::read_to_string(path)
        .with_context(|| format!("cannot read {}", path.display()))?;
    parse(&text, block_size, warn).with_context(|| path.display().to_string())
}

fn parse(
    text: &str,
    block_size: u32,
    warn: &mut dyn FnMut(String),
) -> anyhow::Result<Vec<Hint>> {
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
        let (algorithm, pattern) = match rest[..] {
            [pattern] => (0, pattern),
            [algorithm, pattern] => match algorithm.parse() {
                Ok(algorithm) => (algorithm, pattern),
                Err(_) => anyhow::bail!("line {number}: no number of a compressor: {algorithm}"),
            },
            _ => anyhow::bail!("line {number}: there must be a size and one pattern"),
        };
        if let Err(error) = crate::commands::build::exclude(&[], &[pattern.to_owned()]) {
            anyhow::bail!("line {number}: {error:#}");
        }
        if size > SIZE_MAX || !size.is_multiple_of(block_size) {
            warn(format!("compress hints, line {number}: {size} is no possible size; left out"));
            continue;
        }
        hints.push(Hint { pcluster_size: size, algorithm, pattern: pattern.to_owned() });
    }
    Ok(hints)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines() {
        let mut warnings = Vec::new();
        let text = "# comment\n0 \\.c$\n1048577  \\.am$\n 8192 1 \\.h$\n\n16k x\n";
        let hints = parse(text, 4096, &mut |text| warnings.push(text)).unwrap();
        let hint = |pcluster_size, algorithm, pattern: &str| Hint {
            pcluster_size,
            algorithm,
            pattern: pattern.to_owned(),
        };
        assert_eq!(hints, [hint(0, 0, "\\.c$"), hint(8192, 1, "\\.h$"), hint(16384, 0, "x")]);
        assert_eq!(warnings.len(), 1);
        for bad in ["0", "x \\.c$", "4096 a b", "4096 1 b c", "4096 ("] {
            assert!(parse(bad, 4096, &mut |_| ()).is_err(), "{bad}");
        }
    }
}
