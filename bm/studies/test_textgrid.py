import pytest

from bm.studies.textgrid import read_textgrid

LONG = '''File type = "ooTextFile"
Object class = "TextGrid"

xmin = 0
xmax = 2
tiers? <exists>
size = 2
item []:
    item [1]:
        class = "IntervalTier"
        name = "ORT-MAU"
        xmin = 0
        xmax = 2
        intervals: size = 2
        intervals [1]:
            xmin = 0.0
            xmax = 1.25k
            text = "say ""3 = 4"" é"
        intervals [2]:
      xmin = 1.25
      xmax = 2
      text = ""
    item [2]:
        class = "TextTier"
        name = "points"
        xmin = 0
        xmax = 2
        points: size = 1
        points [1]:
            number = 0.5
            mark = "here"
'''


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_long_format(tmp_path, encoding):
    path = tmp_path / "x.TextGrid"
    path.write_text(LONG, encoding=encoding)
    tiers = read_textgrid(path)
    assert tiers["ORT-MAU"].to_numpy().tolist() == [[0.0, 1.25, 'say "3 = 4" é'], [1.25, 2.0, ""]]
    assert tiers["points"].to_numpy().tolist() == [[0.5, 0.5, "here"]]


@pytest.mark.parametrize("content, message", [("hello", "expected a TextGrid"), (LONG[:-60], "whole"),
                                              (LONG.replace("size = 2", "size = two"), "whole")])
def test_what_is_no_textgrid(tmp_path, content, message):
    path = tmp_path / "x.TextGrid"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        read_textgrid(path)


@pytest.mark.parametrize("name, words, last", [("acoustic_corpus", 71, 26.72325), ("cold_corpus", 95, 25.7175625),
                                               ("cold_corpus3", 86, 24.648)])
def test_real_files_of_the_short_format(shared_data, name, words, last):
    folder = shared_data("mfa_speech_textgrid")
    tiers = read_textgrid(folder / f"{name}.TextGrid")
    assert list(tiers) == ["words", "phones"] and len(tiers["words"]) == words
    for tier in tiers.values():
        assert tier["start"].iloc[0] == 0 and tier["stop"].iloc[-1] == last
        assert (tier["start"].to_numpy()[1:] == tier["stop"].to_numpy()[:-1]).all()
    # tokens of the transcript that is its source ("word-" is cut off while being spoken)
    spoken = set((folder / f"{name}.lab").read_text().lower().split())
    assert len(set(tiers["words"]["text"]) - {""} & spoken) > 0.8 * len(spoken)
