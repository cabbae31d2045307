"""Pieces of a report are in its page as they were made."""
import base64
import re
from io import BytesIO

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bm.analysis.plots import new_figure
from bm.analysis.report.parts import MAX_WIDTH, Part, fill, new_report, table, table_html


@pytest.mark.parametrize("width", [4.6, 3.333, 9.7])  # of 4.6 in MNE embeds 459 of 460 pixels a row
def test_figures_of_any_size_are_embedded_as_they_are(width):
    figure = new_figure(width, 2.57)
    figure.subplots().plot([0, 1], [0, 1])
    report = new_report("One")
    fill(report, "Section", [Part("Line", figure, "a line"), table("Numbers", pd.DataFrame({"n": [1]}))])
    found = re.findall(r'data:image/png;base64,\s*([^"]+)"', "".join(report.html))
    shown = Image.open(BytesIO(base64.b64decode(found[0])))
    buffer = BytesIO()
    figure.savefig(buffer, dpi=min(110, MAX_WIDTH / width))
    expected = Image.open(buffer)
    assert len(found) == 1 and shown.size == expected.size and shown.size[0] <= MAX_WIDTH
    np.testing.assert_array_equal(np.asarray(shown), np.asarray(expected))


def test_wide_tables_scroll():
    assert table_html(pd.DataFrame({"n": ["<a>"]})).startswith('<div style="overflow-x: auto"><table')
