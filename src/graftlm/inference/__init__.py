"""Layer 3: the generation engine and the log-likelihood scorer."""
