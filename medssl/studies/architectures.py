"""The encoder of each arm of a study: that of the runs it starts from; what starts at random has one of its own choice.

    specs, size = architectures(cache, arms, encoder=None, crop=None)
    specs["scratch"], specs["imagenet"]

An arm of public weights has the network that they were trained in, so that it need not be that of the arm it is compared with: the
difference is then between networks and weights together, which `other_encoders` names for the record and the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from medssl.core import runs
from medssl.core.spec import describe, describes_same
from medssl.encoders import Encoder
from medssl.preprocessing.cache import Cache
from medssl.studies.arms import Arm
from medssl.training.finetune import architecture


def architectures(
    cache: Cache, arms: Mapping[str, Arm], encoder: Encoder | None, crop: Sequence[int] | None
) -> tuple[dict[str, dict[str, Any]], tuple[int, ...]]:
    """The encoder of each arm as a record, and the crop of all.

    Args:
        cache: Cache that the arms are trained on.
        arms: Arms by their names.
        encoder: Encoder of the arms that start at random, and of runs whose encoder class lies outside medssl; by default that of the
            first run.
        crop: Voxels along each axis; by default those of the first run, or the largest that fit.

    Raises:
        MedsslError: An encoder does not fit the cache or the crop, or a run is not a finished pretraining run.
    """
    first = next((arm.folders[0] for arm in arms.values() if arm.folders), None)
    if crop is None and first is not None:
        crop = architecture(cache, first, _if_its_own(encoder, first), None)[1]
    at_random, size = architecture(cache, None if encoder is not None else first, encoder, crop)
    specs = {}
    for name, arm in arms.items():
        of_runs = [architecture(cache, folder, _if_its_own(encoder, folder), size)[0] for folder in arm.folders]
        specs[name] = of_runs[0] if of_runs else at_random
    return specs, size


def other_encoders(specs: Mapping[str, dict[str, Any]], reference: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The arms whose encoder is another than that of the arms that start at random.

    Args:
        specs: What `architectures` returned.
        reference: The encoder of the arms that start at random.
    """
    return {name: spec for name, spec in specs.items() if not describes_same(spec, reference)}


def _if_its_own(encoder: Encoder | None, folder: Any) -> Encoder | None:
    """The given encoder, where it is that of the run."""
    if encoder is None or not (folder / "run.json").exists():
        return encoder
    return encoder if describes_same(describe(encoder), runs.read(folder).config.get("encoder", {})) else None
