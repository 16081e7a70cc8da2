"""What rts-search trains with: the RTS optimizer, schedules, triggers, models, data, the loop."""
