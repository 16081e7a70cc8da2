"""What is seen while a sweep runs."""
