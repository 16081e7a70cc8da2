"""A sweep as one page to look at: what it found, in figures and words."""
