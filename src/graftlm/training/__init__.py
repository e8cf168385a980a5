"""Layer 3: the one training loop, and what it owns: optimizer, schedule, checkpoints, memory plan, meter."""
