"""Named search spaces of rts-search: define-by-run functions of an Optuna trial."""
