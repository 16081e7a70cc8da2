"""Named search spaces: define-by-run functions of an Optuna trial."""
