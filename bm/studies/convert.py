"""Pickles that others published, turned once into files that hold data alone.

Reading a pickle runs what it says. `convert` reads one only if its SHA-256 is the one that whoever trusts it names, and
even then builds nothing but tables and arrays.
"""
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from bm.store import file_sha256

#: all that a table or an array of pandas ≥ 1 and numpy ≥ 1 is made of
ALLOWED = frozenset({
    *(("builtins", name) for name in ("slice", "set", "frozenset", "bytearray", "complex")), ("_codecs", "encode"),
    ("collections", "OrderedDict"),
    *((f"numpy.{core}.{module}", name) for core in ("core", "_core") for module, name in
      (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))),
    ("numpy", "ndarray"), ("numpy", "dtype"),
    ("pandas", "DataFrame"), ("pandas", "Series"), ("pandas", "Index"), ("pandas", "RangeIndex"),
    ("pandas", "StringDtype"), ("pandas.core.frame", "DataFrame"), ("pandas.core.series", "Series"),
    ("pandas.core.internals.managers", "BlockManager"), ("pandas.core.internals.managers", "SingleBlockManager"),
    ("pandas.core.internals.blocks", "new_block"), ("pandas._libs.internals", "_unpickle_block"),
    ("pandas.core.indexes.base", "_new_Index"), ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.range", "RangeIndex"), ("pandas.core.indexes.multi", "MultiIndex"),
    *(("pandas.core.indexes.numeric", name) for name in ("Int64Index", "UInt64Index", "Float64Index")),
    ("pandas.core.arrays.categorical", "Categorical"), ("pandas.core.dtypes.dtypes", "CategoricalDtype"),
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"), ("pandas.core.arrays.string_", "StringDtype"),
    ("pandas.core.arrays.string_", "StringArray"), ("pandas.arrays", "ArrowStringArray"),
    ("pandas.core.arrays.string_arrow", "ArrowStringArray"), ("pyarrow.lib", "_restore_array"),
    ("pyarrow.lib", "type_for_alias"), ("pyarrow.lib", "py_buffer"),
})


def load_restricted(data: bytes, where: str) -> Any:
    """What a pickle holds, if that is made of numbers, text, lists, dicts, arrays and tables.

    Raises:
        ValueError: it names anything else, or is no pickle.
    """
    from pandas.compat.pickle_compat import Unpickler

    class Restricted(Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in ALLOWED:
                raise ValueError(f"{where} asks for {module}.{name}, which is neither a table nor an array: it is not "
                                 "converted")
            return super().find_class(module.replace("numpy.core.", "numpy._core."), name)

    try:
        return Restricted(io.BytesIO(data), encoding="latin-1").load()
    except ValueError:
        raise
    except Exception as error:  # whatever bytes may mean to a machine of stacks
        raise ValueError(f"{where} cannot be read as a pickle ({type(error).__name__}: {error})") from error


def convert(path: Path, sha256: str) -> Path:
    """Writes a table (Parquet) or a dictionary of arrays (safetensors) beside a pickle, and returns the new file.

    Args:
        path: the pickle.
        sha256: of the file that is trusted.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another file, or one that holds anything else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"no file {path}")
    found = file_sha256(path)
    if found != sha256.strip().lower():
        raise ValueError(f"{path} has SHA-256 {found}, not {sha256}: it is not the file that is trusted: "
                         "nothing is read")
    content = load_restricted(path.read_bytes(), str(path))
    if isinstance(content, pd.DataFrame):
        target = path.with_suffix(".parquet")
        # columns of mixed types (numbers that became text) have no place in Parquet
        mixed = {name: content[name].map(lambda value: None if pd.isna(value) else str(value))
                 for name in content if content[name].dtype == object}
        content.assign(**mixed).to_parquet(target, index=not isinstance(content.index, pd.RangeIndex))
        return target
    if isinstance(content, dict) and content and all(isinstance(value, np.ndarray) and value.dtype.kind in "fiub"
                                                     for value in content.values()):
        from safetensors.numpy import save_file
        target = path.with_suffix(".safetensors")
        save_file({str(name): np.ascontiguousarray(value) for name, value in content.items()}, target)
        return target
    raise ValueError(f"{path} holds a {type(content).__name__}: expected a table, or a dictionary of arrays of numbers")
