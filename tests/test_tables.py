"""Rows as people hold them: frames, columns, masked arrays, lists; what else comes is named."""

from __future__ import annotations

import decimal
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import torch
from support.random_layers import parameters

from gmm_lightning import GMMLayer, MixtureClassifier, StepwiseEM, e_step, fit_classifier, fit_em
from gmm_lightning.distributions import Ball, impute
from gmm_lightning.em import initialize_layer
from gmm_lightning.errors import InvalidDataError
from gmm_lightning.estimators import gmr
from gmm_lightning.losses import negative_log_likelihood
from gmm_lightning.projections import ledoit_wolf
from gmm_lightning.rows import Batch, as_tensor
from gmm_lightning.training import ArrayDataModule, GMMModule

pytestmark = pytest.mark.usefixtures("double")

# Whole numbers and booleans: the same rows in every dtype.
RNG = np.random.default_rng(5)
ROWS = np.stack([RNG.integers(-50, 50, 60), RNG.random(60) > 0.4, RNG.integers(0, 9, 60)], 1)
NAMES = ["a", "b", "c"]
# The order in memory, by rows or by columns, decides how sums are rounded, by 1e-15; iterations
# carry that on.
CLOSE: dict[str, Any] = {"rtol": 1e-9, "atol": 1e-9}


def pandas_frame(**dtypes: str) -> Callable[[], Any]:
    """A pandas table of `ROWS` with given dtypes, and another index than the rows' numbers."""

    def make() -> Any:
        pd = pytest.importorskip("pandas")
        if any("pyarrow" in dtype for dtype in dtypes.values()):
            pytest.importorskip("pyarrow")
        frame = pd.DataFrame(ROWS.astype(float), columns=NAMES, index=np.arange(60)[::-1])
        return frame.astype(dtypes)

    return make


def polars_frame(**dtypes: str) -> Callable[[], Any]:
    def make() -> Any:
        pl = pytest.importorskip("polars")
        kinds = {name: getattr(pl, dtype) for name, dtype in dtypes.items()}
        return pl.DataFrame(ROWS.astype(float), schema=NAMES).cast(kinds)

    return make


def arrow_table(kind: str, **dtypes: str) -> Callable[[], Any]:
    def make() -> Any:
        pa = pytest.importorskip("pyarrow")
        columns = [
            pa.array(column).cast(dtypes.get(name, "double"))
            for name, column in zip(NAMES, ROWS.T.astype(float), strict=True)
        ]
        return getattr(pa, kind)(columns, names=NAMES)

    return make


def with_decimals() -> Any:
    pl = pytest.importorskip("polars")
    whole = [decimal.Decimal(int(value)) for value in ROWS[:, 0]]
    return pl.DataFrame({"a": whole, "b": ROWS[:, 1] > 0, "c": ROWS[:, 2]})


TABLES: dict[str, Callable[[], Any]] = {
    "lists": ROWS.tolist,
    "tuples": lambda: tuple(map(tuple, ROWS.tolist())),
    "big endian": lambda: ROWS.astype(">f8"),
    "long double": lambda: ROWS.astype(np.longdouble),
    "nothing masked": lambda: np.ma.masked_array(ROWS, mask=False),
    "pandas": pandas_frame(),
    "pandas mixed": pandas_frame(a="int32", b="bool", c="float32"),
    "pandas nullable": pandas_frame(a="Int64", b="boolean", c="Float32"),
    "pandas Int64": pandas_frame(a="Int64", b="Int64", c="Int64"),
    "pandas on Arrow": pandas_frame(a="int64[pyarrow]", b="bool[pyarrow]", c="double[pyarrow]"),
    "pandas sparse": pandas_frame(a="Sparse[float64]", b="Sparse[float64]", c="Sparse[float64]"),
    "polars": polars_frame(),
    "polars mixed": polars_frame(a="Int16", b="Boolean", c="Float32"),
    "polars decimals": with_decimals,
    "Arrow table": arrow_table("table", a="int8", b="bool", c="float"),
    "Arrow batch": arrow_table("record_batch", a="int8", b="bool", c="uint16"),
}


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES)
def test_every_table_is_its_rows(make: Callable[[], Any]) -> None:
    table, rows = make(), torch.tensor(ROWS, dtype=torch.float64)
    assert torch.equal(as_tensor(table).double(), rows)
    layer, twin = GMMLayer(3, 2, priors="niw"), GMMLayer(3, 2, priors="niw")
    for fitted, x in ((layer, table), (twin, rows)):
        fit_em(fitted, x, generator=0, max_iter=3)
    for own, other in zip(parameters(layer), parameters(twin), strict=True):
        torch.testing.assert_close(own, other, **CLOSE)
    for method in ("log_prob", "predict", "responsibilities", "objective", "grad_log_prob"):
        answer = getattr(layer, method)(table)
        torch.testing.assert_close(answer, getattr(layer, method)(rows), **CLOSE)
    assert torch.equal(layer(Batch(table)), layer(table))


def a_frame() -> Any:
    return pandas_frame(a="Int64", b="boolean")()


def test_every_function_of_rows_takes_a_table() -> None:
    pd = pytest.importorskip("pandas")
    table, rows = a_frame(), torch.tensor(ROWS, dtype=torch.float64)
    weight = pd.Series(np.arange(60), dtype="Int64")
    labels = pd.Series(["even", "odd"] * 30, dtype="category")
    found = []
    for x, w in ((table, weight), (rows, torch.arange(60.0))):
        layer = GMMLayer(3, 2)
        initialize_layer(layer, x, sample_weight=w, generator=1)
        stats = e_step(layer, x, w)
        StepwiseEM(layer).partial_fit(x, w)
        module = GMMModule(layer)
        module.standardize.set(rows.mean(0), rows.std(0))
        classifier = MixtureClassifier(GMMLayer(3, 2, batch_shape=(2,)), ("even", "odd"))
        fit_classifier(classifier, x, labels, sample_weight=w, generator=2, max_iter=2)
        found.append(
            [
                stats.second,
                *parameters(layer),
                module.log_prob(x),
                module.predict(x),
                layer.distribution()
                .condition([0, 1], x[["a", "b"]] if x is table else x[:, :2])
                .mean,
                negative_log_likelihood(layer, x),
                ledoit_wolf(x, w)[0],
                Ball([0.0, 0.0, 0.0], 9.0).contains(x),
                classifier.posterior(x),
                classifier.predict(x),
                classifier.objective(x, labels),
            ]
        )
    for own, other in zip(*found, strict=True):
        torch.testing.assert_close(own, other, **CLOSE)


def test_a_door_answers_in_numpy() -> None:
    table = a_frame()
    fitted = gmr.GMM(2, random_state=0).from_samples(table[["a", "c"]])
    answer = fitted.to_probability_density(table[["a", "c"]])
    assert isinstance(answer, np.ndarray)
    expected = fitted.to_probability_density(ROWS[:, [0, 2]])
    np.testing.assert_allclose(answer, expected, rtol=CLOSE["rtol"])
    with pytest.raises(InvalidDataError, match=r"row\(s\) 7; drop them"):
        fitted.from_samples(np.ma.masked_array(ROWS[:, :1], np.arange(60) == 7))


def test_batches_may_be_tables() -> None:
    table = a_frame()
    layer, twin = GMMLayer(3, 2), GMMLayer(3, 2)
    fit_em(layer, [table[:25], table[25:]], initializer=torch.arange(60) % 2, max_iter=2)
    fit_em(twin, ROWS, initializer=torch.arange(60) % 2, max_iter=2)
    # Sums in another order round differently.
    assert torch.allclose(layer.means, twin.means, rtol=1e-9)


def test_a_data_module_keeps_the_names_of_columns() -> None:
    table = a_frame()
    data = ArrayDataModule(table, val_fraction=0.2)
    assert data.columns == ("a", "b", "c")
    assert data.train.x.dtype == torch.float64
    assert ArrayDataModule(table, columns=["x", "y", "z"]).columns == ("x", "y", "z")
    assert ArrayDataModule(ROWS).columns == ("x0", "x1", "x2")


def test_columns_in_another_order_are_no_rows() -> None:
    table, module = a_frame(), GMMModule(GMMLayer(3, 2))
    expected = module.predict(ROWS)
    # Without names nothing is known; other names say nothing of the order.
    assert module.predict(table[["b", "a", "c"]]).shape == (60,)
    module.data = {"columns": ["x", "y", "z"]}
    assert torch.equal(module.predict(table), expected)
    module.data = {"columns": NAMES}
    assert torch.equal(module.predict(table), expected)
    for method in (module.predict, module.log_prob, module.responsibilities):
        with pytest.raises(InvalidDataError, match=r"'b', 'a', 'c', .* 'a', 'b', 'c'; put them in"):
            method(table[["b", "a", "c"]])


# -- what is missing ----------------------------------------------------------------------------

MISSING = np.zeros((4, 3), dtype=bool)
MISSING[1, 0] = MISSING[3, 1] = True


def in_pandas(**dtypes: str) -> Callable[[], Any]:
    def make() -> Any:
        frame = pandas_frame(**dtypes)()[:4]
        return frame.mask(MISSING)

    return make


def in_polars() -> Any:
    pl = pytest.importorskip("polars")
    columns = np.where(MISSING, None, ROWS[:4]).T
    kinds = {"a": pl.Int64, "b": pl.Boolean, "c": pl.Float32}
    made = {name: column.tolist() for name, column in zip(NAMES, columns, strict=True)}
    made["b"] = [None if value is None else bool(value) for value in made["b"]]
    return pl.DataFrame(made, schema=kinds)


def in_arrow() -> Any:
    pytest.importorskip("pyarrow")
    return in_polars().to_arrow()


GAPS: dict[str, tuple[Callable[[], Any], str]] = {
    "pandas nullable": (in_pandas(a="Int64", b="boolean", c="Float64"), "of column(s) 'a', 'b'"),
    "pandas on Arrow": (in_pandas(a="int64[pyarrow]", b="bool[pyarrow]"), "of column(s) 'a', 'b'"),
    "pandas floats": (in_pandas(), "of column(s) 'a', 'b'"),
    "polars": (in_polars, "of column(s) 'a', 'b'"),
    "Arrow": (in_arrow, "of column(s) 'a', 'b'"),
    "masked": (lambda: np.ma.masked_array(ROWS[:4].astype(float), MISSING), "(NaN or masked)"),
    "masked integers": (lambda: np.ma.masked_array(ROWS[:4], MISSING), "in row(s) 1, 3; drop"),
    "masked rows": (lambda: list(np.ma.masked_array(ROWS[:4], MISSING)), "in row(s) 1, 3; drop"),
}


@pytest.mark.parametrize(("make", "words"), GAPS.values(), ids=GAPS)
def test_what_is_missing_is_nan(make: Callable[[], Any], words: str) -> None:
    table, rows = make(), torch.tensor(np.where(MISSING, np.nan, ROWS[:4].astype(float)))
    layer = GMMLayer(3, 2)
    for use in (fit_em, e_step, lambda _, x: ArrayDataModule(x)):
        with pytest.raises(InvalidDataError, match=r"row\(s\) 1, 3") as raised:
            use(layer, table)
        assert words in str(raised.value)
    assert layer.log_prob(table).isnan().tolist() == [False, True, False, True]
    observed = {"missing": "marginalize"}
    assert torch.equal(layer.log_prob(table, **observed), layer.log_prob(rows, **observed))
    assert torch.equal(impute(layer, table), impute(layer, rows))
    with pytest.raises(InvalidDataError, match=r"sample_weight .* not in row\(s\) 1"):
        fit_em(layer, rows[[0, 0, 2, 2]], sample_weight=as_tensor(table)[:, 0])


def test_weights_and_labels_may_be_missing() -> None:
    x, hidden = ROWS.astype(float), np.arange(60) == 7
    with pytest.raises(InvalidDataError, match=r"sample_weight .* not in row\(s\) 7"):
        fit_em(GMMLayer(3, 2), x, sample_weight=np.ma.masked_array(np.ones(60), hidden))
    classifier = MixtureClassifier(GMMLayer(3, 2, batch_shape=(2,)))
    with pytest.raises(InvalidDataError, match=r"masked labels in row\(s\) 7; leave out"):
        fit_classifier(classifier, x, np.ma.masked_array(np.arange(60) % 2, hidden))


# -- what holds no rows -------------------------------------------------------------------------


def frame_with(column: Callable[[Any], Any]) -> Callable[[], Any]:
    def make() -> Any:
        frame = pandas_frame()()
        return frame.assign(born=column(frame))

    return make


def text_in(library: str) -> Callable[[], Any]:
    def make() -> Any:
        module = pytest.importorskip(library)
        columns = {"a": [1.0, 2.0], "name": ["x", "y"]}
        return module.DataFrame(columns) if library == "polars" else module.table(columns)

    return make


def lazy() -> Any:
    return polars_frame()().lazy()


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "None": (lambda: None, "got NoneType; pass an array"),
    "text": (lambda: "trees.csv", r"got text; gmm_lightning.datasets.read_table"),
    "a dictionary": (lambda: {"a": [1.0]}, "got dict; stack its columns with np.column_stack"),
    "ragged lists": (lambda: [[1.0, 2.0, 3.0], [4.0]], "rectangular array, got rows of unequal"),
    "objects": (lambda: ROWS.astype(object), "dtype object .* call astype"),
    "None in a list": (lambda: [[1.0, None, 2.0]], "nan where a value is missing"),
    "words": (lambda: [["a", "b", "c"]], r"dtype <U1 .* number what is text"),
    "complex": (lambda: ROWS * 1j, "complex128 .* real and imaginary parts as two features"),
    "dates": (lambda: np.zeros((3, 3), "M8[D]"), r"datetime64\[D\] .* days since"),
    "durations": (lambda: np.zeros((3, 3), "m8[s]"), r"timedelta64\[s\] .* by a unit"),
    "structured": (lambda: np.zeros(3, [("a", "f8")]), "structured_to_unstructured"),
    "csr": (lambda: scipy.sparse.csr_matrix(ROWS), r"a sparse csr_matrix; call toarray\(\)"),
    "coo": (lambda: scipy.sparse.coo_array(ROWS), r"a sparse coo_array; call toarray\(\)"),
    "sparse tensor": (lambda: torch.ones(3, 3).to_sparse(), r"sparse_coo; call to_dense\(\)"),
    "meta": (lambda: torch.ones(3, 3, device="meta"), "meta device, which has none"),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.ones(3), torch.ones(2)]),
        "nested tensor; call torch.nested.to_padded_tensor",
    ),
    "quantised": (
        lambda: torch.quantize_per_tensor(torch.ones(3, 3).float(), 1.0, 0, torch.qint8),
        r"torch.qint8; call dequantize\(\)",
    ),
    "lazy": (lazy, r"got LazyFrame; call collect\(\)"),
    "dates in pandas": (
        frame_with(lambda frame: np.datetime64("2001-02-03", "s")),
        r"column\(s\) 'born' \(datetime64\[s\]\) do not; leave them out",
    ),
    "categories": (frame_with(lambda f: f["b"].astype("category")), r"'born' \(category\)"),
    "objects in pandas": (frame_with(lambda f: f["b"].astype(object)), r"'born' \(object\)"),
    "text in polars": (text_in("polars"), r"'name' \(String\)"),
    "text in Arrow": (text_in("pyarrow"), r"'name' \(string\)"),
}


DOORS: dict[str, Callable[[GMMLayer, Any], object]] = {
    "fit_em": fit_em,
    "e_step": e_step,
    "log_prob": GMMLayer.log_prob,
    "module": lambda layer, x: GMMModule(layer).predict(x),
    "impute": impute,
    "classifier": lambda layer, x: MixtureClassifier(GMMLayer(3, 2, batch_shape=(2,))).predict(x),
    "data module": lambda layer, x: ArrayDataModule(x),
    "weights": lambda layer, x: fit_em(layer, ROWS, sample_weight=x),
    "assignments": lambda layer, x: fit_em(layer, ROWS, initializer=x),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED)
# torch says that nested and quantised tensors are prototypes.
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_holds_no_numbers_is_named(make: Callable[[], Any], words: str) -> None:
    x, layer = make(), GMMLayer(3, 2)
    before = parameters(layer)
    doors = dict(DOORS)
    if x is None or isinstance(x, str):
        del doors["weights"], doors["assignments"]
    for name, door in doors.items():
        with pytest.raises(InvalidDataError, match=words) as raised:
            door(layer, x)
        assert "\n" not in str(raised.value), name
    assert all(torch.equal(a, b) for a, b in zip(before, parameters(layer), strict=True))


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (3.0, r"shape \(\)"),
        (np.zeros((2, 2, 2, 2)), r"shape \(2, 2, 2, 2\)"),
        (np.zeros(5), r"shape \(5,\); one feature is x\.reshape"),
    ],
)
def test_shapes_that_are_no_rows(x: Any, words: str) -> None:
    for door in (fit_em, e_step):
        with pytest.raises(InvalidDataError, match=rf"\(N, 3\), got an array of {words}"):
            door(GMMLayer(3, 2), x)


def test_a_generator_is_no_rows() -> None:
    for door in (e_step, GMMLayer.log_prob, impute):
        with pytest.raises(InvalidDataError, match="got generator; make a list of it"):
            door(GMMLayer(3, 2), (row for row in ROWS))
