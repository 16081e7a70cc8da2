"""Policies of a search tried on recorded curves, before hours are spent on them."""
