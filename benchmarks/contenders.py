"""What a user would write instead of `moderate scan`; each prints one CSV row per image.

python benchmarks/contenders.py timm|transformers FOLDER BUNDLE [--batch 32] [--workers N]
"""

from __future__ import annotations

import argparse
import csv
import sys
from pathlib import Path

from torch.utils.data import Dataset

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".heic")


def with_timm(folder: Path, bundle: Path, batch: int, workers: int) -> None:
    """timm's own dataset, loader and transform, as its inference script puts them together.

    That script reads .png, .jpg and .jpeg; it is given the other suffixes and HEIC here, so that
    all contenders see the same files. A file that cannot be read gets its neighbour's pixels: the
    dataset goes on to the next index and says so in the log only.
    """
    import pillow_heif
    import timm
    import torch
    from timm.data import create_dataset, create_loader, resolve_data_config, set_img_extensions

    pillow_heif.register_heif_opener()
    set_img_extensions(SUFFIXES)
    model = timm.create_model(f"local-dir:{bundle}", pretrained=True).eval()
    config = resolve_data_config({}, model=model)
    dataset = create_dataset(root=str(folder), name="")
    loader = create_loader(
        dataset,
        batch_size=batch,
        use_prefetcher=True,
        num_workers=workers,
        device=torch.device("cpu"),
        **{key: config[key] for key in ("input_size", "interpolation", "mean", "std")},
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
    )
    names = dataset.filenames(basename=True)
    rows = csv.writer(sys.stdout)
    rows.writerow(["file", *model.pretrained_cfg.get("label_names", range(model.num_classes))])
    done = 0
    with torch.inference_mode():
        for images, _ in loader:
            for scores in model(images).sigmoid().tolist():
                rows.writerow([names[done], *scores])
                done += 1
            sys.stdout.flush()


def with_transformers(folder: Path, bundle: Path, batch: int, workers: int) -> None:
    """transformers' image-classification pipeline, which loads timm's folders by its wrapper.

    A file that cannot be read ends the run.
    """
    import pillow_heif
    from transformers import pipeline

    pillow_heif.register_heif_opener()
    classify = pipeline("image-classification", model=str(bundle), device="cpu")
    files = sorted(str(path) for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES)
    rows = csv.writer(sys.stdout)
    rows.writerow(["file", "scores"])
    results = classify(
        _Files(files),
        batch_size=batch,
        num_workers=workers,
        function_to_apply="sigmoid",
        top_k=5,
    )
    for number, (file, scores) in enumerate(zip(files, results, strict=True), 1):
        rows.writerow([Path(file).name, *(f"{s['label']}={s['score']}" for s in scores)])
        if number % batch == 0:
            sys.stdout.flush()


class _Files(Dataset[str]):
    """A list that the pipeline takes for a data set, so that its loader's workers are used."""

    def __init__(self, files: list[str]) -> None:
        self._files = files

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> str:
        return self._files[index]


CONTENDERS = {"timm": with_timm, "transformers": with_transformers}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("contender", choices=list(CONTENDERS))
    parser.add_argument("folder", type=Path)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=2)
    options = parser.parse_args()
    CONTENDERS[options.contender](
        options.folder, options.bundle.resolve(), options.batch, options.workers
    )


if __name__ == "__main__":
    main()
