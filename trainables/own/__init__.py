"""Training functions of the user's own, and the choice between them and the built-in loop."""
