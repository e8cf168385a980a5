"""Layer 1: numerics, each with a plain reference and a fast twin."""
