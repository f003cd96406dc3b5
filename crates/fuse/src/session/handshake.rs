// SPDX-License-Identifier: MIT OR Apache-2.0
//! INIT: agreeing with the kernel on version, sizes and capabilities.
//!
//! Invariant: only what is honoured is asked for.

use std::io;
use std::os::fd::OwnedFd;

use rustix::io::Errno as Os;
use zerocopy::{FromZeros, IntoBytes};

use super::config::{SessionConfig, SessionError};
use crate::abi::{
    FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, InitIn, InitOut, KERNEL_MAJOR, KERNEL_MINOR_MAX,
    KERNEL_MINOR_MIN, OutHeader, init,
};
use crate::dispatch::Policy;
use crate::reply::Validity;
use crate::request::{Operation, Request};

/// The least that the kernel lets a reader of `/dev/fuse` offer, and all that read-only requests
/// need.
pub(super) const REQUEST_LEN: usize = 8192;
/// We write nothing, but the kernel wants at least a page.
const MAX_WRITE: u32 = 4096;
/// Most requests of readahead and asynchronous reads that wait at a time.
const MAX_BACKGROUND: u16 = 64;
const CONGESTION_THRESHOLD: u16 = 48;

/// What was agreed on with the kernel at INIT. A process that takes a session over needs it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Negotiated {
    /// Minor version of the protocol, the major being 7.
    pub minor: u32,
    /// The kernel's own minor version.
    pub kernel_minor: u32,
    /// Capabilities agreed on, as the protocol numbers them.
    pub flags: u64,
    /// Largest read, in bytes: what was wanted, as far as the kernel permits it.
    pub max_read: u32,
    /// Readahead in effect, in bytes.
    pub max_readahead: u32,
}

impl Negotiated {
    /// Whether requests come over `io_uring`.
    pub fn is_over_ring(&self) -> bool {
        self.flags & init::OVER_IO_URING != 0
    }

    /// Whether files can be opened as other files ([`Backings`](crate::Backings)).
    pub fn can_pass_through(&self) -> bool {
        self.flags & init::PASSTHROUGH != 0
    }

    /// Whether the kernel sends requests again that somebody read and never answered: without
    /// that, readers whose server died wait for ever, though another one goes on.
    pub fn can_resend(&self) -> bool {
        self.flags & init::HAS_RESEND != 0
    }

    pub(super) fn policy(&self, config: &SessionConfig) -> Policy {
        let has = |flag| config.zero_message_open && self.flags & flag != 0;
        Policy {
            entry_valid: Validity::from(config.entry_timeout),
            attr_valid: Validity::from(config.attr_timeout),
            negative_valid: Validity::from(config.negative_timeout),
            no_open: !config.direct_io && !config.passthrough && has(init::NO_OPEN_SUPPORT),
            open_flags: if config.direct_io { FOPEN_DIRECT_IO } else { FOPEN_KEEP_CACHE },
            no_opendir: has(init::NO_OPENDIR_SUPPORT),
            reply_max: self.max_read,
        }
    }
}

/// Pages of a request of kernels that do not let us say how many.
const PAGES_UNASKED: u32 = 32;
/// Most pages of a request where the kernel does not say.
const PAGES_MAX: u32 = 256;

/// What is known of the machine before the kernel's first message.
#[derive(Clone, Copy, Debug)]
pub(super) struct Host {
    /// Bytes of a page.
    page_size: u32,
    /// Most pages that the kernel permits a request to have.
    pages_max: u32,
    /// Rings are ready to be used.
    pub(super) ring: bool,
}

impl Host {
    pub(super) fn read() -> Self {
        let page_size = u32::try_from(rustix::param::page_size()).unwrap_or(4096).max(4096);
        let limit = std::fs::read_to_string("/proc/sys/fs/fuse/max_pages_limit").ok();
        let limit = limit.and_then(|text| text.trim().parse().ok());
        let pages_max = limit.unwrap_or(PAGES_MAX).clamp(1, u32::from(u16::MAX));
        Self { page_size, pages_max, ring: false }
    }

    /// Pages for reads of `max_read` bytes, as many of them as are permitted.
    fn pages(&self, max_read: u32) -> u32 {
        max_read.div_ceil(self.page_size).clamp(1, self.pages_max)
    }

    /// The longest answer that the kernel may want to have room for.
    pub(super) fn payload_len(&self, max_read: u32) -> usize {
        let pages = self.pages(max_read).saturating_mul(self.page_size);
        pages.max(MAX_WRITE).max(REQUEST_LEN as u32) as usize
    }
}

/// Reads the first request and answers it.
pub(super) fn perform(
    device: &OwnedFd,
    config: &SessionConfig,
    host: &Host,
) -> Result<Negotiated, SessionError> {
    let mut buf = vec![0; REQUEST_LEN];
    loop {
        let len = match rustix::io::read(device, buf.as_mut_slice()) {
            Ok(len) => len,
            Err(Os::INTR | Os::AGAIN | Os::NOENT) => continue,
            Err(errno) => return Err(SessionError::Device(errno.into())),
        };
        let message = buf.get(..len).unwrap_or_default();
        let request = Request::parse(message).map_err(|_| SessionError::Handshake)?;
        let Operation::Init { init, flags2 } = request.operation else {
            return Err(SessionError::Handshake);
        };
        if init.major > KERNEL_MAJOR {
            // The kernel asks again with the version we name.
            let out = InitOut { major: KERNEL_MAJOR, ..InitOut::new_zeroed() };
            reply(device, request.unique, 0, out.as_bytes())?;
            continue;
        }
        return match negotiate(&init, flags2, config, host) {
            Ok((negotiated, out)) => {
                reply(device, request.unique, 0, out.as_bytes())?;
                Ok(negotiated)
            }
            Err(error) => {
                let _ = reply(device, request.unique, -Os::PROTO.raw_os_error(), &[]);
                Err(error)
            }
        };
    }
}

fn reply(device: &OwnedFd, unique: u64, error: i32, body: &[u8]) -> Result<(), SessionError> {
    let len = (size_of::<OutHeader>() + body.len()) as u32;
    let header = OutHeader { len, error, unique };
    let parts = [io::IoSlice::new(header.as_bytes()), io::IoSlice::new(body)];
    rustix::io::writev(device, &parts).map_err(|errno| SessionError::Device(errno.into()))?;
    Ok(())
}

/// What to agree on with a kernel that offers this.
pub(super) fn negotiate(
    offer: &InitIn,
    flags2: u32,
    config: &SessionConfig,
    host: &Host,
) -> Result<(Negotiated, InitOut), SessionError> {
    if offer.major != KERNEL_MAJOR || offer.minor < KERNEL_MINOR_MIN {
        return Err(SessionError::Version { major: offer.major, minor: offer.minor });
    }
    let mut offered = u64::from(offer.flags);
    if offered & init::INIT_EXT != 0 {
        offered |= u64::from(flags2) << 32;
    }
    let mut wanted = init::ASYNC_READ
        | init::ASYNC_DIO
        | init::PARALLEL_DIROPS
        | init::CACHE_SYMLINKS
        | init::MAX_PAGES
        | init::INIT_EXT
        // A request sent again is answered again: everything here can be repeated.
        | init::HAS_RESEND;
    if config.readdirplus {
        wanted |= init::DO_READDIRPLUS;
        if !config.readdirplus_always {
            wanted |= init::READDIRPLUS_AUTO;
        }
    }
    if config.posix_acl {
        wanted |= init::POSIX_ACL;
    }
    if config.zero_message_open {
        wanted |= init::NO_OPEN_SUPPORT | init::NO_OPENDIR_SUPPORT;
    }
    if config.passthrough {
        wanted |= init::PASSTHROUGH;
    }
    if host.ring {
        wanted |= init::OVER_IO_URING;
    }
    let flags = wanted & offered;
    let pages_max = if flags & init::MAX_PAGES == 0 { PAGES_UNASKED } else { host.pages_max };
    let pages = host.pages(config.max_read).min(pages_max);
    let max_readahead = config.max_readahead.min(offer.max_readahead);
    let minor = offer.minor.min(KERNEL_MINOR_MAX);
    let out = InitOut {
        major: KERNEL_MAJOR,
        minor,
        max_readahead,
        flags: flags as u32,
        max_background: MAX_BACKGROUND,
        congestion_threshold: CONGESTION_THRESHOLD,
        max_write: MAX_WRITE,
        time_gran: 1,
        max_pages: pages as u16,
        map_alignment: 0,
        flags2: (flags >> 32) as u32,
        // The files opened instead are on file systems that lie on no other.
        max_stack_depth: u32::from(flags & init::PASSTHROUGH != 0),
        request_timeout: 0,
        unused: [0; 11],
    };
    let max_read = pages.saturating_mul(host.page_size);
    let kernel_minor = offer.minor;
    Ok((Negotiated { minor, kernel_minor, flags, max_read, max_readahead }, out))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: Host = Host { page_size: 4096, pages_max: 256, ring: false };

    fn offer(minor: u32, flags: u32) -> InitIn {
        InitIn { major: 7, minor, max_readahead: 131_072, flags }
    }

    #[test]
    fn only_what_is_offered_and_honoured_is_agreed() {
        let config = SessionConfig::default();
        let all = offer(45, u32::MAX);
        let (negotiated, out) = negotiate(&all, u32::MAX, &config, &HOST).unwrap();
        assert_eq!(out.max_pages, 256);
        assert_eq!(negotiated.max_read, 1 << 20);
        assert_eq!(out.max_readahead, 131_072);
        assert_eq!(out.flags2, (init::HAS_RESEND >> 32) as u32);
        // Locks, writeback, splice, export: not ours.
        for refused in [1 << 1, 1 << 4, 1 << 7, 1 << 8, 1 << 9, 1 << 16] {
            assert_eq!(out.flags & refused, 0, "{refused:#x}");
        }
        let (negotiated, out) = negotiate(&offer(31, 1), u32::MAX, &config, &HOST).unwrap();
        assert_eq!((negotiated.flags, negotiated.minor), (1, 31));
        assert_eq!(negotiated.max_read, 32 * 4096);
        assert_eq!(out.flags2, 0);
    }

    #[test]
    fn large_pages_keep_the_size() {
        let config = SessionConfig::default();
        let large = Host { page_size: 65536, ..HOST };
        let (negotiated, out) = negotiate(&offer(45, u32::MAX), 0, &config, &large).unwrap();
        assert_eq!((out.max_pages, negotiated.max_read), (16, 1 << 20));
        assert_eq!(large.payload_len(config.max_read), 1 << 20);
    }

    #[test]
    fn reads_are_as_long_as_permitted() {
        let all = offer(45, u32::MAX);
        for (wanted, pages_max, agreed) in [
            (8 << 20, 256, 1 << 20),
            (8 << 20, 1024, 4 << 20),
            (2 << 20, 1024, 2 << 20),
            (5000, 1024, 8192),
            (4096, 1, 4096),
        ] {
            let config = SessionConfig { max_read: wanted, ..SessionConfig::default() };
            let host = Host { pages_max, ..HOST };
            let (negotiated, out) = negotiate(&all, 0, &config, &host).unwrap();
            assert_eq!(negotiated.max_read, agreed);
            assert_eq!(u32::from(out.max_pages) * 4096, agreed);
            assert!(host.payload_len(wanted) >= agreed.max(8192) as usize);
        }
        assert!((1..=65535).contains(&Host::read().pages_max));
    }

    #[test]
    fn rings_are_agreed_only_if_there_are_any() {
        let config = SessionConfig::default();
        for ring in [false, true] {
            let host = Host { ring, ..HOST };
            let (_, out) = negotiate(&offer(45, u32::MAX), u32::MAX, &config, &host).unwrap();
            assert_eq!(u64::from(out.flags2) << 32 & init::OVER_IO_URING != 0, ring);
            let (negotiated, _) = negotiate(&offer(45, u32::MAX), 0, &config, &host).unwrap();
            assert_eq!(negotiated.flags & init::OVER_IO_URING, 0);
        }
    }

    #[test]
    fn old_kernels_are_refused() {
        let config = SessionConfig::default();
        assert!(matches!(
            negotiate(&offer(30, 0), 0, &config, &HOST),
            Err(SessionError::Version { major: 7, minor: 30 })
        ));
        assert!(negotiate(&InitIn { major: 6, ..offer(45, 0) }, 0, &config, &HOST).is_err());
    }
}
