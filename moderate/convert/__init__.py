"""Checkpoints in the forms that their authors publish, converted to timm's."""
