"""Write a trained model for another library.

    medssl export runs/simmim --to safetensors --out exported
    medssl export runs/model --to safetensors --out exported --license CC-BY-4.0

The folder appears whole or not at all: it is written beside its place and then moved there.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pandas as pd

from medssl.core.errors import MedsslError, nearest
from medssl.core.progress import console
from medssl.core.registry import TARGETS
from medssl.encoders import Encoder
from medssl.exports.card import model_card
from medssl.exports.targets.base import Target
from medssl.exports.trained import read_trained


def export(
    run: Path,
    to: str,
    out: Path,
    encoder: Encoder | None = None,
    license: str | None = None,
    study: Path | None = None,
) -> list[str]:
    """Write the network of a finished run, with a model card, for another library.

    Args:
        run: Folder of a pretraining run or a fine-tuned model.
        to: The library or format: a file of `medssl/exports/targets`, such as safetensors.
        out: Folder to write; new or empty.
        encoder: Encoder of a run whose encoder class lies outside medssl.
        license: Licence of the weights for the card, such as CC-BY-4.0; without it that of imported weights,
            or the words that none is stated.
        study: Folder of a study whose protocol points the card quotes.

    Returns:
        The files, one line each.

    Raises:
        MedsslError: The run is not finished, the target is unknown or cannot hold the model, or the folder is not empty;
            nothing is written then.
    """
    target, out = target_named(to), Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise MedsslError(
            f"{out} is not empty: expected a new folder, so that no file of another export stays; give another --out"
        )
    target.check_packages()
    model = read_trained(Path(run), encoder)
    target.check(model)
    card = model_card(model, target, license, study and Path(study), _patients(Path(run)))
    out.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        target.write(model, part)
        (part / target.card).parent.mkdir(exist_ok=True)
        (part / target.card).write_text(card)
        part.rename(out)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    if left_out := target.left_out(model):
        console.print(left_out)
    files = sorted(path for path in out.rglob("*") if path.is_file())
    return [f"{path.relative_to(out)}  {path.stat().st_size:,} bytes" for path in files]


def target_named(name: str) -> Target:
    """The target called `name`, as its file.

    Raises:
        MedsslError: There is no such target; the message has the nearest names.
    """
    files = TARGETS.files()
    if name not in files:
        raise MedsslError(f"there is no target {name!r}{nearest(name, files)}")
    return TARGETS.load(files[name])()


def _patients(run: Path) -> int | None:
    """The patients that a pretraining run has seen; None where its table is not there."""
    seen = run / "seen.parquet"
    return int(pd.read_parquet(seen)["patient"].nunique()) if seen.exists() else None
