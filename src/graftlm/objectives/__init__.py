"""Layer 4: what a training step minimises."""
