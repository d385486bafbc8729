"""Files on disk -> clean scans. Reading order is import order:

base.py           Scan, Header; the one statement of the axis order
files.py          walking folders, telling formats apart, atomic writes, gzip read to its checksum
privacy.py        keyed pseudonyms; the allow-list of header fields
geometry.py       spacing, orientation, resampling, do two grids agree
dicom_fields.py   a header's short fields, decoded fast
dicom_slices.py   one DICOM file -> its slices
dicom.py          slices -> series -> volume: the geometry rules
nifti.py          NIfTI and NRRD, integrity checked
images.py         PNG, JPEG, TIFF, MedMNIST .npz
read.py           one door to every format, masks included
masks.py          which file is whose mask
labels.py         a CSV of labels onto scans
found.py          scans on their way into the manifest, on disk
index.py          folders -> manifest + rejects
conform.py        RAS+, resampled, one intensity scale; and back
fingerprint.py    spacings, sizes, intensities of a cohort, and what they decide
cohort.py         which scans make one cache, and on what grid
store.py          one scan -> its file in the cache
cache.py          manifest -> cache; random crops out of it
plan.py           what prepare would do, and why
"""

from medssl.scans.base import Header, Scan
from medssl.scans.cache import Cache, prepare
from medssl.scans.conform import conform
from medssl.scans.index import index
from medssl.scans.privacy import Pseudonyms
from medssl.scans.read import read_mask, read_scan
from medssl.scans.tables import rejects_table, where

__all__ = [
    "Cache",
    "Header",
    "Pseudonyms",
    "Scan",
    "conform",
    "index",
    "prepare",
    "read_mask",
    "read_scan",
    "rejects_table",
    "where",
]
