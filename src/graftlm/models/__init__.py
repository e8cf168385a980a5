"""Layer 2: loading, adapters, heads, merging and export of models."""
