"""NIfTI, NRRD, MetaImage and plain images, each checked before it is believed."""
