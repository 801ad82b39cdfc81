"""Figures of benchmarks and evaluations, made of the JSON files that these keep."""

from treepo.report.figures.figure import Axis, Figure, Heatmap, Series
from treepo.report.figures.read import figures_of_json

__all__ = ["Axis", "Figure", "Heatmap", "Series", "figures_of_json"]
