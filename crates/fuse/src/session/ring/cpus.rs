// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which processors the kernel counts: it has a queue of requests for each that is possible.

use std::io;

/// More are not believed.
const CPUS_MAX: usize = 8192;

/// Processors, as the kernel numbers its queues.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Cpus {
    /// For each possible one whether it is on.
    pub(super) online: Vec<bool>,
}

impl Cpus {
    pub(super) fn read() -> io::Result<Self> {
        let read = |name| std::fs::read_to_string(format!("/sys/devices/system/cpu/{name}"));
        Self::parse(&read("possible")?, &read("online")?)
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }

    fn parse(possible: &str, online: &str) -> Option<Self> {
        let possible = list(possible)?;
        let mut all = vec![false; possible.len()];
        for number in list(online)? {
            // Queues are counted, not named: where numbers have gaps, those behind have none.
            if let Some(on) = all.get_mut(number) {
                *on = true;
            }
        }
        all.contains(&true).then_some(Self { online: all })
    }
}

/// The numbers of a list like "0-3,8".
fn list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for part in text.trim().split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        if last >= CPUS_MAX || first > last {
            return None;
        }
        numbers.extend(first..=last);
    }
    (numbers.len() <= CPUS_MAX).then_some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_the_kernel() {
        assert_eq!(list("0\n"), Some(vec![0]));
        assert_eq!(list("0-2,5,7-8\n"), Some(vec![0, 1, 2, 5, 7, 8]));
        for bad in ["", "x", "3-1", "0-99999999", "1-", "-1"] {
            assert_eq!(list(bad), None, "{bad}");
        }
        let cpus = Cpus::parse("0-3", "0,2").unwrap();
        assert_eq!(cpus.online, [true, false, true, false]);
        assert_eq!(Cpus::parse("0-1", "2"), None);
        assert!(Cpus::read().unwrap().online.contains(&true));
    }
}
