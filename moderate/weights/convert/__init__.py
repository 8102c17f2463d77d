"""Converts checkpoints from the forms that their authors publish to timm's."""

from moderate.native import load

# Before any module here imports them: see `moderate.native`.
for _library in ("torch", "timm"):
    load(_library)
