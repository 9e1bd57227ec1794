"""A tokenizer and a text to train on. What is learned does not matter here, only how long it takes.

Each token is one of 4096 made-up words, drawn from a fixed seed; the text is long enough for the longest sequence.
"""

import json
import random
from pathlib import Path

WORDS = 4096
DOCUMENTS = 4000
DOCUMENT_WORDS = 500


def build(folder: Path, seed: int = 1) -> Path:
    """Writes `tokenizer/` and `text/` unless they are there."""
    for name in ("tokenizer", "text"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(tokenizer()))
    (folder / "tokenizer" / "tokenizer_config.json").write_text(
        json.dumps({"bos_token": "<bos>", "eos_token": "<eos>"})
    )
    text = folder / "text" / "data.jsonl"
    if not text.exists():
        text.write_text("\n".join(documents(seed)) + "\n")
    return folder


def tokenizer() -> dict[str, object]:
    """A word-level tokenizer in the format of the `tokenizers` library."""
    names = ["<unk>", "<bos>", "<eos>", *(f"w{index}" for index in range(WORDS))]
    return {
        "version": "1.0",
        "added_tokens": [],
        "pre_tokenizer": {"type": "WhitespaceSplit"},
        "model": {"type": "WordLevel", "vocab": {name: i for i, name in enumerate(names)}, "unk_token": "<unk>"},
    }


def documents(seed: int) -> list[str]:
    """Lines of JSON with one `text` each."""
    draw = random.Random(seed)
    words = [f"w{index}" for index in range(WORDS)]
    return [json.dumps({"text": " ".join(draw.choices(words, k=DOCUMENT_WORDS))}) for _ in range(DOCUMENTS)]
