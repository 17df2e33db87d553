//! A fixed set of threads that share the items of one job at a time.
//!
//! The threads are started once, before a sandbox forbids it. Between the steps of a pass they spin for at most some tens
//! of microseconds, then they sleep.

use std::panic::{catch_unwind, resume_unwind, AssertUnwindSafe};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::lanes::{BlockSize, TileBlock, Tiles};

/// How many times a thread checks a flag before it sleeps.
const SPINS: u32 = 2000;

/// Runs jobs on the calling thread and its helpers.
pub struct ThreadPool {
    shared: Arc<Shared>,
    helpers: Vec<JoinHandle<()>>,
    /// Locked while a job runs, by the thread that called `run`.
    turn: Mutex<()>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    finished: Condvar,
    /// Copies of `State::jobs` and `State::active` that can be read without the lock.
    jobs: AtomicUsize,
    active: AtomicUsize,
}

#[derive(Default)]
struct State {
    /// The job that helpers may join.
    job: Option<&'static (dyn Fn(usize) + Sync)>,
    /// Number of jobs opened so far.
    jobs: usize,
    /// Number of helpers that work on the job.
    active: usize,
    asleep: usize,
    panicked: bool,
    stop: bool,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ThreadPool {
    /// A pool of the calling thread and `helpers` more.
    ///
    /// # Errors
    /// The system refuses a thread.
    pub fn new(helpers: usize) -> std::io::Result<Self> {
        let mut pool = ThreadPool { shared: Arc::default(), helpers: Vec::new(), turn: Mutex::new(()) };
        let (started, ready) = channel();
        for index in 1..=helpers {
            let shared = Arc::clone(&pool.shared);
            let started = started.clone();
            let builder = std::thread::Builder::new().name("neural".into()).stack_size(256 << 10);
            pool.helpers.push(builder.spawn(move || {
                let _ = started.send(vec![0u8]); // allocates once, so that the allocator has set up this thread
                drop(started);
                help(&shared, index);
            })?);
        }
        drop(started);
        // A thread sets itself up with system calls that a sandbox may forbid later.
        ready.iter().take(helpers).for_each(drop);
        Ok(pool)
    }

    /// Threads that work on a job, the caller among them.
    pub fn threads(&self) -> usize {
        self.helpers.len() + 1
    }

    /// Calls `body(thread, item)` once for each item below `items`, in no particular order. Once `cancel` is set, no further
    /// items are started. Calls that run at the same time have different `thread`, all below [`ThreadPool::threads`].
    pub fn run(&self, items: usize, cancel: &AtomicBool, body: &(dyn Fn(usize, usize) + Sync)) {
        let next = AtomicUsize::new(0);
        let work = |thread: usize| {
            while !cancel.load(Ordering::Relaxed) {
                let item = next.fetch_add(1, Ordering::Relaxed);
                if item >= items {
                    break;
                }
                body(thread, item);
            }
        };
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if items <= 1 || self.helpers.is_empty() {
            work(0);
            return;
        }
        self.open(&work);
        let own = catch_unwind(AssertUnwindSafe(|| work(0)));
        let helper_panicked = self.close();
        if let Err(panic) = own {
            resume_unwind(panic);
        }
        assert!(!helper_panicked, "a helper thread panicked");
    }

    /// Cuts `matrix` into blocks of `size` and calls `body(thread, block)` once for each, as [`ThreadPool::run`] does.
    pub(super) fn for_each_block(
        &self,
        matrix: &mut Tiles,
        size: BlockSize,
        cancel: &AtomicBool,
        body: &(dyn Fn(usize, TileBlock<'_>) + Sync),
    ) {
        let blocks = matrix.blocks(size);
        self.run(blocks.count(), cancel, &|thread, item| {
            // SAFETY: `run` passes each item to one call only.
            #[allow(unsafe_code)]
            let block = unsafe { blocks.get(item) };
            body(thread, block);
        });
    }

    fn open(&self, work: &(dyn Fn(usize) + Sync)) {
        // SAFETY: only the lifetime changes. `run` calls `close` before `work` ends, and then no helper holds the
        // reference any more.
        #[allow(unsafe_code)]
        let job = unsafe { std::mem::transmute::<&(dyn Fn(usize) + Sync), &'static (dyn Fn(usize) + Sync)>(work) };
        let mut state = self.shared.lock();
        state.job = Some(job);
        state.jobs = state.jobs.wrapping_add(1);
        self.shared.jobs.store(state.jobs, Ordering::Release);
        if state.asleep > 0 {
            self.shared.wake.notify_all();
        }
    }

    /// Lets no more helpers join and waits for those that work. Returns whether one of them panicked.
    fn close(&self) -> bool {
        self.shared.lock().job = None;
        spin_until(|| self.shared.active.load(Ordering::Acquire) == 0);
        let mut state = self.shared.lock();
        while state.active > 0 {
            state = self.shared.finished.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        std::mem::take(&mut state.panicked)
    }
}

impl Drop for ThreadPool {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_all();
        for helper in self.helpers.drain(..) {
            // A helper catches its panics, so `join` has nothing to report.
            let _ = helper.join();
        }
    }
}

fn spin_until(condition: impl Fn() -> bool) {
    for _ in 0..SPINS {
        if condition() {
            return;
        }
        std::hint::spin_loop();
    }
}

/// The main loop of a helper thread.
fn help(shared: &Shared, index: usize) {
    let mut seen = 0;
    loop {
        spin_until(|| shared.jobs.load(Ordering::Acquire) != seen);
        let mut state = shared.lock();
        while state.jobs == seen && !state.stop {
            state.asleep += 1;
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.asleep -= 1;
        }
        if state.stop {
            return;
        }
        seen = state.jobs;
        let Some(job) = state.job else { continue };
        state.active += 1;
        shared.active.store(state.active, Ordering::Release);
        drop(state);
        let outcome = catch_unwind(AssertUnwindSafe(|| job(index)));
        let mut state = shared.lock();
        state.panicked |= outcome.is_err();
        state.active -= 1;
        shared.active.store(state.active, Ordering::Release);
        if state.active == 0 {
            shared.finished.notify_all();
        }
    }
}
