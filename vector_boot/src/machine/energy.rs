//! The token bucket that limits how fast the weights may change. It is kept in shared words, which exist longer than
//! the worker.

use serde_json::json;

use super::Machine;
use crate::hw_mmio::word;
use crate::protocol::{code, RequestError};
use crate::sys::monotonic_us;

/// Tokens of a full bucket, in thousandths.
pub const CAPACITY_MILLI: u64 = 1_000_000;
/// Microseconds in which one thousandth of a token is refilled.
const REFILL_US: u64 = 10;
const MIB: u64 = 1 << 20;

/// The cost of a mutation that touches this many bytes, in thousandths of a token; at most a full bucket.
fn cost_milli(touched_bytes: u64) -> u64 {
    let size = u128::from(touched_bytes) * 1000 / u128::from(MIB);
    (1000 + u64::try_from(size).unwrap_or(CAPACITY_MILLI)).min(CAPACITY_MILLI)
}

impl Machine {
    /// The current energy, in thousandths of a token.
    pub(super) fn energy_milli(&self) -> u64 {
        let (milli, at_us) = self.vitals().energy();
        let refilled = monotonic_us().saturating_sub(at_us) / REFILL_US;
        let now = if self.energy_limited { milli.saturating_add(refilled).min(CAPACITY_MILLI) } else { CAPACITY_MILLI };
        self.page().set(word::ENERGY, (now / 1000) as u32);
        now
    }

    /// Checks that there is energy for a mutation that touches this many bytes.
    ///
    /// # Errors
    /// 1009 with `retry_ms`.
    pub(super) fn require_energy(&self, touched_bytes: u64) -> Result<(), RequestError> {
        let (cost, left) = (cost_milli(touched_bytes), self.energy_milli());
        if !self.energy_limited || cost <= left {
            return Ok(());
        }
        let retry_ms = ((cost - left) * REFILL_US).div_ceil(1000);
        let text =
            format!("the mutation costs {} energy, {} are left: try again in {retry_ms} ms", cost / 1000, left / 1000);
        Err(RequestError::new(code::NO_ENERGY, text).with(json!({"retry_ms": retry_ms})))
    }

    /// Spends the energy of a mutation that touches this many bytes.
    pub(super) fn spend_energy(&self, touched_bytes: u64) {
        let left = self.energy_milli().saturating_sub(cost_milli(touched_bytes));
        if self.energy_limited {
            self.vitals().set_energy(left, monotonic_us());
            self.page().set(word::ENERGY, (left / 1000) as u32);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mutation_costs_one_and_one_for_each_mebibyte() {
        assert_eq!([0, MIB, 10 * MIB + MIB / 2].map(cost_milli), [1000, 2000, 11_500]);
        assert_eq!([2000 * MIB, u64::MAX].map(cost_milli), [CAPACITY_MILLI; 2]);
    }
}
