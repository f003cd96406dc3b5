// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs that are read once from their first to their last byte.

mod common;

use common::{Faults, Memory, bytes, origin};
use ferrofs_store::source::WholeRead;
use std::io::Read as _;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

/// Two requests and a bit.
const LEN: usize = (17 << 20) + 123;

fn read(source: &Arc<Memory>) -> std::io::Result<Vec<u8>> {
    let mut whole = WholeRead::begin(origin(source))?;
    assert_eq!(whole.size(), source.bytes.len() as u64);
    let mut found = vec![];
    whole.read_to_end(&mut found)?;
    Ok(found)
}

#[test]
fn all_bytes_come_in_order_and_once() {
    for len in [0, 1, 4096, LEN] {
        let source = Memory::new(bytes(len, 1));
        assert!(read(&source).unwrap() == source.bytes, "{len} bytes");
        assert_eq!(source.served.load(Ordering::Relaxed), len as u64);
    }
}

#[test]
fn what_breaks_off_is_gone_on_with() {
    let source = Memory::new(bytes(LEN, 2));
    *source.faults.lock().unwrap() = Faults { short: 500, error: 300, ..Faults::default() };
    assert!(read(&source).unwrap() == source.bytes);
}

#[test]
fn a_server_without_ranges_sends_everything_twice_at_most() {
    let source = Memory::new(bytes(LEN, 3));
    source.faults.lock().unwrap().whole = 1000;
    assert!(read(&source).unwrap() == source.bytes);
    let served = source.served.load(Ordering::Relaxed);
    assert!(served <= 2 * LEN as u64, "{served} of {LEN}");
}

#[test]
fn who_stops_reading_ends_it() {
    let source = Memory::new(bytes(LEN * 4, 4));
    let mut whole = WholeRead::begin(origin(&source)).unwrap();
    whole.read_exact(&mut [0; 1000]).unwrap();
    drop(whole);
    // The piece at hand is finished; nothing is asked for after it.
    std::thread::sleep(Duration::from_millis(200));
    let before = source.requests.load(Ordering::Relaxed);
    std::thread::sleep(Duration::from_millis(200));
    assert_eq!(source.requests.load(Ordering::Relaxed), before);
    assert!(before <= 3, "{before}");
}
