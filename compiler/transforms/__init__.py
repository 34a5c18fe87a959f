"""Transforms: from models with their weights to models. Importing the package registers all of them."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules

from .register import TRANSFORMS, WORDS, Limit, Outcome, Refusal, Transform, Word, transform, word

__all__ = ["TRANSFORMS", "WORDS", "Limit", "Outcome", "Refusal", "Transform", "Word", "transform", "word"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
