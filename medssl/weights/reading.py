"""Files of weights from elsewhere, read without running what is in them: safetensors, or pickles with `weights_only=True`.

    stored = read_file(Path("model_swinvit.pt"))
    stored.tensors(("state_dict", "model"))            # {"module.layers1.0...": tensor, ...}

A file of PyTorch is a pickle, and a pickle may hold any program. Torch's own restricted reader takes tensors, numbers, texts and
containers of these alone; numpy's numbers, which nnU-Net's files hold, are the one addition. A whole pickled module is refused.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from medssl.core.errors import MedsslError

LARGEST_BYTES = 16 << 30
PAYLOADS = ("state_dict", "network_weights", "net", "student", "model", "model_state_dict", "model_state")
NUMPY = [  # makes numbers and arrays of numbers, and no other objects
    np.dtype,
    np.ndarray,
    *(type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float16", "float32", "float64")),
    np._core.multiarray.scalar,  # type: ignore[attr-defined]
    np._core.multiarray._reconstruct,  # type: ignore[attr-defined]
]
NAMES_OF_NUMPY_1 = [
    (np._core.multiarray.scalar, "numpy.core.multiarray.scalar"),  # type: ignore[attr-defined]
    (np._core.multiarray._reconstruct, "numpy.core.multiarray._reconstruct"),  # type: ignore[attr-defined]
]
REFUSED_CLASS = re.compile(r"GLOBAL ([\w.]+)")
NOT_WEIGHTS = {  # how a file begins that is something else
    b"version https://git-lfs": "a pointer of Git LFS, in place of the file it points to: fetch the file itself (git lfs pull)",
    b"<": "a web page: the download did not give the file; fetch it again, logged in if the page asks for it",
    b"\x1f\x8b": "compressed with gzip: unpack it first (gunzip)",
}


@dataclass(frozen=True)
class Stored:
    """The content of a file of weights.

    Attributes:
        content: What the file holds: names and tensors, or tensors below a name beside other data.
        sha256: Of the file, in hex digits.
        about: What a `config.json` beside it says, and under "preprocessor" a `preprocessor_config.json`.
    """

    content: dict[str, Any]
    sha256: str
    about: dict[str, Any] = field(default_factory=dict)

    def tensors(self, payloads: Sequence[str] = PAYLOADS) -> dict[str, Tensor]:
        """The tensors by their names in the file.

        Args:
            payloads: Names that the tensors may lie below; the first that is there is taken, and the content itself if none is.

        Raises:
            MedsslError: There are no tensors there.
        """
        below = next(
            (self.content[name] for name in payloads if isinstance(self.content.get(name), dict)), self.content
        )
        found = {str(name): value for name, value in below.items() if isinstance(value, Tensor)}
        if not found:
            raise MedsslError(
                f"the file holds no tensors by name, but {', '.join(map(str, list(below)[:5])) or 'nothing'}: expected the state of a "
                "model, as torch.save(model.state_dict(), FILE) writes it"
            )
        return found


def read_file(path: Path) -> Stored:
    """Read a file of weights.

    Args:
        path: A file of safetensors or of `torch.save`, or a folder that holds one such file.

    Raises:
        MedsslError: There is none, it is damaged, too large, or holds more than weights.
    """
    path = _the_file(path)
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise MedsslError(
            f"the file of weights has {size / 2**30:.1f} GiB: expected {LARGEST_BYTES >> 30} or less; save the encoder alone"
        )
    _check_start(path)
    content = _safetensors(path) if path.suffix == ".safetensors" else _pickle(path)
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Stored(content, sha256, _about(path.parent))


def _the_file(path: Path) -> Path:
    if path.is_file():
        return path
    files = sorted(p for ending in ("safetensors", "pth", "pt", "bin", "ckpt") for p in path.glob(f"*.{ending}"))
    if len(files) != 1:
        names = ", ".join(file.name for file in files[:5])
        what = f"holds {len(files)} files of weights ({names})" if path.is_dir() else "does not exist"
        raise MedsslError(f"{path.name} {what}: expected one file of weights; give its name")
    return files[0]


def _check_start(path: Path) -> None:
    with path.open("rb") as file:
        start = file.read(32)
    for beginning, what in NOT_WEIGHTS.items():
        if start.lstrip().startswith(beginning):
            raise MedsslError(f"{path.name} is {what}")
    if not start:
        raise MedsslError(f"{path.name} is empty: expected a file of weights; fetch it again")


def _safetensors(path: Path) -> dict[str, Any]:
    try:
        return dict(load_file(path))
    except (SafetensorError, ValueError, KeyError) as error:
        raise _damaged(path, error) from None


def _pickle(path: Path) -> dict[str, Any]:
    try:
        if zipfile.is_zipfile(path):
            _check_unpacked_size(path)
        with torch.serialization.safe_globals([*NUMPY, *NAMES_OF_NUMPY_1]):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if (match := REFUSED_CLASS.search(str(error))) is None:
            raise _damaged(path, error) from None
        raise MedsslError(_more_than_weights(path, match[1])) from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError, zipfile.BadZipFile, OSError) as error:
        raise _damaged(path, error) from None
    if not isinstance(content, dict):
        raise MedsslError(
            f"{path.name} holds a {type(content).__name__}: expected a dictionary of tensors by their names"
        )
    return content


def _check_unpacked_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        if sum(member.file_size for member in archive.infolist()) > LARGEST_BYTES:
            raise MedsslError(f"{path.name} unpacks to more than {LARGEST_BYTES >> 30} GiB: expected a file of weights")


def _more_than_weights(path: Path, name: str) -> str:
    return (
        f"{path.name} is a pickle of more than weights: it names {name}, and reading that could run any program, so it is "
        f"refused. If you trust its source, convert it where {name.partition('.')[0]} is installed, and import the result:\n"
        f'  m = torch.load("{path.name}", weights_only=False, map_location="cpu")\n'
        '  torch.save(m.state_dict() if hasattr(m, "state_dict") else m["state_dict"], "weights.pth")'
    )


def _damaged(path: Path, error: Exception) -> MedsslError:
    return MedsslError(
        f"{path.name} is damaged, cut off or not a file of weights ({type(error).__name__}): expected safetensors, or what "
        "torch.save wrote; fetch it again and compare its size"
    )


def _about(folder: Path) -> dict[str, Any]:
    """The `config.json` beside a file, which names the architecture where the tensors alone do not; nothing where there is none."""
    preprocessor = _json(folder / "preprocessor_config.json")
    return _json(folder / "config.json") | ({"preprocessor": preprocessor} if preprocessor else {})


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise MedsslError(
            f"the {path.name} beside the weights cannot be read ({type(error).__name__}): expected JSON; fetch it again, or move "
            "it away to go by the tensors alone"
        ) from None
    return content if isinstance(content, dict) else {}
