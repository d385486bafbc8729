"""What stands below the tables of a study, in the report and in the dashboard: how to read them, and what they do not say."""

from __future__ import annotations

SCORES = (
    "A budget counts labelled patients and scans, those used for validation included. A draw is one random choice "
    "of the labelled patients. The intervals treat draws and test patients as crossed random effects (generalized "
    "pivotal quantity of a two-way variance-component model, which holds from two draws on). p is that of the "
    "paired, two-sided comparison with scratch; p, Holm is corrected for all comparisons of this table. Minus own "
    "start is the gain of a semi-supervised arm over the arm that it starts from; last third is what the last third "
    "of the training changed the score by, on the validation patients."
)

GAP_CLOSED = (
    "Gap closed is the share of what all labels of this study would add to scratch at that budget that the arm "
    "makes up; 100% is scratch with all labels. Scratch needs is the number of labelled patients with which scratch "
    "reaches the arm's score, on its curve interpolated linearly in the logarithm of the budget. Both intervals are "
    "for new draws and new test patients (Fieller), and are not corrected for the number of arms."
)

LABELS_SAVED = (
    "Patients needed is the number of labelled patients at which the curve of the arm reaches the score of scratch "
    "with the largest budget of this study ({full}). The curve is interpolated linearly in the logarithm of the "
    "budget. The 95% interval spans the budgets at which the two do not differ. Area is the mean of the curve over "
    "the logarithm of the budget; its difference is paired."
)

FORECAST = (
    "In brackets: the 95% band. Largest budget, predicted: the score that the smaller budgets alone predict for it, beside the score that "
    "was measured. A forecast assumes that the curve keeps its shape, and that further patients are like those at hand."
)

OTHER_METRICS = (
    "Means over draws, without intervals, since none of these metrics was compared. A case is left out of Dice "
    "where both the reference and the prediction are empty; where the reference is empty and the prediction is not, "
    "Dice is 0. HD95 of a structure that the prediction lacks is the diagonal of the scan, its surface Dice 0: a "
    "mean of hundreds of millimetres therefore says that the structure was lost in some cases, not that its border "
    "is wrong. A case whose reference lacks the structure is left out of both."
)
