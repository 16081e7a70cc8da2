"""One driver a sweep: its lock, its control files, its budget, its interrupts."""
