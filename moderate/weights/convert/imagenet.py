"""The names of ImageNet's thousand classes."""

from __future__ import annotations

from collections import Counter


def imagenet_labels() -> tuple[str, ...]:
    """A name for each class of ImageNet-1k, in the usual order of outputs.

    It is the first of WordNet's words for it, with the number of the class in WordNet where two
    classes share that word ("crane n02012849").
    """
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    synsets = [info.index_to_label_name(index) for index in range(1000)]
    words = [info.label_name_to_description(synset).partition(",")[0] for synset in synsets]
    counts = Counter(words)
    return tuple(
        word if counts[word] == 1 else f"{word} {synset}"
        for word, synset in zip(words, synsets, strict=True)
    )
