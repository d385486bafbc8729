"""The embedded cohort: CT-like scans of made-up patients, drawn here, so that nothing has to be downloaded.

from pathlib import Path
from medssl.datasets.phantom.cohort import phantom
phantom(Path("cohort"), patients=8)
"""
