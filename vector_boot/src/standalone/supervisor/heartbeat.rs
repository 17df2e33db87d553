//! When beats are due: at absolute times, so that being late once does not shift the rest.

use std::time::{Duration, Instant};

/// A beat later than this many periods means that the machine stood still: what was missed is skipped.
const CATCH_UP: u32 = 10;

/// The schedule of the beats.
pub struct Heartbeat {
    period: Duration,
    next: Instant,
    beats: u64,
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

    /// Counts a beat that is due and tells how late it is, in microseconds; else tells how long to wait.
    ///
    /// # Errors
    /// The time left when no beat is due.
    pub fn due(&mut self) -> Result<u32, Duration> {
        self.due_at(Instant::now())
    }

    fn due_at(&mut self, now: Instant) -> Result<u32, Duration> {
        let Some(late) = now.checked_duration_since(self.next) else {
            return Err(self.next.duration_since(now));
        };
        self.beats += 1;
        self.next += self.period;
        if late > self.period * CATCH_UP {
            self.next = now + self.period;
        }
        Ok(u32::try_from(late.as_micros()).unwrap_or(u32::MAX))
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
        assert_eq!(heartbeat.due_at(start), Ok(0));
        assert_eq!(heartbeat.due_at(start + PERIOD + Duration::from_millis(30)), Ok(30_000));
        assert_eq!(heartbeat.due_at(start + PERIOD + Duration::from_millis(40)), Err(Duration::from_millis(60)));
        assert_eq!(heartbeat.due_at(start + PERIOD * 2), Ok(0));
        assert_eq!(heartbeat.beats(), 3);
    }

    #[test]
    fn short_stalls_are_caught_up_and_long_ones_skipped() {
        let mut heartbeat = Heartbeat::start(PERIOD);
        let start = heartbeat.next;
        let beats = (0..6).filter(|_| heartbeat.due_at(start + PERIOD * 5).is_ok()).count();
        assert_eq!(beats, 6);
        let later = start + PERIOD * 1000;
        assert!(heartbeat.due_at(later).is_ok());
        assert_eq!(heartbeat.due_at(later), Err(PERIOD));
    }
}
