//! When beats are due: at absolute times, so that a late beat does not delay the ones after it.

use std::time::{Duration, Instant};

/// Beats up to this many periods late are caught up; after a longer stall the missed ones are skipped.
const CATCH_UP: u32 = 10;

/// The schedule of the beats.
pub struct Heartbeat {
    period: Duration,
    next: Instant,
    beats: u64,
}

/// A beat that is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Beat {
    /// How late it is, in microseconds.
    pub late_us: u32,
    /// How many beats after it are skipped.
    pub skipped: u32,
}

impl Heartbeat {
    /// The first beat is due at once.
    pub fn start(period: Duration) -> Self {
        Heartbeat { period, next: Instant::now(), beats: 0 }
    }

    /// Beats so far.
    pub fn beats(&self) -> u64 {
        self.beats
    }

    /// Counts a beat and returns it, if one is due.
    ///
    /// # Errors
    /// The time left, if no beat is due.
    pub fn due(&mut self) -> Result<Beat, Duration> {
        self.due_at(Instant::now())
    }

    fn due_at(&mut self, now: Instant) -> Result<Beat, Duration> {
        let Some(late) = now.checked_duration_since(self.next) else {
            return Err(self.next.duration_since(now));
        };
        self.beats += 1;
        let skipped = match late > self.period * CATCH_UP {
            true => u32::try_from(late.as_nanos() / self.period.as_nanos()).unwrap_or(u32::MAX - 1),
            false => 0,
        };
        self.next += self.period * (skipped + 1); // the beats after a stall are due when they always were
        Ok(Beat { late_us: u32::try_from(late.as_micros()).unwrap_or(u32::MAX), skipped })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_millis(100);

    #[test]
    fn lateness_does_not_shift_the_schedule() {
        let mut heartbeat = Heartbeat::start(PERIOD);
        let start = heartbeat.next;
        assert_eq!(heartbeat.due_at(start), Ok(Beat { late_us: 0, skipped: 0 }));
        let late = Beat { late_us: 30_000, skipped: 0 };
        assert_eq!(heartbeat.due_at(start + PERIOD + Duration::from_millis(30)), Ok(late));
        assert_eq!(heartbeat.due_at(start + PERIOD + Duration::from_millis(40)), Err(Duration::from_millis(60)));
        assert_eq!(heartbeat.due_at(start + PERIOD * 2), Ok(Beat { late_us: 0, skipped: 0 }));
        assert_eq!(heartbeat.beats(), 3);
    }

    #[test]
    fn short_stalls_are_caught_up_and_long_ones_skipped() {
        let mut heartbeat = Heartbeat::start(PERIOD);
        let start = heartbeat.next;
        let beats = (0..6).filter(|_| heartbeat.due_at(start + PERIOD * 5).is_ok()).count();
        assert_eq!(beats, 6);
        let later = start + PERIOD * 1000 + PERIOD / 4;
        assert_eq!(heartbeat.due_at(later).unwrap().skipped, 994);
        assert_eq!(heartbeat.due_at(later), Err(PERIOD / 4 * 3)); // on the grid of the first beat
        assert_eq!(heartbeat.beats() + 994, 1001);
    }
}
