"""Semi-supervised training, one algorithm a file: labelled scans, and unlabelled scans of other training patients."""
