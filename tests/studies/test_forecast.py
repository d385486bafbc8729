"""`medssl forecast` on the files of a study: its table, and the sentence on the labels that are needed."""

from __future__ import annotations

import numpy as np
import pytest

from medssl.core.errors import MedsslError
from medssl.evaluation import forecast as law
from medssl.studies.forecast import forecast, more_patients
from tests.reporting.test_report import make_study


def test_a_study_is_forecast_arm_by_arm(tmp_path):
    study = make_study(tmp_path)
    table = forecast(study, reach=0.87)
    assert list(table["patients"]) == [160, 320, 160, 320]
    assert set(table["arm"]) == {"scratch", "simmim"}
    assert (table["low"] <= table["mean"]).all()
    assert (table["mean"] <= table["high"]).all()
    assert table["more_patients"].str.contains("more patients").all()
    assert list(forecast(study, at=[100.0])["patients"]) == [100.0, 100.0]
    with pytest.raises(MedsslError, match="expected 1 to 320"):
        forecast(study, at=[1000.0])


def test_what_is_no_study_is_refused(tmp_path):
    make_study(tmp_path)
    with pytest.raises(MedsslError, match="expected a study"):
        forecast(tmp_path / "hippo" / "cells" / "scratch-1p-0")


def test_the_labels_needed_in_words():
    sizes = [2, 8, 32, 128]
    generator = np.random.default_rng(0)
    tables = [0.9 - 0.5 * n**-0.6 + 0.02 * generator.standard_normal((5, 30)) for n in sizes]
    curve = law.forecast(sizes, tables)
    low, high = (int(word) for word in more_patients(curve, 0.88).split() if word.isdigit())
    assert 0 <= low < 0.5 ** (1 / 0.6) / 0.02 ** (1 / 0.6) - 128 < high
    assert more_patients(curve, 0.5).startswith("none")
    assert more_patients(curve, 0.99).startswith("more than 384")
