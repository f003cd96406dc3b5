// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can go wrong with one answer, and who decides that it does.

use super::Request;
use std::time::Duration;

/// One thing that goes wrong with one answer; several can be given together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Waits before the answer (not counted as a fault in the ledger).
    Delay(Duration),
    /// Resets the connection after so many bytes of body; 0 is before the head.
    Reset(u64),
    /// Ends the connection after so many bytes of body, of which `Content-Length` promised more.
    Cut(u64),
    /// Sends only so many bytes of body, and says so in `Content-Length`: a short answer that looks
    /// whole.
    Short(u64),
    /// Inverts one bit of the body's byte at this place (taken modulo the body's length).
    Flip(u64),
    /// Answers 200 and the whole resource whatever range was asked for.
    Whole,
    /// Answers with this status, these headers and an empty body.
    Status(u16, Vec<(String, String)>),
    /// Sends so many bytes of body and then nothing for a time.
    Stall(u64, Duration),
    /// Says that the resource has this `ETag`.
    Tag(String),
    /// Says a `Content-Range` that begins so many bytes later than the body does.
    Elsewhere(u64),
}

impl Fault {
    /// A redirect to `url`.
    pub fn redirect(url: &str) -> Self {
        Self::Status(307, vec![("Location".into(), url.into())])
    }

    /// Come back later.
    pub fn busy(code: u16, retry_after_s: u32) -> Self {
        Self::Status(code, vec![("Retry-After".into(), retry_after_s.to_string())])
    }

    /// A refusal without further words: 401, 403, 404, 416, 500, ...
    pub fn status(code: u16) -> Self {
        Self::Status(code, Vec::new())
    }
}

/// Says which faults a request (and which request of this origin it is, from 0) gets.
pub type Script = Box<dyn Fn(&Request, u64) -> Vec<Fault> + Send + Sync>;

/// Gives about `per_mille` of a thousand requests one fault of `kinds`. Which request gets which
/// depends on `seed` and the request's number alone.
pub fn at_random(seed: u64, per_mille: u32, kinds: Vec<Fault>) -> Script {
    Box::new(move |_, number| {
        let mut random =
            fastrand::Rng::with_seed(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        if kinds.is_empty() || random.u32(0..1000) >= per_mille {
            return Vec::new();
        }
        vec![kinds[random.usize(0..kinds.len())].clone()]
    })
}
