//! The machine of this process, and how concurrent calls are ordered.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::Instant;

use serde_json::{json, Map, Value};

use super::message;
use crate::hw_mmio::word;
use crate::machine::{Arrival, Machine};
use crate::protocol::{self, code, required, Blob, Envelope, Method, Params, Reply, Request, RequestError};
use crate::sys::memory::SharedWords;
use crate::sys::monotonic_us;

/// The loaded machine; `None` before the first load and after `neural_cleanup`.
static CURRENT: RwLock<Option<Arc<Instance>>> = RwLock::new(None);
/// Number of the only connection of a process.
const CONNECTION: u64 = 0;
/// Held while the machine is replaced, so that loads run one at a time.
static LOADING: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The loaded machine. It lives until its last call has returned, even if it is replaced before.
///
/// # Errors
/// If none is loaded.
pub fn current() -> Result<Arc<Instance>, String> {
    let current = CURRENT.read().unwrap_or_else(PoisonError::into_inner);
    current.clone().ok_or_else(|| "no model is loaded: call neural_init or neural_load first".to_string())
}

/// Replaces the current machine, which stays if loading fails.
///
/// # Errors
/// Whatever `load` says.
pub fn replace(load: impl FnOnce() -> Result<Instance, String>) -> Result<(), String> {
    let _loading = lock(&LOADING);
    put(Some(Arc::new(load()?)));
    Ok(())
}

/// Loads a machine unless one is loaded.
///
/// # Errors
/// Whatever `load` says.
pub fn load_if_none(load: impl FnOnce() -> Result<Instance, String>) -> Result<(), String> {
    let _loading = lock(&LOADING);
    if current().is_err() {
        put(Some(Arc::new(load()?)));
    }
    Ok(())
}

/// Unloads the machine; it is freed when its last call has returned.
pub fn clear() {
    let _loading = lock(&LOADING);
    put(None);
}

fn put(instance: Option<Arc<Instance>>) {
    let old = std::mem::replace(&mut *CURRENT.write().unwrap_or_else(PoisonError::into_inner), instance);
    drop(old); // not under the lock, because unmapping a large model takes long
}

/// A machine, and the state of the calls to it.
pub struct Instance {
    /// The machine.
    pub machine: Machine,
    /// Its device page, its vitals and the ring of its journal's records.
    pub shared: Arc<SharedWords>,
    /// Held by the request that may take long.
    turn: Mutex<()>,
    /// Held by a request that is answered while that one runs.
    beside: Mutex<()>,
    cancellable: Mutex<Cancellable>,
    /// The output of the last program of `neural_execute_pixels`.
    result: Mutex<Option<Vec<u8>>>,
    /// The last count of changed bytes.
    changed: Mutex<ChangedBytes>,
    /// Memory for the blob of the next message.
    spare: Mutex<Vec<u8>>,
}

/// The counts of a machine; their meaning is that of the same members of `NeuralStats`.
#[allow(missing_docs)]
pub struct Counts {
    pub pixels_processed: u64,
    pub programs: u64,
    pub interrupts: u64,
    pub generation: u64,
    pub mutations_accepted: u64,
    pub mutations_refused: u64,
    pub tensor_bytes: u64,
    pub changed_bytes: u64,
    pub uptime_us: u64,
}

/// How many bytes of the tensors differ from the file's at this fingerprint.
#[derive(Default)]
struct ChangedBytes {
    fingerprint: u64,
    count: u64,
}

#[derive(Default)]
struct Cancellable {
    waiting: Vec<Value>,
    running: Option<Value>,
}

impl Instance {
    /// A machine that has not been called yet.
    pub fn new(machine: Machine, shared: Arc<SharedWords>) -> Self {
        Instance {
            machine,
            shared,
            turn: Mutex::default(),
            beside: Mutex::default(),
            cancellable: Mutex::default(),
            result: Mutex::default(),
            changed: Mutex::default(),
            spare: Mutex::default(),
        }
    }

    /// Answers the bytes of one protocol message as the port would.
    pub fn handle(&self, bytes: &[u8]) -> Vec<u8> {
        let received = Instant::now();
        let input = message::read(bytes, std::mem::take(&mut *lock(&self.spare)));
        let mut out = if input.greet { self.machine.greeting() } else { Vec::new() };
        let answer = match input.message {
            None => return out,
            Some(Err(error)) => error.to_bytes(&Value::Null),
            Some(Ok(message)) => match Envelope::open(message) {
                Err(refused) => refused.error.to_bytes(&refused.id),
                Ok(Envelope::Bye) => not_in_process("bye").to_bytes(&Value::Null),
                Ok(Envelope::Request(request)) => {
                    let request = self.machine.unsealed(request);
                    let answer = match self.answer(&request, received) {
                        Ok(reply) => reply.to_bytes(&request.id),
                        Err(error) => error.to_bytes(&request.id),
                    };
                    if let Blob::Bytes(blob) = request.blob {
                        *lock(&self.spare) = blob.into_vec();
                    }
                    answer
                }
            },
        };
        out.extend(answer);
        out
    }

    fn answer(&self, request: &Request, received: Instant) -> Result<Reply, RequestError> {
        let answer = match request.method {
            method if !method.has_meaning_in_process() => Err(not_in_process(method.name())),
            Method::Cancel => self.cancel(request),
            method if method.passes() => {
                self.end_trial_if_idle();
                let _beside = lock(&self.beside);
                self.machine.answer(request, Arrival { at: received, connection: CONNECTION })
            }
            _ => self.take_turn(request, received),
        };
        self.machine.take_events(); // there are no subscribers
        answer
    }

    fn take_turn(&self, request: &Request, received: Instant) -> Result<Reply, RequestError> {
        let cancellable = request.method.cancellable();
        if cancellable {
            lock(&self.cancellable).waiting.push(request.id.clone());
        }
        let _turn = lock(&self.turn);
        if cancellable {
            let mut cancellable = lock(&self.cancellable);
            let Some(found) = cancellable.waiting.iter().position(|id| *id == request.id) else {
                return Err(protocol::cancelled());
            };
            cancellable.running = Some(cancellable.waiting.swap_remove(found));
            self.machine.clear_cancellation();
        }
        self.machine.note_connection(CONNECTION);
        self.machine.expire_lease();
        let answer = self.machine.answer(request, Arrival { at: received, connection: CONNECTION });
        lock(&self.cancellable).running = None;
        answer
    }

    fn cancel(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let id = required("request", params.request_id("request")?)?;
        params.finish()?;
        request.no_blob()?;
        let mut cancellable = lock(&self.cancellable);
        let waits = cancellable.waiting.iter().position(|waiting| *waiting == id);
        let runs = cancellable.running.as_ref() == Some(&id);
        match waits {
            _ if runs => self.machine.cancel(),
            Some(found) => drop(cancellable.waiting.swap_remove(found)),
            None => (),
        }
        Ok(json!({"cancelled": runs || waits.is_some()}).into())
    }

    /// Ends a trial whose time is over, unless a request is running; then the next request does it.
    pub fn end_trial_if_idle(&self) {
        if self.machine.lease_left_us() != Some(0) {
            return;
        }
        match self.turn.try_lock() {
            Ok(_turn) => self.machine.expire_lease(),
            Err(TryLockError::Poisoned(poisoned)) => {
                let _turn = poisoned.into_inner();
                self.machine.expire_lease();
            }
            Err(TryLockError::WouldBlock) => (),
        }
    }

    /// Runs pixels and keeps their output.
    ///
    /// # Errors
    /// The machine's error; the output of an earlier program stays.
    pub fn execute_pixels(&self, pixels: Vec<u8>) -> Result<(), String> {
        let reply = self.call(Method::ExecutePixels, Map::new(), Blob::Bytes(pixels.into()))?;
        *lock(&self.result) = Some(reply.blob);
        Ok(())
    }

    /// The output of the last program of [`Instance::execute_pixels`].
    ///
    /// # Errors
    /// If no program has run.
    pub fn result(&self) -> Result<Vec<u8>, String> {
        lock(&self.result).clone().ok_or_else(|| "no pixel program has run yet".to_string())
    }

    /// Raises a neural interrupt.
    ///
    /// # Errors
    /// The machine's error.
    pub fn interrupt(&self, vector: u8) -> Result<(), String> {
        let params = [("vector".to_string(), Value::from(vector))].into_iter().collect();
        self.call(Method::Interrupt, params, Blob::None).map(|_| ())
    }

    fn call(&self, method: Method, params: Map<String, Value>, blob: Blob) -> Result<Reply, String> {
        let request = Request::new(Value::Null, method, Params::new(params), blob);
        let failed = |error: RequestError| format!("{} (code {})", error.message, error.code);
        self.answer(&request, Instant::now()).map_err(failed)
    }

    /// The counts of `neural_get_stats`.
    ///
    /// # Errors
    /// If there is no model, or its file cannot be mapped again for the comparison.
    pub fn counts(&self) -> Result<Counts, String> {
        self.end_trial_if_idle();
        self.machine.expire_uploads();
        let (page, vitals) = (self.machine.page(), self.machine.vitals());
        let (tensor_bytes, changed_bytes) = self
            .machine
            .with_store(|store| {
                let fingerprint = store.memory().fingerprint();
                let mut known = lock(&self.changed);
                if known.fingerprint != fingerprint {
                    let count = store.differing_bytes().map_err(|error| error.to_string())?;
                    *known = ChangedBytes { fingerprint, count };
                }
                Ok::<_, String>((store.tensors().iter().map(|tensor| tensor.bytes).sum(), known.count))
            })
            .map_err(|error| error.message)??;
        Ok(Counts {
            pixels_processed: page.get_wide(word::PIXELS_PROCESSED),
            programs: vitals.programs(),
            interrupts: page.get_wide(word::INTERRUPTS),
            generation: page.get_wide(word::GENERATION),
            mutations_accepted: page.get(word::MUTATIONS_ACCEPTED).into(),
            mutations_refused: page.get(word::MUTATIONS_REFUSED).into(),
            tensor_bytes,
            changed_bytes,
            uptime_us: monotonic_us().saturating_sub(vitals.start_us()),
        })
    }
}

fn not_in_process(method: &str) -> RequestError {
    RequestError::new(
        code::UNKNOWN_METHOD,
        format!("{method} is not available in process: the program that has loaded the model decides"),
    )
}
