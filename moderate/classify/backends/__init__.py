"""Backends that run a model, behind one interface; torch is the reference."""
