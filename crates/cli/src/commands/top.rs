// SPDX-License-Identifier: MIT OR Apache-2.0
//! `top`: a mount's rates, live.
//!
//! Invariant: however it ends, short of SIGKILL, the terminal is as it was.

use super::ctl::{duration, shares};
use crate::args::TopArgs;
use crate::size;
use ferrofs_linux::signals::{Signal, Signals};
use ferrofs_serve::control::{Client, Control, HistogramJson, Snapshot, control};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::termios::{LocalModes, OptionalActions, SpecialCodeIndex, Termios};
use std::fmt::Write as _;
use std::io::{self, IsTerminal, Read, Write as _};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

/// Width of a bar, in characters.
const BAR: usize = 30;

pub(crate) fn run(args: &TopArgs) -> anyhow::Result<u8> {
    let client = match control(&args.mount)? {
        Control::Fuse(client) | Control::Both(client, _) => client,
        Control::Kernel(mount) => return Err(mount.lacks("top").into()),
    };
    let title = args.mount.display().to_string();
    // What stands in a name must not be obeyed by the terminal.
    let title: String = title.chars().map(|c| if c.is_control() { '?' } else { c }).collect();
    let interval = Duration::from_secs_f64(args.interval);
    if args.once {
        let stats = client.stats()?;
        let since = Duration::from_secs_f64(stats.uptime_seconds.clamp(0.001, 1e9));
        print(&title, &render(&stats, &Snapshot::default(), since))?;
    } else if io::stdout().is_terminal() && io::stdin().is_terminal() {
        on_terminal(&client, &title, interval)?;
    } else {
        let mut last = (client.stats()?, Instant::now());
        loop {
            std::thread::sleep(interval);
            let now = (client.stats()?, Instant::now());
            print(&title, &render(&now.0, &last.0, now.1 - last.1))?;
            last = now;
        }
    }
    Ok(0)
}

fn print(title: &str, lines: &[String]) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{title}")?;
    for line in lines {
        writeln!(out, "{line}")?;
    }
    out.flush()
}

fn on_terminal(client: &Client, title: &str, interval: Duration) -> anyhow::Result<()> {
    let signals = Signals::catch(&[Signal::Interrupt, Signal::Terminate, Signal::Hangup])?;
    let _screen = Screen::take()?;
    // Until there are two looks to compare, what was done since it was mounted.
    let stats = client.stats()?;
    let since = Duration::from_secs_f64(stats.uptime_seconds.clamp(0.001, 1e9));
    draw(title, &render(&stats, &Snapshot::default(), since))?;
    let mut last = (stats, Instant::now());
    loop {
        let next = last.1 + interval;
        if is_ended(signals, next)? {
            return Ok(());
        }
        let now = (client.stats()?, Instant::now());
        draw(title, &render(&now.0, &last.0, now.1 - last.1))?;
        last = now;
    }
}

/// Waits until `next`; true if a key or a signal ends it before.
fn is_ended(signals: Signals, next: Instant) -> io::Result<bool> {
    let stdin = io::stdin();
    loop {
        let left = next.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let timeout = Timespec {
            tv_sec: left.as_secs().min(1 << 30) as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let mut fds = [
            PollFd::from_borrowed_fd(stdin.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.as_fd(), PollFlags::IN),
        ];
        match poll(&mut fds, Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno.into()),
        }
        if !fds[1].revents().is_empty() && signals.wait(Some(Duration::ZERO))?.is_some() {
            return Ok(true);
        }
        if !fds[0].revents().is_empty() {
            let mut keys = [0; 64];
            let len = stdin.lock().read(&mut keys)?;
            // Without a terminal any more there is nobody to look.
            if len == 0 || keys[..len].iter().any(|key| matches!(key, b'q' | b'Q' | 3)) {
                return Ok(true);
            }
        }
    }
}

/// The terminal without echo and line editing, on its other screen; as before when dropped.
struct Screen {
    before: Termios,
}

impl Screen {
    fn take() -> io::Result<Self> {
        let stdin = io::stdin();
        let before = rustix::termios::tcgetattr(&stdin)?;
        let mut raw = before.clone();
        raw.local_modes.remove(LocalModes::ICANON | LocalModes::ECHO);
        raw.special_codes[SpecialCodeIndex::VMIN] = 1;
        raw.special_codes[SpecialCodeIndex::VTIME] = 0;
        rustix::termios::tcsetattr(&stdin, OptionalActions::Now, &raw)?;
        let screen = Self { before };
        // Other screen, no cursor.
        let mut out = io::stdout().lock();
        out.write_all(b"\x1b[?1049h\x1b[?25l")?;
        out.flush()?;
        Ok(screen)
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        // If the terminal is gone there is nothing to restore.
        let mut out = io::stdout().lock();
        let _ = out.write_all(b"\x1b[?25h\x1b[?1049l");
        let _ = out.flush();
        let _ = rustix::termios::tcsetattr(io::stdin(), OptionalActions::Now, &self.before);
    }
}

/// Draws over what is there, each line cut to the width, so that nothing flickers.
fn draw(title: &str, lines: &[String]) -> io::Result<()> {
    let size = rustix::termios::tcgetwinsize(io::stdout());
    // A terminal that does not know its size says 0.
    let or = |size: u16, unknown| if size == 0 { unknown } else { usize::from(size) };
    let (width, height) = size.map_or((80, 24), |size| (or(size.ws_col, 80), or(size.ws_row, 24)));
    let cut = |line: &str| line.chars().take(width).collect::<String>();
    let mut text = String::from("\x1b[H");
    let head = format!("ferrofs top: {title}  (q quits)");
    // A string takes everything.
    let _ = write!(text, "\x1b[1m{}\x1b[0m\x1b[K", cut(&head));
    for line in lines.iter().take(height.saturating_sub(1)) {
        let _ = write!(text, "\r\n{}\x1b[K", cut(line));
    }
    text.push_str("\x1b[J");
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()
}

/// What was done between two looks, in lines.
fn render(now: &Snapshot, before: &Snapshot, time: Duration) -> Vec<String> {
    let seconds = time.as_secs_f64().max(0.001);
    let value = |snapshot: &Snapshot, name: &str| snapshot.engine.get(name).copied().unwrap_or(0);
    let delta = |name: &str| value(now, name).saturating_sub(value(before, name));
    let rate = |name: &str| delta(name) as f64 / seconds;
    let bytes = |name: &str| size::show(rate(name) as u64);
    let share = |part: u64, whole: u64| {
        if whole == 0 {
            String::from("    -")
        } else {
            format!("{:4.0}%", part as f64 * 100.0 / whole as f64)
        }
    };
    let fuse = |name: &str| {
        let value = |snapshot: &Snapshot| snapshot.fuse.get(name).copied().unwrap_or(0);
        value(now).saturating_sub(value(before)) as f64 / seconds
    };
    let threads = now.fuse.get("threads").copied().unwrap_or(0);
    let lookups = delta("lookups");
    let mut lines = vec![
        format!("over {seconds:.1} s; mounted for {:.0} s", now.uptime_seconds),
        format!("kernel   {:9.0} requests/s  {threads} threads", fuse("requests")),
        format!(
            "reads    {:9.0} /s  {:>10}/s  {:.0} failed/s",
            rate("requests"),
            bytes("bytes"),
            rate("failed_requests")
        ),
        format!(
            "device   {:9.0} /s  {:>10}/s  {:.0} merged/s",
            rate("device_reads"),
            bytes("device_bytes"),
            rate("merged")
        ),
        format!(
            "decodes  {:9.0} /s  {:>10}/s  direct {} in place {} partial {}",
            rate("decodes"),
            bytes("decoded_bytes"),
            share(delta("direct_decodes"), delta("decodes")),
            share(delta("in_place_decodes"), delta("decodes")),
            share(delta("partial_decodes"), delta("decodes"))
        ),
        format!(
            "lookups  {:9.0} /s  extents {} pages {} compressed {} waits {}",
            rate("lookups"),
            share(delta("extent_hits"), lookups),
            share(delta("page_hits"), lookups),
            share(delta("encoded_hits"), lookups),
            share(delta("waits"), lookups)
        ),
        format!(
            "failures {:9.1} I/O/s  {:.1} decode/s",
            rate("io_failures"),
            rate("decode_failures")
        ),
    ];
    lines.extend(now.sharing.as_ref().map(shares));
    lines.extend(fetching(now, before, seconds));
    let none = HistogramJson::default();
    for (name, times) in &now.latency {
        let times = times.since(before.latency.get(name).unwrap_or(&none));
        let [half, most] = [50.0, 99.0].map(|percent| duration(times.percentile(percent)));
        lines.push(format!("{name:<8} p50 {half:>9}  p99 {most:>9}"));
    }
    let pool = |name: &str| now.cache_bytes.get(name).copied().unwrap_or(0);
    let limit = pool("limit");
    for (title, name) in [("extents", "extents"), ("pages", "pages"), ("compr.", "encoded")] {
        let held = pool(name);
        lines.push(format!("{title:<8} {} {:>10}", bar(held, limit), size::show(held)));
    }
    let all = ["extents", "pages", "encoded"]
        .iter()
        .fold(0_u64, |sum, name| sum.saturating_add(pool(name)));
    let of = size::show(limit);
    lines.push(format!("{:<8} {} {:>10} of {of}", "all", bar(all, limit), size::show(all)));
    lines
}

/// What of an image that is read on demand was fetched.
fn fetching(now: &Snapshot, before: &Snapshot, seconds: f64) -> Option<String> {
    if now.store.is_empty() {
        return None;
    }
    let value = |snapshot: &Snapshot, name: &str| snapshot.store.get(name).copied().unwrap_or(0);
    let rate = |name: &str| value(now, name).saturating_sub(value(before, name)) as f64 / seconds;
    let there = value(now, "present_bytes") as f64 * 100.0 / value(now, "size_bytes").max(1) as f64;
    Some(format!(
        "fetched  {:9.0} /s  {:>10}/s  {:.0} misses/s  {} under way  {:.0} failed  waits p99 {}  \
         {there:.1} % there",
        rate("fetches"),
        size::show(rate("fetched_bytes") as u64),
        rate("misses"),
        value(now, "in_flight"),
        value(now, "failures") as f64,
        duration(Some(Duration::from_nanos(value(now, "wait_p99_ns")))),
    ))
}

fn bar(part: u64, whole: u64) -> String {
    let share = if whole == 0 { 0.0 } else { (part as f64 / whole as f64).min(1.0) };
    let full = (share * BAR as f64).round() as usize;
    format!("[{}{}]", "#".repeat(full), " ".repeat(BAR - full.min(BAR)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_differences_over_time() {
        let snapshot = |requests: u64, bytes: u64| {
            let text = format!(
                r#"{{"engine":{{"requests":{requests},"bytes":{bytes},"lookups":{requests}}},
                "cache_bytes":{{"extents":50,"limit":100}},
                "latency":{{"request":{{"buckets":[[1000,{requests}],[null,0]],"sum_ns":1}}}}}}"#
            );
            serde_json::from_str::<Snapshot>(&text).unwrap()
        };
        let (before, now) = (snapshot(10, 0), snapshot(30, 4 << 20));
        let lines = render(&now, &before, Duration::from_secs(2)).join("\n");
        assert!(lines.contains("reads           10 /s    2.00 MiB/s"), "{lines}");
        assert!(lines.contains("p50    1.0 us"), "{lines}");
        assert!(lines.contains(&format!("extents  [{}{}]", "#".repeat(15), " ".repeat(15))));
        assert!(!lines.contains("fetched"), "{lines}");
        let mut lazy = now.clone();
        lazy.store = [("size_bytes", 200), ("present_bytes", 50), ("fetched_bytes", 8 << 20)]
            .map(|(name, value)| (String::from(name), value))
            .into();
        let lines = render(&lazy, &before, Duration::from_secs(2)).join("\n");
        assert!(lines.contains("4.00 MiB/s") && lines.contains("25.0 % there"), "{lines}");
        // A server that was replaced meanwhile has smaller counters.
        let lines = render(&before, &now, Duration::ZERO).join("\n");
        assert!(lines.contains("reads            0 /s"), "{lines}");
        assert_eq!(bar(5, 0), format!("[{}]", " ".repeat(BAR)));
        assert_eq!(bar(u64::MAX, 1), format!("[{}]", "#".repeat(BAR)));
    }
}
