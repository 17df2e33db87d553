//! The machine: it answers the requests that concern the model and its state, over any transport.

mod blob_source;
mod changes;
mod energy;
mod errors;
mod handover;
mod hello;
mod history;
mod inference;
mod mutate;
mod past;
mod pixels;
mod recovery;
mod self_test;
mod signed;
mod stats;
mod store;
mod tensors;
pub mod uploads;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use serde_json::{json, Value};

use crate::hw_mmio::{word, Page};
use crate::journal::ring::{Record, Ring};
use crate::journal::{Journal, JournalError};
use crate::lineage::Lineage;
use crate::protocol::{self, code, Method, MutationKey, RecordKind, Reply, Request, RequestError};
use crate::sys::memory::SharedWords;
use crate::sys::monotonic_us;
use crate::tensor::Store;
use crate::vitals::{Vitals, RING_WORD};
pub use energy::CAPACITY_MILLI as ENERGY_CAPACITY_MILLI;
pub use handover::Position;
pub use inference::Runtime;
use recovery::Start;
use signed::Signing;
use uploads::Uploads;

/// Bytes of a line reserved for the members around a list.
const LINE_MARGIN: usize = 1024;

/// The weights locked for a change, or why there are none.
type LockedLineage<'a> = Result<RwLockWriteGuard<'a, Lineage>, RequestError>;

/// A machine. Clones share all parts.
#[derive(Clone)]
pub struct Machine {
    /// The weights and their history; `None` in emergency mode.
    lineage: Option<Arc<RwLock<Lineage>>>,
    uploads: Arc<Mutex<Uploads>>,
    /// An older generation that is being read.
    past: past::PastSlot,
    /// Events that were not sent to subscribers yet.
    events: Arc<Mutex<Vec<Value>>>,
    shared: Arc<SharedWords>,
    /// First 12 hex digits of the executable's SHA-256.
    build: Arc<str>,
    /// Why the machine is in emergency mode; `None` if it is not.
    emergency: Option<Arc<str>>,
    energy_limited: bool,
    /// What signed changes are verified with; `None` on a machine that takes unsigned ones.
    signing: Option<Arc<Signing>>,
    /// Whether it is not known if the model has a key, because no worker could read it.
    key_unknown: bool,
    /// Whether changes survive the machine.
    durable: Arc<AtomicBool>,
    /// Lines for the console that were not sent yet.
    notices: Arc<Mutex<Vec<String>>>,
    /// Runs the network.
    runtime: Arc<Runtime>,
    /// Held while an interrupt is taken, because several threads may raise one.
    taking: Arc<Mutex<()>>,
    /// Whether the running request is to stop.
    cancelled: Arc<AtomicBool>,
}

/// When a request arrived, and where.
#[derive(Debug, Clone, Copy)]
pub struct Arrival {
    /// When.
    pub at: Instant,
    /// Number of its connection; two connections at a time never have the same.
    pub connection: u64,
}

/// The parts of a machine.
pub struct Parts {
    /// The tensors, or why there are none.
    pub model: Result<Store, String>,
    /// Runs its network.
    pub runtime: Runtime,
    /// The journal, or why there is none.
    pub journal: Result<Box<dyn Journal>, JournalError>,
    /// Words shared with the supervisor; they exist longer than this process.
    pub shared: Arc<SharedWords>,
    /// First 12 hex digits of the executable's SHA-256.
    pub build: String,
    /// Whether mutations cost energy.
    pub energy_limited: bool,
    /// The public key that changes must be signed with, if the model has one.
    pub mutation_key: Option<MutationKey>,
}

impl Machine {
    /// A machine at the newest generation of the journal. Recovery may take long; the supervisor sees its progress.
    pub fn new(parts: Parts) -> Self {
        let shared = Arc::clone(&parts.shared);
        let ring = Ring::new(shared.words().get(RING_WORD..).unwrap_or(&[]));
        ring.initialise();
        let start = if ring.written() == 0 { Start::Boot } else { Start::Worker };
        let machine = Self::recover(parts, start, &|| Vitals::new(shared.words()).make_progress());
        machine.take_over();
        let kind = if start == Start::Boot { RecordKind::Boot } else { RecordKind::WorkerRestart };
        ring.push(&Record::plain(kind, machine.generation(), machine.uptime_us()));
        machine
    }

    /// A machine at the newest generation of the journal that is not published yet. `progress` is called regularly.
    fn recover(parts: Parts, start: Start, progress: &dyn Fn()) -> Self {
        let Parts { model, runtime, journal, shared, build, energy_limited, mutation_key } = parts;
        let mut machine = Machine {
            lineage: None,
            uploads: Arc::default(),
            past: Arc::default(),
            events: Arc::default(),
            shared,
            build: build.into(),
            emergency: None,
            energy_limited,
            signing: None,
            key_unknown: false,
            durable: Arc::default(),
            notices: Arc::default(),
            runtime: Arc::new(runtime),
            taking: Arc::default(),
            cancelled: Arc::default(),
        };
        let lineage = model.map(|store| machine.recover_lineage(store, journal, start, progress));
        let device = lineage.as_ref().ok().and_then(Lineage::device_id);
        let signing = Signing::new(mutation_key, device, machine.vitals());
        match (lineage, signing) {
            (Err(why), signing) => {
                machine.emergency = Some(why.into());
                machine.signing = signing.ok().flatten().map(Arc::new);
                machine.key_unknown = machine.signing.is_none() && !machine.vitals().is_keyless();
            }
            (Ok(_), Err(why)) => machine.emergency = Some(why.into()),
            (Ok(lineage), Ok(signing)) => {
                machine.lineage = Some(Arc::new(RwLock::new(lineage)));
                machine.signing = signing.map(Arc::new);
            }
        }
        machine
    }

    fn uptime_us(&self) -> u64 {
        monotonic_us().saturating_sub(self.vitals().start_us())
    }

    /// Locks the weights for reading.
    ///
    /// # Errors
    /// 1016 in emergency mode.
    fn lineage(&self) -> Result<RwLockReadGuard<'_, Lineage>, RequestError> {
        Ok(self.lock()?.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Locks the weights for a change. A journal that has lost its file is not used any more, and an open trial whose lease has
    /// expired is ended first.
    ///
    /// # Errors
    /// 1016 in emergency mode.
    fn lineage_mut(&self) -> LockedLineage<'_> {
        let mut lineage = self.weights_alone()?;
        if lineage.refuse_lost_log() {
            self.publish(&lineage);
        }
        self.expire_lease_of(&mut lineage);
        Ok(lineage)
    }

    /// Locks the weights for a change by another process, which has ended an expired trial itself.
    ///
    /// # Errors
    /// 1016 in emergency mode.
    fn weights_alone(&self) -> LockedLineage<'_> {
        self.release_past(false);
        Ok(self.lock()?.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn lock(&self) -> Result<&RwLock<Lineage>, RequestError> {
        let why = || self.emergency.as_deref().unwrap_or("no model is loaded");
        let refused = || RequestError::new(code::EMERGENCY, format!("the machine is in emergency mode: {}", why()));
        self.lineage.as_deref().ok_or_else(refused)
    }

    /// Stops the running request.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Clears a cancellation, before the next request runs.
    pub fn clear_cancellation(&self) {
        self.cancelled.store(false, Ordering::Relaxed);
    }

    /// Queues an event for subscribers.
    pub fn queue_event(&self, event: Value) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// Removes and returns the events for subscribers.
    pub fn take_events(&self) -> Vec<Value> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The device page.
    pub fn page(&self) -> Page<'_> {
        Page::new(self.shared.words())
    }

    /// The vitals of supervisor and worker.
    pub fn vitals(&self) -> Vitals<'_> {
        Vitals::new(self.shared.words())
    }

    /// The current generation of the weights.
    pub fn generation(&self) -> u64 {
        self.page().get_wide(word::GENERATION)
    }

    /// First 12 hex digits of the executable's SHA-256.
    pub fn build(&self) -> &str {
        &self.build
    }

    /// The greeting line.
    pub fn greeting(&self) -> Vec<u8> {
        protocol::greeting(&self.build, self.generation())
    }

    /// Answers a request about the model or the machine.
    ///
    /// # Errors
    /// The first check that fails, in the order of the protocol. -32601 for methods that need a connection.
    pub fn answer(&self, request: &Request, arrival: Arrival) -> Result<Reply, RequestError> {
        match request.method {
            Method::Hello => self.hello(request),
            Method::Stats => {
                request.params.clone().finish()?;
                request.no_blob()?;
                Ok(self.stats().into())
            }
            Method::Tensors => self.tensors(request),
            Method::Read => self.read(request),
            Method::Digest => self.digest(request),
            Method::Signed => Err(self.refuse_signed(request)),
            Method::Mutate => {
                let mut answers = self.mutate([(request, arrival.connection)].into_iter());
                answers.pop().unwrap_or_else(|| Err(RequestError::new(code::BUSY, "the change was not looked at")))
            }
            Method::Rollback => self.rollback(request),
            Method::Promote => self.promote(request),
            Method::Renew => self.renew(request),
            Method::Checkpoint => self.checkpoint(request),
            Method::History => self.history(request),
            Method::Upload => self.upload(request, arrival.connection),
            Method::Embed => self.embed(request),
            Method::ExecutePixels => self.execute_pixels(request),
            Method::Generate => self.generate(request),
            Method::Interrupt => self.interrupt(request, arrival.at),
            Method::Cancel
            | Method::Subscribe
            | Method::Shutdown
            | Method::Fault
            | Method::Reload
            | Method::UpdateBegin
            | Method::UpdateWrite
            | Method::UpdateCommit => {
                let text = format!("{} is answered by a connection only", request.method.name());
                Err(RequestError::new(code::UNKNOWN_METHOD, text))
            }
        }
    }

    /// Checks that there is a model.
    ///
    /// # Errors
    /// 1016 with the reason of the emergency.
    pub fn require_model(&self) -> Result<(), RequestError> {
        self.lock().map(|_| ())
    }

    fn interrupt(&self, request: &Request, received: Instant) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let vector = params.integer("vector")?.unwrap_or(255);
        params.finish()?;
        let vector = u8::try_from(vector)
            .map_err(|_| RequestError::new(code::INVALID_PARAMS, "parameter \"vector\" must be 0 to 255"))?;
        request.no_blob()?;
        self.require_model()?;
        self.take_interrupt(vector);
        let latency = u64::try_from(received.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(json!({"acknowledged": true, "vector": vector, "latency_us": latency}).into())
    }

    /// Raises a neural interrupt and takes it, unless it is masked: then it stays pending.
    pub fn take_interrupt(&self, vector: u8) {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let page = self.page();
        let (cell, bit) = (usize::from(vector / 32), 1u32 << (vector % 32));
        page.set(word::PENDING_VECTORS + cell, page.get(word::PENDING_VECTORS + cell) | bit);
        if page.get(word::ENABLED_VECTORS + cell) & bit == 0 {
            return; // masked
        }
        page.set(word::LAST_VECTOR, u32::from(vector));
        page.set_wide(word::INTERRUPTS, page.get_wide(word::INTERRUPTS) + 1);
        page.set(word::PENDING_VECTORS + cell, page.get(word::PENDING_VECTORS + cell) & !bit);
    }
}

#[cfg(test)]
mod tests;
