"""Layer 7: the recipe, its check, the stages, the pipeline that runs them, and the report."""
