"""Writes vector_boot/tests/vectors/tokenizer.json: ids by Hugging Face's `tokenizers` for each normalizer setting.

Needs `tokenizers` 0.23.3 beside the project's packages: `python -m tests.support.make_golden_tokenizer`. The vocabulary
has each character that is left after normalization as a word's start and as a continuation, so that ids show every
character of the normalized text.
"""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

from tests.support.golden_texts import GOLDEN_TEXTS

tokenizers: Any = importlib.import_module("tokenizers")

OUTPUT = Path(__file__).parents[2] / "vector_boot" / "tests" / "vectors" / "tokenizer.json"
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
CLS, SEP = 2, 3
SETTINGS: tuple[tuple[bool | None, bool | None], ...] = (
    (None, None),
    (True, False),
    (False, None),
    (False, True),
    (True, True),
    (False, False),
)
# A sample of all scripts: composed and decomposed letters, marks, punctuation, controls, Hangul, ideographs.
RANGES = [
    *[(0xA0, 1), (0xE0, 1), (0x100, 3), (0x1E00, 5), (0x370, 2), (0x400, 4), (0x590, 9), (0x900, 11), (0x2000, 7)],
    *[(0x2E80, 61), (0xAC00, 89), (0xF900, 13), (0xFB1D, 17), (0x1D100, 31), (0x10400, 1)],
]
SAMPLE = [
    "".join(f"a{chr(code)}b " for code in range(start, start + 64 * step, step) if not 0xD800 <= code < 0xE000)
    for start, step in RANGES
]
TEXTS = [text for text in GOLDEN_TEXTS if len(text) < 400] + SAMPLE


def normalizer(lowercase: bool | None, strip_accents: bool | None) -> Any:
    """The normalizer of these settings; None is an absent one."""
    return tokenizers.normalizers.BertNormalizer(lowercase=lowercase is not False, strip_accents=strip_accents)


def main() -> None:
    """Writes the file."""
    chars = sorted({c for text in TEXTS for s in SETTINGS for c in normalizer(*s).normalize_str(text) if c != " "})
    # Every seventh character has no piece that continues a word: the unknown token occurs, too.
    pieces = SPECIAL + chars + [f"##{char}" for char in chars[::7]] + ["##b", "the", "##ing", "Hel", "hel", "##lo"]
    pieces = list(dict.fromkeys(pieces))
    word_piece = tokenizers.models.WordPiece({p: i for i, p in enumerate(pieces)}, unk_token="[UNK]")
    tokenizer = tokenizers.Tokenizer(word_piece)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    cases = []
    for lowercase, strip_accents in SETTINGS:
        tokenizer.normalizer = normalizer(lowercase, strip_accents)
        ids = [[CLS, *tokenizer.encode(text, add_special_tokens=False).ids, SEP] for text in TEXTS]
        cases.append({"lowercase": lowercase, "strip_accents": strip_accents, "ids": ids})
    marked = [p if p in SPECIAL else p[2:] if p.startswith("##") and len(p) > 2 else "\u2581" + p for p in pieces]
    OUTPUT.write_text(json.dumps({"tokens": marked, "texts": TEXTS, "cases": cases}, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
