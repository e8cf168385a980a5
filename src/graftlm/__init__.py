"""graft: turn an open language model into a domain expert, and prove it."""

__version__ = "0.1.0"
