"""Views: batched 2D and 3D augmentations for scans, where the batch lies.

    from medssl.views import Compose, check_view
    from medssl.views.spatial import Resample

A view put in a file here is found by itself and runs through the same tests as every other.
"""

from medssl.views.base import Compose, View
from medssl.views.check import check_view
from medssl.views.random import make_keys

__all__ = ["Compose", "View", "check_view", "make_keys"]
