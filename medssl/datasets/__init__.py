"""Named collections of scans, one file each; `phantom` makes its own, so nothing has to be downloaded.

from pathlib import Path
from medssl.datasets.phantom import phantom
phantom(Path("cohort"), patients=8)
"""
