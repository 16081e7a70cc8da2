"""What came out of a sweep: how it stands, whether its stopper was right."""
