"""OpenVINO against torch, the reference; which backend is chosen; and what OpenVINO must not do."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from moderate.classify.bundle import load_bundle
from moderate.classify.card import Head
from moderate.classify.classifier import Classifier
from moderate.classify.device import Placement, place
from moderate.classify.model import build_model
from moderate.errors import DeviceError, UsageError
from tests.support.bundles import CATEGORY_LABELS, model_table, write_card, write_model
from tests.support.installing import how_to_install
from tests.support.patience import PATIENCE

HIDE_OPENVINO = """
import sys
class Hidden:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "openvino":
            raise ModuleNotFoundError(name)
        return None
sys.meta_path.insert(0, Hidden())
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, package=None: None if name == "openvino" else real(name)
"""


def run(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    # Continuous integration, as CI=true declares it, is where OpenVINO reports nothing anyway.
    inherited = {name: value for name, value in os.environ.items() if name != "CI"}
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**inherited, **env},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def spread_out(folder: Path, pixels: np.ndarray) -> None:
    """Scale the last layer so that scores of `pixels` spread over 0..1."""
    from safetensors.torch import load_file

    with Classifier(load_bundle(str(folder)), place("cpu", "fp32", "torch")) as model:
        backend = model._members[0].model.backend
        logits = backend.start(pixels)()
    tensors = load_file(folder / "model.safetensors")
    last = [name for name, t in tensors.items() if t.shape[:1] == (logits.shape[1],)]
    weight = next(name for name in last if tensors[name].ndim == 2)
    bias = next(name for name in last if tensors[name].ndim == 1)
    scale = torch.from_numpy(1.5 / logits.std(axis=0))
    shift = torch.from_numpy(logits.mean(axis=0)) * scale
    tensors[weight] = tensors[weight] * scale[:, None]
    tensors[bias] = tensors[bias] * scale - shift
    save_file({k: v.contiguous() for k, v in tensors.items()}, folder / "model.safetensors")


def pictures(count: int, side: int, dtype: str = "uint8") -> np.ndarray:
    """Blobs of colour, some coarse and some fine, with a little noise."""
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        small = rng.integers(0, 256, (2 + number, 2 + number, 3))
        index = np.arange(side) * (2 + number) // side
        found.append(small[index[:, None], index] * 0.9 + rng.uniform(0, 25, (side, side, 3)))
    return np.stack(found).astype(dtype)


def make(folder: Path, architecture: str) -> Path:
    """A random bundle; `head` is a MobileNet under an MLP head on float pixels, as NSFWJS is."""
    side, table = 224, model_table()
    if architecture == "head":
        head = Head(hidden=(32,), activation="relu")
        torch.manual_seed(0)
        arguments = {"pad_type": "same", "bn_eps": 1e-3}
        model = build_model("mobilenetv2_100", len(CATEGORY_LABELS), arguments, head)
        write_model(folder, architecture="mobilenetv2_100")  # for its config.json
        save_file(
            {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors"
        )
        table["head"] = head.model_dump(mode="json")
        table["model_args"] = arguments
        table["activation"] = "softmax"
        table["preprocess"]["antialias"] = False
    else:
        write_model(folder, architecture=architecture, spread=1.0)
    table["preprocess"]["size"] = [side, side]
    table["preprocess"]["mean"] = [0.485, 0.456, 0.406]
    table["preprocess"]["std"] = [0.229, 0.224, 0.225]
    write_card(folder, [table])
    dtype = load_bundle(str(folder)).specs[0].dtype
    spread_out(folder, pictures(12, side, dtype))
    write_card(folder, [table])
    return folder


def values(folder: str, placement: Placement, pixels: np.ndarray) -> np.ndarray:
    with Classifier(load_bundle(folder), placement) as model:
        assert model.placement.backend == placement.backend
        outcomes = model.submit((pixels,)).result()
    return np.array([list(outcome.values()) for outcome in outcomes])


@pytest.mark.parametrize(
    "name",
    [
        # The shipped bundle is a MobileNet v4, too.
        pytest.param("mobilenetv4_conv_small", marks=pytest.mark.slow),
        "vit_tiny_patch16_224",
        "head",
    ],
)
def test_openvino_s_scores_equal_torch_s(tmp_path: Path, name: str) -> None:
    folder = str(make(tmp_path / "b", name))
    spec = load_bundle(folder).specs[0]
    batch = pictures(12, spec.height, spec.dtype)
    expected = values(folder, place("cpu", "fp32", "torch"), batch)
    assert expected.std(axis=0).min() > 0.02, "the scores tell images apart"
    assert np.abs(values(folder, place("cpu", "fp32", "openvino"), batch) - expected).max() < 1e-4
    rough = np.abs(values(folder, place("cpu", "bf16", "openvino"), batch) - expected)
    assert rough.max() > 1e-4, "bf16 is what was asked for"
    assert rough.mean() < 0.05


def test_openvino_s_scores_equal_torch_s_on_the_shipped_bundle() -> None:
    batch = pictures(12, 160)
    expected = values("testcard", place("cpu", "fp32", "torch"), batch)
    got = values("testcard", place("cpu", "fp32", "openvino"), batch)
    assert np.abs(got - expected).max() < 1e-4


def test_a_network_that_openvino_computes_otherwise_is_left_to_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    folder, table = tmp_path / "b", model_table(model_args={"img_size": 96})
    torch.manual_seed(0)
    model = build_model("test_vit", len(CATEGORY_LABELS), {"img_size": 96}, None)
    write_model(folder, architecture="test_vit")  # for its config.json
    state = {k: v.contiguous() for k, v in model.state_dict().items()}
    state["pos_embed"] = state["pos_embed"] * 50  # a table of positions that matters
    state["head.weight"] = state["head.weight"] * 40
    save_file(state, folder / "model.safetensors")
    # Of another size than its table, which is resized in every forward pass.
    table["preprocess"]["size"] = [160, 160]
    write_card(folder, [table])
    bundle = load_bundle(str(folder))
    batch = pictures(6, 160)
    for _ in range(2):  # converted, and then from what was kept
        caplog.clear()
        with Classifier(bundle, place("cpu", "fp32")) as model:
            assert model.placement.backend == "torch"
            got = model.submit((batch,)).result()
        assert "gives other scores than torch for test_vit" in caplog.text
        with pytest.raises(DeviceError, match="--backend torch gives the right ones"):
            Classifier(bundle, place("cpu", "fp32", "openvino"))
    with Classifier(bundle, place("cpu", "fp32", "torch"), batch_size=4) as model:
        assert model.submit((batch,)).result() == got


def test_which_backend_is_chosen() -> None:
    assert place("cpu", "auto") == Placement("cpu", "fp32", "cpu", "openvino", fallback=True)
    assert place("cpu", "bf16").backend == "openvino"
    assert place("cpu", "auto", "torch") == Placement("cpu", "fp32", "cpu", "torch")
    assert place("auto", "auto", "openvino") == Placement("cpu", "fp32", "cpu", "openvino")
    with pytest.raises(UsageError, match="runs on the CPU"):
        place("cuda:0", "auto", "openvino")
    with pytest.raises(UsageError, match="--backend 'onnx': use one of auto, torch, openvino"):
        place("cpu", "auto", "onnx")
    with pytest.raises(DeviceError, match="fp16 needs CUDA"):
        place("cpu", "fp16", "openvino")


def test_without_openvino_torch_is_used_and_asking_for_it_says_what_to_install(
    bundle: Path,
) -> None:
    done = run(
        HIDE_OPENVINO
        + f"""
from moderate.classify.device import place
from moderate.errors import DeviceError
placement = place("cpu", "auto")
from moderate.classify.bundle import load_bundle
from moderate.classify.classifier import Classifier
import numpy as np
with Classifier(load_bundle({str(bundle)!r}), placement) as model:
    outcome = model.submit((np.zeros((1, 64, 64, 3), np.uint8),)).result()[0]
print(placement.backend, len(outcome))
try:
    place("cpu", "auto", "openvino")
except DeviceError as error:
    print(error)
"""
    )
    needed = f"--backend openvino: OpenVINO is not installed; {how_to_install('cpu')}"
    assert re.fullmatch(f"torch 5\n{needed}\n", done.stdout), done.stderr


BROKEN_OPENVINO = """
import sys, logging
logging.basicConfig(format="%(levelname)s %(message)s", stream=sys.stdout)
from moderate.classify.bundle import load_bundle
from moderate.classify.device import place
from moderate.classify.classifier import Classifier
from moderate.errors import DeviceError
from importlib.metadata import version
for backend in ("openvino", "auto"):
    try:
        with Classifier(load_bundle(sys.argv[1]), place("cpu", "fp32", backend)) as model:
            print(model.placement.backend)
    except DeviceError as error:
        print(error)
"""


def test_an_openvino_that_does_not_load_is_said_and_auto_goes_on(
    bundle: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "openvino"
    broken.mkdir()
    (broken / "__init__.py").write_text("raise ImportError('libtbb.so.12: no such file')")
    code = BROKEN_OPENVINO.replace("sys.argv[1]", repr(str(bundle)))
    done = run(code, PYTHONPATH=str(tmp_path))
    lines = done.stdout.splitlines()
    assert lines == [
        "OpenVINO is installed but does not load (libtbb.so.12: no such file); use --backend torch",
        "WARNING OpenVINO is installed but does not load (libtbb.so.12: no such file); "
        "use --backend torch; using torch",
        "torch",
    ], done.stderr


AUDIT = """
import os, sys
def watch(event, args):
    if event.startswith(("socket.connect", "socket.getaddrinfo", "urllib.")):
        with open(os.environ["AUDIT_LOG"], "a") as file:
            file.write(event + "\\n")
sys.addaudithook(watch)
with open(os.environ["AUDIT_LOG"], "a") as file:
    file.write("started\\n")
"""

WATCHED = """
import sys
import numpy as np
from moderate.classify.bundle import load_bundle
from moderate.classify.device import place
from moderate.classify.classifier import Classifier
with Classifier(load_bundle("testcard"), place("cpu", "fp32", "openvino")) as model:
    pixels = np.arange(3 * 160 * 160 * 3, dtype=np.uint32).astype(np.uint8)
    outcomes = model.submit((pixels.reshape(3, 160, 160, 3),)).result()
print([value.hex() for outcome in outcomes for value in outcome.values()])
print("imported", sorted({"torch", "timm", "torchvision"} & set(sys.modules)))
import time
time.sleep(1)
"""


def test_the_first_run_converts_in_a_child_and_later_ones_not_at_all_and_none_reports(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    # Python imports it in every process, in the one that converts, too.
    (tmp_path / "sitecustomize.py").write_text(AUDIT)
    log = tmp_path / "audit.log"
    env = {
        "HOME": str(home),
        "XDG_CACHE_HOME": str(tmp_path / "cache"),
        "PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]),
        "AUDIT_LOG": str(log),
    }
    first, second = run(WATCHED, **env), run(WATCHED, **env)
    scores, imported = first.stdout.splitlines()
    assert imported == "imported []", "conversion takes place in a process of its own"
    assert first.stderr == ""
    assert second.stdout.splitlines() == [scores, "imported []"], second.stderr
    assert log.read_text().splitlines() == ["started"] * 3, "the second run converts nothing"
    assert list(home.iterdir()) == [], "OpenVINO's telemetry writes an identifier there"
