//! The request `stats`.

use serde_json::{json, Map, Value};

use super::Machine;
use crate::hw_mmio::{word, State};
use crate::vitals::{Vitals, PHASES};

/// The processor features that the kernels are selected by and that this CPU has.
#[cfg(target_arch = "x86_64")]
fn cpu_features() -> Vec<&'static str> {
    let found = [
        ("avx2", std::arch::is_x86_feature_detected!("avx2")),
        ("fma", std::arch::is_x86_feature_detected!("fma")),
        ("f16c", std::arch::is_x86_feature_detected!("f16c")),
        ("avx512f", std::arch::is_x86_feature_detected!("avx512f")),
        ("avx512bw", std::arch::is_x86_feature_detected!("avx512bw")),
        ("avx512vnni", std::arch::is_x86_feature_detected!("avx512vnni")),
    ];
    found.into_iter().filter(|(_, has)| *has).map(|(name, _)| name).collect()
}

/// No kernels are selected by processor features here.
#[cfg(not(target_arch = "x86_64"))]
fn cpu_features() -> Vec<&'static str> {
    Vec::new()
}

/// What the boot loader's entries say of the slot that runs; null without slots, or while they were not read yet.
fn boot(vitals: &Vitals<'_>) -> Value {
    let Some(tries_left) = vitals.boot_tries() else { return Value::Null };
    let text = |text: String| if text.is_empty() { Value::Null } else { text.into() };
    json!({
        "tries_left": tries_left,
        "blessed": tries_left.is_none(),
        "fell_back": text(vitals.fell_back()),
        "problem": text(vitals.boot_problem()),
    })
}

impl Machine {
    pub(super) fn stats(&self) -> Value {
        let (page, vitals) = (self.page(), self.vitals());
        let (supervisor_kib, worker_kib) = vitals.memory_kib();
        let kib = |kib: u32| u64::from(kib) * 1024;
        let phases: Map<String, Value> = (0..PHASES.len())
            .filter_map(|phase| Some((PHASES[phase].to_string(), vitals.phase_us(phase)?.into())))
            .collect();
        let worst_us = page.get(word::WORST_LATENESS_US);
        let late_us = |per_mille| vitals.lateness_us(per_mille).min(worst_us); // the histogram gives the upper edge of a bucket
        let slot = [Value::Null, "A".into(), "B".into()].into_iter().nth(page.get(word::SLOT) as usize);
        json!({
            "uptime_us": crate::sys::monotonic_us().saturating_sub(vitals.start_us()),
            "heartbeats": page.get_wide(word::BEATS),
            "heartbeat_period_ms": page.get(word::PERIOD_MS),
            "heartbeat_late_us": {
                "p50": late_us(500),
                "p99": late_us(990),
                "p999": late_us(999),
                "max": worst_us,
            },
            "generation": self.generation(),
            "pixels_processed": page.get_wide(word::PIXELS_PROCESSED),
            "interrupts": page.get_wide(word::INTERRUPTS),
            "mutations": {
                "accepted": page.get(word::MUTATIONS_ACCEPTED),
                "refused": page.get(word::MUTATIONS_REFUSED),
                "rolled_back": vitals.rolled_back(),
            },
            "energy": self.energy_milli() / 1000,
            "worker": {
                "pid": page.get(word::WORKER_PID),
                "restarts": page.get(word::WORKER_RESTARTS),
                "anon_bytes": kib(worker_kib),
            },
            "supervisor": {"pid": vitals.supervisor_pid(), "anon_bytes": kib(supervisor_kib)},
            "memory": {
                "total_bytes": kib(page.get(word::MEMORY_TOTAL_KIB)),
                "available_bytes": kib(page.get(word::MEMORY_AVAILABLE_KIB)),
            },
            "phases": phases,
            "cpu_features": cpu_features(),
            "slot": slot.unwrap_or(Value::Null),
            "boot": boot(&vitals),
            "state": if page.get(word::STATE) == State::Emergency as u32 { "emergency" } else { "beating" },
        })
    }
}
