"""Files on disk -> one clean `Scan` each: every format, its geometry checked, and nothing that names a person."""
