import logging

import pytest

from bm.studies.schoffelen_log import read_log

HEADER = "Subject\tTrial\tEvent Type\tCode\tTime\tTTime\tUncertainty\tDuration\tUncertainty\tReqTime\tReqDur"
SECOND = "Event Type\tCode\tType\tResponse\tRT\tRT Uncertainty\tTime\tUncertainty\tDuration"


def log_text(rows, second=(), end="\r\n"):
    lines = ["Scenario - x", "Logfile written - 01/01/2010", "", HEADER, ""]
    lines += ["\t".join(map(str, ["A2002", 1, *row])) for row in rows]
    if second:
        lines += ["", "", SECOND, ""]
        lines += ["\t".join([kind, code, "other", "", "", "", str(time)]) for kind, code, time in second]
    return end.join(lines) + end


def write(tmp_path, text, encoding="utf-8"):
    path = tmp_path / "x.log"
    path.write_bytes(text.encode(encoding))
    return path


ROWS = [("Picture", "PULSE MODE", -6500, 0, 1, 3000), ("Picture", "ZINNEN 10", 10000, 0, 1, 15000),
        ("Picture", "20 FIX", 30000, 0, 1, "next"), ("Picture", "1 het", 45904, 0, 1, 3000), ("Picture", "ISI", 50000),
        ("Picture", "meisje 22", 52000, 0, 1, 3000), ("Picture", "QUESTION 3", 60000), ("Response", "1", 61000),
        ("Pause", "", 62000), ("Picture", "WOORDEN", 70000), ("Picture", "blank", 71000), ("Picture", "", 72000),
        ("Quit", "", 80000)]


def test_rows_are_told_apart(tmp_path):
    log = read_log(write(tmp_path, log_text(ROWS)))
    assert log["condition"].tolist() == ["pulse", "sentence", "fix", "word", "isi", "word", "question", "response",
                                         "pause", "word_list", "blank", "blank"]
    assert log.loc[log["condition"] == "word", "word"].tolist() == ["het", "meisje"]
    assert log["context"].tolist() == ["init"] + ["sentence"] * 8 + ["word_list"] * 3
    assert log["block"].tolist() == [0] + [1] * 8 + [2] * 3 and log["new_context"].sum() == 2
    assert log["time"].tolist()[:4] == pytest.approx([-0.65, 1.0, 3.0, 4.5904])
    assert log["duration"].isna().tolist()[:4] == [False, False, True, False]
    assert log["line"].iloc[0] == 6


def test_broken_rows_two_logs_and_encodings(tmp_path):
    whole = read_log(write(tmp_path, log_text([*ROWS[:6], ("Picture", "QUESTION één vraag.", 60000, 0)])))
    text = log_text([*ROWS[:6], ("Picture", "QUESTION één vraag.", 60000, 0)])
    assert whole["code"].iloc[-1] == "QUESTION één vraag."
    broken = text.replace("vraag.\t", "vraag.\r\n\t")
    assert broken != text
    for variant, encoding in ((broken, "utf-8"), (text * 2, "cp1252"), (text.replace("\r\n", "\n"), "utf-8-sig"),
                              (text.replace("\r\n", "\r"), "utf-8")):
        assert read_log(write(tmp_path, variant, encoding)).equals(whole)


def test_the_second_table_is_compared(tmp_path, caplog):
    second = [(kind, code, time) for kind, code, time, *_ in ROWS if kind == "Picture"]
    with caplog.at_level(logging.WARNING):
        read_log(write(tmp_path, log_text(ROWS, second)))
    assert not caplog.records
    with caplog.at_level(logging.WARNING):
        read_log(write(tmp_path, log_text(ROWS, [*second[:3], ("Picture", "1 het", 45905), *second[5:]])))
    assert "differ in" in caplog.text


def test_faults_are_named(tmp_path):
    with pytest.raises(ValueError, match="no line starts with 'Subject'"):
        read_log(write(tmp_path, "Scenario - x\n"))
    with pytest.raises(ValueError, match=r"line 8: Picture '20 FIX' has no time"):
        read_log(write(tmp_path, log_text([*ROWS[:2], ("Picture", "20 FIX", "next")])))
    with pytest.raises(ValueError, match="no column"):
        read_log(write(tmp_path, log_text(ROWS).replace("\tTime\t", "\tWhen\t", 1)))
