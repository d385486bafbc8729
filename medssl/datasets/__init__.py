"""Folders of scans -> a manifest, with labels, masks and splits by patient; and the embedded phantom cohort."""
