"""What is tried next. Optuna is used here only."""
