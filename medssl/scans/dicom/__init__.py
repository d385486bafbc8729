"""DICOM: headers read fast and safely, slices sorted by position, series made into volumes, masks read."""
