"""Where should attention sit? Kinds and positions at equal processor time: see `__main__`."""
