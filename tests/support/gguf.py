"""The head of a model file, as the format has it."""

from __future__ import annotations

import struct


def gguf_head(**values: object) -> bytes:
    """Version 3, no tensors; entries of a small llama unless told otherwise."""
    entries = {
        "general.architecture": "llama",
        "general.name": "Small",
        "llama.context_length": 65_536,
        "llama.block_count": 10,
        "llama.embedding_length": 640,
        "llama.attention.head_count": 10,
        "llama.attention.head_count_kv": 5,
    } | {key.replace("__", "."): value for key, value in values.items()}
    out = b"GGUF" + struct.pack("<IQQ", 3, 0, len(entries))
    for key, value in entries.items():
        out += _text(key)
        out += struct.pack("<I", 8) + _text(value) if isinstance(value, str) else struct.pack("<II", 4, value)
    return out


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text)) + text.encode()
