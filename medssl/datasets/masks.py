"""Which file is the mask of which scan, by a path pattern; and which files are masks and so no scans.

The pattern is relative to the image's folder (for a DICOM series: to the parent of its folder). {name} is the
file's (or series folder's) name, {stem} the same without its suffix: "../labels/{name}",
"{stem}_mask.nii.gz".

    template = MaskTemplate("../labels/{name}")
    pairs, masks = template.split(files, dicom_folders)
"""

from __future__ import annotations

import os
import re
import string
from collections.abc import Iterable
from pathlib import Path

from medssl.core.errors import MedsslError, nearest
from medssl.scans.paths import stem

FIELDS = ("name", "stem")
ANY = "\ue000"  # a character no file name has, where the pattern has a field


class MaskTemplate:
    """A pattern that leads from an image to its mask.

    Args:
        template: The pattern, such as "../labels/{name}".

    Raises:
        MedsslError: A {field} is unknown, or the pattern names the image itself.
    """

    def __init__(self, template: str) -> None:
        try:
            used = {field for _, field, _, _ in string.Formatter().parse(template) if field is not None}
        except ValueError:
            raise MedsslError(f"mask is {template!r}: expected a path with {{name}} or {{stem}}") from None
        for field in used - set(FIELDS):
            raise MedsslError(f"mask is {template!r}: {{{field}}} is not a field{nearest(field, FIELDS)}")
        if not used or os.path.normpath(template) == "{name}":
            raise MedsslError(
                f"mask is {template!r}: expected a path that leads from an image to another file, such as "
                "'../labels/{name}' or '{stem}_mask.nii.gz'"
            )
        self.template = template

    def path(self, image: Path) -> Path:
        """Where the mask of this image (or DICOM series folder) should lie; a folder with one file means the file."""
        without_suffix = image.name if os.path.isdir(image) else stem(image)
        mask = _normal(image.parent / self.template.format(name=image.name, stem=without_suffix))
        inside = _entries(mask) if os.path.isdir(mask) and mask != image else []
        return inside[0] if len(inside) == 1 else mask

    def split(self, files: Iterable[Path], folders: Iterable[Path]) -> tuple[dict[Path, Path], set[Path]]:
        """({image: its mask}, every file that is a mask and therefore no scan)."""
        files = [_normal(path) for path in files]
        pairs = {}
        for image in [*files, *map(_normal, folders)]:
            mask = self.path(image)
            if mask != image and os.path.isfile(mask):  # unlike Path's, false for a name that no disk can hold
                pairs[image] = mask
        masks = self._all_masks(files, pairs)
        return {image: mask for image, mask in pairs.items() if image not in masks}, masks

    def _all_masks(self, files: list[Path], pairs: dict[Path, Path]) -> set[Path]:
        """The masks found, all else in folders made for masks, and all whose name the pattern would give."""
        own_folders = {image.parent for image in pairs}
        mask_folders = {mask.parent for mask in pairs.values()} - own_folders - set(pairs)  # a series' own folder
        patterns = [self._pattern(folder) for folder in own_folders]
        masks = set(pairs.values()) | {path for path in files if path.parent in mask_folders}
        return masks | {path for path in files if any(pattern.fullmatch(str(path)) for pattern in patterns)}

    def _pattern(self, folder: Path) -> re.Pattern:
        text = str(_normal(folder / self.template.format(name=ANY, stem=ANY)))
        return re.compile(re.escape(text).replace(ANY, r"[^/\\]+"))


def _entries(folder: Path) -> list[Path]:
    """What lies in a folder; nothing where it cannot be opened, which the walk reports."""
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _normal(path: Path) -> Path:
    return Path(os.path.normpath(path))
