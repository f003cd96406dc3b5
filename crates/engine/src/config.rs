// SPDX-License-Identifier: MIT OR Apache-2.0
//! What an engine can be told, when it is made and while it runs.

use std::fmt;
use std::str::FromStr;

/// Which encoded pclusters stay in memory after they were decoded. The names are those of the
/// kernel's mount option `cache_strategy`.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Strategy {
    /// None.
    Disabled,
    /// The last one of a request, if the request did not want it to its end.
    Readahead,
    /// The first and the last one of a request, if it did not want them whole.
    Readaround,
    /// All that were wanted in part; one budget, divided between encoded and decoded bytes by what
    /// saves more.
    #[default]
    Split,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Disabled, Self::Readahead, Self::Readaround, Self::Split];

    /// Its name in options.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Disabled => "disabled",
            Self::Readahead => "readahead",
            Self::Readaround => "readaround",
            Self::Split => "split",
        }
    }

    /// The part of a budget that is for encoded bytes; `None`: to be found out.
    pub(crate) const fn encoded_share(self, total: u64) -> Option<u64> {
        match self {
            Self::Disabled => Some(0),
            Self::Readahead | Self::Readaround => Some(total / 4),
            Self::Split => None,
        }
    }

    /// Whether the encoded bytes of a pcluster stay, that a request wanted as `part` says.
    pub(crate) const fn keeps(self, rule: Rule, part: Wanted) -> bool {
        let open_end = match rule {
            Rule::Current => !part.to_its_end,
            Rule::Original => !part.to_its_end || part.last,
        };
        match self {
            Self::Disabled => false,
            Self::Readahead => open_end,
            Self::Readaround => open_end || !part.from_its_start,
            Self::Split => !part.to_its_end || !part.from_its_start,
        }
    }
}

/// How a request wanted an extent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    pub(crate) from_its_start: bool,
    pub(crate) to_its_end: bool,
    /// It is the last one of the request.
    pub(crate) last: bool,
}

/// The kernel's rule for `readahead` and `readaround`, which changed once.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum Rule {
    /// Since Linux 6.6: what was wanted whole is never kept.
    #[default]
    Current,
    /// From 2019 to Linux 6.5: the last pcluster of a request is kept even if it was wanted whole.
    Original,
}

/// Whether readers decode themselves.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum SyncDecompression {
    /// Small requests in the thread that asks; long ones, and readahead, with the help of the
    /// workers.
    #[default]
    Auto,
    /// Always in the thread that asks, alone.
    Always,
    /// Always with the help of the workers.
    Never,
}

impl SyncDecompression {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Auto, Self::Always, Self::Never];

    /// Its name in options.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Always => "always",
            Self::Never => "never",
        }
    }
}

/// What becomes of encoded bytes that are in memory when the strategy changes.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub enum OnChange {
    /// They stay until they are evicted, as in the kernel.
    #[default]
    Keep,
    /// They go at once.
    Flush,
    /// The strategy does not change while there are any.
    Refuse,
}

/// The word is none of those that the setting knows.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct UnknownName {
    /// The words it knows.
    pub known: &'static str,
}

impl fmt::Display for UnknownName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "must be one of {}", self.known)
    }
}

impl std::error::Error for UnknownName {}

macro_rules! named {
    ($($name:ident: $known:literal,)*) => {$(
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.name())
            }
        }

        impl FromStr for $name {
            type Err = UnknownName;

            fn from_str(text: &str) -> Result<Self, UnknownName> {
                let found = Self::ALL.into_iter().find(|value| value.name() == text);
                found.ok_or(UnknownName { known: $known })
            }
        }
    )*};
}

impl Rule {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Current, Self::Original];

    /// Its name in options.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Current => "current",
            Self::Original => "original",
        }
    }
}

impl OnChange {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Keep, Self::Flush, Self::Refuse];

    /// Its name in options.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Flush => "flush",
            Self::Refuse => "refuse",
        }
    }
}

named! {
    Strategy: "disabled, readahead, readaround, split",
    Rule: "current, original",
    SyncDecompression: "auto, always, never",
    OnChange: "keep, flush, refuse",
}

/// Settings of an [`Engine`](crate::Engine).
#[derive(Clone, Copy, Debug)]
#[expect(clippy::exhaustive_structs, reason = "settings are written out with `..default()`")]
pub struct EngineConfig {
    /// Bytes kept of encoded and decoded data together (default 64 MiB). 0 keeps nothing.
    pub cache_bytes: u64,
    /// Which encoded pclusters are kept.
    pub strategy: Strategy,
    /// Which of the kernel's rules that means.
    pub rule: Rule,
    /// Whether readers decode themselves.
    pub sync: SyncDecompression,
    /// Longest request in bytes that [`SyncDecompression::Auto`] leaves to the thread that asks
    /// (default 12 KiB, as in the kernel).
    pub sync_bytes: usize,
    /// Worker threads at most (default: as many as processors). They are started when needed.
    pub workers: usize,
    /// Largest read of the device, in bytes (default 1 MiB): neighbouring pclusters are merged up
    /// to it. A pcluster, at most 1 MiB itself, is always read whole.
    pub merge_bytes: usize,
    /// Decode readahead to the ends of its first and last extent, and keep the surplus.
    pub readmore: bool,
    /// Refuse LZ4 data that the C library takes though the format does not define it: for checks.
    pub strict: bool,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            cache_bytes: 64 << 20,
            strategy: Strategy::default(),
            rule: Rule::default(),
            sync: SyncDecompression::default(),
            sync_bytes: 12 << 10,
            workers: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            merge_bytes: 1 << 20,
            readmore: true,
            strict: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for strategy in Strategy::ALL {
            assert_eq!(strategy.to_string().parse(), Ok(strategy));
        }
        for rule in Rule::ALL {
            assert_eq!(rule.to_string().parse(), Ok(rule));
        }
        for sync in SyncDecompression::ALL {
            assert_eq!(sync.to_string().parse(), Ok(sync));
        }
        for change in OnChange::ALL {
            assert_eq!(change.to_string().parse(), Ok(change));
        }
        assert!("Readahead".parse::<Strategy>().is_err());
    }

    /// The table of the kernel's rule: start wanted, end wanted, last of its request.
    #[test]
    fn strategies_keep_what_the_kernel_keeps() {
        use Strategy::{Disabled, Readahead, Readaround, Split};
        let part = |from_its_start, to_its_end, last| Wanted { from_its_start, to_its_end, last };
        for (wanted, current, original) in [
            (part(true, true, false), [false; 4], [false; 4]),
            (part(true, true, true), [false; 4], [false, true, true, false]),
            (part(true, false, true), [false, true, true, true], [false, true, true, true]),
            (part(false, true, false), [false, false, true, true], [false, false, true, true]),
            (part(false, true, true), [false, false, true, true], [false, true, true, true]),
            (part(false, false, true), [false, true, true, true], [false, true, true, true]),
        ] {
            for (index, strategy) in [Disabled, Readahead, Readaround, Split].iter().enumerate() {
                let kept = |rule| strategy.keeps(rule, wanted);
                assert_eq!(kept(Rule::Current), current[index], "{strategy} {wanted:?}");
                assert_eq!(kept(Rule::Original), original[index], "{strategy} {wanted:?}");
            }
        }
    }
}
