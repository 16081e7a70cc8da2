"""The RTS optimizer, its schedules and triggers, models, data and the training loop."""
