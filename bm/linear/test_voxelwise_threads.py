"""The same penalties and scores whatever number of threads BLAS has."""
import os
import subprocess
import sys

import pytest

CODE = '''
import numpy as np
from threadpoolctl import threadpool_info, threadpool_limits

from bm.linear.voxelwise import gram, random_splits, voxelwise

rng = np.random.default_rng(0)
x = rng.standard_normal((165, 1500)) * np.exp(rng.standard_normal(1500))
noise = rng.standard_normal((165, 120, 3)) * np.linspace(0.05, 8, 120)[:, None]
y = (x @ rng.standard_normal((1500, 120)) / 40)[..., None] + noise
found = []
for threads in (1, 2):
    with threadpool_limits(threads, "blas"):
        assert {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"} == {threads}
        found.append(voxelwise(gram(x), y, random_splits(165, 83, 2)))
one, two = found
assert 0 < one.constant_test.mean() < 1
np.testing.assert_array_equal(one.alphas, two.alphas)
np.testing.assert_array_equal(one.constant_test, two.constant_test)
np.testing.assert_allclose(one.r2_test_c, two.r2_test_c, rtol=0, atol=1e-10)
'''


@pytest.mark.skipif((os.cpu_count() or 1) < 2, reason="one processor")
def test_threads_change_nothing():
    done = subprocess.run([sys.executable, "-c", CODE], env={**os.environ, "OMP_NUM_THREADS": "2"}, capture_output=True,
                          text=True)
    assert done.returncode == 0, done.stderr
