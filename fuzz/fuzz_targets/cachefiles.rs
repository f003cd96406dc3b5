// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages and commands of the cachefiles protocol: what is understood is understood again when it
//! is written anew.
#![no_main]

use ferrofs_store::cachefiles::{Command, Form, Message};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    for form in [Form::Original, Form::Merged] {
        if let Ok(message) = Message::parse(form, bytes) {
            let again = message.encode(form).expect("what was parsed can be written");
            assert_eq!(Message::parse(form, &again), Ok(message));
        }
    }
    if let Ok(command) = Command::parse(bytes) {
        assert_eq!(Command::parse(&command.text()), Ok(command));
    }
});
