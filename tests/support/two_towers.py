"""Tiny CLIP and SigLIP checkpoints with random weights, in the forms that hubs serve."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

SIDE, PATCH, WIDTH, FEATURES = 32, 8, 48, 24
START, END, FILL, UNKNOWN = "<start>", "<end>", "<fill>", "<unknown>"

PROMPTS = """
templates = ["{}", "a photo of {}"]
[safe]
prompts = ["a street", "a plate of food"]
[categories.nudity]
prompts = ["a naked person", "a nude statue come alive"]
look_alikes = ["a person in a swimsuit"]
[categories.violence]
prompts = ["a fight with a knife"]
look_alikes = ["a kitchen knife", "a toy gun"]
[categories.own.weapons]
prompts = ["a gun on a table"]
"""
TEXTS = (PROMPTS, "a picture dogs and cats for everybody grown people only level")


def tokenizer(folder: Path, texts: Iterable[str] = TEXTS) -> Tokenizer:
    """Write tokenizer.json of one token per word, with marks around a text, and what fills up."""
    words = {"".join(filter(str.isalpha, word)) for text in texts for word in text.lower().split()}
    vocabulary = [FILL, UNKNOWN, *sorted(words - {""}), START, END]  # CLIP's end is the last
    numbers = {word: number for number, word in enumerate(vocabulary)}
    made = Tokenizer(models.WordLevel(numbers, UNKNOWN))
    made.normalizer = normalizers.Lowercase()
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single=f"{START} $A {END}", special_tokens=[(mark, numbers[mark]) for mark in (START, END)]
    )
    folder.mkdir(parents=True, exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps({"pad_token": FILL}))
    return made


def clip(folder: Path, seed: int = 0) -> transformers.CLIPModel:
    """A CLIPModel in `folder`, whose scores vary with the image."""
    torch.manual_seed(seed)
    made = tokenizer(folder)
    common = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 3, "projection_dim": FEATURES}
    config = transformers.CLIPConfig(
        text_config={
            **common,
            "vocab_size": made.get_vocab_size(),
            "max_position_embeddings": 16,
            "pad_token_id": 0,
            "bos_token_id": made.token_to_id(START),
            "eos_token_id": made.token_to_id(END),
        },
        vision_config={**common, "image_size": SIDE, "patch_size": PATCH},
        projection_dim=FEATURES,
    )
    model = _spread(transformers.CLIPModel(config))
    _write(
        model, folder, "CLIPImageProcessor", {"size": {"shortest_edge": SIDE}, "crop_size": SIDE}
    )
    return model


def siglip(folder: Path, seed: int = 0) -> transformers.SiglipModel:
    """A SiglipModel in `folder`, whose scores vary with the image."""
    torch.manual_seed(seed)
    made = tokenizer(folder)
    common = {"hidden_size": WIDTH, "intermediate_size": 2 * WIDTH, "num_hidden_layers": 2}
    common |= {"num_attention_heads": 3}
    config = transformers.SiglipConfig(
        text_config={
            **common,
            "vocab_size": made.get_vocab_size(),
            "max_position_embeddings": 16,
            "pad_token_id": 0,
        },
        vision_config={**common, "image_size": SIDE, "patch_size": PATCH},
    )
    model = _spread(transformers.SiglipModel(config))
    size = {"size": {"height": SIDE, "width": SIDE}}
    _write(model, folder, "SiglipImageProcessor", size)
    return model


def _spread(model: Any) -> Any:
    """Weights so large that images and texts are told apart; a scale and a bias as trained ones."""
    with torch.no_grad():
        for name, tensor in model.named_parameters():
            if tensor.ndim > 1:
                tensor.normal_(std=0.15)
            elif name.endswith("bias"):
                tensor.normal_(std=0.1)
        model.logit_scale.fill_(2.5)
        if hasattr(model, "logit_bias"):
            model.logit_bias.fill_(-4.0)
    return model.eval()


def _write(model: Any, folder: Path, processor: str, size: dict[str, Any]) -> None:
    model.save_pretrained(folder)
    stated = {"image_processor_type": processor, "resample": 3, **size}
    (folder / "preprocessor_config.json").write_text(json.dumps(stated))


def text_inputs(folder: Path, texts: list[str]) -> torch.Tensor:
    """Tokens of texts as the reference takes them: filled up to 16."""
    made = Tokenizer.from_file(str(folder / "tokenizer.json"))
    rows = [made.encode(text).ids for text in texts]
    return torch.tensor([row + [0] * (16 - len(row)) for row in rows])
