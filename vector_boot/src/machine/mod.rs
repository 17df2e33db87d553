//! What the machine answers, whatever carries the messages: the methods that concern the model and its state.

mod changes;
mod energy;
mod history;
mod inference;
mod mutate;
mod pixels;
mod stats;
mod store;
mod uploads;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use serde_json::{json, Map, Value};

use crate::hw_mmio::{word, Page};
use crate::journal::ring::{Kind, Record};
use crate::journal::storage::Storage;
use crate::lineage::{Budget, Lineage};
use crate::protocol::{self, required, Failure, Reply, Request};
use crate::rts::hex;
use crate::sys::memory::SharedWords;
use crate::sys::{self, monotonic_us};
use crate::tensor::{Store, Tensor};
use crate::vitals::Vitals;
pub use energy::CAPACITY_MILLI as ENERGY_CAPACITY_MILLI;
pub use inference::Runtime;
use uploads::Uploads;

/// Names a digest or a list may hold at most.
const NAMES_LIMIT: usize = 256;
/// Bytes kept free in a line for what surrounds a list.
const LINE_MARGIN: usize = 1024;

/// A machine, seen from the protocol. Cheap to clone: the parts are shared.
#[derive(Clone)]
pub struct Machine {
    /// The weights and their past; `None` in emergency mode.
    lineage: Option<Arc<RwLock<Lineage>>>,
    uploads: Arc<Mutex<Uploads>>,
    /// What subscribers have not been told yet.
    events: Arc<Mutex<Vec<Value>>>,
    shared: Arc<SharedWords>,
    /// First 12 hex digits of the executable's SHA-256.
    build: Arc<str>,
    /// Why the machine is in emergency mode, if it is.
    emergency: Option<Arc<str>>,
    energy_limited: bool,
    /// What runs the network.
    runtime: Arc<Runtime>,
    /// Held while an interrupt is taken: two threads may raise one.
    taking: Arc<Mutex<()>>,
    /// Whether the request that runs now is to stop.
    cancelled: Arc<AtomicBool>,
}

/// What a machine is made of.
pub struct Parts {
    /// The tensors, or why there are none.
    pub model: Result<Store, String>,
    /// What runs its network.
    pub runtime: Runtime,
    /// Where the journal is kept.
    pub journal: std::io::Result<Box<dyn Storage>>,
    /// Words shared with the supervisor, which outlive this process.
    pub shared: Arc<SharedWords>,
    /// First 12 hex digits of the executable's SHA-256.
    pub build: String,
    /// Whether mutations cost energy.
    pub energy_limited: bool,
}

impl Machine {
    /// A machine that goes on where the journal ends. That may take long: the supervisor is shown progress.
    pub fn new(parts: Parts) -> Self {
        let Parts { model, runtime, journal, shared, build, energy_limited } = parts;
        let mut machine = Machine {
            lineage: None,
            uploads: Arc::default(),
            events: Arc::default(),
            shared: Arc::clone(&shared),
            build: build.into(),
            emergency: None,
            energy_limited,
            runtime: Arc::new(runtime),
            taking: Arc::default(),
            cancelled: Arc::default(),
        };
        let budget = Budget::of_memory(sys::total_memory());
        let vitals = Vitals::new(shared.words());
        match model {
            Err(why) => machine.emergency = Some(why.into()),
            Ok(store) => {
                let lineage = Lineage::recover(store, journal, budget, &|| vitals.make_progress());
                machine.show(&lineage);
                machine.lineage = Some(Arc::new(RwLock::new(lineage)));
            }
        }
        let ring = machine.ring();
        ring.initialise();
        let kind = if ring.written() == 0 { Kind::Boot } else { Kind::WorkerRestart };
        ring.push(&Record::plain(kind, machine.generation(), machine.uptime_us()));
        machine
    }

    /// Puts generations into the shared words.
    fn show(&self, lineage: &Lineage) {
        self.page().set_wide(word::GENERATION, lineage.generation());
        self.vitals().set_promoted(lineage.promoted());
        self.vitals().set_lease_until(lineage.lease_until_us().unwrap_or(0));
    }

    fn uptime_us(&self) -> u64 {
        monotonic_us().saturating_sub(self.vitals().start_us())
    }

    /// The weights and their past, unless an emergency keeps them away.
    fn lineage(&self) -> Result<RwLockReadGuard<'_, Lineage>, Failure> {
        Ok(self.lock()?.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same, to change them: a trial whose time is over is ended first.
    fn lineage_mut(&self) -> Result<RwLockWriteGuard<'_, Lineage>, Failure> {
        let mut lineage = self.lock()?.write().unwrap_or_else(PoisonError::into_inner);
        self.expire_lease_of(&mut lineage);
        Ok(lineage)
    }

    fn lock(&self) -> Result<&RwLock<Lineage>, Failure> {
        let why = || self.emergency.as_deref().unwrap_or("no model is loaded");
        let refused = || Failure::new(1016, format!("the machine is in emergency mode: {}", why()));
        self.lineage.as_deref().ok_or_else(refused)
    }

    fn uploads(&self) -> MutexGuard<'_, Uploads> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The host came or went; to be called often otherwise, too, with `None`.
    pub fn follow_connection(&self, connected: Option<bool>) {
        let (mut uploads, now) = (self.uploads(), monotonic_us());
        if let Some(connected) = connected {
            uploads.note_connection(connected, now);
        }
        uploads.expire(now);
    }

    /// Has the request that runs now stop.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// The next request is not the one that was cancelled.
    pub fn forget_cancellation(&self) {
        self.cancelled.store(false, Ordering::Relaxed);
    }

    fn tell(&self, event: Value) {
        self.events.lock().unwrap_or_else(PoisonError::into_inner).push(event);
    }

    /// What subscribers should be told now.
    pub fn take_events(&self) -> Vec<Value> {
        std::mem::take(&mut *self.events.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The device page.
    pub fn page(&self) -> Page<'_> {
        Page::new(self.shared.words())
    }

    /// What supervisor and worker note about themselves.
    pub fn vitals(&self) -> Vitals<'_> {
        Vitals::new(self.shared.words())
    }

    /// Generation of the weights.
    pub fn generation(&self) -> u64 {
        self.page().get_wide(word::GENERATION)
    }

    /// The line that opens a connection.
    pub fn greeting(&self) -> Vec<u8> {
        protocol::greeting(&self.build, self.generation())
    }

    /// Answers a request about the model or the machine.
    ///
    /// # Errors
    /// The refusal, codes in the order of the protocol.
    pub fn answer(&self, request: &Request, received: Instant) -> Result<Reply, Failure> {
        match request.method.as_str() {
            "hello" => self.hello(request),
            "stats" => {
                request.params.clone().finish()?;
                request.no_blob()?;
                Ok(self.stats().into())
            }
            "tensors" => self.tensors(request),
            "read" => self.read(request),
            "digest" => self.digest(request),
            "mutate" => self.mutate(request),
            "rollback" => self.rollback(request),
            "promote" => self.promote(request),
            "renew" => self.renew(request),
            "checkpoint" => self.checkpoint(request),
            "history" => self.history(request),
            "upload" => self.upload(request),
            "embed" => self.embed(request),
            "execute_pixels" => self.execute_pixels(request),
            "generate" => self.generate(request),
            "interrupt" => self.interrupt(request, received),
            method => Err(Failure::new(-32601, format!("there is no method {method:?}"))),
        }
    }

    /// Refuses what needs the model while there is none.
    ///
    /// # Errors
    /// 1016 with the reason of the emergency.
    pub fn require_model(&self) -> Result<(), Failure> {
        self.lock().map(|_| ())
    }

    fn hello(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let version = required("protocol", params.integer("protocol")?)?;
        required("client", params.text("client")?)?;
        params.finish()?;
        if version != u64::from(protocol::VERSION) {
            return Err(Failure::new(
                -32602,
                format!("protocol {version} is not spoken here: use {}", protocol::VERSION),
            ));
        }
        request.no_blob()?;
        let generation = self.generation();
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "protocol": protocol::VERSION,
            "build": &*self.build,
            "generation": generation,
            "promoted": self.vitals().promoted(),
            "signed": false,
            "emergency": self.emergency.as_deref(),
            "durable": false,
            "limits": {
                "line": protocol::LINE_LIMIT,
                "blob": protocol::BLOB_LIMIT,
                "upload": protocol::UPLOAD_LIMIT,
                "edits": protocol::EDIT_LIMIT,
            },
        })
        .into())
    }

    fn tensors(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let prefix = params.text("prefix")?.unwrap_or_default();
        let cursor = params.text("cursor")?.unwrap_or_default();
        params.finish()?;
        let refused = || Failure::new(-32602, "parameter \"cursor\" must be the \"next\" of an answer");
        let first = if cursor.is_empty() { 0 } else { cursor.parse::<usize>().map_err(|_| refused())? };
        request.no_blob()?;
        let mut page = Vec::new();
        let mut bytes = LINE_MARGIN;
        let lineage = self.lineage()?;
        let all = lineage.store().tensors();
        for (index, tensor) in all.iter().enumerate().skip(first).filter(|(_, t)| t.name.starts_with(&prefix)) {
            let row = describe(tensor);
            bytes += row.to_string().len() + 1;
            if bytes > protocol::LINE_LIMIT {
                return Ok(json!({"tensors": page, "next": index.to_string()}).into());
            }
            page.push(row);
        }
        Ok(json!({"tensors": page, "next": null}).into())
    }

    fn read(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let name = required("tensor", params.text("tensor")?)?;
        let offset = params.integer("offset")?.unwrap_or(0);
        let bytes = required("bytes", params.integer("bytes")?)?;
        params.finish()?;
        if bytes == 0 {
            return Err(Failure::new(-32602, "parameter \"bytes\" must be at least 1"));
        }
        request.no_blob()?;
        if bytes > protocol::BLOB_LIMIT as u64 {
            return Err(Failure::new(1012, format!("{bytes} bytes do not fit a blob: read at most 1048576 at once")));
        }
        let lineage = self.lineage()?;
        let store = lineage.store();
        let tensor = &store.tensors()[find(store, &name)?];
        if offset + bytes > tensor.bytes {
            let text = format!("bytes {offset} to {} lie outside {name:?}, which has {}", offset + bytes, tensor.bytes);
            return Err(Failure::new(1003, text));
        }
        // Both are below 2^54 and inside the tensor, which is in memory.
        let blob = store.read(tensor, offset as usize..(offset + bytes) as usize, self.page());
        let result = json!({"tensor": name, "offset": offset, "bytes": bytes, "generation": lineage.generation()});
        Ok(Reply { result, blob })
    }

    fn digest(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let names = params.texts("tensors", NAMES_LIMIT)?;
        params.finish()?;
        request.no_blob()?;
        let lineage = self.lineage()?;
        let store = lineage.store();
        let tensors: Vec<usize> = match &names {
            Some(names) => names.iter().map(|name| find(store, name)).collect::<Result<_, _>>()?,
            None => store.positions_in_name_order().take(NAMES_LIMIT).collect(),
        };
        let digests = digests(store, &tensors, self.page());
        let model = hex(&store.model_sha256(self.page()));
        Ok(json!({"generation": lineage.generation(), "model": model, "sha256": digests}).into())
    }

    fn interrupt(&self, request: &Request, received: Instant) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let vector = params.integer("vector")?.unwrap_or(255);
        params.finish()?;
        let vector = u8::try_from(vector).map_err(|_| Failure::new(-32602, "parameter \"vector\" must be 0 to 255"))?;
        request.no_blob()?;
        self.require_model()?;
        self.take_interrupt(vector);
        let latency = u64::try_from(received.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(json!({"acknowledged": true, "vector": vector, "latency_us": latency}).into())
    }

    /// Raises a neural interrupt and takes it: pending, then counted, then no longer pending.
    pub fn take_interrupt(&self, vector: u8) {
        let _taking = self.taking.lock().unwrap_or_else(PoisonError::into_inner);
        let page = self.page();
        let (cell, bit) = (usize::from(vector / 32), 1u32 << (vector % 32));
        page.set(word::PENDING_VECTORS + cell, page.get(word::PENDING_VECTORS + cell) | bit);
        if page.get(word::ENABLED_VECTORS + cell) & bit == 0 {
            return; // masked: it stays pending
        }
        page.set(word::LAST_VECTOR, u32::from(vector));
        page.set_wide(word::INTERRUPTS, page.get_wide(word::INTERRUPTS) + 1);
        page.set(word::PENDING_VECTORS + cell, page.get(word::PENDING_VECTORS + cell) & !bit);
    }
}

fn find(store: &Store, name: &str) -> Result<usize, Failure> {
    store.position(name).ok_or_else(|| Failure::new(1001, format!("there is no tensor {name:?}")))
}

/// SHA-256 by name of the tensors at these indices.
fn digests(store: &Store, tensors: &[usize], page: Page<'_>) -> Map<String, Value> {
    let digest = |index: &usize| (store.tensors()[*index].name.to_string(), hex(&store.sha256(*index, page)).into());
    tensors.iter().map(digest).collect()
}

fn describe(tensor: &Tensor) -> Value {
    json!({
        "name": &*tensor.name,
        "type": tensor.tensor_type.name(),
        "shape": &*tensor.shape,
        "bytes": tensor.bytes,
        "protected": tensor.protected,
    })
}
