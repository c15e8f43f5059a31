//! What the operating system knows of this process.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::page::Page;

/// Ticks per second of the times in `/proc`, fixed for user space on Linux.
const TICKS: f64 = 100.0;

/// Bytes of a page where the kernel does not say otherwise.
const PAGE_BYTES: u64 = 4096;

/// Writes `process_*` as far as the system tells it.
pub(super) fn render(page: &mut Page, started: SystemTime) {
    if let Some(memory) = resident() {
        page.family(
            "process_resident_memory_bytes",
            "gauge",
            "Memory of the process.",
        )
        .bare(memory);
    }
    if let Some(seconds) = cpu_seconds() {
        page.family(
            "process_cpu_seconds_total",
            "counter",
            "Processor time of the process.",
        )
        .bare(seconds);
    }
    if let Ok(files) = fs::read_dir("/proc/self/fd") {
        let open = files.count();
        page.family("process_open_fds", "gauge", "Open files and connections.")
            .bare(open);
    }
    let started = started.duration_since(UNIX_EPOCH);
    page.family(
        "process_start_time_seconds",
        "gauge",
        "Unix time at which the server started.",
    )
    .bare(started.map_or(0.0, |since| since.as_secs_f64()));
}

fn resident() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = text.split(' ').nth(1)?.parse().ok()?;
    Some(pages * PAGE_BYTES)
}

fn cpu_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11).map(str::parse::<u64>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some((user + system) as f64 / TICKS)
}
