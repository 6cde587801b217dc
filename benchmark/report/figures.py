"""Every figure that a data set's stored runs allow; ``drawing.save`` writes them."""

from __future__ import annotations

from benchmark.aggregate import DatasetResults
from benchmark.report.balance import code_balance
from benchmark.report.code_figures import heat_maps, inflation, lorenz_curves
from benchmark.report.code_map import Scale
from benchmark.report.cost import cost
from benchmark.report.curves import (
    code_history,
    drift_history,
    noise_history,
    validation_curves,
)
from benchmark.report.drawing import Drawing, style
from benchmark.report.p_matrix import p_matrix
from benchmark.report.sensitivity import sensitivity


def all_drawings(result: DatasetResults, scale: Scale = "log") -> list[Drawing]:
    """Results first, then what explains them; figures that have nothing to show are left out.

    Args:
        scale: colours of the heat maps by log(1 + items) or by items.
    """
    with style():
        drawings = [
            p_matrix(result), cost(result), code_balance(result), sensitivity(result),
            validation_curves(result), code_history(result), drift_history(result),
            noise_history(result), lorenz_curves(result), inflation(result),
        ]  # fmt: skip
        return [drawing for drawing in drawings if drawing is not None] + heat_maps(result, scale)
