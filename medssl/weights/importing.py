"""Import public weights as a run: usable as the start of a fine-tuning, as an arm of a study, to embed, probe and pretrain further.

    medssl import resnet50-11ad3fa6.pth --as torchvision --out runs/imagenet
    medssl import hf:MIC-DKFZ/nnFoundationCNN --as nnssl --out runs/nnfoundation
    medssl finetune --data CACHE --task segmentation --init runs/nnfoundation --out runs/model

    run = medssl.import_weights("resnet50-11ad3fa6.pth", "runs/imagenet", as_="torchvision")
    print("\\n".join(receipt_of(run).lines()))

What is imported is an encoder that takes scans as a cache holds them: the scale, the window and the channels that the weights expect
are part of it (`NormalizedInput`). The receipt says what was loaded, adapted, left out and left random; under 95% of the encoder the
import is refused.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from medssl.core import runs
from medssl.core.atomic import exclusive, write_atomically
from medssl.core.errors import MedsslError
from medssl.core.progress import console
from medssl.core.registry import WEIGHTS
from medssl.core.spec import describe
from medssl.datasets.manifest import PSEUDONYM_KEY
from medssl.encoders import Encoder
from medssl.encoders.normalized import NormalizedInput
from medssl.encoders.pooled_levels import PooledLevels
from medssl.training.models import save_weights
from medssl.weights.fitting import check_share, fit, for_channels
from medssl.weights.hub import local_file
from medssl.weights.reading import Stored, read_file
from medssl.weights.receipt import Receipt
from medssl.weights.sources.base import Converted, Source

Layout = Literal[
    "auto",
    "ctfm",
    "huggingface",
    "lightly",
    "monai",
    "nnssl",
    "suprem",
    "timm",
    "torchvision",
    "torchxrayvision",
    "voco",
]
NO_DERIVATIVES = re.compile(r"\bnd\b", re.IGNORECASE)  # in Creative Commons' licences
DEFAULT_CROP = {2: (224, 224), 3: (96, 96, 96)}


def import_weights(
    file: str,
    out: Path,
    as_: Layout = "auto",
    encoder: Encoder | None = None,
    channels: int = 1,
    crop: tuple[int, ...] | None = None,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    modality: str | None = None,
    enlarge: int = 1,
    pooled_levels: bool = False,
    allow_partial: bool = False,
    accept_license: bool = False,
) -> runs.Run:
    """Import public weights as a run.

    Args:
        file: File of weights, a folder with one, or hf:OWNER/NAME on the Hugging Face hub, which alone is fetched over the network.
        out: Folder of the run.
        as_: Layout of the file; auto goes by the names of its tensors.
        encoder: Its architecture, where the file does not say it (timm), or where another is wanted (a 2D network inflated to 3D).
        channels: Channels of your scans; one is repeated over those that the weights expect.
        crop: Voxels of a crop along each axis that runs from these weights take by default; as the weights were trained by default.
        mean: Mean of each channel that the weights expect to be subtracted, on the scale 0..1; by default as the layout says.
        std: Deviation of each channel that they expect to be divided by.
        modality: Code of your scans (DX, MR), where the weights do not say one, for commands that are given a folder of scans.
        enlarge: How many times as wide the encoder sees a scan, where its weights were trained on larger pictures than yours: 2 shows
            it a film of 64 x 64 as 128 x 128.
        pooled_levels: Whether a scan's vector holds every level of the encoder and not the coarsest alone.
        allow_partial: Whether to import where under 95% of the encoder's parameters are the file's; the rest starts random.
        accept_license: Whether you keep to a licence that forbids derivatives.

    Returns:
        The record of the run; its `config` has the source, the receipt and the expected scans.

    Raises:
        MedsslError: The file cannot be read or has another layout or architecture, too little of it fits, or its licence forbids it.
    """
    path = local_file(file)
    stored = read_file(path)
    name, source = _layout(stored, as_)
    converted = for_channels(source.convert(stored, encoder), channels)
    licence = converted.licence or source.licence
    _check_licence(name, licence, source.forbids_derivatives or bool(NO_DERIVATIVES.search(licence)), accept_license)
    converted = replace(converted, mean=mean or converted.mean, std=std or converted.std)
    torch.manual_seed(0)
    state, receipt = fit(converted)
    check_share(receipt, allow_partial)
    converted.encoder.load_state_dict(state)
    whole, expects = _with_input(converted, channels, enlarge), converted.expects
    whole = PooledLevels(whole) if pooled_levels else whole
    size = tuple(crop or expects.size or DEFAULT_CROP[whole.dims])
    whole.check_size(size)
    scans = replace(expects.data_spec(whole.dims, whole.in_channels), modality=expects.modality or modality or "OT")
    config = {
        "encoder": describe(whole),
        "crop": size,
        "data_spec": scans.to_record(),
        "expects": expects.to_record(),
        "source": {"layout": name, "licence": licence, "sha256": stored.sha256},
        "receipt": receipt.to_record(),
    }
    console.print("\n".join(receipt.lines()), highlight=False, soft_wrap=True)
    return _written(whole, config, Path(out))


def receipt_of(run: runs.Run) -> Receipt:
    """The receipt in the record of an imported run. Raises MedsslError for a run of another kind."""
    if "receipt" not in run.config:
        raise MedsslError(f"a {run.kind} run has no receipt: expected a run that medssl import made")
    return Receipt.from_record(run.config["receipt"])


def _layout(stored: Stored, wanted: str) -> tuple[str, Source]:
    """The layout by its name, or the one whose typical names the file has."""
    files = WEIGHTS.files()
    if wanted != "auto":
        return wanted, WEIGHTS.load(files[wanted])()
    kinds: dict[str, type[Source]] = {name: WEIGHTS.load(cls) for name, cls in files.items()}
    signs = {name: kind.signs(stored.tensors()) for name, kind in kinds.items() if kind.typical}
    whole = [name for name, count in signs.items() if count == len(kinds[name].typical)]
    best = [name for name in whole if signs[name] == max(signs[other] for other in whole)]
    if len(best) == 1:
        console.print(f"layout: {best[0]}")
        return best[0], kinds[best[0]]()
    names = ", ".join(list(stored.tensors())[:5])
    near = max(signs, key=lambda name: signs[name] / len(kinds[name].typical))
    likely = " or ".join(best) or (near if signs[near] else "none of them")
    raise MedsslError(
        f"the layout of the file is not clear from its tensors, {names}, ...: expected one of {', '.join(sorted(files))}, the nearest "
        f"is {likely}; name it with --as"
    )


def _check_licence(name: str, licence: str, forbids_derivatives: bool, accepted: bool) -> None:
    console.print(f"licence: {licence}")
    if forbids_derivatives and not accepted:
        raise MedsslError(
            f"the weights of {name} have the licence {licence}, which forbids derivatives: weights that are fine-tuned from them "
            "must not be passed on; if you keep to it, add --accept-license"
        )


def _with_input(converted: Converted, channels: int, enlarge: int) -> Encoder:
    """The encoder as it takes scans of a cache: itself, or with the scale, window, channels, axes and size its weights expect."""
    inner, window = converted.encoder, converted.expects.window_hu
    plain = converted.mean == (0.0,) and converted.std == (1.0,) and window is None and converted.axes == "RAS"
    if plain and inner.in_channels == channels and enlarge == 1:
        return inner
    return NormalizedInput(inner, channels, converted.mean, converted.std, window, converted.axes, enlarge)


def _written(encoder: Encoder, config: dict[str, Any], out: Path) -> runs.Run:
    """Write the run; one that is there already and is the same stays."""
    digest = config["source"]["sha256"]
    name = runs.identity(kind="import", config=config, data=digest, seed=0, parent=None)
    if (finished := runs.finished_run(out, name)) is not None:
        console.print(f"{out} is already finished; nothing to do")
        return finished
    with exclusive(out), runs.recording(out, "import", config, digest, 0):
        save_weights(encoder, out / "encoder.safetensors")
        seen = pd.DataFrame({column: pd.Series(dtype=str) for column in ("digest", "patient", PSEUDONYM_KEY)})
        write_atomically(out / "seen.parquet", seen.to_parquet())
    return runs.read(out)
