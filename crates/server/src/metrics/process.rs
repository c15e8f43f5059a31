//! What the operating system knows of this process.

use std::fs;
use std::time::{SystemTime, UNIX_EPOCH};

use super::page::Page;

/// Ticks per second of the times in `/proc`, fixed for user space on Linux.
const TICKS: f64 = 100.0;

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
    // Its size is the number of its entries, from Linux 6.2 on; before, it is 0. Listing them would
    // take longer than the rest of the page where there are thousands of connections.
    let open = fs::metadata("/proc/self/fd").map_or(0, |files| files.len());
    if open > 0 {
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
    let text = fs::read_to_string("/proc/self/status").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: u64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes << 10)
}

fn cpu_seconds() -> Option<f64> {
    let text = fs::read_to_string("/proc/self/stat").ok()?;
    // The name, in parentheses, may hold anything.
    let (_, rest) = text.rsplit_once(") ")?;
    let mut fields = rest.split(' ').skip(11).map(str::parse::<u64>);
    let (user, system) = (fields.next()?.ok()?, fields.next()?.ok()?);
    Some((user + system) as f64 / TICKS)
}
