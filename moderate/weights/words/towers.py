"""The two towers of a checkpoint: the one that sees images, and the one that reads prompts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch

from moderate.classify.card import Preprocess
from moderate.classify.words import WordsKind
from moderate.errors import WeightsError
from moderate.text import one_line, printable
from moderate.weights.convert.checks import Argument
from moderate.weights.words.tokens import Tokenizer

_BATCH = 32  # texts at once

# The names in transformers of activations that CLIP and SigLIP have.
ACTIVATIONS = frozenset({"quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh"})


@dataclass(frozen=True, slots=True)
class ImageTower:
    """A timm network that gives features; projected says that its last layer is linear.

    tensors carry timm's names.
    """

    architecture: str
    model_args: dict[str, Argument]
    tensors: dict[str, torch.Tensor]
    preprocess: Preprocess
    features: int
    projected: bool


@dataclass(frozen=True, slots=True)
class TextTower:
    """A transformer over tokens, as transformers' CLIP (causal) and SigLIP have it.

    tensors carry transformers' names below `text_model.`. projection is features x width, and has a
    bias in SigLIP. The feature of a text is that of its end mark, or of the last position. whole
    says that texts are filled up to the last position, which matters where a token sees those
    after it.
    """

    tensors: dict[str, torch.Tensor]
    projection: torch.Tensor
    bias: torch.Tensor | None
    heads: int
    activation: str
    epsilon: float
    causal: bool
    pooled: Literal["end", "last"]
    whole: bool
    padding: int
    tokenizer: Tokenizer
    where: str

    def __post_init__(self) -> None:
        """Raises WeightsError where a table of tokens or positions is missing or does not fit."""
        width = self.projection.shape[-1]
        for name in ("token_embedding", "position_embedding"):
            table = self.tensors.get(f"embeddings.{name}.weight")
            if table is None:
                raise WeightsError(f"{self.where}: the {name} of the text tower is missing")
            if table.ndim != 2 or table.shape[1] != width:
                raise WeightsError(
                    f"{self.where}: the {name} of the text tower has shape {tuple(table.shape)}, "
                    f"but its projection takes {width} numbers"
                )

    @property
    def positions(self) -> int:
        """How many tokens a text may have."""
        return self._table("position_embedding").shape[0]

    def digest(self) -> str:
        """sha256 of all tensors: names, types, shapes and values."""
        digest = hashlib.sha256()
        tensors = {**self.tensors, "projection": self.projection}
        if self.bias is not None:
            tensors["projection.bias"] = self.bias
        for name, tensor in sorted(tensors.items()):
            digest.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
            digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()

    def features(self, texts: Sequence[str]) -> torch.Tensor:
        """The features of texts, each of length 1: texts x features in float32.

        Raises WeightsError, also for a text of more tokens than there are positions.
        """
        rows = [self._tokens(text) for text in texts]
        model = _build(self)
        found = []
        with torch.inference_mode():
            for first in range(0, len(rows), _BATCH):
                found.append(self._pooled(model, rows[first : first + _BATCH]))
            features = torch.cat(found) @ self.projection.float().T
            if self.bias is not None:
                features = features + self.bias.float()
            lengths = features.norm(dim=-1, keepdim=True)
        for text, length in zip(texts, lengths.squeeze(-1).tolist(), strict=True):
            if not np.isfinite(length) or length == 0.0:
                raise WeightsError(
                    f"{self.where}: the text tower gives no finite vector for "
                    f"{one_line(repr(text), 60)}"
                )
        unit: torch.Tensor = features / lengths
        return unit.clone()  # out of the inference mode

    def _tokens(self, text: str) -> list[int]:
        tokens = self.tokenizer.ids(text)
        if not tokens or tokens[-1] != self.tokenizer.end:
            raise WeightsError(
                f"{self.where}: its tokenizer does not mark the end of {one_line(repr(text), 60)}"
            )
        if len(tokens) > self.positions:
            raise WeightsError(
                f"the prompt {one_line(repr(text), 80)} has {len(tokens)} tokens, but the text "
                f"tower takes at most {self.positions}"
            )
        vocabulary = self._table("token_embedding").shape[0]
        if max(tokens) >= vocabulary or max(self.padding, 0) >= vocabulary:
            raise WeightsError(
                f"{self.where}: its tokenizer has more tokens than the {vocabulary} that the text "
                "tower knows"
            )
        return tokens

    def _pooled(self, model: Any, rows: Sequence[list[int]]) -> torch.Tensor:
        length = self.positions if self.whole else max(map(len, rows))
        ids = torch.full((len(rows), length), self.padding)
        for number, row in enumerate(rows):
            ids[number, : len(row)] = torch.tensor(row)
        hidden: torch.Tensor = model(input_ids=ids).last_hidden_state
        if self.pooled == "last":
            return hidden[:, -1]
        ends = torch.tensor([len(row) - 1 for row in rows])
        return hidden[torch.arange(len(rows)), ends]

    def _table(self, name: str) -> torch.Tensor:
        return self.tensors[f"embeddings.{name}.weight"]


@dataclass(frozen=True, slots=True)
class Towers:
    """A checkpoint: scale and bias make logits of cosines."""

    kind: WordsKind
    image: ImageTower
    text: TextTower
    scale: float
    bias: float


def check_towers(towers: Towers, where: str) -> Towers:
    """Raises WeightsError unless the two towers have features of one width, and a usable scale."""
    width = towers.text.projection.shape[0]
    if width != towers.image.features:
        raise WeightsError(
            f"{where}: the image tower gives {towers.image.features} features, but the text tower "
            f"{width}"
        )
    if not 0 < towers.scale <= 1e4 or not abs(towers.bias) <= 1e4:
        raise WeightsError(
            f"{where}: logit_scale {towers.scale:.4g} and logit_bias {towers.bias:.4g} are not "
            "those of a trained checkpoint"
        )
    return towers


def one_number(tensor: torch.Tensor, name: str, where: str) -> float:
    """The value of a tensor that holds one. Raises WeightsError."""
    if tensor.numel() != 1 or not tensor.is_floating_point():
        raise WeightsError(f"{where}: tensor {printable(name)} is not one number")
    return float(tensor)


def _build(tower: TextTower) -> Any:
    """transformers' model with the tensors of the tower; none of its sizes is a config's word."""
    from transformers import CLIPTextConfig, CLIPTextModel, SiglipTextConfig, SiglipTextModel

    depth = block_count(tower.tensors, "encoder.layers.")
    tokens = tower.tensors["embeddings.token_embedding.weight"]
    inner = tower.tensors.get("encoder.layers.0.mlp.fc1.weight")
    if depth == 0 or inner is None or tokens.shape[1] % tower.heads:
        raise WeightsError(f"{tower.where}: {tower.heads} heads do not fit the text tower")
    sizes = {
        "vocab_size": tokens.shape[0],
        "hidden_size": tokens.shape[1],
        "intermediate_size": inner.shape[0],
        "num_hidden_layers": depth,
        "num_attention_heads": tower.heads,
        "max_position_embeddings": tower.positions,
        "hidden_act": tower.activation,
        "layer_norm_eps": tower.epsilon,
        "pad_token_id": None,
        "bos_token_id": None,
        "eos_token_id": tower.tokenizer.end,
    }
    tensors = {name: tensor.float() for name, tensor in tower.tensors.items()}
    model: Any
    try:
        if tower.causal:
            model = CLIPTextModel(CLIPTextConfig(**sizes))
        else:
            model = SiglipTextModel(SiglipTextConfig(**sizes, projection_size=1))
            tensors["head.weight"] = torch.zeros(1, tokens.shape[1])  # what it gives is not read
            tensors["head.bias"] = torch.zeros(1)
        if all(name.startswith("text_model.") for name in model.state_dict()):
            tensors = {f"text_model.{name}": tensor for name, tensor in tensors.items()}
        model.load_state_dict(tensors, strict=True)
    except (RuntimeError, ValueError, TypeError) as error:
        raise WeightsError(
            f"{tower.where}: the text tower does not fit: {one_line(str(error), 200)}"
        ) from error
    return model.eval()


def block_count(tensors: Mapping[str, Any], prefix: str) -> int:
    """How many blocks there are, which carry the names `prefix0.`, `prefix1.` and so on."""
    numbers = {
        name.removeprefix(prefix).partition(".")[0] for name in tensors if name.startswith(prefix)
    }
    return len({number for number in numbers if number.isdigit()})
