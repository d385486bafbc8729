"""Which patients to label next: one strategy a file, each a class with one method."""
