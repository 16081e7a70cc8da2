"""What is asked: the spec, how it is read, and the file in the sweep's folder."""
