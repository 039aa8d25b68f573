"""Analysis of models: costs (`cost`, `tables`), receptive fields (`receptive`), and figures of both (matplotlib)."""

from minidat.analysis.backend import drop_missing_backend
from minidat.analysis.cost import BlockCost, Omega, Row, Totals, cost, offset_shares, omega_dmha, totals
from minidat.analysis.mixer_cost import MixerCost, mixer_cost
from minidat.analysis.skeleton import skeleton
from minidat.analysis.tables import compare, table

__all__ = [
    "BlockCost",
    "MixerCost",
    "Omega",
    "Row",
    "Totals",
    "compare",
    "cost",
    "mixer_cost",
    "offset_shares",
    "omega_dmha",
    "skeleton",
    "table",
    "totals",
]

drop_missing_backend()  # here, since modules of this package import matplotlib
