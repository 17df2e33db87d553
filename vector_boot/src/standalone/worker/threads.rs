//! The worker's two threads. One serves the connections; the other one waits, and runs what takes long.
//!
//! A change that has to wait for the state device is made by the thread that serves, because to wake another one up and to
//! be woken by it takes about as long as the device. It leaves the connections meanwhile. The other thread looks after them,
//! and serves them from then on if the change takes long: then the threads have changed places.

use std::os::fd::OwnedFd;
use std::panic::{catch_unwind, AssertUnwindSafe};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::runner::{work, Done, Job};
use super::service::Service;
use crate::machine::Machine;
use crate::sys::message;

/// Connections that were left for this long are served by the other thread.
const PATIENCE: Duration = Duration::from_millis(10);
/// So long after a change the other thread looks after the connections by itself, in intervals of its patience. Later it
/// has to be woken up. So long after connections were left for too long, changes are made in the other thread.
const ATTENTION: Duration = Duration::from_secs(1);

/// What the two threads share.
pub struct Threads {
    machine: Machine,
    /// Wakes the thread that serves.
    waker: OwnedFd,
    shared: Mutex<Shared>,
    changed: Condvar,
}

#[derive(Default)]
struct Shared {
    /// The service whose thread makes a change, and since when.
    left: Option<(Box<Service>, Instant)>,
    /// When a service was last left.
    last_left: Option<Instant>,
    /// When a service was last left for too long.
    left_too_long: Option<Instant>,
    /// What the other thread is to run.
    job: Option<Job>,
    /// The answers of the job that was run last.
    answers: Option<Vec<Done>>,
    /// Whether the other thread has to be woken up.
    sleeps: bool,
}

/// What the thread that does not serve does next.
enum Next {
    Serve(Box<Service>),
    Run(Job),
}

fn is_recent(time: Option<Instant>) -> bool {
    time.is_some_and(|time| time.elapsed() < ATTENTION)
}

/// How long the other thread waits before it looks after connections that were left for so long.
fn next_look(left_for: Option<Duration>) -> Duration {
    PATIENCE.saturating_sub(left_for.unwrap_or_default())
}

impl Threads {
    /// Two threads that work on this machine; a message on `waker` wakes the one that serves.
    pub fn new(machine: Machine, waker: OwnedFd) -> Self {
        Threads { machine, waker, shared: Mutex::default(), changed: Condvar::new() }
    }

    /// Serves, or waits for something to run, until the supervisor ends; then the process ends. Without a thread nothing
    /// would answer: a panic ends the worker, and the supervisor starts another.
    pub fn run(&self, serving: Option<Box<Service>>) -> ! {
        let _ = catch_unwind(AssertUnwindSafe(|| self.take_part(serving)));
        std::process::exit(1)
    }

    fn take_part(&self, mut serving: Option<Box<Service>>) {
        loop {
            let job = match serving.take() {
                Some(service) => match service.serve() {
                    Some((service, job)) => {
                        self.leave(service);
                        job
                    }
                    None => std::process::exit(0),
                },
                None => match self.wait() {
                    Next::Run(job) => job,
                    Next::Serve(service) => {
                        serving = Some(service);
                        continue;
                    }
                },
            };
            serving = self.finish(work(&self.machine, job));
        }
    }

    fn lock(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the other thread run a job. It must not be running any.
    pub fn give(&self, job: Job) {
        self.lock().job = Some(job);
        self.changed.notify_one();
    }

    /// The answers of the job that was run last, once.
    pub fn take_answers(&self) -> Option<Vec<Done>> {
        self.lock().answers.take()
    }

    /// Whether a change of the state device is expected to take no longer than others may wait for it.
    pub fn device_is_fast(&self) -> bool {
        !is_recent(self.lock().left_too_long)
    }

    fn leave(&self, service: Box<Service>) {
        let now = Instant::now();
        let mut shared = self.lock();
        shared.left = Some((service, now));
        shared.last_left = Some(now);
        if std::mem::take(&mut shared.sleeps) {
            self.changed.notify_one();
        }
    }

    /// Notes the answers. Returns the service if this thread has left it and the other one has not taken it.
    fn finish(&self, answers: Vec<Done>) -> Option<Box<Service>> {
        let mut shared = self.lock();
        shared.answers = Some(answers);
        let service = shared.left.take().map(|(service, _)| service);
        if service.is_none() {
            // Under the lock: who takes the answers takes the message too.
            let _ = message::send(&self.waker, &[1]);
        }
        service
    }

    fn wait(&self) -> Next {
        let mut shared = self.lock();
        loop {
            if let Some(job) = shared.job.take() {
                return Next::Run(job);
            }
            if let Some((service, _)) = shared.left.take_if(|(_, since)| since.elapsed() >= PATIENCE) {
                shared.left_too_long = Some(Instant::now());
                return Next::Serve(service);
            }
            shared.sleeps = !is_recent(shared.last_left);
            shared = match shared.sleeps {
                true => self.changed.wait(shared).unwrap_or_else(PoisonError::into_inner),
                false => {
                    let left_for = shared.left.as_ref().map(|(_, since)| since.elapsed());
                    let looked = self.changed.wait_timeout(shared, next_look(left_for));
                    looked.unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_left_no_longer_than_the_patience() {
        let ms = Duration::from_millis;
        assert_eq!((next_look(None), next_look(Some(ms(0)))), (PATIENCE, PATIENCE));
        assert_eq!((next_look(Some(ms(9))), next_look(Some(ms(11)))), (ms(1), ms(0)));
    }
}
