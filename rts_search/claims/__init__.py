"""What holds on new seeds: claims, how they are tested, and in words."""
