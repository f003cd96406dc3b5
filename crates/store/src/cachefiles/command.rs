// SPDX-License-Identifier: MIT OR Apache-2.0
//! Commands from the daemon to the cache: one line of text a write.

use rustix::io::Errno;
use std::fmt;

/// The longest command, in bytes.
pub const COMMAND_MAX: usize = 4095;

/// A limit of culling.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the protocol's six")]
pub enum Limit {
    /// Culling ends above this share of free blocks.
    BlocksRun,
    /// Culling begins below.
    BlocksCull,
    /// Nothing new below.
    BlocksStop,
    /// Culling ends above this share of free files.
    FilesRun,
    /// Culling begins below.
    FilesCull,
    /// Nothing new below.
    FilesStop,
}

const LIMITS: [(Limit, &str); 6] = [
    (Limit::BlocksRun, "brun"),
    (Limit::BlocksCull, "bcull"),
    (Limit::BlocksStop, "bstop"),
    (Limit::FilesRun, "frun"),
    (Limit::FilesCull, "fcull"),
    (Limit::FilesStop, "fstop"),
];

/// One command.
#[derive(Clone, Debug, Eq, PartialEq)]
#[expect(clippy::exhaustive_enums, reason = "the protocol's commands")]
pub enum Command {
    /// `copen ID,SIZE`: answers an OPEN with the size, or with minus an error number.
    Open {
        /// The request.
        id: u32,
        /// Bytes, or minus the error number.
        size: i64,
    },
    /// `cinit ID[,SIZE]`: answers an INIT.
    Init {
        /// The request.
        id: u32,
        /// Bytes, if told.
        size: Option<u64>,
    },
    /// `cread ID`: answers a READ of the original form.
    Read {
        /// The request.
        id: u32,
    },
    /// `restore`: unanswered requests are new again.
    Restore,
    /// `dir PATH`: where the cache lies.
    Dir(Vec<u8>),
    /// `tag NAME`: what it is called.
    Tag(Vec<u8>),
    /// `secctx CONTEXT`: as whom the kernel writes.
    SecurityContext(Vec<u8>),
    /// `brun 7%` and its like.
    Limit(Limit, u8),
    /// `bind` or `bind ondemand`: the cache begins.
    Bind {
        /// In on-demand mode.
        on_demand: bool,
    },
    /// `cull NAME`: deletes an object that nobody uses.
    Cull(Vec<u8>),
    /// `inuse NAME`: EBUSY if somebody uses it.
    InUse(Vec<u8>),
    /// `debug MASK`.
    Debug(u32),
}

/// Why a text is no command.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum CommandError {
    /// Known, but its argument is wrong: EINVAL.
    Invalid,
    /// Not a command, or too long for one: EOPNOTSUPP.
    Unknown,
    /// A number too large for its field: ERANGE.
    Range,
}

impl CommandError {
    /// As the device says it.
    pub const fn errno(self) -> Errno {
        match self {
            Self::Invalid => Errno::INVAL,
            Self::Unknown => Errno::OPNOTSUPP,
            Self::Range => Errno::RANGE,
        }
    }
}

impl fmt::Display for CommandError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Invalid => "a command with a wrong argument",
            Self::Unknown => "not a command",
            Self::Range => "a command with a number that is too large",
        })
    }
}

impl std::error::Error for CommandError {}

impl Command {
    /// Parses what one write brought: up to its first line feed.
    pub fn parse(bytes: &[u8]) -> Result<Self, CommandError> {
        if bytes.len() > COMMAND_MAX {
            return Err(CommandError::Unknown);
        }
        if bytes.contains(&0) {
            return Err(CommandError::Invalid);
        }
        let line = bytes.split(|byte| *byte == b'\n').next().unwrap_or_default();
        let space = line.iter().position(|byte| is_space(*byte));
        if line.is_empty() || space == Some(0) {
            return Err(CommandError::Invalid);
        }
        let (name, rest) = line.split_at(space.unwrap_or(line.len()));
        let from = rest.iter().position(|byte| !is_space(*byte)).unwrap_or(rest.len());
        Self::of(name, &rest[from..])
    }

    fn of(name: &[u8], args: &[u8]) -> Result<Self, CommandError> {
        let name = std::str::from_utf8(name).map_err(|_| CommandError::Unknown)?;
        let text = || if args.is_empty() { Err(CommandError::Invalid) } else { Ok(args.to_vec()) };
        if let Some((limit, _)) = LIMITS.iter().find(|(_, known)| *known == name) {
            return Ok(Self::Limit(*limit, percent(args)?));
        }
        Ok(match name {
            "copen" => {
                let (id, size) = split(args);
                let id = unsigned(id)?;
                let size = number(size.ok_or(CommandError::Invalid)?)?;
                let size = if size.negative {
                    0_i64.checked_sub_unsigned(size.value)
                } else {
                    i64::try_from(size.value).ok()
                };
                Self::Open { id, size: size.ok_or(CommandError::Range)? }
            }
            "cinit" => {
                let (id, size) = split(args);
                let size = size.map(|text| number(text).and_then(Number::positive)).transpose()?;
                Self::Init { id: unsigned(id)?, size }
            }
            "cread" => Self::Read { id: unsigned(args)? },
            "restore" => Self::Restore,
            "dir" => Self::Dir(text()?),
            "tag" => Self::Tag(text()?),
            "secctx" => Self::SecurityContext(text()?),
            "bind" => match args {
                b"" => Self::Bind { on_demand: false },
                b"ondemand" => Self::Bind { on_demand: true },
                _ => return Err(CommandError::Invalid),
            },
            "cull" => Self::Cull(file_name(args)?),
            "inuse" => Self::InUse(file_name(args)?),
            "debug" => Self::Debug(unsigned(args)?),
            _ => return Err(CommandError::Unknown),
        })
    }

    /// The text to write.
    pub fn text(&self) -> Vec<u8> {
        let with = |name: &str, argument: &[u8]| [name.as_bytes(), b" ", argument].concat();
        match self {
            Self::Open { id, size } => format!("copen {id},{size}").into_bytes(),
            Self::Init { id, size: None } => format!("cinit {id}").into_bytes(),
            Self::Init { id, size: Some(size) } => format!("cinit {id},{size}").into_bytes(),
            Self::Read { id } => format!("cread {id}").into_bytes(),
            Self::Restore => b"restore".to_vec(),
            Self::Dir(path) => with("dir", path),
            Self::Tag(name) => with("tag", name),
            Self::SecurityContext(context) => with("secctx", context),
            Self::Limit(limit, percent) => {
                let name =
                    LIMITS.iter().find(|(known, _)| known == limit).map_or("", |found| found.1);
                format!("{name} {percent}%").into_bytes()
            }
            Self::Bind { on_demand: false } => b"bind".to_vec(),
            Self::Bind { on_demand: true } => b"bind ondemand".to_vec(),
            Self::Cull(name) => with("cull", name),
            Self::InUse(name) => with("inuse", name),
            Self::Debug(mask) => format!("debug {mask}").into_bytes(),
        }
    }
}

/// As C's `isspace`, whose vertical tab Rust does not count.
const fn is_space(byte: u8) -> bool {
    byte.is_ascii_whitespace() || byte == 0x0b
}

fn split(args: &[u8]) -> (&[u8], Option<&[u8]>) {
    match args.iter().position(|byte| *byte == b',') {
        Some(at) => (&args[..at], Some(&args[at + 1..])),
        None => (args, None),
    }
}

/// The name of one file: no slash, so that it stays in its folder.
fn file_name(args: &[u8]) -> Result<Vec<u8>, CommandError> {
    if args.is_empty() || args.contains(&b'/') || args == b"." || args == b".." {
        return Err(CommandError::Invalid);
    }
    Ok(args.to_vec())
}

fn percent(args: &[u8]) -> Result<u8, CommandError> {
    let digits = args.strip_suffix(b"%").ok_or(CommandError::Invalid)?;
    let value = number(digits)?.positive()?;
    u8::try_from(value).ok().filter(|value| *value < 100).ok_or(CommandError::Invalid)
}

fn unsigned(args: &[u8]) -> Result<u32, CommandError> {
    u32::try_from(number(args)?.positive()?).map_err(|_| CommandError::Range)
}

struct Number {
    negative: bool,
    value: u64,
}

impl Number {
    fn positive(self) -> Result<u64, CommandError> {
        if self.negative { Err(CommandError::Invalid) } else { Ok(self.value) }
    }
}

/// As strtoul with base 0: 10, 0x or 0X with 16, 0 with 8; one sign. All of the text must be it.
fn number(text: &[u8]) -> Result<Number, CommandError> {
    let (negative, digits) = match text {
        [b'-', rest @ ..] => (true, rest),
        [b'+', rest @ ..] => (false, rest),
        _ => (false, text),
    };
    let (base, digits) = match digits {
        [b'0', b'x' | b'X', rest @ ..] => (16, rest),
        [b'0', rest @ ..] if !rest.is_empty() => (8, rest),
        _ => (10, digits),
    };
    if digits.is_empty() {
        return Err(CommandError::Invalid);
    }
    let mut value = 0_u64;
    for digit in digits {
        let digit = char::from(*digit).to_digit(base).ok_or(CommandError::Invalid)?;
        let scaled = value.checked_mul(base.into()).ok_or(CommandError::Range)?;
        value = scaled.checked_add(digit.into()).ok_or(CommandError::Range)?;
    }
    Ok(Number { negative, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<Command, CommandError> {
        Command::parse(text.as_bytes())
    }

    #[test]
    fn numbers_have_any_base() {
        for text in ["copen 16,255", "copen 0x10,0xff", "copen 020,0377", "copen 0X10,0XFF\n"] {
            assert_eq!(parse(text), Ok(Command::Open { id: 16, size: 255 }), "{text}");
        }
        assert_eq!(parse("copen 1,-2"), Ok(Command::Open { id: 1, size: -2 }));
        assert_eq!(parse("copen 1,-0x2"), Ok(Command::Open { id: 1, size: -2 }));
        assert_eq!(parse("cinit 0"), Ok(Command::Init { id: 0, size: None }));
        assert_eq!(parse("cinit 3,4096"), Ok(Command::Init { id: 3, size: Some(4096) }));
        assert_eq!(parse("cread\t 7"), Ok(Command::Read { id: 7 }));
        assert_eq!(parse("brun 12%"), Ok(Command::Limit(Limit::BlocksRun, 12)));
    }

    #[test]
    fn nonsense_is_refused_as_the_device_does() {
        for text in [
            "",
            " copen 1,2",
            "\n",
            "copen 1",
            "copen ,1",
            "copen 1,",
            "copen -1,1",
            "copen 9x,1",
            "copen 08,1",
            "cinit",
            "cinit 1,",
            "cinit 1,-1",
            "cread",
            "bind demand",
            "bind ondemand x",
            "cull",
            "cull a/b",
            "inuse ..",
            "brun 7",
            "brun 100%",
            "dir",
            "co\0pen 1,1",
        ] {
            assert_eq!(parse(text), Err(CommandError::Invalid), "{text:?}");
        }
        assert_eq!(parse("copen 4294967296,1"), Err(CommandError::Range));
        assert_eq!(parse("copen 1,9223372036854775808"), Err(CommandError::Range));
        assert_eq!(parse("copen 1,99999999999999999999999"), Err(CommandError::Range));
        assert_eq!(parse("open 1"), Err(CommandError::Unknown));
        assert_eq!(parse(&"x".repeat(5000)), Err(CommandError::Unknown));
    }

    proptest! {
        #[test]
        fn answers_are_understood(id: u32, size: i64, told: Option<u64>) {
            let all = [
                Command::Open { id, size }, Command::Init { id, size: told }, Command::Read { id },
                Command::Restore, Command::Debug(id), Command::Bind { on_demand: true },
                Command::Dir(b"/var/cache/x y".to_vec()), Command::Tag(b"t".to_vec()),
                Command::Limit(Limit::FilesStop, 3), Command::Cull(b"D1".to_vec()),
            ];
            for command in all {
                prop_assert_eq!(Command::parse(&command.text()), Ok(command));
            }
        }

        #[test]
        fn anything_ends(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            if let Ok(command) = Command::parse(&bytes) {
                prop_assert_eq!(Command::parse(&command.text()), Ok(command));
            }
        }
    }
}
