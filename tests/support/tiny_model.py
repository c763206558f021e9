"""A model file that llama.cpp really runs, a megabyte in size, and that says what a test wants it to say.

Its weights are a table: each token is a direction of its own, attention and feed-forward are zero, so the last token alone
decides the next one. The template of its conversations ends each prompt with a token for what is to be said now; each reply is a
chain of tokens that begins there. So server, tokenizer, template, sampling and protocols are llama.cpp's, and nothing is fetched.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

HEAD = 32
"""Width of an attention head."""
SURE = 4.0
"""Of a weight: the wanted token is then e^70 times as likely as any other."""
CONTROL, USER_DEFINED, BYTE = 3, 4, 6
FOR_EVER = "…"
"""A reply that ends so does not: it begins again."""
_ALIGN = 32
_TEMPLATE = """\
{%- if tools %}{% for tool in tools %}{{ tool | tojson }}
{% endfor %}For each call: <tool_call>
{"name": <name>, "arguments": <object>}
</tool_call>
{% endif %}
{%- for message in messages %}
{%- if message.role == 'tool' %}<tool_response>
{{ message.content }}
</tool_response>
{% else %}{{ message.role }}: {% if message.reasoning_content %}<think>
{{ message.reasoning_content }}
</think>

{% endif %}{{ message.content or '' }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}
{% endif %}{% endfor %}
{%- if add_generation_prompt %}<|CHOOSE|>{% endif %}"""
"""The form of calls is Hermes's, that of thoughts what most have: llama.cpp makes of both what each protocol has."""


def tiny_model(path: Path, replies: Mapping[str, str], choose: str, *, trained_tokens: int = 32_768) -> Path:
    """Written to `path`. `choose`: jinja that prints the name of one of the `replies`; it knows `messages` and `tools`."""
    tokens: list[tuple[str, int]] = [("<unk>", 2), ("<s>", CONTROL), ("</s>", CONTROL)]
    tokens += [(f"<0x{byte:02X}>", BYTE) for byte in range(256)]
    follows: dict[int, int] = {}
    used: set[str] = set()
    for name, reply in replies.items():
        before = len(tokens)
        first = before + 1
        tokens.append((f"<|{name}|>", CONTROL))
        for piece in _pieces(reply, used):
            follows[before] = len(tokens)
            before = len(tokens)
            tokens.append((piece, USER_DEFINED))
        follows[before] = first if reply.endswith(FOR_EVER) else 2
    template = _TEMPLATE.replace("CHOOSE", choose)
    path.write_bytes(_file(path.stem, tokens, follows, template, trained_tokens))
    return path


def _pieces(text: str, used: set[str]) -> list[str]:
    """The text in parts of some characters, none of which was used before: a token has one successor."""
    for length in (*range(8, len(text) - 7), len(text)):
        head, rest = text[:length], text[length:]
        if head in used:
            continue
        taken = used | {head}
        if rest and not (parts := _pieces(rest, taken)):
            continue
        used |= taken | set(parts if rest else ())
        return [head, *(parts if rest else ())]
    return []


def _file(name: str, tokens: Sequence[tuple[str, int]], follows: Mapping[int, int], template: str, trained_tokens: int) -> bytes:
    width = -(-len(tokens) // HEAD) * HEAD
    names = [text for text, _ in tokens]
    entries: list[bytes] = [
        _entry("general.architecture", "llama"),
        _entry("general.name", name),
        _entry("llama.context_length", trained_tokens),
        _entry("llama.block_count", 1),
        _entry("llama.embedding_length", width),
        _entry("llama.feed_forward_length", HEAD),
        _entry("llama.attention.head_count", width // HEAD),
        _entry("llama.attention.head_count_kv", 1),
        _entry("llama.attention.layer_norm_rms_epsilon", 1e-6),
        _entry("llama.rope.dimension_count", HEAD),
        _entry("tokenizer.ggml.model", "llama"),
        _entry("tokenizer.ggml.tokens", names),
        _entry("tokenizer.ggml.scores", [0.0] * len(tokens)),
        _entry("tokenizer.ggml.token_type", [kind for _, kind in tokens]),
        _entry("tokenizer.ggml.bos_token_id", 1),
        _entry("tokenizer.ggml.eos_token_id", 2),
        _entry("tokenizer.ggml.unknown_token_id", 0),
        _entry("tokenizer.ggml.add_bos_token", value=False),
        _entry("tokenizer.ggml.add_space_prefix", value=False),
        _entry("tokenizer.chat_template", template),
    ]
    tensors: list[tuple[str, tuple[int, ...], bytes]] = [
        ("token_embd.weight", (width, len(tokens)), _table(width, len(tokens), {(at, at): 1.0 for at in range(len(tokens))})),
        ("output_norm.weight", (width,), struct.pack("<f", 1.0) * width),
        ("output.weight", (width, len(tokens)), _table(width, len(tokens), {(to, at): SURE for at, to in follows.items()})),
        ("blk.0.attn_norm.weight", (width,), struct.pack("<f", 1.0) * width),
        ("blk.0.ffn_norm.weight", (width,), struct.pack("<f", 1.0) * width),
    ]
    for part, shape in (
        ("attn_q", (width, width)),
        ("attn_k", (width, HEAD)),
        ("attn_v", (width, HEAD)),
        ("attn_output", (width, width)),
        ("ffn_gate", (width, HEAD)),
        ("ffn_up", (width, HEAD)),
        ("ffn_down", (HEAD, width)),
    ):
        tensors.append((f"blk.0.{part}.weight", shape, bytes(4 * shape[0] * shape[1])))
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(entries)) + b"".join(entries)
    data = b""
    for tensor, shape, content in tensors:
        dims = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        head += _text(tensor) + dims + struct.pack("<IQ", 0, len(data))
        data += content + bytes(-len(content) % _ALIGN)
    return head + bytes(-len(head) % _ALIGN) + data


def _table(width: int, rows: int, values: Mapping[tuple[int, int], float]) -> bytes:
    """Rows of floats, zero but for these (row, column)."""
    out = bytearray(4 * width * rows)
    for (row, column), value in values.items():
        struct.pack_into("<f", out, 4 * (row * width + column), value)
    return bytes(out)


def _entry(key: str, value: object) -> bytes:
    kinds = {bool: (7, "<?"), int: (4, "<I"), float: (6, "<f")}
    if isinstance(value, str):
        return _text(key) + struct.pack("<I", 8) + _text(value)
    if isinstance(value, list):
        first = value[0]
        kind, shape = (8, "") if isinstance(first, str) else (5, "<i") if isinstance(first, int) else (6, "<f")
        items = b"".join(_text(item) if kind == 8 else struct.pack(shape, item) for item in value)
        return _text(key) + struct.pack("<IIQ", 9, kind, len(value)) + items
    kind, shape = kinds[type(value)]
    return _text(key) + struct.pack("<I", kind) + struct.pack(shape, value)


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def call(name: str, **args: str) -> str:
    """A call as this model says it."""
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': args})}\n</tool_call>"
