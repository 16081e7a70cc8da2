"""Where a sweep runs: Ray, its nodes, its jobs, its dashboard."""
