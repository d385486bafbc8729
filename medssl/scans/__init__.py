"""Files on disk -> clean scans. Reading order is import order:

base.py           Scan, Header; the one statement of the axis order
files.py          walking folders, telling formats apart, atomic writes, gzip read to its checksum
privacy.py        keyed pseudonyms; the allow-list of header fields; the risk of burned-in text
geometry.py       spacing, orientation, resampling, do two grids agree
dicom_fields.py   a DICOM header, opened safely and read fast
dicom_mosaic.py   a Siemens mosaic -> where its tiles lie
dicom_slices.py   one DICOM file -> its slices
dicom_frames.py   which slices are one volume, which are the same place at another time
dicom_correct.py  gantry tilt and uneven spacing, corrected when asked for
dicom_stack.py    slices -> one straight, even stack, or a refusal
dicom.py          slices -> series -> volume: the geometry rules
dicom_seg.py      a mask kept as DICOM SEG
nifti.py          NIfTI and NRRD, integrity checked
metaimage.py      MetaImage, integrity checked
images.py         PNG, JPEG, TIFF, MedMNIST .npz
read.py           one door to every format, masks included
quality.py        flags to filter on: few slices, clipped range, duplicates, ...
audit.py          what header text was left behind, by tag and count
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
