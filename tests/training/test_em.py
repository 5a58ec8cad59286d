"""EM as a callback: the plain loop, and no M-step from half a pass."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from support.covering import covering
from support.lightning_runs import adam, distance, fitted, same, state, trainer
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, DistributedSampler, TensorDataset

from gmm_lightning import GMMLayer, e_step, fit_em, m_step
from gmm_lightning.em import initialize_layer
from gmm_lightning.errors import CollapseError, InvalidArgumentError
from gmm_lightning.training import ArrayDataModule, EMCallback, GMMModule, InitializeCallback

# The same sums in another order: rounding grows by about 10 from pass to pass, and a few passes
# are compared.
ROUNDING = 1e-11

# Lightning's advice about a fit without validation, and about a folder used again.
NO_VALIDATION = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
SAME_FOLDER = pytest.mark.filterwarnings("ignore:Checkpoint directory")


def started(x: Tensor, covariance: str = "full", priors: Any = None) -> GMMLayer:
    """A layer where `InitializeCallback` leaves it."""
    layer = GMMLayer(x.shape[-1], 3, covariance, priors)
    initialize_layer(layer, x, generator=torch.Generator().manual_seed(0))
    return layer


PRIORS = ["dirichlet", "niw"]


class Snapshots(L.Callback):
    """The state at the hooks that must see this pass's M-step."""

    def __init__(self) -> None:
        self.validation: list[dict[str, Tensor]] = []
        self.epoch_end: list[dict[str, Tensor]] = []
        self.train_start: dict[str, Tensor] = {}
        self.steps: list[int] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.train_start = state(pl_module)

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.validation.append(state(pl_module))

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.epoch_end.append(state(pl_module))
        self.steps.append(trainer.global_step)


# -- the plain loop ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch_size", "covariance", "priors"),
    # Pairs of all three.
    covering([1000, 101, 50, 7], ["full", "tied_diag", "spherical"], [None, "niw", PRIORS]),
)
def test_it_is_the_plain_loop(x: Tensor, covariance: str, priors: Any, batch_size: int) -> None:
    module, run = fitted(
        x, covariance=covariance, priors=priors, data={"batch_size": batch_size}, max_epochs=4
    )
    layer, history = started(x, covariance, priors), []
    for _ in range(4):
        history.append(layer.objective(x).item())
        m_step(layer, e_step(layer, x))
    assert distance(state(module.layer), state(layer)) < ROUNDING
    em = run.callbacks[1]
    assert isinstance(em, EMCallback)
    assert em.history == pytest.approx(history, rel=1e-12)


def test_it_is_fit_em(x: Tensor) -> None:
    module, run = fitted(x, priors="niw", max_epochs=5)
    layer = started(x, priors="niw")
    result = fit_em(layer, x, initializer=None, max_iter=5, tol=0.0)
    assert distance(state(module.layer), state(layer)) < ROUNDING
    em = run.callbacks[1]
    assert isinstance(em, EMCallback)
    assert em.history == pytest.approx(result.history[:5], rel=1e-12)


def test_it_is_fit_em_in_standard_units(x: Tensor) -> None:
    x = x * torch.tensor([100.0, 0.01]) + 5.0
    module, _ = fitted(x, data={"standardize": True}, max_epochs=3)
    layer = started((x - x.mean(0)) / x.std(0, correction=0))
    fit_em(layer, (x - x.mean(0)) / x.std(0, correction=0), initializer=None, max_iter=3, tol=0.0)
    assert distance(state(module.layer), state(layer)) < ROUNDING


def test_counts_are_those_of_the_last_pass(x: Tensor) -> None:
    module, run = fitted(x, max_epochs=1, data={"batch_size": 10})
    em = run.callbacks[1]
    assert isinstance(em, EMCallback)
    assert em.counts is not None
    # One M-step: the weights are the shares of rows.
    torch.testing.assert_close(em.counts / len(x), module.layer.weights, rtol=0, atol=1e-14)


# -- order within a pass ----------------------------------------------------------------------


def test_the_m_step_comes_before_validation_and_before_the_end_of_the_pass(x: Tensor) -> None:
    seen = Snapshots()
    module, _ = fitted(x, "em", seen, max_epochs=3, data={"batch_size": 20, "val_fraction": 0.2})
    assert len(seen.validation) == len(seen.epoch_end) == 3
    for validation, epoch_end in zip(seen.validation, seen.epoch_end, strict=True):
        assert same(validation, epoch_end)
    before = [seen.train_start, *seen.epoch_end[:-1]]
    assert not any(same(a, b) for a, b in zip(before, seen.epoch_end, strict=True))
    assert same(state(module), seen.epoch_end[-1])


def test_a_checkpoint_at_the_end_of_a_pass_holds_its_m_step(x: Tensor, tmp_path: Path) -> None:
    seen = Snapshots()
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    fitted(x, "em", seen, saved, max_epochs=3)
    for epoch, expected in enumerate(seen.epoch_end):
        loaded = GMMModule.load_from_checkpoint(tmp_path / f"epoch={epoch}.ckpt")
        assert same(state(loaded), expected)


def test_validation_is_at_the_parameters_of_this_pass(x: Tensor) -> None:
    module, run = fitted(x, max_epochs=2, data={"val_fraction": 0.3, "batch_size": 9})
    data = run.datamodule  # pyright: ignore[reportAttributeAccessIssue]
    expected = module.log_prob(data.val.x).mean().item()
    assert float(run.callback_metrics["val/log_likelihood"]) == pytest.approx(expected, rel=1e-13)


def test_global_step_counts_batches(x: Tensor) -> None:
    seen = Snapshots()
    fitted(x, "em", seen, max_epochs=3, data={"batch_size": 20})
    assert seen.steps == [6, 12, 18]


def test_parameters_are_written_in_place_and_no_gradient_appears(x: Tensor) -> None:
    layer = GMMLayer(2, 3, priors="niw")
    before = {name: p.data_ptr() for name, p in layer.named_parameters()}
    module = GMMModule(layer)
    trainer(InitializeCallback(), EMCallback(), max_epochs=2).fit(
        module, datamodule=ArrayDataModule(x, batch_size=30)
    )
    assert {name: p.data_ptr() for name, p in module.layer.named_parameters()} == before
    assert all(p.grad is None and p.requires_grad for p in module.parameters())


# -- passes that are not whole ----------------------------------------------------------------


def test_a_pass_cut_short_does_no_m_step(x: Tensor) -> None:
    # 6 batches a pass: 8 steps are one pass and a third.
    seen = Snapshots()
    module, run = fitted(x, "em", seen, max_epochs=5, max_steps=8, data={"batch_size": 20})
    assert run.global_step == 8
    one, _ = fitted(x, max_epochs=1, data={"batch_size": 20})
    assert same(state(module), state(one))
    em = run.callbacks[1]
    assert isinstance(em, EMCallback)
    assert len(em.history) == 1


class StopAt(L.Callback):
    """Asks for an end in the middle of a pass."""

    def __init__(self, batch: int) -> None:
        self.batch = batch

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        trainer.should_stop |= batch_idx == self.batch


def test_a_pass_stopped_from_outside_does_no_m_step(x: Tensor) -> None:
    seen = Snapshots()
    module, run = fitted(x, "em", seen, StopAt(2), data={"batch_size": 20}, min_epochs=0)
    assert run.global_step == 3
    assert same(state(module), seen.train_start)


def test_limited_batches_are_a_smaller_data_set(x: Tensor) -> None:
    module, _ = fitted(x, max_epochs=2, limit_train_batches=3, data={"batch_size": 20})
    layer = started(x)
    for _ in range(2):
        m_step(layer, e_step(layer, x[:60]))
    assert distance(state(module.layer), state(layer)) < ROUNDING


@SAME_FOLDER
def test_a_pass_joined_in_the_middle_does_no_m_step(x: Tensor, tmp_path: Path) -> None:
    # 6 batches a pass; a checkpoint after the second batch of the second pass.
    inside = ModelCheckpoint(tmp_path, filename="inside", every_n_train_steps=8)
    data = {"batch_size": 20}
    fitted(x, "em", inside, max_epochs=2, data=data)
    seen, file = Snapshots(), tmp_path / "inside.ckpt"
    joined = GMMModule.load_from_checkpoint(file)
    with pytest.warns(UserWarning, match="ended before the epoch ended"):
        module, run = fitted(x, "em", seen, inside, max_epochs=3, data=data, ckpt_path=file)
    # The rest of the second pass changes nothing; the third is whole.
    assert same(seen.epoch_end[0], state(joined))
    layer = joined.layer
    m_step(layer, e_step(layer, x))
    assert distance(state(module.layer), state(layer)) < ROUNDING
    em = run.callbacks[1]
    assert isinstance(em, EMCallback)
    assert len(em.history) == 2


# -- stopping ---------------------------------------------------------------------------------


def test_a_tolerance_stops_where_fit_em_does(x: Tensor) -> None:
    layer = started(x, priors="niw")
    module, em = GMMModule(layer), EMCallback(tol=1e-6)
    run = trainer(em, max_epochs=200)
    run.fit(module, datamodule=ArrayDataModule(x, batch_size=20))
    result = fit_em(started(x, priors="niw"), x, initializer=None, max_iter=200, tol=1e-6)
    # The callback's last pass does its M-step; the plain loop stops before it.
    assert result.converged
    assert em.converged
    assert run.current_epoch == result.num_iterations + 1
    assert 3 < run.current_epoch < 200
    with pytest.raises(InvalidArgumentError, match="tol must be a finite number >= 0"):
        EMCallback(tol=-1.0)


# -- what EM cannot use -----------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["16-true", "bf16-true", "16-mixed"])
def test_half_precision_is_refused(precision: str) -> None:
    # Lightning turns 16-mixed into bf16-mixed on a CPU; on a GPU it stays what it is.
    run = trainer(precision=precision.replace("16-mixed", "32-true"))
    run.precision_plugin.precision = precision
    with pytest.raises(InvalidArgumentError, match=rf"trainer.precision.*32-true.*got {precision}"):
        EMCallback().setup(run, GMMModule(GMMLayer(2, 3)), "fit")


def test_autocast_does_not_touch_the_e_step(x: Tensor) -> None:
    x = x + 100.0
    mixed, run = fitted(x.float(), precision="bf16-mixed", data={"val_fraction": 0.3})
    exact, reference = fitted(x.float(), precision="32-true", data={"val_fraction": 0.3})
    assert mixed.layer.means.dtype == exact.layer.means.dtype
    assert same(state(mixed), state(exact))
    for key in ("train/log_likelihood", "val/log_likelihood", "train/objective"):
        assert torch.equal(run.callback_metrics[key], reference.callback_metrics[key]), key


def test_sharded_strategies_are_refused() -> None:
    # Building a real one needs a GPU.
    run = trainer()
    run.strategy.__class__ = type("FSDPStrategy", (type(run.strategy),), {})
    module = GMMModule(GMMLayer(2, 3))
    with pytest.raises(InvalidArgumentError, match=r"FSDPStrategy shards.*trainer.strategy=ddp"):
        EMCallback().setup(run, module, "fit")


@NO_VALIDATION
@pytest.mark.parametrize("inside", ["sampler", "batch_sampler"])
def test_a_padding_sampler_is_refused(x: Tensor, inside: str) -> None:
    dataset = TensorDataset(x)
    sampler = DistributedSampler(dataset, num_replicas=2, rank=0)
    options: dict[str, Any] = {"sampler": sampler, "batch_size": 8}
    if inside == "batch_sampler":
        options = {"batch_sampler": BatchSampler(sampler, 8, drop_last=False)}
    run = trainer(EMCallback(), use_distributed_sampler=False)
    with pytest.raises(InvalidArgumentError, match=r"repeats rows.*ArrayDataModule"):
        run.fit(GMMModule(GMMLayer(2, 3)), DataLoader(dataset, **options))


@NO_VALIDATION
def test_a_plain_data_loader_is_fine(x: Tensor) -> None:
    layer = started(x)
    module = GMMModule(layer)
    loader = DataLoader(TensorDataset(x), batch_size=20)
    trainer(EMCallback(), max_epochs=2).fit(module, loader)
    plain = started(x)
    for _ in range(2):
        m_step(plain, e_step(plain, x))
    assert distance(state(module.layer), state(plain)) < ROUNDING


# -- a mixture inside somebody's model --------------------------------------------------------


class Autoencoder(L.LightningModule):
    """A network with a density of its latents, and an optimizer of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(2, 2)
        self.decoder = nn.Linear(2, 2)
        self.model = nn.ModuleDict({"density": GMMLayer(2, 3)})
        self.latents: list[Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        (x,) = batch
        z = self.encoder(x)
        self.latents.append(z.detach())
        return (self.decoder(z) - x).square().mean() - 0.01 * self.model["density"](z).mean()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.model["density"](self.encoder(batch[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return adam(0.01)(self.parameters())


def train_inside(x: Tensor, passes: int, *callbacks: L.Callback) -> tuple[Autoencoder, L.Trainer]:
    torch.manual_seed(0)
    model = Autoencoder()
    loader = DataLoader(TensorDataset(x), batch_size=20)
    run = trainer(*callbacks, max_epochs=passes)
    run.fit(model, loader, DataLoader(TensorDataset(x[:10]), batch_size=10))
    return model, run


class Frozen(L.Callback):
    """Notes what the optimizer could change while it runs."""

    def __init__(self) -> None:
        self.trainable: set[str] = set()

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trainable = {n for n, p in pl_module.named_parameters() if p.requires_grad}


def test_the_mixture_learns_by_em_and_the_network_by_gradient(x: Tensor) -> None:
    torch.manual_seed(0)
    start = Autoencoder()
    frozen = Frozen()
    model, run = train_inside(x, 1, EMCallback(target="model.density"), frozen)
    layer, before = model.model["density"], start.model["density"]
    assert isinstance(layer, GMMLayer)
    assert isinstance(before, GMMLayer)
    # One pass: the statistics of the latents as each batch saw them, under the first parameters,
    # and nothing of what validation passed through.
    assert torch.cat(model.latents).shape == x.shape
    m_step(before, e_step(before, torch.cat(model.latents)))
    assert distance(state(layer), state(before)) < ROUNDING
    assert not same(state(model.encoder), state(start.encoder))
    assert frozen.trainable == {"encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"}
    assert all(p.grad is None for p in layer.parameters())
    assert "train/log_likelihood" in run.callback_metrics
    # Restored, and the hook is gone.
    assert all(p.requires_grad for p in layer.parameters())
    assert not layer._forward_pre_hooks


@NO_VALIDATION
def test_a_parameter_that_was_frozen_before_stays_so(x: Tensor) -> None:
    model = Autoencoder()
    layer = model.model["density"]
    assert isinstance(layer, GMMLayer)
    layer.means.requires_grad_(requires_grad=False)
    trainer(EMCallback(target="model.density"), max_epochs=1).fit(
        model, DataLoader(TensorDataset(x), batch_size=20)
    )
    frozen = {name for name, p in layer.named_parameters() if not p.requires_grad}
    assert frozen == {"means"}


def test_it_keeps_learning_over_passes(x: Tensor) -> None:
    em = EMCallback(target="model.density")
    train_inside(x, 4, em)
    assert len(em.history) == 4


@pytest.mark.parametrize("target", ["density", "model", "encoder", "", None])
def test_a_wrong_target_lists_the_layers_found(x: Tensor, target: str | None) -> None:
    with pytest.raises(InvalidArgumentError, match=r"names no GMMLayer.*model\.density"):
        train_inside(x, 1, EMCallback(target=target))


@NO_VALIDATION
def test_a_module_without_a_layer_says_so(x: Tensor) -> None:
    class Bare(Autoencoder):
        def __init__(self) -> None:
            super().__init__()
            del self.model["density"]

    with pytest.raises(InvalidArgumentError, match="found are: none"):
        trainer(EMCallback(target="model.density")).fit(Bare(), DataLoader(TensorDataset(x)))


@NO_VALIDATION
def test_a_layer_that_training_never_calls_is_reported(x: Tensor) -> None:
    class Around(Autoencoder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            z = self.encoder(batch[0])
            return -self.model["density"].log_prob(z).mean()

    with pytest.raises(InvalidArgumentError, match=r"model\.density.*was not called.*layer\(x\)"):
        trainer(EMCallback(target="model.density")).fit(
            Around(), DataLoader(TensorDataset(x), batch_size=20)
        )


@NO_VALIDATION
def test_a_keyword_call_is_seen_too(x: Tensor) -> None:
    class Named(Autoencoder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            return -self.model["density"](x=self.encoder(batch[0])).mean()

    em = EMCallback(target="model.density")
    trainer(em, max_epochs=2).fit(Named(), DataLoader(TensorDataset(x), batch_size=20))
    assert len(em.history) == 2


# -- repairs ----------------------------------------------------------------------------------


@SAME_FOLDER
def test_a_collapse_is_reported_once_and_survives_a_checkpoint(tmp_path: Path) -> None:
    # Three rows on one spot hold a component of their own, whose volume must be floored.
    x = torch.cat([torch.randn(40, 2), torch.full((3, 2), 30.0)])
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    _, run = fitted(x, "em", saved, max_epochs=4)
    em = run.callbacks[1]
    assert isinstance(em, EMCallback)
    actions = [(event.component, event.action, event.iteration) for event in em.events]
    assert len(actions) == 1
    assert actions[0][1] == "floored"
    _, resumed = fitted(x, "em", saved, max_epochs=4, ckpt_path=tmp_path / "epoch=1.ckpt")
    again = resumed.callbacks[1]
    assert isinstance(again, EMCallback)
    assert again.events == em.events
    assert again.history == em.history


# -- options of EM ----------------------------------------------------------------------------


def fit_from_start(
    x: Tensor, *callbacks: L.Callback, max_epochs: int, priors: Any = None, **options: Any
) -> tuple[GMMModule, EMCallback]:
    """A fit from `started`, with an `EMCallback` of these options."""
    em = EMCallback(**{k: options.pop(k) for k in tuple(options) if k in WAYS})
    module = GMMModule(started(x, priors=priors))
    data = ArrayDataModule(x, batch_size=30, shuffle=False)
    ckpt_path = options.pop("ckpt_path", None)
    run = trainer(em, *callbacks, max_epochs=max_epochs, **options)
    run.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=ckpt_path and True)
    return module, em


WAYS = ("acceleration", "annealing", "hard", "collapse", "seed")


@pytest.mark.parametrize(
    ("way", "priors"),
    [
        ({"acceleration": "squarem"}, "niw"),
        ({"acceleration": "anderson"}, None),
        ({"hard": True}, "niw"),
        ({"annealing": 0.3}, None),
        ({"annealing": 0.3, "acceleration": "squarem"}, "niw"),
        ({"hard": True, "acceleration": "anderson"}, None),
    ],
    ids=str,
)
def test_every_option_is_that_of_fit_em(x: Tensor, way: dict[str, Any], priors: Any) -> None:
    module, em = fit_from_start(x, max_epochs=20, priors=priors, **way)
    # Passes whose extrapolation was taken back count too, and have no place in the history.
    assert len(em.history) <= 20
    assert len(em.history) == 20 or "acceleration" in way
    layer = started(x, priors=priors)
    result = fit_em(layer, x, initializer=None, max_iter=len(em.history), tol=0.0, **way)
    # Sums in another order, and differences of parameters that extrapolations make larger.
    shown = min(len(em.history), len(result.history))
    assert em.history[:shown] == pytest.approx(result.history[:shown], abs=1e-7)
    if "annealing" not in way:
        assert (torch.tensor(em.history).diff() > -1e-12).all()
    assert all(torch.isfinite(p).all() for p in module.parameters())


@SAME_FOLDER
@pytest.mark.parametrize(
    "way",
    [
        {"acceleration": "squarem"},
        {"acceleration": "anderson"},
        {"annealing": 0.3, "acceleration": "squarem"},
        {"hard": True},
    ],
    ids=str,
)
def test_resumed_anywhere_it_is_the_same_fit(
    x: Tensor, tmp_path: Path, way: dict[str, Any]
) -> None:
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    module, em = fit_from_start(x, saved, max_epochs=7, **way)
    # Before, within and after the first extrapolation.
    for epoch in (0, 1, 2, 4):
        file = tmp_path / f"epoch={epoch}.ckpt"
        again, other = fit_from_start(x, saved, max_epochs=7, ckpt_path=file, **way)
        assert same(state(again), state(module)), epoch
        assert other.history == em.history


def spotted() -> Tensor:
    """Three rows on one spot, far from the others: a component of its own for k-means."""
    return torch.cat([torch.randn(60, 2), torch.full((3, 2), 30.0)])


@SAME_FOLDER
def test_reseeding_starts_components_anew(tmp_path: Path) -> None:
    x = spotted()
    saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
    way = {"collapse": "reseed", "seed": 3, "acceleration": "squarem"}
    module, em = fit_from_start(x, saved, max_epochs=8, **way)
    actions = [event.action for event in em.events]
    assert actions[0] == "reseeded"
    assert actions.count("reseeded") <= 3 * 3
    assert all(torch.isfinite(p).all() for p in module.parameters())
    for epoch in (0, 2, 4):
        file = tmp_path / f"epoch={epoch}.ckpt"
        again, other = fit_from_start(x, saved, max_epochs=8, ckpt_path=file, **way)
        assert same(state(again), state(module)), epoch
        assert other.events == em.events
        assert other.history == em.history


def half_empty(
    x: Tensor, max_epochs: int, weight: Tensor | None = None
) -> tuple[GMMModule, EMCallback]:
    """A fit whose second component has no rows at the start."""
    labels = torch.zeros(len(x), dtype=torch.long)
    labels[::2] = 2
    module, em = GMMModule(GMMLayer(2, 3)), EMCallback(collapse="reseed")
    run = trainer(InitializeCallback(labels), em, max_epochs=max_epochs)
    run.fit(module, datamodule=ArrayDataModule(x, sample_weight=weight))
    return module, em


def test_a_component_without_rows_at_the_start_is_reseeded() -> None:
    module, em = half_empty(spotted(), 6)
    first = em.events[0]
    assert (first.component, first.action, first.iteration) == ((1,), "reseeded", 0)
    assert module.layer.weights[1] > 1e-3


def test_no_component_starts_at_a_row_without_weight() -> None:
    x, weight = spotted(), torch.ones(63)
    # The worst explained tenth, and it does not count.
    x[:12], weight[:12] = torch.tensor([-500.0, 500.0]), 0.0
    module, em = half_empty(x, 1, weight)
    assert em.events[0].action == "reseeded"
    assert module.layer.means.abs().max() < 100


def test_raising_ends_the_fit() -> None:
    with pytest.raises(CollapseError, match=r"component .*held at the floor.*collapse='floor'"):
        fit_from_start(spotted(), max_epochs=8, collapse="raise")
    with pytest.raises(InvalidArgumentError, match="unknown collapse policy 'ignore'"):
        EMCallback(collapse="ignore")


@pytest.mark.parametrize("way", [{"acceleration": "squarem"}, {"annealing": 0.3}], ids=str)
def test_early_stopping_waits_for_a_plain_pass(x: Tensor, way: dict[str, Any]) -> None:
    stopping = EarlyStopping(
        "train/objective", mode="max", min_delta=1e-5, patience=1, check_on_train_epoch_end=True
    )
    _, em = fit_from_start(x, stopping, max_epochs=200, priors="niw", **way)
    start = started(x, priors="niw")
    result = fit_em(start, x, initializer=None, max_iter=200, tol=1e-5, **way)
    assert result.converged
    assert len(em.history) < 200
    # It may see another pass than the plain loop; what is left to gain is some passes' worth.
    assert em.history[-1] == pytest.approx(float(result.objective), abs=1e-3)
    if "annealing" in way:
        assert len(em.history) > 20


@pytest.mark.parametrize("way", [{"acceleration": "anderson"}, {"hard": True}], ids=str)
def test_a_target_is_fitted_with_every_option(x: Tensor, way: dict[str, Any]) -> None:
    em = EMCallback(target="model.density", **way)
    model, _ = train_inside(x, 6, em)
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert 1 <= len(em.history) <= 6


def test_noise_that_vanishes_does_not_carry_components_along(
    generator: torch.Generator,
) -> None:
    x = torch.randn(300, 2, generator=generator)
    x[:150] += 8.0
    module, callback = GMMModule(GMMLayer(2, 2, noise="uniform")), EMCallback()
    run = trainer(InitializeCallback("kmeans"), callback, max_epochs=80)
    run.fit(module, ArrayDataModule(x))
    noise = module.layer.noise
    assert noise is not None
    assert float(noise.weight.detach()) < 1e-6
    rise = torch.tensor(callback.history).diff()
    # Rounding of a mean of 300 terms.
    assert (rise > -1e-13).all()
    plain = GMMLayer(2, 2)
    fit_em(plain, x, initializer="kmeans", tol=1e-12)
    torch.testing.assert_close(module.layer.means.sort(0).values, plain.means.sort(0).values)
