"""DataSpec: what a cohort's scans have in common, there and back, and checked against an encoder."""

import json
import warnings
from dataclasses import replace

import pytest

from medssl.core.errors import MedsslError
from medssl.encoders import ResNet
from medssl.preprocessing.cache import Cache
from medssl.preprocessing.data_spec import DataSpec


def test_a_cache_and_a_record_give_the_same(cache: Cache) -> None:
    spec = cache.data_spec
    assert (spec.dims, spec.channels, spec.modality, spec.spacing_mm, spec.size) == (
        3,
        1,
        "CT",
        (12.0, 12.0, 12.0),
        None,
    )
    record = json.loads(json.dumps({"data_spec": spec.to_record(), "crop": [16, 16, 16]}))
    assert DataSpec.from_record(record) == spec
    assert DataSpec.from_record(record["data_spec"]) == spec  # as runs had it before, among the other settings
    with pytest.raises(MedsslError, match="lacks the modality of its scans"):
        DataSpec.from_record({"dims": 3, "channels": 1})


def test_what_is_not_known_has_a_default() -> None:
    assert DataSpec(2) == DataSpec(2, 1, "OT", (1, 1), None)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ((4,), "dims is 4"),
        ((2, 0), "channels 0"),
        ((2, 1, "MRI"), "did you mean MR"),
        ((2, 1, "MR", (1.0, 1.0, 1.0)), "expected 2 numbers"),
        ((2, 1, "MR", (1.0, 0.0)), "above 0"),
    ],
)
def test_what_cannot_be_is_refused(values: tuple, message: str) -> None:
    with pytest.raises(MedsslError, match=message):
        DataSpec(*values)


@pytest.mark.parametrize(
    ("dims", "channels", "modality", "family"),
    [
        (2, 1, "OP", "OT"),
        (2, 3, "OP", "RGB"),
        (2, 3, "OT", "RGB"),
        (3, 3, "OT", "OT"),
        (2, 3, "US", "US"),
        (2, 1, "CR", "XRAY"),
    ],
)
def test_a_photograph_has_three_channels(dims: int, channels: int, modality: str, family: str) -> None:
    assert DataSpec(dims, channels, modality).family.name == family


def test_an_encoder_built_for_other_scans_is_refused_with_the_options_to_pass() -> None:
    spec = DataSpec(2, 3, "OP")
    spec.check_encoder(ResNet(2, 3, width=4))
    for other in (ResNet(2, 1, width=4), ResNet(3, 3, width=4)):
        with pytest.raises(MedsslError, match=r"--encoder\.dims 2 --encoder\.in_channels 3"):
            spec.check_encoder(other)


def test_a_model_is_applied_to_scans_like_those_it_was_trained_on_alone() -> None:
    trained = DataSpec(3, 1, "CT", (1.0, 1.0, 2.0))
    replace(trained, spacing_mm=(1.04, 1.0, 1.91)).check_model(trained)
    for name, other, message in (
        ("dims", DataSpec(2, 1, "CT"), "2D CT with 1 channel.*made for 3D CT"),
        ("channels", replace(trained, channels=2), "with 2 channel"),
        ("modality", replace(trained, modality="MR"), "3D MR"),
        ("spacing_mm", replace(trained, spacing_mm=(1.06, 1.0, 2.0)), "--spacing-mm 1 1 2"),
    ):
        with pytest.raises(MedsslError, match=message):
            other.check_model(trained)
        assert getattr(other, name) != getattr(trained, name)
    films = DataSpec(2, 1, "DX", (0.2, 0.2), (224, 224))
    replace(films, spacing_mm=(0.5, 0.5)).check_model(films)  # images are resampled to a size, whatever their spacing
    replace(films, size=(32, 32)).check_model(replace(films, size=None))
    with pytest.raises(MedsslError, match="size of their own.*--size 224 224"):
        replace(films, size=None).check_model(films)


def test_another_spacing_than_in_pretraining_is_warned_of() -> None:
    pretrained = DataSpec(3, 1, "CT", (1.0, 1.0, 2.0))
    with pytest.warns(UserWarning, match=r"pretrained at a spacing of \(1.0, 1.0, 2.0\) mm, used at \(1.0, 1.0, 3.0\)"):
        replace(pretrained, spacing_mm=(1.0, 1.0, 3.0)).warn_of_spacing(pretrained)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replace(pretrained, spacing_mm=(1.0, 1.0, 1.92)).warn_of_spacing(pretrained)
