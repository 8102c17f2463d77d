"""Public checkpoints that people trust: where they are, what they cover, how their labels map."""
