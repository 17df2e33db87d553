//! What the machine answers, whatever carries the messages: the methods that concern the model and its state.

mod stats;

use std::sync::Arc;
use std::time::Instant;

use serde_json::{json, Map, Value};

use crate::hw_mmio::{word, Page};
use crate::protocol::{self, required, Failure, Reply, Request};
use crate::rts::hex;
use crate::sys::memory::SharedWords;
use crate::tensor::{Store, Tensor};
use crate::vitals::Vitals;

/// Names a digest or a list may hold at most.
const NAMES_LIMIT: usize = 256;
/// Bytes kept free in a line for what surrounds a list.
const LINE_MARGIN: usize = 1024;

/// A machine, seen from the protocol. Cheap to clone: the parts are shared.
#[derive(Clone)]
pub struct Machine {
    /// The tensors; `None` in emergency mode.
    store: Option<Arc<Store>>,
    shared: Arc<SharedWords>,
    /// First 12 hex digits of the executable's SHA-256.
    build: Arc<str>,
    /// Why the machine is in emergency mode, if it is.
    emergency: Option<Arc<str>>,
}

impl Machine {
    /// A machine that serves `model`, or why it cannot.
    pub fn new(model: Result<Store, String>, shared: Arc<SharedWords>, build: &str) -> Self {
        let (store, emergency) = match model {
            Ok(store) => (Some(Arc::new(store)), None),
            Err(why) => (None, Some(why.into())),
        };
        Machine { store, shared, build: build.into(), emergency }
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
            "interrupt" => self.interrupt(request, received),
            method => Err(Failure::new(-32601, format!("there is no method {method:?}"))),
        }
    }

    /// Refuses what needs the model while there is none.
    ///
    /// # Errors
    /// 1016 with the reason of the emergency.
    pub fn require_model(&self) -> Result<(), Failure> {
        self.store().map(|_| ())
    }

    /// The tensors, unless an emergency keeps them away.
    fn store(&self) -> Result<&Store, Failure> {
        let why = || self.emergency.as_deref().unwrap_or("no model is loaded");
        self.store.as_deref().ok_or_else(|| Failure::new(1016, format!("the machine is in emergency mode: {}", why())))
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
            "promoted": generation,
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
        let all = self.store()?.tensors();
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
        let store = self.store()?;
        let tensor = find(store, &name)?;
        if offset + bytes > tensor.bytes {
            let text = format!("bytes {offset} to {} lie outside {name:?}, which has {}", offset + bytes, tensor.bytes);
            return Err(Failure::new(1003, text));
        }
        // Both are below 2^54 and inside the tensor, which is in memory.
        let blob = store.read(tensor, offset as usize..(offset + bytes) as usize, self.page());
        let result = json!({"tensor": name, "offset": offset, "bytes": bytes, "generation": self.generation()});
        Ok(Reply { result, blob })
    }

    fn digest(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let names = params.texts("tensors", NAMES_LIMIT)?;
        params.finish()?;
        request.no_blob()?;
        let store = self.store()?;
        let tensors: Vec<&Tensor> = match &names {
            Some(names) => names.iter().map(|name| find(store, name)).collect::<Result<_, _>>()?,
            None => store.in_name_order().take(NAMES_LIMIT).collect(),
        };
        let page = self.page();
        let digests: Map<String, Value> =
            tensors.iter().map(|tensor| (tensor.name.to_string(), hex(&store.sha256(tensor, page)).into())).collect();
        let model = hex(&store.model_sha256(page));
        Ok(json!({"generation": self.generation(), "model": model, "sha256": digests}).into())
    }

    fn interrupt(&self, request: &Request, received: Instant) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let vector = params.integer("vector")?.unwrap_or(255);
        params.finish()?;
        let vector = u8::try_from(vector).map_err(|_| Failure::new(-32602, "parameter \"vector\" must be 0 to 255"))?;
        request.no_blob()?;
        self.store()?;
        self.take_interrupt(vector);
        let latency = u64::try_from(received.elapsed().as_micros()).unwrap_or(u64::MAX);
        Ok(json!({"acknowledged": true, "vector": vector, "latency_us": latency}).into())
    }

    /// Raises a neural interrupt and takes it: pending, then counted, then no longer pending.
    pub fn take_interrupt(&self, vector: u8) {
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

fn find<'a>(store: &'a Store, name: &str) -> Result<&'a Tensor, Failure> {
    store.find(name).ok_or_else(|| Failure::new(1001, format!("there is no tensor {name:?}")))
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
