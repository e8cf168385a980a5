"""Published tests: task and suite files, how they are put to a model, and what the scores of a suite are."""
