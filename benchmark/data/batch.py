"""How many texts fit into memory at once."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

# Of the free memory: the estimate is rough, and the machine has other work too.
SAFE_SHARE = 0.5


class TextSize(NamedTuple):
    """What a text needs in a transformer's forward pass, in numbers (of 4 bytes) and counts.

    Attributes:
        tokens: of the longest text, after truncation.
        hidden: numbers a token between the layers.
        intermediate: numbers a token within a feed-forward layer.
        heads: of attention.
        kept_layers: layers whose keys and values, or outputs, stay until the end.
    """

    tokens: int
    hidden: int
    intermediate: int
    heads: int
    kept_layers: int = 0

    @property
    def bytes(self) -> int:
        """An upper estimate: one layer at a time, with its attention matrix written out."""
        layer = 8 * self.hidden + 3 * self.intermediate + 2 * self.heads * self.tokens
        return 4 * self.tokens * (layer + 2 * self.hidden * self.kept_layers)


def fit(size: TextSize, free: int, workers: int, most: int) -> tuple[int, int]:
    """(batch, workers) that fit into ``free`` bytes.

    As many of the workers as can each hold a batch of ``most`` texts: a smaller batch would change
    the last bits. Where not even one can, one worker and the largest power of two that fits.
    """
    texts = int(free * SAFE_SHARE) // size.bytes
    if texts >= most:
        return most, min(workers, texts // most)
    return 1 << max(texts.bit_length() - 1, 0), 1


def text_size(model: Any, texts: Sequence[str]) -> TextSize | None:
    """The size of the longest text in a sentence-transformers model; None if it is no transformer.

    A token is at least a byte of text, so the longest text bounds the tokens of a model that would
    take very many.
    """
    config = getattr(getattr(model[0], "auto_model", None), "config", None)
    if config is None:
        return None
    config = getattr(config, "get_text_config", lambda: config)()

    def number(default: int, *names: str) -> int:
        values = (getattr(config, name, None) for name in names)
        return next((value for value in values if type(value) is int and value > 0), default)

    hidden = number(1024, "hidden_size", "d_model")
    prompt = (getattr(model, "prompts", None) or {}).get(
        getattr(model, "default_prompt_name", None), ""
    )
    longest = max(len(text.encode("utf-8", "surrogatepass")) for text in texts)
    tokens = [longest + len(prompt.encode()) + 16, number(sys.maxsize, "max_position_embeddings")]
    limit = getattr(model, "max_seq_length", None)
    keeps = getattr(config, "use_cache", False) or getattr(config, "output_hidden_states", False)
    return TextSize(
        tokens=min(tokens if limit is None else [*tokens, int(limit)]),
        hidden=hidden,
        intermediate=number(4 * hidden, "intermediate_size", "d_ff", "hidden_dim", "ffn_dim"),
        heads=number(16, "num_attention_heads", "num_heads"),
        kept_layers=number(32, "num_hidden_layers", "num_layers") if keeps else 0,
    )
