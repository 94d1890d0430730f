"""Preprocessing: what makes cells ready for a model."""

from polygene.pp._profiles import cells_from_profiles

__all__ = ["cells_from_profiles"]
