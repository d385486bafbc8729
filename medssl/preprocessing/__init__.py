"""A manifest -> a cache of scans on one grid and one intensity scale -> random crops."""
