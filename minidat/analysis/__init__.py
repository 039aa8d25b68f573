"""Looking at models: what they cost (`cost`), and pictures of runs and points (`plots`, needs matplotlib)."""

from minidat.analysis.cost import BlockCost, Row, Totals, cost, omega_dmha, table, totals

__all__ = ["BlockCost", "Row", "Totals", "cost", "omega_dmha", "table", "totals"]
