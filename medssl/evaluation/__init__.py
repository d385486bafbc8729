"""What a model's output or a representation is worth: metrics, intervals, paired tests, probes."""
