"""What is tried next. Optuna samples here only."""
