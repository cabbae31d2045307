"""Long loops say how far they are, on a terminal or not."""
import io
import logging
import sys
import time

from bm import progress
from bm.progress import with_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def slowly(n: int):
    for i in range(n):
        time.sleep(0.02)
        yield i


def test_without_a_terminal_lines_are_logged(monkeypatch, caplog):
    monkeypatch.setattr(progress, "EVERY", 0.1)
    logging.getLogger("bm").setLevel(logging.WARNING)  # as in a script
    try:
        assert list(with_progress(slowly(20), "sensor", 20)) == list(range(20))
        with with_progress(None, "rows", 100) as bar:
            for _ in slowly(10):
                bar.update(10)
    finally:
        logging.getLogger("bm").setLevel(logging.NOTSET)
    sensors, rows = ([line for line in caplog.messages if line.startswith(name)] for name in ("sensor", "rows"))
    assert 2 <= len(sensors) <= 4 and 1 <= len(rows) <= 2, caplog.messages
    assert all(" of 20, 00:00 passed, 00:00 left" in line and "\r" not in line for line in sensors)


def test_what_is_quick_or_not_to_be_shown_says_nothing(monkeypatch, caplog, capsys):
    assert list(with_progress(range(1000), "quick")) == list(range(1000))
    monkeypatch.setattr(progress, "EVERY", 0.0)
    assert len(list(with_progress(slowly(3), "hidden", 3, show=False))) == 3
    assert not caplog.messages and capsys.readouterr() == ("", "")


def test_a_terminal_gets_a_bar(monkeypatch, caplog):
    monkeypatch.setattr(sys, "stderr", Terminal())
    assert list(with_progress(range(3), "bar")) == [0, 1, 2]
    assert "bar:   0%|" in sys.stderr.getvalue() and not caplog.messages  # type: ignore[attr-defined]
