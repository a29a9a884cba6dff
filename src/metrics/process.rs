//! The process itself, as Linux tells it, under the names that all Prometheus clients use; elsewhere nothing is told.

use std::fs;

use super::Figures;

/// Parts of a second in which the kernel counts CPU time and start times for programs, on every architecture.
const TICKS_PER_SECOND: f64 = 100.0;

pub(super) fn report(figures: &mut Figures) {
    figures.gauges(
        "stompgate_build_info",
        "Always 1; the label says which version runs.",
        "version",
        &[(env!("CARGO_PKG_VERSION"), 1)],
    );
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    if let Some(cpu) = cpu_seconds(&stat) {
        figures.counter("process_cpu_seconds_total", "User and system CPU time in seconds.", cpu);
    }
    if let Some(start) = fs::read_to_string("/proc/stat").ok().and_then(|boot| start_seconds(&stat, &boot)) {
        figures.gauge("process_start_time_seconds", "Start of the process in seconds since 1970.", start);
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if let Some(bytes) = kibibytes(&status, "VmRSS:") {
        figures.gauge("process_resident_memory_bytes", "Resident memory in bytes.", bytes);
    }
    if let Some(bytes) = kibibytes(&status, "VmSize:") {
        figures.gauge("process_virtual_memory_bytes", "Virtual memory in bytes.", bytes);
    }
    if let Ok(open) = fs::read_dir("/proc/self/fd") {
        // One of them is the one that reads the directory.
        figures.gauge("process_open_fds", "Open file descriptors.", open.count().saturating_sub(1));
    }
    if let Some(most) = fs::read_to_string("/proc/self/limits").ok().and_then(|limits| max_descriptors(&limits)) {
        figures.gauge("process_max_fds", "File descriptors that may be open.", most);
    }
}

/// The fields of `/proc/self/stat` from the third on: those before are the id and the name, which may hold anything.
fn fields(stat: &str) -> impl Iterator<Item = &str> {
    stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace()
}

/// Fields 14 and 15: user and system time.
fn cpu_seconds(stat: &str) -> Option<f64> {
    let mut times = fields(stat).skip(11).map_while(|field| field.parse::<f64>().ok());
    Some((times.next()? + times.next()?) / TICKS_PER_SECOND)
}

/// Field 22, the start after the boot, and the time of the boot.
fn start_seconds(stat: &str, boot: &str) -> Option<f64> {
    let ticks: f64 = fields(stat).nth(19)?.parse().ok()?;
    let booted: f64 = boot.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()?;
    Some(booted + ticks / TICKS_PER_SECOND)
}

fn kibibytes(status: &str, name: &str) -> Option<u64> {
    let value = status.lines().find_map(|line| line.strip_prefix(name))?;
    Some(value.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
}

fn max_descriptors(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_kernel_says_is_read() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 250 150 0 0 20 0 3 0 4200 1 1";
        assert_eq!(cpu_seconds(stat), Some(4.0));
        assert_eq!(start_seconds(stat, "cpu 1\nbtime 1000\n"), Some(1042.0));
        assert_eq!(kibibytes("VmPeak:\t 9 kB\nVmRSS:\t    12 kB\n", "VmRSS:"), Some(12 * 1024));
        let limits =
            "Limit Soft Hard Units\nMax open files            1024                 4096                 files\n";
        assert_eq!(max_descriptors(limits), Some(1024));
    }

    #[test]
    fn what_is_missing_is_not_told() {
        assert_eq!(cpu_seconds(""), None);
        assert_eq!(start_seconds("7 (a) S", ""), None);
        assert_eq!(kibibytes("", "VmRSS:"), None);
        assert_eq!(max_descriptors("Max open files unlimited unlimited"), None);
    }
}
