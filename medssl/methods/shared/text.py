"""Text encoders for methods that read reports: a small one that needs no download, and any model of transformers on disk.

    encode = HashedText(width=128)
    encode(["The lungs are clear.", "A nodule of 12 mm."])      # (2, 128)

The small one is a two-layer transformer (Vaswani et al., NeurIPS 2017) over words whose numbers are hashes (Weinberger et
al., ICML 2009): it stores no list of words, so nothing of the reports remains but what the weights have learned.
A pretrained one is read from a folder, never from the network: `pip install 'medssl[text]'`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from medssl.core.errors import MedsslError

WORDS = re.compile(r"[^\W\d_]+|\d+")


class HashedText(nn.Module):
    """A small transformer over hashed words.

    Args:
        width: Length of the vector of a text.
        layers: Layers of the transformer.
        buckets: How many numbers words are hashed to; 0 is padding.
        length: How many words of a text are read, from its start.
    """

    def __init__(self, width: int = 128, layers: int = 2, buckets: int = 8192, length: int = 160):
        super().__init__()
        self.out_dim, self.buckets, self.length = width, buckets, length
        self.words = nn.Embedding(buckets, width, padding_idx=0)
        self.places = nn.Parameter(0.02 * torch.randn(length, width))
        layer = nn.TransformerEncoderLayer(
            width, max(1, width // 32), 4 * width, 0.0, F.gelu, batch_first=True, norm_first=True
        )
        self.layers = nn.TransformerEncoder(layer, layers, nn.LayerNorm(width), enable_nested_tensor=False)

    def forward(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, out_dim): the mean over the words."""
        numbers = self.numbers(texts).to(self.places.device)
        embedded = self.words(numbers) + self.places[: numbers.shape[1]]
        return mean_of_words(self.layers(embedded, src_key_padding_mask=numbers == 0), numbers != 0)

    def numbers(self, texts: Sequence[str]) -> Tensor:
        """(N, longest) int64: of each word its bucket; an empty text has one unknown word."""
        rows = [[self.bucket(w) for w in WORDS.findall(text.lower())[: self.length]] or [1] for text in texts]
        longest = max(map(len, rows))
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    def bucket(self, word: str) -> int:
        digest = hashlib.blake2s(word.encode(), digest_size=8).digest()
        return 1 + int.from_bytes(digest, "big") % (self.buckets - 1)


class LocalText(nn.Module):
    """A text encoder of transformers from a folder, such as one that `save_pretrained` wrote; nothing is downloaded.

    Args:
        folder: Holds a model and its tokenizer.
        length: How many tokens of a text are read, from its start.

    Raises:
        MedsslError: transformers is not installed, or the folder holds no model and tokenizer.
    """

    def __init__(self, folder: str, length: int = 160):
        super().__init__()
        try:
            from transformers import AutoModel, AutoTokenizer
        except ImportError:
            raise MedsslError(
                "a pretrained text encoder needs transformers: expected it to be installed; pip install 'medssl[text]', or leave "
                "--method.text out for the small one"
            ) from None
        if not (Path(folder) / "config.json").is_file():
            raise MedsslError(
                f"text is {folder}: expected a folder with a transformers model (config.json, weights, vocabulary)"
            )
        try:
            self.tokenizer: Any = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            self.net: Any = AutoModel.from_pretrained(folder, local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise MedsslError(
                f"the text encoder in {folder} cannot be read ({type(error).__name__}): expected what save_pretrained of a model "
                f"and of its tokenizer writes"
            ) from error
        self.out_dim, self.length = int(self.net.config.hidden_size), length

    def forward(self, texts: Sequence[str]) -> Tensor:
        """N texts -> (N, out_dim): the mean over the tokens."""
        tokens = self.tokenizer(list(texts), padding=True, truncation=True, max_length=self.length, return_tensors="pt")
        tokens = {name: value.to(self.net.device) for name, value in tokens.items()}
        return mean_of_words(self.net(**tokens).last_hidden_state, tokens["attention_mask"] > 0)


def mean_of_words(features: Tensor, is_word: Tensor) -> Tensor:
    """The mean over the words of each text, (N, D).

    Args:
        features: (N, words, D).
        is_word: (N, words) bool, False for padding.
    """
    counted = is_word[..., None].to(features)
    return (features * counted).sum(1) / counted.sum(1)
