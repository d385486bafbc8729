"""The table of modalities: every code has a family, and codes of one kind of picture are pooled under one of them."""

import pytest

from medssl.core.errors import MedsslError
from medssl.scans.modality import (
    AIR_HU,
    FAMILIES,
    MODALITIES,
    check_code,
    family_of,
    known_modality,
    pooled_code,
)


def test_every_code_belongs_to_a_family_and_is_pooled_under_a_code_of_the_same() -> None:
    for code, modality in MODALITIES.items():
        assert code == modality.code
        assert modality.family in FAMILIES
        pooled = MODALITIES[pooled_code(code)]
        assert pooled.family == modality.family
        assert pooled_code(pooled.code) == pooled.code
        assert modality.planar or not modality.cine


def test_a_family_is_found_by_dicoms_code_or_its_own_name_in_any_case() -> None:
    names = [family_of(text).name for text in ("ct", "mr", "xray", "CR", "dx", "us", "SM", "PT")]
    assert names == ["CT", "MR", "XRAY", "XRAY", "XRAY", "US", "RGB", "OT"]
    with pytest.raises(MedsslError, match="'MRI' is neither a DICOM modality code .* did you mean MR"):
        family_of("MRI")


def test_only_ct_is_in_hounsfield_units() -> None:
    assert [name for name, family in FAMILIES.items() if family.in_hu] == ["CT"]
    assert family_of("CT").air == AIR_HU
    assert {family.air for family in FAMILIES.values() if not family.in_hu} == {0.0}


def test_a_header_of_any_text_has_a_code_and_an_option_must_be_one() -> None:
    assert [known_modality(text) for text in ("MR", "ct ", "JOHN", None)] == ["MR", "CT", "OT", "OT"]
    with pytest.raises(MedsslError, match="'Ct' is not a DICOM modality code"):
        check_code("Ct")
