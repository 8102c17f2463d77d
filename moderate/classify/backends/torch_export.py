"""Makes the `Program` of a network, in a process of its own that ends afterwards.

torch.export takes seconds and memory. What it gives counts only where the program, as it will be
read, computes what the network computes, to the last bit.
"""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from moderate.classify.backends.conversion import answer, selftest_pixels
from moderate.classify.backends.normalised import normalised_images
from moderate.classify.backends.torch_program import (
    FORMAT,
    PROGRAM,
    Program,
    UnusableError,
    encoded,
)
from moderate.classify.bundle import ModelFiles
from moderate.classify.card import WEIGHTS
from moderate.classify.files import read_safetensors
from moderate.classify.labels import CPU_BATCH
from moderate.classify.model import load_model


def export(files: ModelFiles) -> bytes:
    """The program of a model. Raises WeightsError, and UnusableError where it has none."""
    preprocess = files.card.preprocess
    shape = (1, 3, 1, 1)
    mean = torch.tensor(preprocess.mean).view(shape) * 255
    std = torch.tensor(preprocess.std).view(shape) * 255
    model = load_model(files).to(memory_format=torch.channels_last)
    known = selftest_pixels(preprocess.pixel_spec())
    with torch.inference_mode():
        logits = model(normalised_images(torch.from_numpy(known), mean, std)).float()
    try:
        data = _written(model, known.shape[1:], logits)
    except UnusableError:
        raise
    except Exception as error:
        # torch.export raises anything for an unusual network.
        raise UnusableError(f"{type(error).__name__}: {error}") from error
    path = Path(files.folder) / WEIGHTS
    program = Program(data, read_safetensors(path, files.card.sha256["model.safetensors"]))
    generator = torch.Generator().manual_seed(0)
    for count in sorted({1, 2, CPU_BATCH["torch"]}):
        size = (count, *known.shape[1:])
        pixels = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
        images = normalised_images(pixels, mean, std)
        with torch.inference_mode():
            if not torch.equal(program(images.clone()), model(images)):
                raise UnusableError(f"a batch of {count} gets other scores")
    return data


def _written(model: nn.Module, shape: tuple[int, ...], logits: torch.Tensor) -> bytes:
    """The program of a model for pixels of H x W x 3, as `Program` reads it."""
    example = torch.zeros((2, *shape)).permute(0, 3, 1, 2)
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # what it says about timm's code is not for users
        batch = torch.export.Dim("batch")
        exported = torch.export.export(model, (example,), dynamic_shapes=({0: batch},))
    signature = exported.graph_signature
    state = model.state_dict()
    named: dict[str, str] = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
    lifted: dict[str, str] = dict(signature.inputs_to_lifted_tensor_constants)
    constants: dict[str, torch.Tensor] = {"logits": logits.contiguous()}
    inputs: list[tuple[str, str]] = []
    steps: list[tuple[str, Any, Any]] = []
    outputs: list[Any] = []
    numbers: dict[Any, int] = {}
    for node in exported.graph.nodes:
        if node.op == "placeholder":
            numbers[node] = len(numbers)
            source = named.get(node.name) or lifted.get(node.name)
            if node.name in named and source in state:
                inputs.append(("weight", source))
            elif source is not None:
                constants[f"constant {source}"] = exported.constants[source].clone().contiguous()
                inputs.append(("constant", f"constant {source}"))
            else:
                inputs.append(("images", ""))
        elif node.op == "call_function":
            name = _name(node.target)
            if name.startswith(("_assert", "sym_constrain")):
                continue  # says what is known of the batch's size
            numbers[node] = len(numbers)
            arguments = [encoded(each, numbers) for each in node.args]
            keywords = {key: encoded(each, numbers) for key, each in node.kwargs.items()}
            steps.append((name, arguments, keywords))
        elif node.op == "output":
            outputs = list(node.args[0])
        else:
            raise UnusableError(f"a node of the kind {node.op}")
    if len(outputs) != 1:
        raise UnusableError(f"{len(outputs)} results")
    program = {
        "format": FORMAT,
        "state": {
            name: (list(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in state.items()
        },
        "inputs": inputs,
        "steps": steps,
        "output": numbers[outputs[0]],
    }
    return save(constants, {"program": json.dumps(program)})


def _name(target: Any) -> str:
    """What an operation is called in programs."""
    if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
        return str(target).removeprefix("aten.")
    return str(getattr(target, "__name__", target))


def _export(files: ModelFiles, folder: str) -> dict[str, Any]:
    try:
        data = export(files)
    except UnusableError as error:
        return {"unusable": str(error)}
    (Path(folder) / PROGRAM).write_bytes(data)
    return {}


if __name__ == "__main__":
    answer(_export)
