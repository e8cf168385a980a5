"""Layer 5: tasks, metrics, intervals, and the comparison of two models (gain against forgetting)."""
