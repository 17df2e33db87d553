//! What a machine with this model can and cannot do, by the checks that decide it when it boots.
//!
//! The index of the vocabulary is not built here, because it could need more memory than `check` may use. So a vocabulary
//! made of equal hashes passes here, and leads to emergency mode when the machine boots.

use std::collections::BTreeMap;

use serde_json::{json, Value};

use super::report::one_line;
use crate::gguf::Gguf;
use crate::model_file::mutation_key;
use crate::mutation::{seeded::Form, supports, EditKind};
use crate::neural::network::Network;
use crate::neural::{BertConfig, NetworkError, Pooling};
use crate::protocol::MutationKey;
use crate::rts::hex;
use crate::tensor::MACHINE_TENSORS;

/// The kinds of edits by their names in reports.
const KINDS: [(&str, EditKind); 7] = [
    ("dense", EditKind::Dense),
    ("sparse", EditKind::Sparse),
    ("low_rank", EditKind::LowRank),
    ("seeded normal", EditKind::Seeded(Form::Normal)),
    ("seeded step", EditKind::Seeded(Form::Step)),
    ("seeded scale", EditKind::Seeded(Form::Scale)),
    ("program", EditKind::Program),
];

/// What a machine with a model can do.
pub struct Capabilities {
    /// The numbers of the network, or why it makes no embeddings.
    network: Result<BertConfig, NetworkError>,
    /// For each kind of edit, the number of tensors of each storage type that it can change.
    edits: BTreeMap<&'static str, BTreeMap<&'static str, usize>>,
    /// The key that changes must be signed with, if there is one, or what is wrong with it.
    mutation_key: Result<Option<MutationKey>, String>,
}

impl Capabilities {
    /// What the machine will decide about the model when it boots.
    pub fn of(gguf: &Gguf<'_>) -> Self {
        let network = Network::check(gguf);
        let mut edits: BTreeMap<_, BTreeMap<_, usize>> = BTreeMap::new();
        for (name, kind) in KINDS {
            let counts = edits.entry(name).or_default();
            for tensor in &gguf.tensors {
                let of_the_machine = MACHINE_TENSORS.iter().any(|machine| machine.name == tensor.name);
                let shape_fits = kind != EditKind::LowRank || tensor.shape().len() == 2;
                if !of_the_machine && kind != EditKind::Program && shape_fits && supports(kind, tensor.tensor_type) {
                    *counts.entry(tensor.tensor_type.name()).or_default() += 1;
                }
            }
            // Every machine has these slots whether or not the file does.
            for slot in MACHINE_TENSORS.iter().filter(|slot| !slot.protected) {
                if supports(kind, slot.tensor_type()) {
                    *counts.entry(slot.tensor_type().name()).or_default() += 1;
                }
            }
        }
        Capabilities { network, edits, mutation_key: mutation_key(gguf) }
    }

    /// The member `capabilities` of a report.
    pub fn to_json(&self) -> Value {
        let why = self.network.as_ref().err().map(|error| one_line(&error.to_string()));
        let why = self.mutation_key.as_ref().err().cloned().or(why);
        let config = self.network.as_ref().ok();
        let key = self.mutation_key.as_ref().ok().and_then(Option::as_ref);
        json!({
            "serves": !matches!(self.network, Err(NetworkError::Invalid(_))) && self.mutation_key.is_ok(),
            "mutation_key": key.map(|key| hex(key.bytes())),
            "embed": config.is_some(),
            "embed_refused": why,
            "max_tokens": config.map(|config| config.context),
            "pooling": config.map(|config| match config.pooling {
                Pooling::Mean => "mean",
                Pooling::Cls => "cls",
                Pooling::Last => "last",
            }),
            "generate": false,
            "edits": self.edits,
        })
    }
}
