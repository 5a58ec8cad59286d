"""scikit-learn's tests of `sklearn.mixture`, from the installed package, with our class in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gmm_lightning

TESTS = Path(__file__).parents[1]
# Left out, with the reason. Those of scikit-learn's private functions run, and say nothing of us.
PRIVATE = {
    "test_gaussian_mixture_precisions_init": "calls `_set_parameters` of the estimator",
    "test_gaussian_mixture_all_init_does_not_estimate_gaussian_parameters": "counts the calls of "
    "a private function",
    "test_gaussian_mixture_raises_where_array_api_not_implemented": "asks for a refusal of k-means "
    "for tensors, which are taken here",
    "test_compare_covar_type": "calls `_check_parameters` of the Bayesian estimator",
}


@pytest.mark.slow
def test_they_pass(tmp_path: Path) -> None:
    left_out = " and ".join(f"not {name}" for name in PRIVATE)
    command = (
        *(sys.executable, "-m", "pytest", "-q", "--rootdir", str(tmp_path)),
        *("-p", "no:cacheprovider", "-p", "support.sklearn_substitute", "-k", left_out),
        *("--pyargs", "sklearn.mixture.tests.test_gaussian_mixture"),
        *("sklearn.mixture.tests.test_bayesian_mixture", "sklearn.mixture.tests.test_mixture"),
    )
    package = str(Path(gmm_lightning.__file__).parents[1])
    # With tensors, which scikit-learn tests where SciPy's array API is on, and in float32.
    switches = {"SCIPY_ARRAY_API": "1", "SKLEARN_RUN_FLOAT32_TESTS": "1"}
    environment = os.environ | switches | {"PYTHONPATH": os.pathsep.join([str(TESTS), package])}
    done = subprocess.run(
        command,
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr
    passed = re.search(r"(\d+) passed", done.stdout)
    assert passed is not None
    assert int(passed[1]) > 50
    text = _text_of_tests()
    for name in PRIVATE:
        assert name in text


def _text_of_tests() -> str:
    from sklearn.mixture.tests import test_bayesian_mixture, test_gaussian_mixture

    files = (str(one.__file__) for one in (test_bayesian_mixture, test_gaussian_mixture))
    return "".join(Path(file).read_text(encoding="utf-8") for file in files)
