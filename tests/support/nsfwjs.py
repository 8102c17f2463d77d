"""The public nsfwjs checkpoint, converted from TensorFlow.js to a bundle with a timm backbone."""

from __future__ import annotations

from pathlib import Path

from tests.support.bundles import write_card

CHECKPOINT = Path(__file__).parents[3] / "shared" / "models" / "nsfwjs-mobilenet-v2"
LABELS = ("Drawing", "Hentai", "Neutral", "Porn", "Sexy")


def make_nsfwjs_bundle(folder: Path) -> Path:
    """Convert the checkpoint into a bundle in `folder`."""
    from moderate.weights.convert.folder import convert_folder, write_model

    converted = convert_folder(CHECKPOINT)
    assert converted.labels == LABELS
    assert converted.head is not None
    write_model(converted, folder)
    model = {
        "activation": converted.activation,
        "head": converted.head.model_dump(),
        "model_args": converted.model_args,
        "preprocess": converted.preprocess.model_dump(),
        "categories": {
            "nudity": ["Porn", "Hentai"],
            "sexual_activity": ["Porn", "Hentai"],
            "suggestive": ["Sexy"],
        },
    }
    write_card(folder, [model], licence="MIT", source="infinitered/nsfwjs")
    return folder
