"""What of a study a report shows: some of its arms, budgets and other metrics. What the study found is stated over all of it.

shown = Shown(arms=("scratch", "simmim"), budgets=("1%",))
shown.rows(summary)        # the rows of these arms and budgets
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

import pandas as pd

from medssl.reporting.style import metric_name
from medssl.studies.forecast import ArmForecast
from medssl.studies.results import LabelCurve


@dataclass(frozen=True)
class Shown:
    """A selection; all of a study where a field is empty.

    Attributes:
        arms: Names of arms.
        budgets: Names of budgets.
        metrics: Names of metrics beside the primary one, one a structure.
    """

    arms: tuple[str, ...] = ()
    budgets: tuple[str, ...] = ()
    metrics: tuple[str, ...] = ()

    def arm(self, name: str) -> bool:
        """Whether an arm is shown."""
        return not self.arms or name in self.arms

    def budget(self, name: str) -> bool:
        """Whether a budget is shown."""
        return not self.budgets or name in self.budgets

    def rows(self, table: pd.DataFrame, arm: str = "arm", budget: str = "budget_name") -> pd.DataFrame:
        """Return the rows of the arms and budgets that are shown; arm and budget: names of the columns."""
        if table.empty or arm not in table:
            return table
        kept = table[arm].map(self.arm) & (table[budget].map(self.budget) if budget in table else True)
        return table[kept]

    def other_metrics(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the rows of the other metrics that are shown."""
        rows = self.rows(table)
        return rows[rows["metric"].isin(self.metrics)] if self.metrics else rows

    def curves(self, curves: list[LabelCurve] | None) -> list[LabelCurve] | None:
        """Return the label curves of the arms, with what they gain at the budgets that are shown."""
        if curves is None:
            return None
        kept = [curve for curve in curves if self.arm(curve.arm)]
        return [replace(curve, gains=tuple(gain for gain in curve.gains if self.budget(gain.budget))) for curve in kept]

    def forecasts(self, arms: Iterable[ArmForecast]) -> list[ArmForecast]:
        """Return the forecasts of the arms that are shown."""
        return [each for each in arms if self.arm(each.arm)]

    def sentence(self) -> str:
        """Return what is shown, in words; empty where it is everything."""
        names = {"arms": self.arms, "budgets": self.budgets, "other metrics": tuple(map(metric_name, self.metrics))}
        listed = "; ".join(f"{kind} {', '.join(chosen)}" for kind, chosen in names.items() if chosen)
        if not listed:
            return ""
        return (
            f"A selection is shown: {listed}. The sentence above, Holm's correction, the labels saved and the forecasts are those of the "
            "whole study."
        )


EVERYTHING = Shown()
