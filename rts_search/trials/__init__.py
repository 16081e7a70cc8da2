"""A trial and its rows, and the seams to Ray Tune."""
