"""What the scores of cases say beside their mean."""

import numpy as np
import pandas as pd

from medssl.evaluation.case_metrics import Dice


def test_lost_structures_are_noted_beside_the_mean():
    """A mean over cases of which some lost a structure has no interval to trust: the median and the rate stand by it."""
    draws = [pd.DataFrame({"scan": list("abcd"), "patient": list("abcd"), "dice.1": [0.8, 0.82, 0.81, 0.8]})] * 4
    assert Dice().interval(draws).note == ""
    failed = draws[0].assign(**{"dice.1": [0.0, 0.05, 0.8, np.nan]})
    note = Dice().interval([*draws, failed]).note
    assert "in 11% of the cases, in 1 of 5 draws; the median Dice is 0.8" in note  # 2 of 19
