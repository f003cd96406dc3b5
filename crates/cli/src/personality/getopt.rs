// SPDX-License-Identifier: MIT OR Apache-2.0
//! Command lines as getopt_long(3) of GNU understands them: options before, between and behind the
//! operands; short ones in one word, with their value in the same or the next; long ones by any
//! beginning that is unique, with `=` or the next word; `--` ends them.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};

/// Whether an option has a value.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Value {
    None,
    Required,
    /// Only in the same word.
    Optional,
}

/// An option: `-x` has the name "x", `--name` the name "name".
pub(super) type Spec = (&'static str, Value);

/// A word of the command line, understood.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Item {
    /// An option by its full name, and its value.
    Option(&'static str, Option<OsString>),
    Operand(OsString),
}

/// Understands a command line.
pub(super) fn parse(specs: &[Spec], words: &[OsString]) -> Result<Vec<Item>, String> {
    let mut items = Vec::new();
    let mut words = words.iter();
    while let Some(word) = words.next() {
        let bytes = word.as_bytes();
        if bytes == b"--" {
            items.extend(words.by_ref().map(|word| Item::Operand(word.clone())));
        } else if let Some(long) = bytes.strip_prefix(b"--") {
            items.push(long_option(specs, long, &mut words)?);
        } else if bytes.len() > 1 && bytes[0] == b'-' {
            short_options(specs, &bytes[1..], &mut words, &mut items)?;
        } else {
            items.push(Item::Operand(word.clone()));
        }
    }
    Ok(items)
}

fn long_option<'a>(
    specs: &[Spec],
    text: &[u8],
    words: &mut impl Iterator<Item = &'a OsString>,
) -> Result<Item, String> {
    let (name, value) = match text.iter().position(|&byte| byte == b'=') {
        Some(at) => (&text[..at], Some(os(&text[at + 1..]))),
        None => (text, None),
    };
    let shown = String::from_utf8_lossy(name);
    let long = || specs.iter().filter(|(spec, _)| spec.len() > 1);
    let exact = long().find(|(spec, _)| spec.as_bytes() == name);
    let (spec, kind) = if let Some(spec) = exact {
        spec
    } else {
        let mut matching = long().filter(|(spec, _)| spec.as_bytes().starts_with(name));
        match (matching.next(), matching.next()) {
            (Some(spec), None) => spec,
            (Some(_), Some(_)) => return Err(format!("option --{shown} is ambiguous")),
            (None, _) => return Err(format!("unknown option --{shown}")),
        }
    };
    let value = match (kind, value) {
        (Value::None, Some(_)) => return Err(format!("option --{spec} has no value")),
        (Value::Required, None) => {
            let next = words.next().cloned();
            Some(next.ok_or_else(|| format!("option --{spec} needs a value"))?)
        }
        (_, value) => value,
    };
    Ok(Item::Option(spec, value))
}

fn short_options<'a>(
    specs: &[Spec],
    mut text: &[u8],
    words: &mut impl Iterator<Item = &'a OsString>,
    items: &mut Vec<Item>,
) -> Result<(), String> {
    while let Some((&letter, rest)) = text.split_first() {
        let known = specs.iter().find(|(name, _)| name.as_bytes() == [letter]);
        let Some((name, kind)) = known else {
            return Err(format!("unknown option -{}", char::from(letter)));
        };
        let value = match kind {
            Value::None => {
                items.push(Item::Option(name, None));
                text = rest;
                continue;
            }
            Value::Optional if rest.is_empty() => None,
            Value::Required if rest.is_empty() => {
                let next = words.next().cloned();
                Some(next.ok_or_else(|| format!("option -{name} needs a value"))?)
            }
            _ => Some(os(rest)),
        };
        items.push(Item::Option(name, value));
        return Ok(());
    }
    Ok(())
}

fn os(bytes: &[u8]) -> OsString {
    OsString::from_vec(bytes.to_vec())
}

/// A value as text; `option` is for the message.
pub(super) fn text<'a>(option: &str, value: Option<&'a OsStr>) -> Result<&'a str, String> {
    value
        .unwrap_or_default()
        .to_str()
        .ok_or_else(|| format!("the value of {} is not text", dashed(option)))
}

/// A value as a number, decimal, octal or hexadecimal as strtol(3) reads it.
pub(super) fn number(option: &str, value: Option<&OsStr>) -> Result<i64, String> {
    let text = text(option, value)?;
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let parsed = if let Some(digits) = digits.strip_prefix("0x") {
        i64::from_str_radix(digits, 16)
    } else if digits.len() > 1 && digits.starts_with('0') {
        i64::from_str_radix(digits, 8)
    } else {
        digits.parse()
    };
    match parsed {
        Ok(number) if !digits.starts_with(['+', '-']) => {
            Ok(if negative { number.wrapping_neg() } else { number })
        }
        _ => Err(format!("{}: `{text}` is not a number", dashed(option))),
    }
}

/// `-x` or `--name`.
pub(super) fn dashed(option: &str) -> String {
    let dashes = if option.len() == 1 { "-" } else { "--" };
    format!("{dashes}{option}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SPECS: &[Spec] = &[
        ("a", Value::None),
        ("q", Value::None),
        ("z", Value::Required),
        ("o", Value::Optional),
        ("extract", Value::Optional),
        ("exclude-path", Value::Required),
        ("exclude-regex", Value::Required),
        ("force", Value::None),
    ];

    fn shown(text: &str) -> Result<String, String> {
        let words: Vec<OsString> = text.split(' ').map(OsString::from).collect();
        let items = parse(SPECS, &words)?;
        let show = |item: &Item| match item {
            Item::Option(name, None) => format!("[{name}]"),
            Item::Option(name, Some(value)) => format!("[{name}={}]", value.display()),
            Item::Operand(word) => word.display().to_string(),
        };
        Ok(items.iter().map(show).collect::<Vec<_>>().join(" "))
    }

    #[test]
    fn as_getopt_long_does() {
        for (text, expected) in [
            ("img -zlz4hc,9 dir", "img [z=lz4hc,9] dir"),
            ("-z lz4 img", "[z=lz4] img"),
            ("-aqz1 x", "[a] [q] [z=1] x"),
            ("-aox x", "[a] [o=x] x"),
            ("-o x", "[o] x"),
            ("--extract x", "[extract] x"),
            ("--extract=d x", "[extract=d] x"),
            ("--ext=d", "[extract=d]"),
            ("--exclude-path a --exclude-r=b c", "[exclude-path=a] [exclude-regex=b] c"),
            ("-a -- -a --force", "[a] -a --force"),
            ("- --force", "- [force]"),
            ("-z -1 x", "[z=-1] x"),
            ("--exclude-path= x", "[exclude-path=] x"),
        ] {
            assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
        }
        for (text, part) in [
            ("-y", "unknown option -y"),
            ("--bogus", "unknown option --bogus"),
            ("--ex", "ambiguous"),
            ("--a", "unknown"),
            ("--force=1", "no value"),
            ("x -z", "needs a value"),
            ("--exclude-path", "needs a value"),
        ] {
            let error = shown(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn numbers() {
        for (text, value) in [
            ("12", Some(12)),
            ("0x10", Some(16)),
            ("010", Some(8)),
            ("0", Some(0)),
            ("-1", Some(-1)),
            ("", None),
            ("--1", None),
            ("1x", None),
            ("+", None),
        ] {
            assert_eq!(number("x", Some(OsStr::new(text))).ok(), value, "{text}");
        }
    }
}
