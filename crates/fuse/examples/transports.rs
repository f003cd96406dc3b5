// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the transports cost: one file in memory, served over `/dev/fuse` and over `io_uring`.
//!
//! `transports [ROUNDS [SIZE_MIB [VARIANT...]]]`, as root, with
//! `/sys/module/fuse/parameters/enable_uring` set to Y for the variant "ring". Variants: `dev1`,
//! `dev2`, `dev4` (that many workers at most), `ring`, each with `,4m` behind for reads of 4 MiB.
//! Rounds of all variants are interleaved; the best round of each counts. Server CPU is that of all
//! threads of the server's process; client CPU that of the readers.

use std::error::Error;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ferrofs_fuse::{
    Attr, DirEntry, Entry, Errno, ReadOnlyFs, ReadRequest, Session, SessionConfig, StatFs,
    Transport,
};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags};

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const FILE: u64 = 2;
const MIB: usize = 1 << 20;

struct OneFile {
    data: Vec<u8>,
}

impl OneFile {
    fn attr(&self, node: u64) -> Attr {
        let (mode, size, nlink) =
            if node == FILE { (0o100_644, self.data.len() as u64, 1) } else { (0o040_755, 0, 2) };
        Attr { ino: node, size, blocks: size / 512, mode, nlink, blksize: 4096, ..Attr::default() }
    }
}

impl ReadOnlyFs for OneFile {
    fn lookup(&self, _parent: u64, name: &[u8]) -> std::result::Result<Entry, Errno> {
        if name == b"f" {
            Ok(Entry { node: FILE, attr: self.attr(FILE) })
        } else {
            Err(Errno::NOENT)
        }
    }

    fn getattr(&self, node: u64) -> std::result::Result<Attr, Errno> {
        Ok(self.attr(node))
    }

    fn readlink(&self, _node: u64, _target: &mut Vec<u8>) -> std::result::Result<(), Errno> {
        Err(Errno::INVAL)
    }

    fn read(&self, read: &ReadRequest, buf: &mut [u8]) -> std::result::Result<usize, Errno> {
        let start = usize::try_from(read.offset).map_err(|_| Errno::INVAL)?;
        let rest = self.data.get(start..).unwrap_or_default();
        let len = rest.len().min(read.len);
        buf[..len].copy_from_slice(&rest[..len]);
        Ok(len)
    }

    fn readdir(
        &self,
        _node: u64,
        _cookie: u64,
        _sink: &mut dyn FnMut(&DirEntry<'_>) -> bool,
    ) -> std::result::Result<(), Errno> {
        Ok(())
    }

    fn statfs(&self) -> std::result::Result<StatFs, Errno> {
        Ok(StatFs { block_size: 4096, fragment_size: 4096, name_max: 255, ..StatFs::default() })
    }
}

/// The word at an offset of the file.
fn word(offset: u64) -> u64 {
    offset.wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn serve(target: &Path, variant: &str, size: usize) -> Result<()> {
    let (name, options) = variant.split_once(',').unwrap_or((variant, ""));
    let mut config = SessionConfig { attr_timeout: Duration::ZERO, ..Default::default() };
    if options.contains("4m") {
        config.max_read = 4 << 20;
        config.max_readahead = 4 << 20;
    }
    config.transport = match name.strip_prefix("dev") {
        Some(threads) => {
            config.threads_max = threads.parse()?;
            Transport::Device
        }
        None => Transport::Ring,
    };
    let words = (0..size / 8).flat_map(|index| word(index as u64 * 8).to_le_bytes());
    let fs = Arc::new(OneFile { data: words.collect() });
    let session = Session::mount(fs, target, config)?;
    println!("ready {}", session.negotiated().max_read);
    let stats = session.run()?;
    eprintln!("{variant}: {stats:?}");
    Ok(())
}

struct Server {
    variant: String,
    process: Child,
    directory: tempfile::TempDir,
}

impl Server {
    fn start(variant: &str, size: usize) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let mut command = Command::new(std::env::current_exe()?);
        command.arg("--serve").arg(directory.path()).arg(variant).arg(size.to_string());
        let mut process = command.stdout(Stdio::piped()).spawn()?;
        let mut output = BufReader::new(process.stdout.take().ok_or("no output")?);
        let mut line = String::new();
        if output.read_line(&mut line)? == 0 {
            return Err(format!("{variant}: the server ended").into());
        }
        Ok(Self { variant: variant.to_owned(), process, directory })
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("f")
    }

    /// Seconds of CPU time of all its threads, those that have ended included.
    fn cpu(&self) -> Result<f64> {
        let text = std::fs::read_to_string(format!("/proc/{}/stat", self.process.id()))?;
        let (_, fields) = text.rsplit_once(')').ok_or("no name in stat")?;
        let ticks: Vec<u64> = fields
            .split_whitespace()
            .skip(11)
            .take(2)
            .map(str::parse)
            .collect::<std::result::Result<_, _>>()?;
        Ok(ticks.iter().sum::<u64>() as f64 / rustix::param::clock_ticks_per_second() as f64)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let flags = rustix::mount::UnmountFlags::DETACH;
        if let Err(error) = rustix::mount::unmount(self.directory.path(), flags) {
            eprintln!("{}: {error}", self.variant);
        }
        // Reported by itself.
        let _ = self.process.wait();
    }
}

fn cpu_of(task: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(task.join("schedstat"))?;
    let first = text.split_whitespace().next().ok_or("empty schedstat")?;
    Ok(first.parse::<u64>()? as f64 / 1e9)
}

#[derive(Clone, Copy)]
enum Work {
    Sequential,
    Direct,
    Random,
    Stat,
}

const TESTS: [(&str, Work, usize); 9] = [
    ("seq 1", Work::Sequential, 1),
    ("dio1M 1", Work::Direct, 1),
    ("dio1M 2", Work::Direct, 2),
    ("dio4M 1", Work::Direct, 1),
    ("drand4K 1", Work::Random, 1),
    ("drand4K 2", Work::Random, 2),
    ("drand4K 4", Work::Random, 4),
    ("stat 1", Work::Stat, 1),
    ("stat 4", Work::Stat, 4),
];

#[derive(Clone, Copy, Debug, Default)]
struct Figures {
    operations: f64,
    bytes: f64,
    seconds: f64,
    server: f64,
    client: f64,
}

/// A buffer at a page boundary, for direct reads of whole pages.
fn pages(buf: &mut Vec<u8>, len: usize) -> &mut [u8] {
    buf.resize(len + 4096, 0);
    let start = buf.as_ptr().align_offset(4096);
    &mut buf[start..start + len]
}

fn check(buf: &[u8], offset: u64) -> Result<()> {
    for at in [0, buf.len() - 8] {
        let found = u64::from_le_bytes(buf[at..at + 8].try_into()?);
        if found != word(offset + at as u64) {
            return Err(format!("wrong byte at {}", offset + at as u64).into());
        }
    }
    Ok(())
}

/// One reader's share: operations, bytes, CPU seconds.
fn read(path: &Path, work: Work, chunk: usize, part: usize, parts: usize) -> Result<[f64; 3]> {
    let own = PathBuf::from("/proc/thread-self");
    let start = cpu_of(&own)?;
    let (mut operations, mut bytes) = (0_u64, 0_u64);
    let mut buf = Vec::new();
    match work {
        Work::Sequential => {
            let mut file = File::open(path)?;
            let buf = pages(&mut buf, chunk);
            loop {
                let read = file.read(buf)?;
                if read == 0 {
                    break;
                }
                operations += 1;
                bytes += read as u64;
            }
        }
        Work::Direct | Work::Random => {
            let file: File = rustix::fs::open(path, OFlags::DIRECT, Mode::empty())?.into();
            let size = file.metadata()?.len();
            let random = matches!(work, Work::Random);
            let chunk = if random { 4096 } else { chunk };
            let buf = pages(&mut buf, chunk);
            let chunks = size / chunk as u64;
            let share = chunks / parts as u64;
            let mut seed = 0x1234_5678_9abc_def1_u64.wrapping_mul(part as u64 + 1);
            let count = if random { 60_000 / parts as u64 } else { share };
            for step in 0..count {
                let index = if random {
                    seed ^= seed << 13;
                    seed ^= seed >> 7;
                    seed ^= seed << 17;
                    seed % chunks
                } else {
                    part as u64 * share + step
                };
                let offset = index * chunk as u64;
                file.read_exact_at(buf, offset)?;
                check(buf, offset)?;
                operations += 1;
                bytes += chunk as u64;
            }
        }
        Work::Stat => {
            let file = File::open(path)?;
            for _ in 0..60_000 / parts {
                let flags = AtFlags::EMPTY_PATH | AtFlags::STATX_FORCE_SYNC;
                rustix::fs::statx(&file, "", flags, StatxFlags::BASIC_STATS)?;
                operations += 1;
            }
        }
    }
    Ok([operations as f64, bytes as f64, cpu_of(&own)? - start])
}

fn run(server: &Server, name: &str, work: Work, parts: usize) -> Result<Figures> {
    let path = server.file();
    let chunk = if name.contains("4M") { 4 * MIB } else { MIB };
    if matches!(work, Work::Sequential) {
        let file = File::open(&path)?;
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed)?;
    }
    let before = server.cpu()?;
    let start = Instant::now();
    let mut figures = Figures::default();
    let shares: Vec<_> = std::thread::scope(|scope| {
        let reader = |part| {
            scope.spawn({
                let path = &path;
                move || read(path, work, chunk, part, parts)
            })
        };
        let readers: Vec<_> = (0..parts).map(reader).collect();
        readers.into_iter().map(|reader| reader.join().map_err(|_| "a reader panicked")).collect()
    });
    figures.seconds = start.elapsed().as_secs_f64();
    figures.server = server.cpu()? - before;
    for share in shares {
        let [operations, bytes, client] = share??;
        figures.operations += operations;
        figures.bytes += bytes;
        figures.client += client;
    }
    Ok(figures)
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == "--serve") {
        let [_, target, variant, size] = arguments.as_slice() else { return Err("usage".into()) };
        return serve(target.as_ref(), variant, size.parse()?);
    }
    let number = |index: usize, default: usize| {
        arguments.get(index).map_or(Ok(default), |text| text.parse::<usize>())
    };
    let (rounds, size) = (number(0, 5)?, number(1, 512)? * MIB);
    let mut variants: Vec<&str> = arguments.iter().skip(2).map(String::as_str).collect();
    if variants.is_empty() {
        variants = vec!["dev1", "dev2", "dev4", "ring"];
    }
    let servers =
        variants.iter().map(|variant| Server::start(variant, size)).collect::<Result<Vec<_>>>()?;
    let mut best = vec![[None::<Figures>; TESTS.len()]; servers.len()];
    for _ in 0..rounds {
        for (test, &(name, work, parts)) in TESTS.iter().enumerate() {
            for (server, best) in servers.iter().zip(&mut best) {
                let figures = run(server, name, work, parts)?;
                let rate = |figures: &Figures| figures.operations / figures.seconds;
                let slot = &mut best[test];
                if slot.as_ref().is_none_or(|best| rate(&figures) > rate(best)) {
                    *slot = Some(figures);
                }
            }
        }
    }
    println!(
        "{:10} {:10} {:>9} {:>8} {:>12} {:>12}",
        "test", "variant", "ops/s", "MB/s", "server us/op", "client us/op"
    );
    for (test, (name, ..)) in TESTS.iter().enumerate() {
        for (server, best) in servers.iter().zip(&best) {
            let Some(figures) = best[test] else { continue };
            println!(
                "{:10} {:10} {:>9.0} {:>8.0} {:>12.2} {:>12.2}",
                name,
                server.variant,
                figures.operations / figures.seconds,
                figures.bytes / figures.seconds / 1e6,
                figures.server / figures.operations * 1e6,
                figures.client / figures.operations * 1e6,
            );
        }
    }
    Ok(())
}
