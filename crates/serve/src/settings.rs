// SPDX-License-Identifier: MIT OR Apache-2.0
//! Settings of the engine by name: in mount options, in `ctl set`, in what `ctl get` shows.
//!
//! Refuses to know where names come from. Invariant: a value that is taken is one that the engine can
//! work with; nothing is changed before all values of a change were understood.

use crate::control::Change;
use ferrofs_engine::{Engine, EngineConfig, OnChange, Rule, Strategy, StrategyBusy};
use ferrofs_engine::{SyncDecompression, UnknownName};
use std::str::FromStr;

/// Longest request that can be left to the thread that asks, in bytes.
const SYNC_BYTES_MAX: u64 = 1 << 30;
/// Smallest and largest read of a device, in bytes.
const MERGE_BYTES: std::ops::RangeInclusive<u64> = 4096..=16 << 20;
/// Most workers.
const WORKERS_MAX: usize = 1024;

/// Settings of the engine that were given; the others stay as they are.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "made with `..EngineSettings::default()`")]
pub struct EngineSettings {
    /// `cache` or `cache_bytes`: bytes kept in memory.
    pub cache_bytes: Option<u64>,
    /// `cache_strategy`.
    pub strategy: Option<Strategy>,
    /// `cache_rule`.
    pub rule: Option<Rule>,
    /// `sync_decompress`.
    pub sync: Option<SyncDecompression>,
    /// `sync_bytes`.
    pub sync_bytes: Option<usize>,
    /// `merge`: largest read of a device in bytes.
    pub merge_bytes: Option<usize>,
    /// `readmore` or `noreadmore`.
    pub readmore: Option<bool>,
    /// `workers`: fixed once the engine is made.
    pub workers: Option<usize>,
    /// `on_change`: what becomes of cached data when the strategy changes. Only for changes.
    pub on_change: Option<OnChange>,
}

/// What became of a name and a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "known, wrong or not known")]
pub enum Taken {
    /// It is one of these settings.
    Yes,
    /// It is, but the value cannot be used: what is wrong.
    Bad(&'static str),
    /// The name is none of these.
    Unknown,
}

impl EngineSettings {
    /// Names that a running mount can change, for messages.
    pub const CHANGEABLE: &str = "cache_strategy, on_change, cache_rule, cache, sync_decompress, \
                                  sync_bytes, readmore, merge";

    /// Takes a setting by its name.
    pub fn take(&mut self, name: &str, value: Option<&str>) -> Taken {
        let done = match (name, value) {
            ("cache" | "cache_bytes", value) => size(value).map(|n| self.cache_bytes = Some(n)),
            ("cache_strategy", value) => word(value).map(|w| self.strategy = Some(w)),
            ("cache_rule", value) => word(value).map(|w| self.rule = Some(w)),
            ("sync_decompress", value) => word(value).map(|w| self.sync = Some(w)),
            ("on_change", value) => word(value).map(|w| self.on_change = Some(w)),
            ("sync_bytes", value) => size(value).and_then(|n| {
                let fits = n <= SYNC_BYTES_MAX;
                self.sync_bytes = fits.then_some(n as usize);
                if fits { Ok(()) } else { Err("its value is above 1G") }
            }),
            ("merge", value) => size(value).and_then(|n| {
                let fits = MERGE_BYTES.contains(&n);
                self.merge_bytes = fits.then_some(n as usize);
                if fits { Ok(()) } else { Err("its value is not from 4K to 16M") }
            }),
            ("readmore", value) => switch(value).map(|on| self.readmore = Some(on)),
            ("noreadmore", None) => {
                self.readmore = Some(false);
                Ok(())
            }
            ("workers", value) => {
                let number = value.and_then(|value| value.parse().ok());
                self.workers = number.filter(|n| (1..=WORKERS_MAX).contains(n));
                self.workers.map(|_| ()).ok_or("its value is not a number from 1 to 1024")
            }
            _ => return Taken::Unknown,
        };
        done.map_or_else(Taken::Bad, |()| Taken::Yes)
    }

    /// Whether nothing was given.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Settings of a new engine: those given, else the engine's own.
    #[must_use]
    pub fn config(&self) -> EngineConfig {
        let mut config = EngineConfig::default();
        self.change(&mut config);
        config.strategy = self.strategy.unwrap_or(config.strategy);
        config.workers = self.workers.unwrap_or(config.workers);
        config
    }

    /// Changes a running engine. If the strategy must stay, everything does.
    pub fn apply(&self, engine: &Engine) -> Result<(), StrategyBusy> {
        if let Some(strategy) = self.strategy {
            engine.set_strategy(strategy, self.on_change.unwrap_or_default())?;
        }
        engine.update(|config| self.change(config));
        Ok(())
    }

    fn change(&self, config: &mut EngineConfig) {
        config.cache_bytes = self.cache_bytes.unwrap_or(config.cache_bytes);
        config.rule = self.rule.unwrap_or(config.rule);
        config.sync = self.sync.unwrap_or(config.sync);
        config.sync_bytes = self.sync_bytes.unwrap_or(config.sync_bytes);
        config.merge_bytes = self.merge_bytes.unwrap_or(config.merge_bytes);
        config.readmore = self.readmore.unwrap_or(config.readmore);
    }
}

/// All settings in force, as they would be given.
#[must_use]
pub fn show(config: &EngineConfig) -> Vec<(&'static str, String)> {
    vec![
        ("cache_strategy", config.strategy.to_string()),
        ("cache_rule", config.rule.to_string()),
        ("cache", config.cache_bytes.to_string()),
        ("sync_decompress", config.sync.to_string()),
        ("sync_bytes", config.sync_bytes.to_string()),
        ("readmore", String::from(if config.readmore { "on" } else { "off" })),
        ("merge", config.merge_bytes.to_string()),
        ("workers", config.workers.to_string()),
    ]
}

/// The settings that were given, as changes.
pub(crate) fn show_given(given: &EngineSettings) -> Vec<Change> {
    let bytes = |n: Option<usize>| n.map(|n| n.to_string());
    let pairs = [
        ("cache_strategy", given.strategy.map(|value| value.to_string())),
        ("on_change", given.on_change.map(|value| value.to_string())),
        ("cache_rule", given.rule.map(|value| value.to_string())),
        ("cache", given.cache_bytes.map(|value| value.to_string())),
        ("sync_decompress", given.sync.map(|value| value.to_string())),
        ("sync_bytes", bytes(given.sync_bytes)),
        ("readmore", given.readmore.map(|on| String::from(if on { "on" } else { "off" }))),
        ("merge", bytes(given.merge_bytes)),
        ("workers", bytes(given.workers)),
    ];
    let given = pairs.into_iter().filter(|(_, value)| value.is_some());
    given.map(|(name, value)| Change { name: name.to_owned(), value }).collect()
}

/// A number of bytes: `4096`, `64K`, `1M`, `2GiB`; units are powers of 1024.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let unit = unit.to_ascii_lowercase();
    let shift = match unit.strip_suffix("ib").unwrap_or(&unit) {
        "" | "b" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        _ => return None,
    };
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

fn size(value: Option<&str>) -> Result<u64, &'static str> {
    value.and_then(parse_size).ok_or("its value is not a size such as 4096, 64K or 1M")
}

fn word<T: FromStr<Err = UnknownName>>(value: Option<&str>) -> Result<T, &'static str> {
    value.unwrap_or_default().parse().map_err(|UnknownName { known }| known_words(known))
}

/// The whole message; the engine knows the words only.
fn known_words(known: &'static str) -> &'static str {
    match known.split(',').next() {
        Some("disabled") => "its value is none of disabled, readahead, readaround, split",
        Some("current") => "its value is none of current, original",
        Some("auto") => "its value is none of auto, always, never",
        Some("keep") => "its value is none of keep, flush, refuse",
        _ => known,
    }
}

fn switch(value: Option<&str>) -> Result<bool, &'static str> {
    match value {
        None | Some("on" | "yes" | "1" | "true") => Ok(true),
        Some("off" | "no" | "0" | "false") => Ok(false),
        Some(_) => Err("its value is neither on nor off"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_can_be_given() {
        let mut given = EngineSettings::default();
        for (name, value) in [
            ("cache_strategy", "readaround"),
            ("cache_rule", "original"),
            ("cache", "3M"),
            ("sync_decompress", "never"),
            ("sync_bytes", "64K"),
            ("readmore", "off"),
            ("merge", "128K"),
            ("workers", "3"),
        ] {
            assert_eq!(given.take(name, Some(value)), Taken::Yes, "{name}");
        }
        let mut again = EngineSettings::default();
        for (name, value) in show(&given.config()) {
            assert_eq!(again.take(name, Some(&value)), Taken::Yes, "{name}");
        }
        assert_eq!(again, given);
        let mut again = EngineSettings::default();
        for Change { name, value } in show_given(&given) {
            assert_eq!(again.take(&name, value.as_deref()), Taken::Yes, "{name}");
        }
        assert_eq!(again, given);
        assert_eq!(given.config().cache_bytes, 3 << 20);
        assert!(!given.is_empty() && EngineSettings::default().is_empty());
    }

    #[test]
    fn bad_values_say_what_is_wanted() {
        let mut given = EngineSettings::default();
        for (name, value, what) in [
            ("cache_strategy", "always", "disabled, readahead, readaround, split"),
            ("cache_rule", "", "current, original"),
            ("sync_decompress", "on", "auto, always, never"),
            ("on_change", "x", "keep, flush, refuse"),
            ("cache", "-1", "size"),
            ("merge", "1K", "4K to 16M"),
            ("sync_bytes", "2G", "1G"),
            ("readmore", "maybe", "on nor off"),
            ("workers", "0", "1 to 1024"),
        ] {
            let Taken::Bad(found) = given.take(name, Some(value)) else { panic!("{name}") };
            assert!(found.contains(what), "{name}: {found}");
        }
        assert_eq!(given.take("bogus", None), Taken::Unknown);
        assert!(given.is_empty());
    }

    #[test]
    fn sizes() {
        for (text, bytes) in [("0", Some(0)), ("64k", Some(65536)), ("1MiB", Some(1 << 20))] {
            assert_eq!(parse_size(text), bytes);
        }
        for text in ["", "K", "1.5M", "99999999T", "1X"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }
}
