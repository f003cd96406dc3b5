// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the allocator of the C library behaves.
//!
//! By default it gives each thread a heap of its own, and what is freed there by others stays there:
//! a server of many threads that passes buffers around would hold several times what it uses.

/// Lets all threads share this many heaps at most. For the whole process; where the C library is not
/// glibc it does nothing, and need not.
pub fn share_heaps(count: u8) {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: sets one of the allocator's parameters, under its own lock; no memory of ours is
        // involved.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, count.into()) };
    }
    #[cfg(not(target_env = "gnu"))]
    let _ = count;
}

#[cfg(test)]
mod tests {
    #[test]
    fn memory_can_be_had_afterwards() {
        super::share_heaps(2);
        let threads: Vec<_> =
            (0..8_u8).map(|n| std::thread::spawn(move || vec![n; 70_000])).collect();
        for (n, thread) in threads.into_iter().enumerate() {
            assert_eq!(usize::from(thread.join().unwrap()[69_999]), n);
        }
    }
}
