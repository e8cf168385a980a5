"""Architectures that transformers lacks. Importing this package makes the Auto classes know them."""

from graftlm.models.families import baichuan_alibi as baichuan_alibi
from graftlm.models.families import glm130b as glm130b
