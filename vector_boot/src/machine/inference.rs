//! The requests that run the network.

use std::sync::{Arc, Mutex, PoisonError};

use serde_json::json;

use super::Machine;
use crate::neural::network::Network;
use crate::neural::tokenizer::Encoding;
use crate::neural::{ForwardError, ThreadPool, Variant, Workspace};
use crate::protocol::{self, required, Failure, Reply, Request, BLOB_LIMIT};
use crate::tensor::Store;

/// Tokens that one pass takes, unless a single text has more: at some 15 KB each they bound its memory.
const PASS_TOKENS: usize = 1024;
/// Texts that one request may hold.
const TEXTS_LIMIT: usize = 64;

/// What forward passes need and keep: threads and memory.
pub struct Runtime {
    network: Result<Network, String>,
    pool: ThreadPool,
    /// Held by the pass that runs.
    workspace: Mutex<Workspace>,
}

impl Runtime {
    /// Threads for as many processors as there are, made now: a sandbox forbids it later.
    ///
    /// # Errors
    /// If the system refuses a thread.
    pub fn new(network: Result<Network, String>) -> std::io::Result<Self> {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workspace = Workspace::new(Variant::fastest()).ok_or(std::io::ErrorKind::Unsupported)?;
        // A model without a network needs no threads.
        let pool = ThreadPool::new(if network.is_ok() { threads - 1 } else { 0 })?;
        Ok(Runtime { network, pool, workspace: Mutex::new(workspace) })
    }

    fn network(&self) -> Result<&Network, Failure> {
        self.network.as_ref().map_err(|why| Failure::new(1018, format!("this model cannot be run: {why}")))
    }
}

/// Embeddings of texts.
pub struct Embeddings {
    /// One after the other.
    pub values: Vec<f32>,
    /// Tokens of each text.
    pub tokens: Vec<usize>,
    /// Whether each text was cut at the most tokens that the model takes.
    pub truncated: Vec<bool>,
}

impl Machine {
    pub(super) fn embed(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        let texts = required("texts", params.texts("texts", TEXTS_LIMIT)?)?;
        let normalize = params.boolean("normalize")?.unwrap_or(true);
        params.finish()?;
        if texts.is_empty() {
            return Err(Failure::new(-32602, "parameter \"texts\" must hold at least one text"));
        }
        request.no_blob()?;
        let lineage = self.lineage()?;
        let embeddings = self.run_network(lineage.store(), &texts, normalize)?;
        let dim = embeddings.values.len() / texts.len();
        let blob: Vec<u8> = embeddings.values.iter().flat_map(|value| value.to_le_bytes()).collect();
        if blob.len() > BLOB_LIMIT {
            return Err(Failure::new(1012, format!("{} embeddings do not fit a blob: ask for fewer", texts.len())));
        }
        let tokens = embeddings.tokens;
        let generation = lineage.generation();
        let result = json!({
            "count": texts.len(),
            "dim": dim,
            "tokens": tokens,
            "truncated": embeddings.truncated,
            "generation": generation,
        });
        Ok(Reply { result, blob })
    }

    /// Text generation, which no architecture of this runtime can do.
    pub(super) fn generate(&self, request: &Request) -> Result<Reply, Failure> {
        let mut params = request.params.clone();
        required("prompt", params.text("prompt")?)?;
        required("max_tokens", params.integer("max_tokens")?)?;
        for name in ["temperature", "top_p"] {
            params.number(name)?;
        }
        for name in ["top_k", "seed"] {
            params.integer(name)?;
        }
        params.value("stop");
        params.finish()?;
        request.no_blob()?;
        self.require_model()?;
        Err(Failure::new(1018, "this model makes embeddings, no text"))
    }

    /// Runs the network on texts.
    ///
    /// # Errors
    /// 1018 if there is none, 1005 if a value is not finite, -32800 if the request was cancelled.
    pub(super) fn run_network(&self, store: &Store, texts: &[String], normalize: bool) -> Result<Embeddings, Failure> {
        let runtime: &Arc<Runtime> = &self.runtime;
        let network = runtime.network()?;
        let encodings: Vec<Encoding> = texts.iter().map(|text| network.encode(text)).collect();
        let borrowed: Vec<&[u32]> = encodings.iter().map(|encoding| &encoding.ids[..]).collect();
        let weights = network.weights(store).map_err(|name| Failure::new(1018, format!("{name:?} is missing")))?;
        let mut workspace = runtime.workspace.lock().unwrap_or_else(PoisonError::into_inner);
        let config = network.config(normalize);
        let mut values = Vec::with_capacity(texts.len() * config.embedding);
        let mut rest = &borrowed[..];
        while !rest.is_empty() {
            // An embedding does not depend on what else is in its pass, so passes may be as small as memory wants.
            let (pass, later) = rest.split_at(texts_of_a_pass(rest));
            let embeddings = workspace.forward(&config, &weights, pass, &runtime.pool, &self.cancelled);
            values.extend(embeddings.map_err(|error| match error {
                ForwardError::Cancelled => protocol::cancelled(),
                ForwardError::NotFinite(_) => Failure::new(1005, error.to_string()),
                _ => Failure::new(1018, error.to_string()),
            })?);
            rest = later;
        }
        let tokens = encodings.iter().map(|encoding| encoding.ids.len()).collect();
        let truncated = encodings.iter().map(|encoding| encoding.truncated).collect();
        Ok(Embeddings { values, tokens, truncated })
    }
}

/// How many of the first texts go into one pass: at least one.
fn texts_of_a_pass(texts: &[&[u32]]) -> usize {
    let mut tokens = 0;
    let fits = |text: &&&[u32]| {
        tokens += text.len();
        tokens <= PASS_TOKENS
    };
    texts.iter().take_while(fits).count().max(1)
}
