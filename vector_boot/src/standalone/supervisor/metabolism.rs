//! Measures memory, load, pressure and temperature every ten beats and writes them to the device page.

use std::fs;

use crate::hw_mmio::{word, Page};
use crate::vitals::Vitals;

/// Beats between two measurements.
const INTERVAL: u64 = 10;

/// Whether this beat measures; the first one does.
pub fn is_due(beats: u64) -> bool {
    beats % INTERVAL == 1
}

/// Measures, and writes the results to `page` and `vitals`.
pub fn measure(page: Page<'_>, vitals: Vitals<'_>, worker: u32) {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let memory = read("/proc/meminfo");
    page.set(word::MEMORY_TOTAL_KIB, kib(&memory, "MemTotal:").unwrap_or(0));
    page.set(word::MEMORY_AVAILABLE_KIB, kib(&memory, "MemAvailable:").unwrap_or(0));
    page.set(word::CPU_PRESSURE_X100, pressure_x100(&read("/proc/pressure/cpu")).unwrap_or(u32::MAX));
    page.set(word::LOAD1_X100, load_x100(&read("/proc/loadavg")).unwrap_or(0));
    let temperature = read("/sys/class/thermal/thermal_zone0/temp").trim().parse::<i32>();
    page.set(word::TEMPERATURE_MC, temperature.unwrap_or(-1) as u32);
    let own = |status: &str| kib(status, "RssAnon:").unwrap_or(0).saturating_add(kib(status, "RssShmem:").unwrap_or(0));
    vitals.set_memory_kib(own(&read("/proc/self/status")), own(&read(&format!("/proc/{worker}/status"))));
}

/// How many processes the kernel has killed so far because memory ran out; 0 if it does not say.
pub fn out_of_memory_kills() -> u32 {
    kib(&fs::read_to_string("/proc/vmstat").unwrap_or_default(), "oom_kill ").unwrap_or(0)
}

/// The number after a label, as in `MemTotal:  1024 kB`.
fn kib(text: &str, label: &str) -> Option<u32> {
    let line = text.lines().find_map(|line| line.strip_prefix(label))?;
    line.split_ascii_whitespace().next()?.parse().ok()
}

/// The share of time in which some task waited, over ten seconds, in percent times 100.
fn pressure_x100(text: &str) -> Option<u32> {
    let some = text.lines().find(|line| line.starts_with("some "))?;
    hundredths(some.split_ascii_whitespace().find_map(|word| word.strip_prefix("avg10="))?)
}

fn load_x100(text: &str) -> Option<u32> {
    hundredths(text.split_ascii_whitespace().next()?)
}

/// A decimal number with two places, times 100, without floats.
fn hundredths(number: &str) -> Option<u32> {
    let (whole, part) = number.split_once('.')?;
    let part = part.get(..2)?.parse::<u32>().ok()?;
    whole.parse::<u32>().ok()?.checked_mul(100)?.checked_add(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_files_are_parsed() {
        let memory = "MemTotal:         245760 kB\nMemFree:   1 kB\nMemAvailable:     230000 kB\n";
        assert_eq!((kib(memory, "MemTotal:"), kib(memory, "MemAvailable:")), (Some(245_760), Some(230_000)));
        let pressure =
            "some avg10=12.34 avg60=0.00 avg300=0.00 total=5\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=0\n";
        assert_eq!(pressure_x100(pressure), Some(1234));
        assert_eq!(load_x100("1.05 0.50 0.10 1/99 1234\n"), Some(105));
        assert_eq!(kib("pgfault 12\noom_kill 3\nnuma_hit 5\n", "oom_kill "), Some(3));
        assert_eq!((kib("", "MemTotal:"), pressure_x100(""), load_x100("")), (None, None, None));
    }
}
