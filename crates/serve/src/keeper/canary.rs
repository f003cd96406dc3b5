// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether this kernel, on the file system of the cache, asks before its EROFS reads.
//!
//! Documentation does not tell, and a wrong guess would give zeros; so a tiny image whose one file is
//! a hole is mounted where nobody sees it, and read. Invariant: a yes was seen.

use crate::{Error, Result};
use ferrofs_linux::fanotify::{PreAccess, ReadEvent, Verdict};
use ferrofs_linux::{FsMount, MountFlags};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// An image of three blocks, of which the second is all of the content of its one file, `canary`, and
/// zeros here. Made by `ferrofs build -T 0 -U clear`.
const IMAGE: &[u8] = include_bytes!("canary.erofs");
const BLOCK: u64 = 4096;
/// What the second block holds once it is filled.
const FILL: u8 = b'!';
/// Questions that one small read may raise.
const QUESTIONS_MAX: usize = 64;

/// Fails if the kernel would not ask about files in `folder`.
pub(super) fn check(folder: &Path) -> Result<()> {
    let refuse = |what: &str| Err(Error::WouldNotAsk { what: what.to_owned() });
    match look(folder) {
        Ok(Seen::Asked) => Ok(()),
        Ok(Seen::Silent) => refuse("this kernel reads file data without asking"),
        Ok(Seen::Other) => refuse("a trial gave other bytes than were filled in"),
        Err(error) if error.raw_os_error() == Some(OPNOTSUPP) => {
            refuse("the file system of the cache cannot ask (tmpfs and overlay cannot)")
        }
        Err(error) => refuse(&format!("a trial failed: {error}")),
    }
}

const OPNOTSUPP: i32 = 95;

enum Seen {
    Asked,
    Silent,
    Other,
}

fn look(folder: &Path) -> io::Result<Seen> {
    // Without a name, so that nothing is left behind.
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    let image = File::from(rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR)?);
    let (head, tail) = (&IMAGE[..BLOCK as usize], &IMAGE[2 * BLOCK as usize..]);
    image.write_all_at(head, 0)?;
    image.write_all_at(tail, 2 * BLOCK)?;
    let path = format!("/proc/self/fd/{}", image.as_raw_fd());
    let group = PreAccess::new()?;
    group.mark(path.as_ref())?;
    // Linux 7.2 asks already when it mounts: who answers must not be who waits.
    let reader = std::thread::Builder::new().name(String::from("canary")).spawn(move || {
        let mount = FsMount {
            fs_type: "erofs",
            source: OsStr::new(&path),
            parameters: Vec::new(),
            flags: MountFlags::default(),
        };
        let root = mount.create()?;
        let flags = OFlags::RDONLY | OFlags::CLOEXEC;
        let mut file = File::from(rustix::fs::openat(&root, "canary", flags, Mode::empty())?);
        let mut content = Vec::new();
        file.read_to_end(&mut content)?;
        Ok::<_, io::Error>(content)
    })?;
    let mut asked = false;
    let mut events: Vec<ReadEvent> = Vec::new();
    for _ in 0..QUESTIONS_MAX {
        if reader.is_finished() {
            break;
        }
        let mut fds = [PollFd::from_borrowed_fd(std::os::fd::AsFd::as_fd(&group), PollFlags::IN)];
        let _ = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 100_000_000 }));
        group.take(&mut events)?;
        for event in events.drain(..) {
            let end = event.offset.saturating_add(event.len.max(1));
            if !asked && event.offset < 2 * BLOCK && end > BLOCK {
                asked = true;
                // The descriptor is older than the mark: this raises no question.
                image.write_all_at(&[FILL; BLOCK as usize], BLOCK)?;
            }
            group.answer(&event, Verdict::Allow)?;
        }
    }
    if !reader.is_finished() {
        // Dropping the group lets it go.
        drop(group);
    }
    let content = reader.join().map_err(|_| io::Error::other("the reader failed"))??;
    Ok(match (asked, content == [FILL; BLOCK as usize]) {
        (true, true) => Seen::Asked,
        (true, false) => Seen::Other,
        (false, _) => Seen::Silent,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_image_is_what_the_trial_needs() {
        assert_eq!(IMAGE.len() as u64, 3 * BLOCK);
        let image = ferrofs_image::Image::open(IMAGE.to_vec()).unwrap();
        let inode = image.resolve(b"/canary").unwrap();
        let map = image.map(&inode).unwrap();
        let extent = map.cursor(&image).extent_at(0).unwrap();
        let at = ferrofs_image::DeviceAddress { device: 0, offset: BLOCK };
        assert_eq!((extent.len, extent.source), (BLOCK, ferrofs_image::Source::Plain(at)));
    }

    #[test]
    fn what_cannot_ask_is_told_from_what_can() {
        if !rustix::process::geteuid().is_root() {
            return println!("skipped: mounting needs root");
        }
        let folder = tempfile::tempdir().unwrap();
        match check(folder.path()) {
            Ok(()) => {}
            Err(error) => println!("skipped: {error}"),
        }
        // Never on memory.
        check(Path::new("/dev/shm")).unwrap_err();
    }
}
