"""What the sections of a config are made of, and the sections of layers and of temporal response functions."""
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Ratio = Annotated[float, Field(ge=0, lt=1)]
Count = Annotated[int, Field(ge=1)]
Index = Annotated[int, Field(ge=0)]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, protected_namespaces=())


class Alphas(Section):
    low: float
    high: float
    n: Count

    @model_validator(mode="after")
    def _coherent(self) -> "Alphas":
        if self.low > self.high or (self.n == 1) != (self.low == self.high):
            raise ValueError(f"alphas are {self.n} powers of ten from {self.low:g} to {self.high:g}: expected low < "
                             "high and n ≥ 2, or low = high and n = 1")
        return self


class Latencies(Section):
    """Windows [t, t + width) s after an item's start, t = start, start + step … as long as they end by `stop`."""

    start: float
    stop: float
    step: Positive
    width: Positive

    @model_validator(mode="after")
    def _coherent(self) -> "Latencies":
        if self.start + self.width > self.stop + 1e-9:
            raise ValueError(f"no window of {self.width:g} s fits between {self.start:g} and {self.stop:g} s")
        return self

    def windows(self) -> list[tuple[float, float]]:
        """(from, to) of each, s."""
        count = int((self.stop - self.start - self.width) / self.step + 1e-6) + 1
        return [(self.start + k * self.step, self.start + k * self.step + self.width) for k in range(count)]


class Encoding(Section):
    model: str | None
    layers: str
    activations: str | None
    options: dict[str, Any]
    permuted: bool
    random: bool
    weights_seed: Index
    keep: list[str]
    rms: Positive | None
    n_splits: Annotated[int, Field(ge=2)]
    n_train: Count | None
    alphas: Alphas
    compat: Literal["reference"] | None
    tmin: float | None
    tmax: float | None
    latencies: Latencies | None
    items: Literal["sound", "word", "phoneme"]
    context: Positive
    predictions: bool
    rdm: Literal["pearson", "spearman", "crossnobis"]
    noise: Literal["diagonal", "shrinkage"] | None
    comparison: Literal["spearman", "pearson"]
    standardise: bool
    concatenated: bool

    @model_validator(mode="after")
    def _coherent(self) -> "Encoding":
        if self.noise is not None and self.rdm != "crossnobis":
            raise ValueError(f"noise={self.noise} divides the distances of rdm=crossnobis, which is {self.rdm}")
        if self.permuted and self.random:
            raise ValueError("permuted and random: expected one of them at most")
        if self.latencies is not None and (self.tmin, self.tmax) != (None, None):
            raise ValueError("tmin, tmax and latencies: expected one span or many, not both; where a preset has "
                             "latencies, one span is latencies={start: tmin, stop: tmax, step: tmax - tmin, width: "
                             "tmax - tmin}")
        if self.items != "sound" and self.activations is not None:
            raise ValueError(f"items={self.items} needs a network to listen (encoding.model): published activations "
                             "are of whole sounds")
        if self.items != "sound" and self.latencies is None and (self.tmax is None or self.tmax <= (self.tmin or 0)):
            raise ValueError(f"items={self.items} needs latencies={{start: …}} (or one span: tmin < tmax), in s after "
                             f"a {self.items}'s start")
        return self


class Trf(Section):
    tmin: float
    tmax: float
    direction: Literal["forward", "backward"]
    alphas: Alphas
    folds: Annotated[int, Field(ge=2)] | None
    alpha_per_target: bool
    criterion: Literal["mse", "r"]
    penalty: Literal["ridge", "smooth"]
    bands: list[Annotated[list[str], Field(min_length=1)]]
    n_scalings: Count
    nested: bool
    candidates: Literal["pieces", "segments"]
    segment_s: Positive | None

    @model_validator(mode="after")
    def _coherent(self) -> "Trf":
        if self.tmin >= self.tmax:
            raise ValueError(f"tmin ({self.tmin:g} s) must be below tmax ({self.tmax:g} s)")
        names = [name for members in self.bands for name in members]
        if len(self.bands) == 1 or len(names) != len(set(names)):
            raise ValueError(f"bands: {self.bands}: expected none, or two groups of features or more, each feature "
                             "in one")
        if self.bands and self.direction == "backward":
            raise ValueError("bands are groups of features that predict: direction=backward predicts them")
        if self.nested and (self.direction == "backward" or self.folds == 2):
            raise ValueError(f"nested cross-validation is of direction=forward and at least three folds, not of "
                             f"direction={self.direction}, folds={self.folds}")
        if self.candidates == "segments" and self.direction == "forward":
            raise ValueError("candidates=segments: direction=backward alone tells which segment was heard")
        return self
