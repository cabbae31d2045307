"""Figures: functions that take data and return a `matplotlib.figure.Figure`, drawn without a screen.

Every figure says how many samples it stands on, labels its axes with units, and shows chance where there is one.
Colours are those of Okabe & Ito (2008), which colour-blind readers tell apart.
"""
from matplotlib.figure import Figure

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#D55E00", "#009E73", "#666666"


def new_figure(width: float, height: float) -> Figure:
    """An empty figure of so many inches, independent of pyplot's state."""
    return Figure(figsize=(width, height), dpi=110, layout="constrained")
