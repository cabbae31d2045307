"""Speech models: tiny ones of every family with random weights, and the real encoder of Whisper tiny.en."""
import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from bm.data.tracks import build_bank
from bm.features import FeatureContext, build_feature
from bm.features.audio import read_audio
from bm.features.check import check_elsewhere, check_feature, speechlike
from bm.features.model_files import find_model, resolve_layers
from bm.features.speech import Piece, _network, cut
from bm.store import Store, file_sha256

CONV = {"conv_dim": (12,) * 7, "hidden_size": 16, "num_hidden_layers": 4, "num_attention_heads": 2,
        "intermediate_size": 24, "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2,
        "mask_feature_length": 4}
LARGE = {**CONV, "feat_extract_norm": "layer", "do_stable_layer_norm": True, "conv_bias": True}
KINDS = ["wav2vec2", "wav2vec2_base", "hubert", "wavlm", "w2vbert", "ast", "whisper"]
SPEECH = "librivox_aligned/sense_and_sensibility_01_austen_64kb-0870.wav"


def make(kind: str, folder: Path) -> None:
    """A tiny model of a kind in a folder, with random weights large enough to tell instants apart."""
    import transformers as t
    t.utils.logging.disable_progress_bar()
    torch.manual_seed(3)
    small = {k: CONV[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")}
    build = {
        "wav2vec2": lambda: t.Wav2Vec2Model(t.Wav2Vec2Config(**LARGE)),
        "wav2vec2_base": lambda: t.Wav2Vec2Model(t.Wav2Vec2Config(**CONV)),
        "hubert": lambda: t.HubertModel(t.HubertConfig(**LARGE)),
        "wavlm": lambda: t.WavLMModel(t.WavLMConfig(**LARGE)),
        "w2vbert": lambda: t.Wav2Vec2BertModel(t.Wav2Vec2BertConfig(**small, feature_projection_input_dim=160,
                                                                    conv_depthwise_kernel_size=7)),
        "ast": lambda: t.ASTModel(t.ASTConfig(**small, max_length=600)),
        "whisper": lambda: t.WhisperModel(t.WhisperConfig(
            d_model=16, encoder_layers=4, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
            encoder_ffn_dim=24, decoder_ffn_dim=24, vocab_size=20, pad_token_id=0, bos_token_id=0, eos_token_id=0,
            decoder_start_token_id=0)),
    }[kind]
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)
    model.save_pretrained(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    for kind in KINDS:
        make(kind, folder / f"tiny--{kind}")
    return folder


def feature(models: Path, kind: str, cls: str = "SpeechModel", **params):
    return build_feature(cls, {"model": f"tiny/{kind}", **params}, FeatureContext(models, "cpu"))


@pytest.mark.parametrize("kind", KINDS)
def test_every_family_keeps_the_contract(models, kind):
    params = {"model": str(models / f"tiny--{kind}"), "layers": [1, 1.0], "margin_s": 0.5}
    measured = check_feature("SpeechModel", params, {"layers": [2]}, other_process=False, tolerance=1e-3)
    assert 0 < measured["shift"] < 1  # these models hear the whole chunk


def test_convolution_keeps_the_contract_and_knows_its_context(models):
    params = {"model": str(models / "tiny--wav2vec2")}
    check_feature("Wav2VecConvolution", params, {"normalized": False}, other_process=False, tolerance=1e-3)
    assert check_feature("Wav2VecConvolution", {**params, "normalized": False}, other_process=False,
                         tolerance=1e-3)["shift"] > 0.9999
    assert feature(models, "wav2vec2", "Wav2VecConvolution").context_s == pytest.approx(0.025)
    assert np.isinf(feature(models, "wav2vec2_base", "Wav2VecConvolution").context_s)  # a group norm hears all
    with pytest.raises(ValueError, match="no convolution over samples"):
        feature(models, "whisper", "Wav2VecConvolution")


def plainly(models: Path, audio: np.ndarray):
    """The model as the paper asks it, written out."""
    from transformers import Wav2Vec2Model
    model = Wav2Vec2Model.from_pretrained(models / "tiny--wav2vec2").eval()
    x = (audio - audio.mean()) / np.sqrt(audio.var() + 1e-7)
    with torch.no_grad():
        return model(torch.from_numpy(x)[None], output_hidden_states=True)


def test_wav2vec_equals_a_plain_call(models):
    audio = 3 * speechlike(4.03) + 0.1
    out = plainly(models, audio)
    expected = torch.stack(out.hidden_states)[[1, 2, 4]].mean(0)[0].numpy()
    for mapping, n in (("ratio", 201), ("stride", 202)):
        rows = feature(models, "wav2vec2", "Wav2VecTransformer", layers=[1, 2, 4], mapping=mapping).compute(
            audio, 16_000)
        assert rows.shape == (n, 16)
        np.testing.assert_allclose(rows[:201], expected, atol=2e-5)
    np.testing.assert_array_equal(rows[201], rows[200])
    rows = feature(models, "wav2vec2", "Wav2VecConvolution", mapping="ratio").compute(audio, 16_000)
    np.testing.assert_allclose(rows, out.extract_features[0].numpy(), atol=2e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_batches_equal_one_by_one(models, kind):
    own = feature(models, kind, layers=[2, 4])
    chunks = [(speechlike(s, 16_000, seed=i), 16_000) for i, s in enumerate((2.0, 1.31, 0.02, 3.0, 2.0, 0.5))]
    many = own.compute_many(chunks)
    for rows, chunk in zip(many, chunks, strict=True):
        alone = own.compute(*chunk)
        assert rows.shape == alone.shape
        np.testing.assert_allclose(rows, alone, atol=1e-4 * max(1, np.abs(alone).max()))
    sizes = [len(batch) for batch in own._batches([len(audio) for audio, _ in chunks])]
    assert sizes == ([1, 2, 1, 1, 1] if kind == "wav2vec2_base" else [6])


def test_padding_would_change_a_group_norm(models):
    """Why some are computed one by one."""
    own = feature(models, "wav2vec2_base")
    own.frontend = copy.copy(own.frontend)
    own.frontend.robust = True
    chunks = [(speechlike(3.0), 16_000), (speechlike(1.0, seed=1), 16_000)]
    assert np.abs(own.compute_many(chunks)[1] - own.compute(*chunks[1])).max() > 1e-2


def test_layers_are_indices_or_depths(models):
    assert resolve_layers([0, 12, 24], 24) == resolve_layers([0.0, 0.5, 1.0], 24) == [0, 12, 24]
    for wrong in ([25], [-1], [1.5], [True], []):
        with pytest.raises(ValueError, match="layers"):
            resolve_layers(wrong, 24)
    audio = speechlike(1.5)
    by_index, by_depth = (feature(models, "hubert", layers=layers) for layers in ([1, 3], [0.25, 0.75]))
    assert by_index.identity() == by_depth.identity()
    both = feature(models, "hubert", layers=[1, 3], reduce="concat")
    rows = both.compute(audio, 16_000)
    assert both.dim == 32 and both.identity() != by_index.identity()
    np.testing.assert_allclose(by_index.compute(audio, 16_000), (rows[:, :16] + rows[:, 16:]) / 2, atol=1e-5)


@pytest.mark.parametrize("rows, window, margin", [(10, 10, 2), (11, 10, 2), (100, 10, 2), (101, 7, 3), (50, 20, 0)])
def test_pieces_use_every_row_once_and_drop_their_margins(rows, window, margin):
    pieces = cut(rows, window, margin)
    assert [row for p in pieces for row in range(p.keep, p.until)] == list(range(rows))
    for p in pieces:
        assert p.stop - p.first <= window and 0 <= p.first <= p.keep < p.until <= p.stop <= rows
        assert p.first == 0 or p.keep - p.first >= margin
        assert p.stop == rows or p.stop - p.until >= margin
    assert cut(3, 10, 2) == [Piece(0, 3, 0, 3)]


@pytest.mark.parametrize("kind, seconds, rows", [("whisper", 31.0, 1550), ("ast", 13.0, 130)])
def test_what_is_longer_than_the_models_own_window_is_heard_in_pieces(models, kind, seconds, rows):
    own = feature(models, kind, layers=[1.0], margin_s=0.5)
    audio, window, margin = speechlike(seconds), own.window, own.margin
    whole, hop = own.compute(audio, 16_000), own.frontend.hop
    assert whole.shape == (rows, 16) and np.isfinite(whole).all()
    n = own.frontend.rows(len(audio))
    first = own.compute(audio[:(window - 1) * hop + own.frontend.receptive], 16_000)
    last = own.compute(audio[(n - window) * hop:], 16_000)
    np.testing.assert_allclose(whole[:window - margin], first[:window - margin], atol=1e-4)
    kept = cut(n, window, margin)[-1].keep
    np.testing.assert_allclose(whole[kept:n], last[kept - n + window:window], atol=1e-4)


def test_bfloat16_is_near(models):
    audio = speechlike(2.0)
    own, half = (feature(models, "hubert", precision=p) for p in ("float32", "bfloat16"))
    assert own.identity() != half.identity()
    rows, near = own.compute(audio, 16_000), half.compute(audio, 16_000)
    assert near.dtype == np.float32 and np.abs(near - rows).max() > 0
    assert np.corrcoef(near.ravel(), rows.ravel())[0, 1] > 0.99


def test_pieces_of_a_convolution_are_seamless(models):
    audio = speechlike(7.3)
    own = feature(models, "wav2vec2", "Wav2VecConvolution")
    assert own.piece_agreement(audio, 16_000, 5.0).min() > 0.9999
    long = feature(models, "wav2vec2", "Wav2VecConvolution", max_window_s=3.0, margin_s=0.1)
    np.testing.assert_allclose(long.compute(audio, 16_000), own.compute(audio, 16_000), atol=1e-4)
    with pytest.raises(ValueError, match="more than two margins"):
        own.piece_agreement(audio, 16_000, 3.0)


TWIN = {"layers": [1.0], "random": True, "seed": 5}


@pytest.mark.slow
def test_the_untrained_twin_is_the_same_in_another_process(models):
    check_elsewhere({"SpeechModel": {"model": str(models / "tiny--wav2vec2"), **TWIN}})


def test_the_untrained_twin_is_drawn_by_its_seed(models):
    params = {"model": str(models / "tiny--wav2vec2"), **TWIN}
    twin = build_feature("SpeechModel", params, FeatureContext(models, "cpu"))
    rows = twin.compute(speechlike(1.0), 16_000)
    _network.cache_clear()
    torch.manual_seed(8)
    state = torch.random.get_rng_state()
    np.testing.assert_array_equal(twin.compute(speechlike(1.0), 16_000), rows)
    assert torch.equal(torch.random.get_rng_state(), state)  # nobody else's random numbers are touched
    for other in ({"seed": 6}, {"random": False}):
        own = build_feature("SpeechModel", {**params, **other}, FeatureContext(models, "cpu"))
        assert own.identity() != twin.identity()
        assert np.abs(own.compute(speechlike(1.0), 16_000) - rows).max() > 1e-3


def test_identity_is_of_the_content(models, tmp_path):
    first = feature(models, "hubert").identity()
    moved = tmp_path / "elsewhere" / "hubert"
    shutil.copytree(models / "tiny--hubert", moved)
    own = build_feature("SpeechModel", {"model": str(moved)}, FeatureContext(models, "cpu"))
    assert own.identity() == first and str(moved) not in json.dumps(first)
    before = own.compute(speechlike(1.0), 16_000)
    weights = moved / "model.safetensors"
    content = bytearray(weights.read_bytes())
    content[-4000:-2000] = content[-8000:-6000]
    weights.write_bytes(content)
    assert own.identity() != first
    assert np.abs(own.compute(speechlike(1.0), 16_000) - before).max() > 0  # the kept network is not used


def test_models_are_found_or_the_command_is_told(models, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"python -m scripts.features fetch facebook/xls --to \S+"):
        find_model("facebook/xls", models)
    snapshots = tmp_path / "models--org--name" / "snapshots"
    for revision in ("aaa", "bbb"):
        (snapshots / revision).mkdir(parents=True)
        (snapshots / revision / "config.json").write_text("{}")
    (tmp_path / "models--org--name" / "refs").mkdir()
    (tmp_path / "models--org--name" / "refs" / "main").write_text("bbb\n")
    assert find_model("org/name", tmp_path).name == "bbb"
    (tmp_path / "bare").mkdir()
    shutil.copy(models / "tiny--hubert/config.json", tmp_path / "bare")
    bare = build_feature("SpeechModel", {"model": str(tmp_path / "bare")})
    with pytest.raises(FileNotFoundError, match="no weights"):
        bare.identity()
    (tmp_path / "bare" / "config.json").write_text('{"model_type": "huber"}')
    with pytest.raises(ValueError, match="did you mean 'hubert'"):
        build_feature("SpeechModel", {"model": str(tmp_path / "bare")})


def test_a_replaced_sound_has_new_rows(models, tmp_path):
    import soundfile
    own, path = feature(models, "wav2vec2"), tmp_path / "x.wav"
    banks = []
    for seed in (0, 1, 0):
        mono = speechlike(6.0, seed=seed)
        soundfile.write(path, np.stack([mono, 0.5 * mono], 1), 16_000)
        sound = file_sha256(path)[:16]
        blocks = pd.DataFrame([{"recording": 0, "start": 1.0, "stop": 7.0, "stimulus": sound, "chunk_start": 0.0,
                                "chunk_stop": 6.0, "chunk_time": 1.0}])
        banks.append(build_bank(own, blocks, {sound: path}, [800], 100, "bandlimited", Store(tmp_path / "cache")))
    a, b, c = (np.array(bank.rows) for bank in banks)
    assert a.dtype == np.float16 and a.shape == (601, 16) and banks[0].index[0][100] == 1
    assert np.abs(a[1:].astype(float) - b[1:]).mean() > 0.05
    np.testing.assert_array_equal(a, c)


def test_bad_parameters_are_named(models):
    for params, words in [({"mapping": "x"}, "stride or ratio"), ({"reduce": "sum"}, "mean or concat"),
                          ({"max_window_s": 3.0}, "longer than two margins"), ({"layer": [1]}, "layer")]:
        with pytest.raises(ValueError, match=words):
            feature(models, "hubert", **params)


def whisper(shared_data, **params):
    return build_feature("SpeechModel", {"model": str(shared_data("whisper_tiny_en_encoder")), **params},
                         FeatureContext(device="cpu"))


def test_whisper_equals_a_plain_call(shared_data):
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder
    audio, rate = read_audio(shared_data("librivox_aligned").parent / SPEECH)
    encoder = WhisperEncoder.from_pretrained(shared_data("whisper_tiny_en_encoder")).float().eval()
    mel = WhisperFeatureExtractor()(audio, sampling_rate=rate, return_tensors="pt").input_features
    with torch.no_grad():
        out = encoder(mel, output_hidden_states=True)
    for layers, expected in (([1.0], out.last_hidden_state), ([2], out.hidden_states[2])):
        rows = whisper(shared_data, layers=layers).compute(audio, rate)
        assert rows.shape == (355, 384)
        np.testing.assert_allclose(rows, expected[0, :355].numpy(), atol=1e-4)


def test_whisper_rows_are_where_the_sound_is(shared_data):
    """Half a second of silence before a sound moves its rows by 25."""
    own = whisper(shared_data, layers=[2])
    audio, rate = read_audio(shared_data("librivox_aligned").parent / SPEECH)
    plain, late = own.compute_many([(audio, rate), (np.concatenate([np.zeros(rate // 2, np.float32), audio]), rate)])
    plain, late = (rows - rows.mean(0) for rows in (plain, late))
    fit = {lag: (plain[20:300] * late[20 + lag:300 + lag]).sum() for lag in range(15, 36)}
    assert max(fit, key=fit.__getitem__) == 25


@pytest.mark.slow
def test_whisper_in_pieces(shared_data):
    """The figure in the docstring of `SpeechModel`."""
    files = sorted(shared_data("librivox_aligned").glob("*.wav"))
    audio = np.concatenate([read_audio(file)[0] for file in files])
    agreement = whisper(shared_data, layers=[0.5]).piece_agreement(audio, 16_000, 12.0)
    assert len(agreement) == pytest.approx(24.7 * 50, abs=10)
    low, median = np.quantile(agreement, [0.05, 0.5])
    assert median == pytest.approx(0.86, abs=0.03) and low == pytest.approx(0.65, abs=0.05)
