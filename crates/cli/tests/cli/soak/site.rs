// SPDX-License-Identifier: MIT OR Apache-2.0
//! An image on a server, and mounts of it with their keepers.

use super::{FILES, LIMIT};
use crate::{FERROFS, Scratch, run};
use ferrofs_tests::origin::{Content, Link, Origin};
use rustix::process::{Pid, Signal, kill_process};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A tree, its image, and the server that has it.
pub(super) struct Site {
    pub(super) scratch: Scratch,
    pub(super) origin: Option<Origin>,
    pub(super) address: SocketAddr,
    pub(super) pin: String,
    pub(super) tree: Arc<BTreeMap<String, Vec<u8>>>,
}

impl Site {
    pub(super) fn new(options: &str) -> Option<Self> {
        if !Path::new("/dev/fuse").exists() || !crate::is_root() {
            println!("skipped: mounting needs root and /dev/fuse");
            return None;
        }
        let scratch = Scratch::new();
        let mut tree = BTreeMap::new();
        for number in 0..FILES {
            let mut random = fastrand::Rng::with_seed(number as u64);
            // Noise and text: pieces that are stored and pieces that are compressed.
            let mut content = vec![0; random.usize(20_000..160_000)];
            random.fill(&mut content);
            for line in content.chunks_mut(1000).step_by(2) {
                line.fill(number as u8);
            }
            let name = format!("dir/f{number}");
            std::fs::write(scratch.tree().join(&name), &content).unwrap();
            tree.insert(name, content);
        }
        std::fs::create_dir(scratch.path("www")).unwrap();
        let image = scratch.path("www/image.erofs");
        let words = format!("build {{}} -o {{}} --digests --json {options}");
        let built = run(&words, &[&scratch.tree(), &image]).ok();
        let built: serde_json::Value = serde_json::from_str(&built).unwrap();
        let pin = built["pin"].as_str().unwrap().to_owned();
        let origin = Origin::start(Content::Folder(scratch.path("www"))).unwrap();
        let address = origin.address();
        Some(Self { scratch, origin: Some(origin), address, pin, tree: Arc::new(tree) })
    }

    pub(super) fn origin(&self) -> &Origin {
        self.origin.as_ref().expect("it is up")
    }

    pub(super) fn url(&self) -> String {
        format!("http://{}/image.erofs", self.address)
    }

    pub(super) fn stop_origin(&mut self) {
        self.origin = None;
    }

    pub(super) fn start_origin(&mut self) {
        let content = Content::Folder(self.scratch.path("www"));
        let begin = Instant::now();
        // Connections of the one before may linger for a moment.
        self.origin = Some(loop {
            match Origin::listen(self.address, content.clone(), Link::unlimited()) {
                Ok(origin) => break origin,
                Err(error) => assert!(begin.elapsed() < LIMIT, "{error}"),
            }
            std::thread::sleep(Duration::from_millis(10));
        });
    }

    pub(super) fn mount(&self, name: &str, options: &str, words: &[&str]) -> Live {
        self.mount_url(name, &self.url(), options, words)
    }

    pub(super) fn mount_url(&self, name: &str, url: &str, options: &str, words: &[&str]) -> Live {
        let target = self.scratch.path(name);
        std::fs::create_dir_all(&target).unwrap();
        let mut command = Command::new(FERROFS);
        command.args(["mount", "--foreground", "-o", options, "--pin", &self.pin]);
        if !words.contains(&"--cache-dir") {
            command.arg("--cache-dir").arg(self.cache());
        }
        command.args(words).arg(url).arg(&target).stdin(Stdio::null()).stdout(Stdio::null());
        let said = site_log(&target);
        let log = std::fs::File::options().create(true).append(true).open(said).unwrap();
        let child = command.stderr(log).spawn().unwrap();
        let live = Live { target, keeper: child, tree: Arc::clone(&self.tree) };
        let begin = Instant::now();
        while live.worker().is_none() {
            assert!(begin.elapsed() < LIMIT, "the mount does not come");
            std::thread::sleep(Duration::from_millis(5));
        }
        live
    }

    pub(super) fn cache(&self) -> PathBuf {
        self.scratch.path("cache")
    }

    /// The files of this name in the cache: `data`, `map`, `log`, ...
    pub(super) fn cached(&self, name: &str) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![self.cache()];
        while let Some(folder) = folders.pop() {
            let Ok(entries) = std::fs::read_dir(folder) else { continue };
            for entry in entries.flatten() {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.file_name().is_some_and(|found| found == name) {
                    found.push(path);
                }
            }
        }
        found
    }
}

/// Where a mount's messages go.
pub(super) fn site_log(target: &Path) -> PathBuf {
    target.with_extension("log")
}

/// A mount with its keeper; both gone at the end, however the test ends.
pub(super) struct Live {
    pub(super) target: PathBuf,
    pub(super) keeper: Child,
    pub(super) tree: Arc<BTreeMap<String, Vec<u8>>>,
}

impl Live {
    pub(super) fn worker(&self) -> Option<Pid> {
        let ended = run("ctl {} get", &[&self.target]);
        let line = ended.out.lines().find_map(|line| line.strip_prefix("pid="));
        Pid::from_raw(line.filter(|_| ended.code == 0)?.parse().ok()?)
    }

    pub(super) fn kill_worker(&self) {
        if let Some(pid) = self.worker() {
            // Between the question and now it may have been killed by another.
            let _ = kill_process(pid, Signal::KILL);
        }
    }

    /// Reads a piece of a file, past the page cache; whether it came. A wrong byte is a failure.
    pub(super) fn read(&self, random: &mut fastrand::Rng) -> Result<(), std::io::Error> {
        let (name, content) = self.tree.iter().nth(random.usize(..self.tree.len())).unwrap();
        let from = random.usize(..content.len());
        let len = random.usize(1..=content.len() - from);
        read_part(&self.target.join(name), content, from..from + len)
    }

    /// Reads everything.
    pub(super) fn read_all(&self) -> Result<(), std::io::Error> {
        for (name, content) in &*self.tree {
            read_part(&self.target.join(name), content, 0..content.len())?;
        }
        Ok(())
    }
}

pub(super) fn read_part(
    path: &Path,
    content: &[u8],
    range: std::ops::Range<usize>,
) -> Result<(), std::io::Error> {
    let file = std::fs::File::open(path)?;
    let len = file.metadata()?.len();
    assert_eq!(len, content.len() as u64, "{}", path.display());
    // Else everything is in the kernel's memory soon, and nobody asks.
    let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
    let mut found = vec![0; range.len()];
    file.read_exact_at(&mut found, range.start as u64)?;
    assert!(found == content[range.clone()], "WRONG BYTES in {} {range:?}", path.display());
    Ok(())
}

impl Drop for Live {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = std::fs::read_to_string(site_log(&self.target)).unwrap_or_default();
            let tail: Vec<_> = said.lines().rev().take(40).collect();
            for line in tail.iter().rev() {
                println!("{}: {line}", self.target.display());
            }
        }
        // Most often nothing of it is left.
        let flags = ferrofs_linux::UnmountFlags { lazy: true, force: true };
        let _ = ferrofs_linux::unmount(&self.target, flags);
        let _ = kill_process(Pid::from_child(&self.keeper), Signal::TERM);
        let begin = Instant::now();
        while self.keeper.try_wait().is_ok_and(|ended| ended.is_none()) {
            if begin.elapsed() > Duration::from_secs(20) {
                let _ = self.keeper.kill();
                let _ = self.keeper.wait();
                return;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}
