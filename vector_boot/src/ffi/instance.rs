//! The machine of this process, and the order in which calls get to it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, TryLockError};
use std::time::Instant;

use serde_json::{json, Map, Value};

use super::message;
use crate::hw_mmio::word;
use crate::machine::Machine;
use crate::protocol::{self, required, Blob, Envelope, Failure, Params, Reply, Request};
use crate::sys::memory::SharedWords;
use crate::sys::monotonic_us;

/// What is answered while another request runs.
const ANSWERED_BESIDE: [&str; 3] = ["hello", "stats", "interrupt"];
/// What can be cancelled.
const CANCELLABLE: [&str; 2] = ["embed", "execute_pixels"];
/// What makes no sense without a connection, or where the machine is not a process of its own.
const MEANINGLESS: [&str; 4] = ["subscribe", "shutdown", "fault", "bye"];

/// The loaded machine; nothing before the first load and after `neural_cleanup`.
static CURRENT: RwLock<Option<Arc<Instance>>> = RwLock::new(None);
/// Held while the machine is replaced: one load at a time.
static LOADING: Mutex<()> = Mutex::new(());

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The loaded machine. It lives as long as calls are inside it, even when it is replaced meanwhile.
///
/// # Errors
/// If none is loaded.
pub fn current() -> Result<Arc<Instance>, String> {
    let current = CURRENT.read().unwrap_or_else(PoisonError::into_inner);
    current.clone().ok_or_else(|| "no model is loaded: call neural_init or neural_load first".to_string())
}

/// Loads a machine in the place of the current one, which stays if that fails.
///
/// # Errors
/// Whatever `load` says.
pub fn replace(load: impl FnOnce() -> Result<Instance, String>) -> Result<(), String> {
    let _one_at_a_time = lock(&LOADING);
    put(Some(Arc::new(load()?)));
    Ok(())
}

/// Loads a machine unless there is one.
///
/// # Errors
/// Whatever `load` says.
pub fn load_if_none(load: impl FnOnce() -> Result<Instance, String>) -> Result<(), String> {
    let _one_at_a_time = lock(&LOADING);
    if current().is_err() {
        put(Some(Arc::new(load()?)));
    }
    Ok(())
}

/// Gives up the machine; it is freed when the last call inside it has ended.
pub fn clear() {
    let _one_at_a_time = lock(&LOADING);
    put(None);
}

fn put(instance: Option<Arc<Instance>>) {
    let old = std::mem::replace(&mut *CURRENT.write().unwrap_or_else(PoisonError::into_inner), instance);
    drop(old); // not under the lock: unmapping a large model takes its time
}

/// A machine and what calls leave behind in it.
pub struct Instance {
    /// The machine.
    pub machine: Machine,
    /// The words it is seen in from outside.
    pub shared: Arc<SharedWords>,
    /// Held by the request that may run long.
    turn: Mutex<()>,
    /// Held by the one that is answered beside it.
    beside: Mutex<()>,
    cancellable: Mutex<Cancellable>,
    /// What the last program of `neural_execute_pixels` made.
    result: Mutex<Option<Vec<u8>>>,
    /// Fingerprint of the tensors, and how many of their bytes differ from the file's then.
    changed: Mutex<(u64, u64)>,
}

#[derive(Default)]
struct Cancellable {
    waiting: Vec<Value>,
    running: Option<Value>,
}

impl Instance {
    /// A machine nobody has called yet.
    pub fn new(machine: Machine, shared: Arc<SharedWords>) -> Self {
        Instance {
            machine,
            shared,
            turn: Mutex::default(),
            beside: Mutex::default(),
            cancellable: Mutex::default(),
            result: Mutex::default(),
            changed: Mutex::default(),
        }
    }

    /// Answers the bytes of one protocol message as the port would.
    pub fn hear(&self, bytes: &[u8]) -> Vec<u8> {
        let received = Instant::now();
        let heard = message::read(bytes);
        let mut out = if heard.greet { self.machine.greeting() } else { Vec::new() };
        let answer = match heard.message {
            None => return out,
            Some(Err(failure)) => failure.to_bytes(&Value::Null),
            Some(Ok(message)) => match Envelope::open(message) {
                Err((id, failure)) => failure.to_bytes(&id),
                Ok(Envelope::Bye) => meaningless("bye").to_bytes(&Value::Null),
                Ok(Envelope::Request(request)) => match self.answer(&request, received) {
                    Ok(reply) => reply.to_bytes(&request.id),
                    Err(failure) => failure.to_bytes(&request.id),
                },
            },
        };
        out.extend(answer);
        out
    }

    fn answer(&self, request: &Request, received: Instant) -> Result<Reply, Failure> {
        let answer = match request.method.as_str() {
            method if MEANINGLESS.contains(&method) => Err(meaningless(method)),
            "cancel" => self.cancel(request),
            method if ANSWERED_BESIDE.contains(&method) => {
                self.end_trial_if_idle();
                let _beside = lock(&self.beside);
                self.machine.answer(request, received)
            }
            _ => self.take_turn(request, received),
        };
        self.machine.take_events(); // nobody can subscribe
        answer
    }

    fn take_turn(&self, request: &Request, received: Instant) -> Result<Reply, Failure> {
        let cancellable = CANCELLABLE.contains(&request.method.as_str());
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
            self.machine.forget_cancellation();
        }
        self.machine.follow_connection(Some(true));
        self.machine.expire_lease();
        let answer = self.machine.answer(request, received);
        lock(&self.cancellable).running = None;
        answer
    }

    fn cancel(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let id = required("request", params.value("request"))?;
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

    /// Ends a trial whose time is over. While something else runs, that is done before the next request.
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

    /// Runs pixels and keeps what they make.
    ///
    /// # Errors
    /// The machine's refusal; what an earlier program made stays.
    pub fn execute_pixels(&self, pixels: Vec<u8>) -> Result<(), String> {
        let reply = self.call("execute_pixels", Map::new(), Blob::Bytes(pixels))?;
        *lock(&self.result) = Some(reply.blob);
        Ok(())
    }

    /// What the last program of [`Instance::execute_pixels`] made.
    ///
    /// # Errors
    /// If none has run.
    pub fn result(&self) -> Result<Vec<u8>, String> {
        lock(&self.result).clone().ok_or_else(|| "no pixel program has run yet".to_string())
    }

    /// Raises a neural interrupt.
    ///
    /// # Errors
    /// The machine's refusal.
    pub fn interrupt(&self, vector: u8) -> Result<(), String> {
        let params = [("vector".to_string(), Value::from(vector))].into_iter().collect();
        self.call("interrupt", params, Blob::None).map(|_| ())
    }

    fn call(&self, method: &str, params: Map<String, Value>, blob: Blob) -> Result<Reply, String> {
        let request = Request { id: Value::Null, method: method.to_string(), params: Params::new(params), blob };
        let failed = |failure: Failure| format!("{} (code {})", failure.message, failure.code);
        self.answer(&request, Instant::now()).map_err(failed)
    }

    /// The numbers of `neural_get_stats`, in its order.
    ///
    /// # Errors
    /// If there is no model, or its file cannot be mapped again to compare with.
    pub fn numbers(&self) -> Result<[u64; 9], String> {
        self.end_trial_if_idle();
        let (page, vitals) = (self.machine.page(), self.machine.vitals());
        let (tensor_bytes, changed_bytes) = self
            .machine
            .with_store(|store| {
                let fingerprint = store.memory().fingerprint();
                let mut known = lock(&self.changed);
                if known.0 != fingerprint {
                    *known = (fingerprint, store.differing_bytes().map_err(|error| error.to_string())?);
                }
                Ok::<_, String>((store.tensors().iter().map(|tensor| tensor.bytes).sum(), known.1))
            })
            .map_err(|failure| failure.message)??;
        Ok([
            page.get_wide(word::PIXELS_PROCESSED),
            vitals.programs(),
            page.get_wide(word::INTERRUPTS),
            page.get_wide(word::GENERATION),
            page.get(word::MUTATIONS_ACCEPTED).into(),
            page.get(word::MUTATIONS_REFUSED).into(),
            tensor_bytes,
            changed_bytes,
            monotonic_us().saturating_sub(vitals.start_us()),
        ])
    }
}

fn meaningless(method: &str) -> Failure {
    Failure::new(-32601, format!("{method} has no meaning in process: the program that holds the machine decides"))
}
