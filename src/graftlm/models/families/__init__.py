"""Architectures that transformers lacks. Importing this package makes the Auto classes know them."""

from graftlm.models.families import glm130b as glm130b
