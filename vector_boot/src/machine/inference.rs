//! The requests that run the network: `embed`, and `generate`, which no supported architecture can do.

use std::sync::{Mutex, PoisonError};

use serde_json::json;

use super::Machine;
use crate::neural::network::Network;
use crate::neural::tokenizer::Encoding;
use crate::neural::{ForwardError, ThreadPool, Variant, Workspace};
use crate::protocol::{code, required, Reply, Request, RequestError, BLOB_LIMIT, LINE_LIMIT, TEXTS_LIMIT};
use crate::tensor::Store;

/// Tokens of one forward pass, unless a single text has more. About 15 KB each, they bound the memory of a pass.
const PASS_TOKENS: usize = 1024;

/// What forward passes need: the network, threads and memory.
pub struct Runtime {
    network: Result<Network, String>,
    pool: ThreadPool,
    /// Locked by the running pass.
    workspace: Mutex<Workspace>,
}

impl Runtime {
    /// Starts one thread for each processor: once system calls are restricted, threads can no longer be started.
    ///
    /// # Errors
    /// If a thread cannot be started, or the processor is not supported.
    pub fn new(network: Result<Network, String>) -> std::io::Result<Self> {
        Self::with_threads(network, Self::processors())
    }

    /// How many processors this process may use. It reads files of the kernel.
    pub fn processors() -> usize {
        std::thread::available_parallelism().map_or(1, usize::from)
    }

    /// As [`Runtime::new`], with so many threads, the caller's included.
    ///
    /// # Errors
    /// As [`Runtime::new`].
    pub fn with_threads(network: Result<Network, String>, threads: usize) -> std::io::Result<Self> {
        let workspace = Workspace::new(Variant::fastest()).ok_or(std::io::ErrorKind::Unsupported)?;
        // A model without a network needs no threads.
        let pool = ThreadPool::new(if network.is_ok() { threads.saturating_sub(1) } else { 0 })?;
        Ok(Runtime { network, pool, workspace: Mutex::new(workspace) })
    }

    fn network(&self) -> Result<&Network, InferenceError> {
        self.network.as_ref().map_err(|why| InferenceError::Unsupported(format!("this model cannot be run: {why}")))
    }
}

/// Embeddings of texts.
pub struct Embeddings {
    /// The embeddings, one after another.
    pub values: Vec<f32>,
    /// Number of tokens of each text.
    pub tokens: Vec<usize>,
    /// Whether each text was longer than the model takes, and was cut.
    pub truncated: Vec<bool>,
}

/// Why the network cannot be run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InferenceError {
    /// The model cannot do that.
    Unsupported(String),
    /// A value is not finite.
    NotFinite(String),
    /// The request was cancelled.
    Cancelled,
}

impl Machine {
    pub(super) fn embed(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        let texts = required("texts", params.texts("texts", TEXTS_LIMIT)?)?;
        let normalize = params.boolean("normalize")?.unwrap_or(true);
        let truncate = params.text("truncate")?;
        params.finish()?;
        if texts.is_empty() {
            let text = "parameter \"texts\" must hold at least one text";
            return Err(RequestError::new(code::INVALID_PARAMS, text));
        }
        let may_cut = match truncate.as_deref() {
            None | Some("end") => true,
            Some("refuse") => false,
            Some(_) => {
                let text = "parameter \"truncate\" must be \"end\" or \"refuse\"";
                return Err(RequestError::new(code::INVALID_PARAMS, text));
            }
        };
        request.no_blob()?;
        let lineage = self.lineage()?;
        let encodings = self.encode(&texts)?;
        if let Some(index) = encodings.iter().position(|encoding| encoding.truncated).filter(|_| !may_cut) {
            let limit = encodings[index].ids.len();
            let text = format!("text {index} is longer than the {limit} tokens that the model takes");
            return Err(RequestError::new(code::MISMATCH, text).with(json!({"text": index})));
        }
        let embeddings = self.run_network(lineage.store(), encodings, normalize)?;
        let dim = embeddings.values.len() / texts.len();
        let blob: Vec<u8> = embeddings.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        if blob.len() > BLOB_LIMIT {
            let text = format!("{} embeddings do not fit a blob: ask for fewer", texts.len());
            return Err(RequestError::new(code::UNUSABLE_BLOB, text));
        }
        let result = json!({
            "count": texts.len(),
            "dim": dim,
            "tokens": embeddings.tokens,
            "truncated": embeddings.truncated,
            "generation": lineage.generation(),
        });
        Ok(Reply { result, blob })
    }

    /// Text generation, which no architecture of this runtime can do.
    pub(super) fn generate(&self, request: &Request) -> Result<Reply, RequestError> {
        let mut params = request.params.clone();
        required("prompt", params.text("prompt")?)?;
        required("max_tokens", params.integer("max_tokens")?)?;
        for name in ["temperature", "top_p"] {
            params.number(name)?;
        }
        for name in ["top_k", "seed"] {
            params.integer(name)?;
        }
        params.texts("stop", LINE_LIMIT)?;
        params.finish()?;
        request.no_blob()?;
        self.require_model()?;
        Err(RequestError::new(code::UNSUPPORTED, "this model makes embeddings, not text"))
    }

    /// The embeddings of texts; a text that is too long is cut.
    pub(super) fn embed_texts(
        &self,
        store: &Store,
        texts: &[String],
        normalize: bool,
    ) -> Result<Embeddings, InferenceError> {
        self.run_network(store, self.encode(texts)?, normalize)
    }

    fn encode(&self, texts: &[String]) -> Result<Vec<Encoding>, InferenceError> {
        let network = self.runtime.network()?;
        Ok(texts.iter().map(|text| network.encode(text)).collect())
    }

    /// Runs the network on encoded texts.
    fn run_network(
        &self,
        store: &Store,
        encodings: Vec<Encoding>,
        normalize: bool,
    ) -> Result<Embeddings, InferenceError> {
        let runtime: &Runtime = &self.runtime;
        let network = runtime.network()?;
        let texts: Vec<&[u32]> = encodings.iter().map(|encoding| encoding.ids.as_slice()).collect();
        let missing = |name: String| InferenceError::Unsupported(format!("tensor {name:?} is missing"));
        let weights = network.weights(store).map_err(missing)?;
        let mut workspace = runtime.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        let config = network.config(normalize);
        let mut values = Vec::with_capacity(texts.len() * config.embedding);
        let mut rest = &texts[..];
        while !rest.is_empty() {
            // An embedding does not depend on the other texts of its pass, so a pass may be as small as memory requires.
            let (pass, later) = rest.split_at(texts_of_a_pass(rest));
            let embeddings = workspace.forward(&config, &weights, pass, &runtime.pool, &self.cancelled);
            values.extend(embeddings.map_err(|error| match error {
                ForwardError::Cancelled => InferenceError::Cancelled,
                ForwardError::NotFinite(_) => InferenceError::NotFinite(error.to_string()),
                _ => InferenceError::Unsupported(error.to_string()),
            })?);
            rest = later;
        }
        let tokens = encodings.iter().map(|encoding| encoding.ids.len()).collect();
        Ok(Embeddings { values, tokens, truncated: encodings.iter().map(|encoding| encoding.truncated).collect() })
    }
}

/// How many of the first texts go into one pass, at least one.
fn texts_of_a_pass(texts: &[&[u32]]) -> usize {
    let mut tokens = 0;
    let fits = |text: &&&[u32]| {
        tokens += text.len();
        tokens <= PASS_TOKENS
    };
    texts.iter().take_while(fits).count().max(1)
}
