"""Zero-shot weights against transformers and open_clip themselves, on every backend."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import openvino
import pytest
import torch
from safetensors.torch import load_file, save_file

from moderate.classify.backends import conversion, ir_cache
from moderate.classify.backends.torch_export import export
from moderate.classify.backends.torch_program import Program
from moderate.classify.bundle import Bundle, ModelFiles, load_bundle
from moderate.classify.labels import activate
from moderate.classify.model import load_model
from moderate.cli.main import run
from moderate.errors import UsageError, WeightsError
from moderate.types import Category
from moderate.weights.pull import add_words, pull
from moderate.weights.verify import verify_bundle
from moderate.weights.words.build import read_towers
from moderate.weights.words.levels import NO_LEVELS, level_group
from moderate.weights.words.prompts import Prompts, read_prompts
from tests.support.hub import COMMIT, Hub, running_hub
from tests.support.two_towers import PROMPTS, SIDE, clip, siglip, text_inputs, tokenizer

NEAR = 1e-5
LEVELS = level_group([("general", "for everybody"), ("adult", "for grown people only")])
PLAIN = PROMPTS.replace('templates = ["{}", "a photo of {}"]', "")
Captured = pytest.CaptureFixture[str]
Make = Callable[[Path], Any]


@pytest.fixture(autouse=True)
def _own_folders(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    with ir_cache.kept_in(None):  # nothing is kept, so that no child process makes it
        yield


def prompts_in(folder: Path, text: str = PLAIN) -> Prompts:
    path = folder / "prompts.toml"
    path.write_text(text)
    return read_prompts(str(path))


def pixels(bundle: Bundle, count: int = 4) -> np.ndarray:
    side = bundle.specs[0].height
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), dtype=np.uint8)


def normalised(bundle: Bundle, batch: np.ndarray) -> torch.Tensor:
    stated = bundle.models[0].card.preprocess
    images = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 255
    shape = (1, 3, 1, 1)
    return (images - torch.tensor(stated.mean).view(shape)) / torch.tensor(stated.std).view(shape)


def clip_scores(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the definition: a category's prompts against its look-alikes and the safe prompts."""

    def share(fits: list[str], against: list[str]) -> torch.Tensor:
        powers = {name: logits[name].double().exp() for name in (*fits, *against)}
        fit = sum(powers[name] for name in fits)
        return fit / sum(powers.values())  # type: ignore[return-value]

    safe = ["a street", "a plate of food"]
    everybody, grown = "for everybody", "for grown people only"
    return {
        "nudity": share(
            ["a naked person", "a nude statue come alive"], [*safe, "a person in a swimsuit"]
        ),
        "violence": share(["a fight with a knife"], [*safe, "a kitchen knife", "a toy gun"]),
        "weapons": share(["a gun on a table"], safe),
        "level:general": share([everybody], [grown]),
        "level:adult": share([grown], [everybody]),
    }


def siglip_scores(logits: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the definition: each prompt by itself, and softmax among levels."""
    singly = ("a naked person", "a nude statue come alive", "a fight with a knife")
    everybody, grown = logits["for everybody"].exp(), logits["for grown people only"].exp()
    return {
        **{name: logits[name].sigmoid() for name in (*singly, "a gun on a table")},
        "level:general": everybody / (everybody + grown),
        "level:adult": grown / (everybody + grown),
    }


TEXTS = [
    "a street", "a plate of food", "a naked person", "a nude statue come alive", "a toy gun",
    "a person in a swimsuit", "a fight with a knife", "a kitchen knife", "a gun on a table",
    "for everybody", "for grown people only",
]  # fmt: skip


@pytest.mark.parametrize(("make", "expect"), [(clip, clip_scores), (siglip, siglip_scores)])
def test_scores_are_those_of_transformers(tmp_path: Path, make: Make, expect: Any) -> None:
    model = make(tmp_path / "source")
    add_words(tmp_path / "source", "zero", prompts_in(tmp_path), LEVELS)
    bundle = load_bundle("zero")
    batch = pixels(bundle)
    images = normalised(bundle, batch)
    with torch.inference_mode():
        whole = model(input_ids=text_inputs(tmp_path / "source", TEXTS), pixel_values=images)
        logits = dict(zip(TEXTS, whole.logits_per_image.T, strict=True))
        expected = expect(logits)
        features = torch.nn.functional.normalize(load_model(bundle.models[0]).tower(images), dim=-1)
    assert (features - whole.image_embeds).abs().max() <= NEAR
    assert bundle.models[0].labels == tuple(expected)
    wanted = torch.stack(list(expected.values()), 1).numpy()
    assert wanted.std(0).min() > 1e-3  # scores lie apart, or agreement means nothing
    files = bundle.models[0]
    for backend, run_it in (("torch", _module), ("program", _program), ("openvino", _openvino)):
        found = activate(run_it(files, batch, images, tmp_path), "sigmoid")
        apart = float(np.abs(found - wanted).max())
        print(f"{make.__name__}, {backend}: largest difference of a score {apart:.1e}")
        assert apart <= NEAR


def _module(files: ModelFiles, batch: Any, images: torch.Tensor, folder: Path) -> Any:
    with torch.inference_mode():
        return load_model(files)(images).numpy()


def _program(files: ModelFiles, batch: Any, images: torch.Tensor, folder: Path) -> Any:
    """As a child process would make it, which holds it against the module to the last bit."""
    weights = load_file(Path(files.folder) / "model.safetensors")
    with torch.inference_mode():
        return Program(export(files), weights)(images).numpy()


def _openvino(files: ModelFiles, batch: Any, images: torch.Tensor, folder: Path) -> Any:
    """As a child process would convert it."""
    facts = conversion._convert(files, str(folder))
    assert facts.agrees
    core = openvino.Core()
    options = {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(str(folder / ir_cache.NETWORK), "CPU", options)([batch])[0]


def test_half_precisions_compare_in_single(tmp_path: Path) -> None:
    """Only the tower is computed in halves: cosines times the scale would be off by far more."""
    clip(tmp_path / "source")
    add_words(tmp_path / "source", "zero", prompts_in(tmp_path))
    model = load_model(load_bundle("zero").models[0])
    features = torch.randn(2, 24, generator=torch.Generator().manual_seed(0))
    model.tower = torch.nn.Identity()
    with torch.inference_mode():
        expected = model(features)
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(features), expected)


def test_templates_are_averaged(tmp_path: Path) -> None:
    model = clip(tmp_path / "source")
    add_words(tmp_path / "source", "zero", prompts_in(tmp_path, PROMPTS))
    spelled = ["a naked person", "a photo of a naked person"]
    with torch.inference_mode():
        found = model.get_text_features(input_ids=text_inputs(tmp_path / "source", spelled))
    vectors = torch.nn.functional.normalize(found.pooler_output, dim=-1)
    expected = torch.nn.functional.normalize(vectors.mean(0), dim=-1) * math.exp(2.5)
    bundle = load_bundle("zero")
    kept = load_file(Path(bundle.path) / "model.safetensors")["prompts.weight"]
    (first, _), *_ = bundle.models[0].card.words.fits  # type: ignore[union-attr]
    assert (kept[first] - expected).abs().max() <= NEAR


def test_the_card_holds_the_prompts_and_the_digest_depends_on_them(
    tmp_path: Path, capsys: Captured
) -> None:
    source = tmp_path / "source"
    clip(source)
    prompts = prompts_in(tmp_path)
    assert run(["weights", "add", str(source), "--name", "one", "--prompts", prompts.name]) == 2
    capsys.readouterr()
    path = str(tmp_path / "prompts.toml")
    assert run(["weights", "add", str(source), "--name", "one", "--prompts", path]) == 0
    assert "calibrate it (moderate tune --calibrate)" in capsys.readouterr().out
    one = load_bundle("one")
    record = one.card.prompts
    assert record is not None
    assert record.sha256 == prompts.sha256
    assert record.tower == "source: text tower of CLIP, 16 tokens"
    assert record.categories["nudity"].prompts == ("a naked person", "a nude statue come alive")
    assert record.categories["weapons"].prompts == ("a gun on a table",)
    assert one.card.categories == (Category.NUDITY, Category.VIOLENCE)
    assert one.card.own_categories == ("weapons",)
    assert one.card.covers[Category.VIOLENCE] == "what fits the prompts: a fight with a knife"
    assert run(["weights", "show", "one"]) == 0
    shown = capsys.readouterr().out
    assert prompts.sha256 in shown
    assert record.tower_sha256 in shown
    assert '"a nude statue come alive"' in shown
    assert "[0, 1, 2]" in shown  # a line for each label, not for each number

    add_words(source, "same", prompts)
    other = prompts_in(tmp_path, PLAIN.replace("a naked person", "a nude person"))
    add_words(source, "other", other)
    assert load_bundle("same").sha256 == one.sha256
    assert load_bundle("other").sha256 != one.sha256


OPEN_CLIP_TEXT = {"context_length": 16, "width": 32, "heads": 4, "layers": 2}
OPEN_CLIP: dict[str, dict[str, Any]] = {
    "openai": {
        "quick_gelu": True,
        "vision_cfg": {"layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
        "text_cfg": {},
    },
    "laion": {
        "vision_cfg": {"layers": 2, "width": 48, "head_width": 16, "mlp_ratio": 3.3},
        "text_cfg": {},
    },
    "mobile": {  # its text tower looks ahead, and is read at the end mark
        "custom_text": True,
        "vision_cfg": {
            "image_size": 64,
            "timm_model_name": "test_efficientnet",
            "timm_pool": "avg",
            "timm_proj": None,
        },
        "text_cfg": {"no_causal_mask": True},
    },
    "siglip": {  # timm has no tiny tower with attention pooling
        "embed_dim": 64,
        "custom_text": True,
        "init_logit_bias": -10,
        "vision_cfg": {
            "image_size": 160,
            "timm_model_name": "test_vit",
            "timm_pool": "avg",
            "timm_proj": "none",
        },
        "text_cfg": {
            "hf_tokenizer_name": "acme/net",
            "tokenizer_kwargs": {"clean": "canonicalize"},
            "no_causal_mask": True,
            "proj_bias": True,
            "pool_type": "last",
            "norm_kwargs": {"eps": 1e-6},
            "act_kwargs": {"approximate": "tanh"},
        },
    },
}


def open_clip_source(folder: Path, name: str) -> Any:
    """A checkpoint in open_clip's form, and its model."""
    torch.manual_seed(0)
    made = tokenizer(folder)
    config: dict[str, Any] = json.loads(json.dumps({"embed_dim": 24, **OPEN_CLIP[name]}))
    config["vision_cfg"] = {"image_size": SIDE, **config["vision_cfg"]}
    config["text_cfg"] |= OPEN_CLIP_TEXT | {"vocab_size": made.get_vocab_size()}
    stated = json.dumps({"model_cfg": config, "preprocess_cfg": {"resize_mode": "squash"}})
    arguments = {key: value for key, value in config.items() if key != "custom_text"}
    build = open_clip.CustomTextCLIP if config.get("custom_text") else open_clip.CLIP
    model = build(**arguments).eval()
    with torch.no_grad():
        model.logit_scale.fill_(2.5)
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.15)
    tensors = {key: tensor.contiguous() for key, tensor in model.state_dict().items()}
    save_file(tensors, folder / "open_clip_model.safetensors")
    (folder / "open_clip_config.json").write_text(stated)
    return model


@pytest.mark.parametrize("name", OPEN_CLIP)
def test_both_towers_are_those_of_open_clip(tmp_path: Path, name: str) -> None:
    source = tmp_path / "source"
    model = open_clip_source(source, name)
    towers = read_towers(source)
    texts = ["a naked person", "a gun on a table"]
    with torch.inference_mode():
        expected = model.encode_text(text_inputs(source, texts), normalize=True)
    assert (towers.text.features(texts) - expected).abs().max() <= NEAR
    assert (expected[0] - expected[1]).abs().max() > 1e-3
    add_words(source, "zero", prompts_in(tmp_path))
    bundle = load_bundle("zero")
    assert bundle.models[0].card.words.kind == towers.kind  # type: ignore[union-attr]
    assert towers.kind == ("siglip" if name == "siglip" else "clip")
    images = normalised(bundle, pixels(bundle))
    with torch.inference_mode():
        expected = model.encode_image(images, normalize=True)
        features = torch.nn.functional.normalize(load_model(bundle.models[0]).tower(images), dim=-1)
    assert (features - expected).abs().max() <= NEAR


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with running_hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        yield hub


def served(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_pulled_from_a_hub(hub: Hub, tmp_path: Path, capsys: Captured) -> None:
    siglip(tmp_path / "transformers")
    open_clip_source(tmp_path / "open_clip", "openai")
    hub.repos["acme/siglip"] = served(tmp_path / "transformers")
    # A repository of timm has its image tower besides, as a classifier without labels.
    classifier = {"config.json": b'{"architecture": "test_vit"}', "model.safetensors": b"none"}
    hub.repos["acme/timm"] = {**served(tmp_path / "open_clip"), **classifier}
    path = str(tmp_path / "prompts.toml")
    prompts = prompts_in(tmp_path)
    for repo, kind in (("siglip", "siglip"), ("timm", "clip")):
        assert run(["weights", "pull", f"hf:acme/{repo}", "--prompts", path]) == 0
        out = capsys.readouterr().out
        assert COMMIT in out
        assert ("probabilities are tiny" in out) == (kind == "siglip")
        bundle = load_bundle(repo)
        assert bundle.card.revision == COMMIT
        assert bundle.card.digest == "first-pull"
        assert bundle.models[0].card.words.kind == kind  # type: ignore[union-attr]
        assert bundle.card.prompts.tower.startswith(f"hf:acme/{repo}: ")  # type: ignore[union-attr]
    asked = {path for _, path, _ in hub.requests if "/acme/timm/resolve/" in path}
    assert {path.rpartition("/")[2] for path in asked} == {
        "open_clip_config.json", "open_clip_model.safetensors", "tokenizer.json",
        "tokenizer_config.json",
    }  # fmt: skip

    del hub.repos["acme/timm"]["tokenizer.json"]
    with pytest.raises(WeightsError, match=r"acme/timm has no tokenizer\.json, which prompts need"):
        pull("hf:acme/timm", prompts=prompts, rename="other")
    with pytest.raises(UsageError, match="the prompts say what feeds which category"):
        pull("hf:acme/timm", prompts=prompts, activation="sigmoid")
    with pytest.raises(UsageError, match="--prompts goes with hf:owner/name"):
        pull("starter", prompts=prompts)


def change(path: Path, *keys: str, to: Any) -> None:
    """Change one value of a JSON file."""
    content = json.loads(path.read_text())
    table = content
    for key in keys[:-1]:
        table = table[key]
    table[keys[-1]] = to
    path.write_text(json.dumps(content))


def without(folder: Path, *prefixes: str) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: t for name, t in tensors.items() if not name.startswith(prefixes)}
    save_file(kept, folder / "model.safetensors")


def replaced(folder: Path, name: str, tensor: torch.Tensor) -> None:
    tensors = load_file(folder / "model.safetensors")
    save_file({**tensors, name: tensor}, folder / "model.safetensors")


CONFIG = "config.json"
BROKEN: dict[str, tuple[Make, Callable[[Path], object], str]] = {
    "no tokenizer": (clip, lambda f: (f / "tokenizer.json").unlink(), "prompts need the tokenizer"),
    "no tokenizer at all": (
        clip, lambda f: (f / "tokenizer.json").write_text("{}"), "no tokenizer: "
    ),
    "no marks": (
        clip, lambda f: change(f / "tokenizer.json", "post_processor", to=None),
        "texts do not end with a mark of their end",
    ),
    "no fill": (
        siglip, lambda f: (f / "tokenizer_config.json").unlink(), "names the token that fills up"
    ),
    "no text tower": (
        clip, lambda f: without(f, "text_model.", "text_projection"), "has no text tower"
    ),
    "no positions": (
        clip, lambda f: without(f, "text_model.embeddings.position"),
        "the position_embedding of the text tower is missing",
    ),
    "no scale": (clip, lambda f: without(f, "logit_scale"), "tensor logit_scale is missing"),
    "no bias": (siglip, lambda f: without(f, "logit_bias"), "tensor logit_bias is missing"),
    "a layer less": (
        clip, lambda f: without(f, "text_model.encoder.layers.0.mlp.fc2"), "does not fit"
    ),
    "other features": (
        clip, lambda f: replaced(f, "text_projection.weight", torch.zeros(23, 48)),
        "gives 24 features, but the text tower 23",
    ),
    "nan": (
        clip, lambda f: replaced(f, "text_projection.weight", torch.full((24, 48), math.nan)),
        "holds NaN or infinity",
    ),
    "no direction": (
        clip, lambda f: replaced(f, "text_projection.weight", torch.zeros(24, 48)),
        "gives no finite vector",
    ),
    "odd scale": (
        clip, lambda f: replaced(f, "logit_scale", torch.tensor(80.0)), "a trained checkpoint"
    ),
    "two scales": (
        clip, lambda f: replaced(f, "logit_scale", torch.ones(2)), "is not one number"
    ),
    "more tokens than rows": (
        clip,
        lambda f: replaced(f, "text_model.embeddings.token_embedding.weight", torch.ones(3, 48)),
        "more tokens than the 3",
    ),
    "heads": (
        clip, lambda f: change(f / CONFIG, "text_config", "num_attention_heads", to=7),
        "7 heads do not fit",
    ),
    "act": (
        clip, lambda f: change(f / CONFIG, "text_config", "hidden_act", to="relu6"), "hidden_act"
    ),
    "no head": (
        siglip, lambda f: change(f / CONFIG, "vision_config", "vision_use_head", to=False),
        "vision_use_head = false",
    ),
    "other kind": (clip, lambda f: change(f / CONFIG, "model_type", to="bert"), "of type 'bert'"),
    "more": (clip, lambda f: replaced(f, "more", torch.ones(1)), "tensor more has no use"),
}  # fmt: skip


@pytest.mark.parametrize("name", BROKEN)
def test_broken_checkpoints_are_named_in_a_line(tmp_path: Path, name: str) -> None:
    make, spoil, message = BROKEN[name]
    make(tmp_path)
    spoil(tmp_path)
    with pytest.raises(WeightsError) as caught:
        add_words(tmp_path, "zero", prompts_in(tmp_path), NO_LEVELS)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "data" / "moderate" / "weights" / "zero").exists()


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("text_cfg", "hf_model_name"), "acme/roberta", "its text tower is 'acme/roberta'"),
        (("text_cfg", "embed_cls"), True, "text_cfg.embed_cls = True is not supported"),
        (("text_cfg", "pool_type"), "first", "pool_type 'first' is not supported"),
        (("text_cfg", "act_kwargs"), {"a": 1}, "act_kwargs"),
        (("text_cfg", "tokenizer_kwargs"), {"strip_sep_token": True}, "tokenizer_kwargs"),
        (("vision_cfg", "attentional_pool"), True, "vision_cfg.attentional_pool = True"),
        (("vision_cfg", "new_trick"), 1, "vision_cfg.new_trick is not supported"),
        (("vision_cfg", "layers"), [3, 4, 6, 3], "num_hidden_layers"),
        (("vision_cfg", "mlp_ratio"), "4", "mlp_ratio"),
        (("vision_cfg", "timm_model_name"), "hf-hub:acme/net", "names no timm architecture"),
        (("vision_cfg",), [], "vision_cfg must be a table"),
    ],
)
def test_open_clip_configurations_that_would_compute_something_else(
    tmp_path: Path, keys: tuple[str, ...], value: Any, message: str
) -> None:
    open_clip_source(tmp_path, "openai")
    change(tmp_path / "open_clip_config.json", "model_cfg", *keys, to=value)
    with pytest.raises(WeightsError) as caught:
        read_towers(tmp_path)
    assert message in str(caught.value)


def test_prompts_that_a_checkpoint_cannot_take(tmp_path: Path) -> None:
    clip(tmp_path / "source")
    long = PLAIN.replace("a naked person", "a naked person " * 6)
    with pytest.raises(WeightsError, match="has 20 tokens, but the text tower takes at most 16"):
        add_words(tmp_path / "source", "zero", prompts_in(tmp_path, long))
    alone = "[categories.nudity]\nprompts = ['a naked person']"
    with pytest.raises(WeightsError, match="nudity has neither look-alikes nor are there safe"):
        add_words(tmp_path / "source", "zero", prompts_in(tmp_path, alone))
    siglip(tmp_path / "other")
    add_words(tmp_path / "other", "zero", prompts_in(tmp_path, alone))  # SigLIP needs none
    with pytest.raises(WeightsError, match="is a prompt and a level"):
        text = alone.replace("a naked person", "level:a")
        levels = level_group([("a", "for everybody"), ("b", "for grown people only")])
        add_words(tmp_path / "other", "zero", prompts_in(tmp_path, text), levels, overwrite=True)


def test_levels_and_prompts_together_have_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("moderate.weights.words.build.MOST_COLUMNS", 9)
    clip(tmp_path / "source")
    levels = level_group([("a", "for everybody"), ("b", "for grown people only")])
    with pytest.raises(WeightsError, match="with 2 levels: 11 texts or labels, and one model has"):
        add_words(tmp_path / "source", "zero", prompts_in(tmp_path), levels)


def test_texts_are_cleaned_as_open_clip_says(tmp_path: Path) -> None:
    folder = tmp_path / "source"
    open_clip_source(folder, "openai")
    cased = json.loads((folder / "tokenizer.json").read_text())
    (folder / "tokenizer.json").write_text(json.dumps(cased | {"normalizer": None}))

    def same(one: str, other: str, **text_config: Any) -> bool:
        for key, value in text_config.items():
            change(folder / "open_clip_config.json", "model_cfg", "text_cfg", key, to=value)
        tokenizer = read_towers(folder).text.tokenizer
        return tokenizer.ids(one) == tokenizer.ids(other)

    assert same("A  Toy gun", "a toy gun")
    assert same("a toy, gun", "a toy gun", tokenizer_kwargs={"clean": "canonicalize"})
    assert not same("a toy, gun", "a toy gun", tokenizer_kwargs={"clean": "lower"})
    assert same("A toy gun", "a toy gun")
    assert not same("A toy gun", "a toy gun", tokenizer_kwargs={"clean": "whitespace"})
    assert not same("A toy gun", "a toy gun", tokenizer_kwargs={}, hf_tokenizer_name="acme/net")


def test_a_category_of_ones_own_alone(tmp_path: Path) -> None:
    clip(tmp_path / "source")
    text = "[safe]\nprompts = ['a street']\n[categories.own.weapons]\nprompts = ['a toy gun']"
    add_words(tmp_path / "source", "zero", prompts_in(tmp_path, text))
    verified = verify_bundle("zero", "cpu", "fp32", "torch")
    assert verified.bundle.card.own_categories == ("weapons",)
    assert verified.selftest is not None
    assert verified.selftest.passed


def test_options_that_do_not_go_together(tmp_path: Path, capsys: Captured) -> None:
    clip(tmp_path / "source")
    prompts_in(tmp_path)
    add = ["weights", "add", str(tmp_path / "source"), "--prompts", str(tmp_path / "prompts.toml")]
    assert run(add) == 2
    assert "say with --name" in capsys.readouterr().err
    assert run([*add, "--name", "zero", "--activation", "sigmoid"]) == 2
    assert "--prompts takes no options but" in capsys.readouterr().err
    levels = level_group([("a", "for everybody"), ("b", "for grown people only")])
    with pytest.raises(UsageError, match="--levels goes with --prompts"):
        pull("hf:owner/name", levels=levels)
