"""Who goes on: rungs, rules and the stopper."""
