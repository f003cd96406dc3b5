// SPDX-License-Identifier: MIT OR Apache-2.0
//! Faults on demand, to prove that errors reach exactly the bytes they belong to.
//!
//! Off unless asked for; then one relaxed load for each read and decode is all it costs.

use ferrofs_image::Nid;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum FaultKind {
    /// A read of a device fails with an input/output error.
    ReadError,
    /// A read of a device ends before its end.
    ShortRead,
    /// There is no memory for a decode.
    NoMemory,
    /// A read of a device takes longer.
    Delay(Duration),
    /// A pcluster does not decode.
    Decode,
}

/// When it goes wrong, counted from when it was asked for.
#[derive(Clone, Copy, Debug, PartialEq)]
#[non_exhaustive]
pub enum FaultTime {
    /// At the n-th occasion, once; from 1.
    Nth(u64),
    /// At each occasion with this probability, 0 to 1.
    Probability(f64),
}

/// A fault to inject.
///
/// As text: a kind (`read-error`, `short-read`, `no-memory`, `delay=20ms`, `decode`), then any of
/// `nth=N`, `probability=P` (one of these; `probability=1` if none), `device=N`, `nid=N`, separated
/// by commas.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(clippy::exhaustive_structs, reason = "written out by whoever injects")]
pub struct Fault {
    /// What.
    pub kind: FaultKind,
    /// When.
    pub time: FaultTime,
    /// Only on this device.
    pub device: Option<u16>,
    /// Only for this file.
    pub nid: Option<Nid>,
}

/// The text is no fault.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ParseFaultError {
    /// The part that is wrong.
    part: String,
}

impl fmt::Display for ParseFaultError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "'{}' is not understood; a fault is read-error, short-read, no-memory, delay=MILLISECONDSms \
             or decode, then any of nth=N, probability=P, device=N, nid=N, separated by commas",
            self.part
        )
    }
}

impl std::error::Error for ParseFaultError {}

impl FromStr for Fault {
    type Err = ParseFaultError;

    fn from_str(text: &str) -> Result<Self, ParseFaultError> {
        let mut parts = text.split(',').map(str::trim);
        let kind = parts.next().unwrap_or_default();
        let wrong = |part: &str| ParseFaultError { part: part.to_owned() };
        let kind = match kind {
            "read-error" => FaultKind::ReadError,
            "short-read" => FaultKind::ShortRead,
            "no-memory" => FaultKind::NoMemory,
            "decode" => FaultKind::Decode,
            _ => {
                let millis = kind.strip_prefix("delay=").and_then(|rest| rest.strip_suffix("ms"));
                let millis = millis.and_then(|millis| millis.parse().ok());
                FaultKind::Delay(Duration::from_millis(millis.ok_or_else(|| wrong(kind))?))
            }
        };
        let time = FaultTime::Probability(1.0);
        let mut fault = Self { kind, time, device: None, nid: None };
        for part in parts {
            let known = match part.split_once('=') {
                Some(("nth", n)) => {
                    n.parse().ok().filter(|n| *n > 0).map(|n| fault.time = FaultTime::Nth(n))
                }
                Some(("probability", p)) => {
                    let valid = p.parse().ok().filter(|p| (0.0..=1.0).contains(p));
                    valid.map(|p| fault.time = FaultTime::Probability(p))
                }
                Some(("device", n)) => n.parse().ok().map(|n| fault.device = Some(n)),
                Some(("nid", n)) => n.parse().ok().map(|n| fault.nid = Some(Nid(n))),
                _ => None,
            };
            known.ok_or_else(|| wrong(part))?;
        }
        Ok(fault)
    }
}

/// Where a fault may strike.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Occasion {
    pub(crate) decode: bool,
    pub(crate) device: Option<u16>,
    pub(crate) nid: Nid,
}

#[derive(Debug)]
struct Armed {
    fault: Fault,
    seen: u64,
}

#[derive(Debug, Default)]
pub(crate) struct Faults {
    any: AtomicBool,
    armed: Mutex<Vec<Armed>>,
    random: AtomicU64,
}

impl Faults {
    pub(crate) fn inject(&self, fault: Fault) {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.push(Armed { fault, seen: 0 });
        self.any.store(true, Ordering::Relaxed);
    }

    pub(crate) fn clear(&self) {
        let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
        armed.clear();
        self.any.store(false, Ordering::Relaxed);
    }

    /// Whether there are any.
    pub(crate) fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// The fault that strikes here and now. Delays are over when this returns.
    pub(crate) fn strike(&self, occasion: Occasion) -> Option<FaultKind> {
        if !self.any() {
            return None;
        }
        let mut struck = None;
        let mut pause = Duration::ZERO;
        {
            let mut armed = self.armed.lock().unwrap_or_else(PoisonError::into_inner);
            for one in armed.iter_mut().filter(|one| fits(&one.fault, occasion)) {
                one.seen = one.seen.saturating_add(1);
                let now = match one.fault.time {
                    FaultTime::Nth(n) => one.seen == n,
                    FaultTime::Probability(p) => self.draw() < p,
                };
                match one.fault.kind {
                    FaultKind::Delay(time) if now => pause += time,
                    kind if now => struck = struck.or(Some(kind)),
                    _ => {}
                }
            }
        }
        if !pause.is_zero() {
            std::thread::sleep(pause);
        }
        struck
    }

    /// A number from 0 to 1: splitmix64 over a counter, so that a run can be repeated.
    fn draw(&self) -> f64 {
        let mut z = self.random.fetch_add(0x9E37_79B9_7F4A_7C15, Ordering::Relaxed);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) >> 11) as f64 / (1_u64 << 53) as f64
    }
}

fn fits(fault: &Fault, occasion: Occasion) -> bool {
    let decode = matches!(fault.kind, FaultKind::Decode | FaultKind::NoMemory);
    decode == occasion.decode
        && fault.device.is_none_or(|device| occasion.device == Some(device))
        && fault.nid.is_none_or(|nid| nid == occasion.nid)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(device: u16, nid: u64) -> Occasion {
        Occasion { decode: false, device: Some(device), nid: Nid(nid) }
    }

    #[test]
    fn faults_are_read() {
        let fault: Fault = "read-error,nth=3,device=1".parse().unwrap();
        assert_eq!((fault.kind, fault.time), (FaultKind::ReadError, FaultTime::Nth(3)));
        assert_eq!((fault.device, fault.nid), (Some(1), None));
        let fault: Fault = "delay=20ms, probability=0.25, nid=36".parse().unwrap();
        assert_eq!(fault.kind, FaultKind::Delay(Duration::from_millis(20)));
        assert_eq!((fault.time, fault.nid), (FaultTime::Probability(0.25), Some(Nid(36))));
        for bad in ["", "explode", "delay=5", "decode,nth=0", "decode,probability=2", "decode,x=1"]
        {
            assert!(bad.parse::<Fault>().is_err(), "{bad}");
        }
    }

    #[test]
    fn each_strikes_where_it_should() {
        let faults = Faults::default();
        assert_eq!(faults.strike(read(0, 1)), None);
        faults.inject("read-error,nth=2,device=1".parse().unwrap());
        assert_eq!(faults.strike(read(1, 1)), None);
        assert_eq!(faults.strike(read(0, 1)), None, "another device");
        assert_eq!(faults.strike(read(1, 1)), Some(FaultKind::ReadError));
        assert_eq!(faults.strike(read(1, 1)), None, "once");
        faults.clear();
        faults.inject("short-read,nid=7,probability=0.5".parse().unwrap());
        let struck = (0..1000).filter(|_| faults.strike(read(0, 7)).is_some()).count();
        assert!((400..600).contains(&struck), "{struck}");
        assert_eq!(faults.strike(read(0, 8)), None);
        let decode = Occasion { decode: true, ..read(0, 7) };
        assert_eq!(faults.strike(decode), None);
        faults.inject("decode".parse().unwrap());
        assert_eq!(faults.strike(decode), Some(FaultKind::Decode));
    }
}
