"""A mixture inside somebody's model: by gradient, by EM, by one after the other."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint
from support.lightning_runs import distance, same, state, trainer
from support.random_layers import finite
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset
from torchmetrics import MeanMetric

from gmm_lightning import GMMLayer, e_step, fit_em, m_step
from gmm_lightning.em import CollapseEvent, MixtureModel, MixtureParameters, initialize_layer
from gmm_lightning.errors import CollapseError, InvalidArgumentError, InvalidDataError
from gmm_lightning.layers import DensityHead
from gmm_lightning.training import (
    ArrayDataModule,
    BaseEMCallback,
    CovarianceFloorCallback,
    EMCallback,
    InitializeCallback,
    StepwiseEMCallback,
    collect_latents,
    fit_latents,
)
from gmm_lightning.training.floor import _raise_to_floor

# Lightning's advice about a fit without validation, and about a folder used again.
pytestmark = pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no")
SAME_FOLDER = pytest.mark.filterwarnings("ignore:Checkpoint directory")
# Sums in another order.
ROUNDING = 1e-11


class Autoencoder(L.LightningModule):
    """What a user writes: a network, a density of its latents, and one optimizer."""

    def __init__(self, covariance: str = "full", priors: Any = None, beta: float = 0.05) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Dropout(0.1), nn.Linear(8, 2))
        self.decoder = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 4))
        self.density = GMMLayer(2, 3, covariance, priors)
        self.loss, self.beta = MeanMetric(), beta

    def objective(self, x: Tensor) -> Tensor:
        z = self.encoder(x)
        return (self.decoder(z) - x).square().mean() - self.beta * self.density(z).mean()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        loss = self.objective(x)
        self.log("loss", loss.detach(), on_step=True, on_epoch=True, batch_size=len(x))
        self.loss.update(loss.detach())
        return loss

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Lightning asks why there is a loader, even an empty one, and no step."""

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=0.01, weight_decay=0.1)


@pytest.fixture
def rows(generator: torch.Generator) -> Tensor:
    """103 rows of three clusters in four dimensions."""
    centre = 3 * torch.randn(3, 4, generator=generator)
    noise = 0.5 * torch.randn(103, 4, generator=generator)
    return centre[torch.arange(103) % 3] + noise


def model(**options: Any) -> Autoencoder:
    """The same network every time."""
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Autoencoder(**options)


def train(
    module: L.LightningModule, rows: Tensor, *callbacks: L.Callback, epochs: int = 2, **options: Any
) -> L.Trainer:
    ckpt_path = options.pop("ckpt_path", None)
    run = trainer(*callbacks, max_epochs=epochs, **options)
    data = ArrayDataModule(rows, batch_size=20, shuffle=True)
    run.fit(module, datamodule=data, ckpt_path=ckpt_path, weights_only=ckpt_path and True)
    return run


def by(way: str, **options: Any) -> L.Callback:
    """The callback that trains, or guards, the mixture."""
    made = {"em": EMCallback, "stepwise": StepwiseEMCallback, "gradient": CovarianceFloorCallback}
    return made[way](target="density", **options)


WAYS = pytest.mark.parametrize("way", ["em", "stepwise", "gradient"])
BY_EM = pytest.mark.parametrize("way", ["em", "stepwise"])


class EachBatch(L.Callback):
    """Latents and mixture as every batch found them."""

    def __init__(self) -> None:
        self.latents: list[list[Tensor]] = []
        self.layers: list[dict[str, Tensor]] = []

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, Autoencoder)
        self.hook = pl_module.density.register_forward_pre_hook(self.note)

    def note(self, layer: nn.Module, args: tuple[Tensor]) -> None:
        if layer.training:
            self.latents[-1].append(args[0].detach().clone())

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.latents.append([])

    def on_train_batch_start(
        self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int
    ) -> None:
        self.layers.append(state(pl_module.density))


# -- by gradient ------------------------------------------------------------------------------


@pytest.mark.parametrize("covariance", ["full", "tied_diag"])
def test_everything_learns_by_gradient(rows: Tensor, covariance: str) -> None:
    module = model(covariance=covariance)
    before = state(module)
    run = train(module, rows, epochs=5)
    after = state(module)
    assert all(bool((after[n] != before[n]).any()) for n, _ in module.named_parameters())
    assert torch.isfinite(run.callback_metrics["loss_epoch"])
    assert finite(module.density)


# -- by EM ------------------------------------------------------------------------------------


@BY_EM
def test_an_optimizer_over_all_parameters_does_not_move_the_mixture(rows: Tensor, way: str) -> None:
    class Zeroing(Autoencoder):
        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            optimizer.zero_grad(set_to_none=False)

    torch.manual_seed(5)
    module = Zeroing()
    # What a loop of the user's own leaves behind.
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    seen, em = EachBatch(), by(way)
    twin = copy.deepcopy(module.density)
    train(module, rows, em, seen)
    if way == "em":
        for number, layer in enumerate(seen.layers):
            assert same(layer, seen.layers[number // 6 * 6])
        for parts in seen.latents:
            m_step(twin, e_step(twin, torch.cat(parts)))
        assert distance(state(module.density), state(twin)) < ROUNDING
    assert all(p.grad is None for p in module.density.parameters())
    assert len(em.history) == 2  # pyright: ignore


@BY_EM
def test_a_fit_that_ends_early_gives_the_layer_back(rows: Tensor, way: str) -> None:
    class Stop(L.Callback):
        def on_train_batch_end(self, *args: Any) -> None:
            raise ZeroDivisionError

    module = model()
    with pytest.raises(ZeroDivisionError):
        train(module, rows, by(way), Stop())
    assert all(p.requires_grad for p in module.parameters())
    assert not module.density._forward_pre_hooks


@BY_EM
def test_a_step_need_not_call_the_layer(rows: Tensor, way: str) -> None:
    class Seldom(Autoencoder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            z = self.encoder(batch[0])
            loss = (self.decoder(z) - batch[0]).square().mean()
            return loss - self.density(z).mean() if batch_idx % 2 else loss

    torch.manual_seed(5)
    em = by(way)
    train(Seldom(), rows, em)
    # Batches of 20, 20 and the last, of 3 rows.
    assert float(em._pass_weight if way == "stepwise" else em.counts.sum()) == pytest.approx(43)  # pyright: ignore


@pytest.mark.parametrize("way", ["em", "stepwise"])
def test_mixed_precision_and_accumulation(rows: Tensor, way: str) -> None:
    em, seen, module = by(way), EachBatch(), model().float()
    twin = copy.deepcopy(module.density).double()
    train(module, rows.float(), em, seen, precision="bf16-mixed", accumulate_grad_batches=2)
    assert module.density.means.dtype == torch.float32
    assert seen.latents[0][0].dtype == torch.bfloat16
    if way == "em":
        for parts in seen.latents:
            m_step(twin, e_step(twin, torch.cat(parts)))
        # float32 against float64, from the same bfloat16 latents.
        assert distance(state(module.density), state(twin)) < 1e-3
    assert len(em.history) == 2  # pyright: ignore
    assert finite(module.density)


@WAYS
@SAME_FOLDER
def test_resumed_it_is_the_same_run(rows: Tensor, tmp_path: Path, way: str) -> None:
    def run(epochs: int, **options: Any) -> tuple[Autoencoder, L.Callback, L.Trainer]:
        module, callback = model(priors="niw"), by(way)
        saved = ModelCheckpoint(tmp_path, filename="{epoch}", save_top_k=-1)
        start = InitializeCallback("kmeans", target="density")
        torch.manual_seed(epochs)  # Dropout goes on from where it was; see below.
        module.encoder[2].p = 0.0  # pyright: ignore
        done = train(
            module,
            rows,
            start,
            callback,
            saved,
            epochs=epochs,
            accumulate_grad_batches=2,
            **options,
        )
        return module, callback, done

    whole, callback, first = run(5)
    for epoch in (0, 2):
        again, other, second = run(5, ckpt_path=tmp_path / f"epoch={epoch}.ckpt")
        assert same(state(again), state(whole)), epoch
        assert str(other.state_dict()) == str(callback.state_dict())
        for mine, theirs in zip(first.optimizers, second.optimizers, strict=True):
            assert str(mine.state_dict()) == str(theirs.state_dict())


# -- a start, and EM before gradient ----------------------------------------------------------


def untouched(module: Autoencoder, before: dict[str, Tensor]) -> bool:
    return all(torch.equal(v, before[n]) for n, v in state(module).items() if "density" not in n)


def test_latents_are_what_the_layer_is_called_with(rows: Tensor) -> None:
    module = model()
    before, random = state(module), torch.get_rng_state()
    found = collect_latents(
        module, DataLoader(TensorDataset(rows), batch_size=10, shuffle=False), "density"
    )
    assert module.training
    assert torch.equal(torch.get_rng_state(), random)
    assert same(state(module), before)
    assert not module.loss.update_called
    assert "log" not in vars(module)
    module.eval()
    # Products of ten rows and of all of them are not rounded alike.
    torch.testing.assert_close(found, module.encoder(rows).detach(), rtol=0, atol=1e-14)
    collect_latents(module, [(rows,)], "density")
    assert not module.training


def test_latents_leave_what_metrics_have_seen(rows: Tensor) -> None:
    module = model()
    module.loss.update(torch.tensor(5.0))
    fit_latents(module, [(rows,)], "density", max_iter=1)
    assert module.loss.update_count == 1
    assert float(module.loss.compute()) == 5


def test_latents_of_a_data_module_that_changes_batches(rows: Tensor) -> None:
    class Doubled(ArrayDataModule):
        def on_before_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
            return [2 * batch[0], *batch[1:]]

    class Look(L.Callback):
        def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
            assert isinstance(pl_module, Autoencoder)
            self.found = collect_latents(pl_module, [(rows,)], "density")
            pl_module.eval()
            self.expected = pl_module.encoder(2 * rows).detach()
            pl_module.train()

    look = Look()
    trainer(look, max_epochs=1).fit(model(), datamodule=Doubled(rows))
    torch.testing.assert_close(look.found, look.expected, rtol=0, atol=1e-14)


@BY_EM
def test_rows_that_are_run_through_again_on_the_way_back_count_once(rows: Tensor, way: str) -> None:
    class Saving(Autoencoder):
        def objective(self, x: Tensor) -> Tensor:
            return -checkpoint(self.density, self.encoder(x), use_reentrant=False).mean()

    callback = by(way)
    train(Saving(), rows, callback, epochs=1)
    assert isinstance(callback, BaseEMCallback)
    total = callback._pass_weight if way == "stepwise" else callback.counts.sum()  # pyright: ignore
    assert float(total) == pytest.approx(len(rows))


def test_a_stream_that_never_ran_has_a_state() -> None:
    callback = StepwiseEMCallback(target="density")
    again = StepwiseEMCallback(target="density")
    again.load_state_dict(callback.state_dict())
    assert again.state_dict()["stream"] is None


def test_latents_of_any_step(rows: Tensor) -> None:
    class Other(Autoencoder):
        def look(self, x: Tensor) -> None:
            self.density(x=self.encoder(x).unflatten(0, (-1, 2)))

        def around(self, x: Tensor) -> Tensor:
            return self.density.log_prob(self.encoder(x))

    module = Other()
    found = collect_latents(module, [rows[:10], rows[10:30]], "density", step="look")
    assert found.shape == (30, 2)
    with pytest.raises(InvalidArgumentError, match=r"Other.around.*was not called.*layer\(x\)"):
        collect_latents(module, [rows], "density", step="around")
    with pytest.raises(InvalidArgumentError, match="Other has no method 'nothing'"):
        collect_latents(module, [rows], "density", step="nothing")
    with pytest.raises(InvalidArgumentError, match="found are: density"):
        fit_latents(module, [rows], "model.density")


def test_fitted_by_em_then_tuned_by_gradient(rows: Tensor) -> None:
    module = model(priors="niw", beta=0.0)
    train(module, rows, epochs=2)
    start, loader = state(module), DataLoader(TensorDataset(rows), batch_size=16)
    generator = torch.Generator().manual_seed(1)
    result = fit_latents(module, loader, "density", generator=generator, tol=1e-6, max_iter=500)
    assert result.converged
    assert untouched(module, start)
    twin = model(priors="niw").density
    z = collect_latents(module, loader, "density")
    other = fit_em(twin, z, generator=generator.manual_seed(1), tol=1e-6, max_iter=500)
    assert same(state(module.density), state(twin))
    assert result.objective == other.objective
    # Fine-tuning goes on from there.
    module.beta = 0.1
    seen, before = EachBatch(), module.eval().objective(rows)
    train(module.train(), rows, seen, epochs=3)
    assert same(seen.layers[0], state(twin))
    assert not same(state(module.density), state(twin))
    assert module.eval().objective(rows) < before


@WAYS
@pytest.mark.parametrize("data", ["data module", "loader"])
def test_a_start_from_the_latents_of_all_rows(rows: Tensor, way: str, data: str) -> None:
    module, seen = model(priors="niw"), EachBatch()
    z = collect_latents(module, [(rows,)], "density")
    twin = model(priors="niw").density
    initialize_layer(twin, z, generator=torch.Generator().manual_seed(3))
    start = InitializeCallback("kmeans", 3, target="density")
    before = state(module)
    if data == "loader":
        run = trainer(start, by(way), seen, max_epochs=1)
        run.fit(module, DataLoader(TensorDataset(rows), batch_size=20))
    else:
        train(module, rows, start, by(way), seen, epochs=1)
    assert distance(seen.layers[0], state(twin)) < ROUNDING
    torch.testing.assert_close(
        module.density.priors["components"].loc.expand(3, 2),  # pyright: ignore
        twin.priors["components"].loc.expand(3, 2),  # pyright: ignore
        rtol=1e-12,
        atol=0,
    )
    assert not untouched(module, before)


def test_a_start_does_not_touch_the_training(rows: Tensor) -> None:
    found = []
    for start in ([], [InitializeCallback("random", num_restarts=2, target="density")]):
        module = model(beta=0.0)
        torch.manual_seed(9)
        run = train(module, rows, *start)
        found.append((module.encoder.state_dict(), run.callback_metrics["loss_epoch"]))
        assert module.loss.update_count == 12  # pyright: ignore
    assert same(found[0][0], found[1][0])
    assert torch.equal(found[0][1], found[1][1])


def test_a_start_that_cannot_be_is_refused(rows: Tensor) -> None:
    with pytest.raises(InvalidArgumentError, match=r"names no GMMLayer.*found are: density"):
        train(model(), rows, InitializeCallback(target="nothing"))
    with pytest.raises(InvalidArgumentError, match=r'got Autoencoder.*target="model\.density"'):
        train(model(), rows, InitializeCallback())


# -- latents that collapse or drift -------------------------------------------------------------


class Collapsing(Autoencoder):
    """From some step on, two thirds of the latents are one and the same."""

    after: int = 0

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        z = self.encoder(x)
        if self.global_step >= self.after:
            z = torch.where((torch.arange(len(x)) % 3 > 0).unsqueeze(-1), 0 * z + 9.0, z)
        return (self.decoder(z) - x).square().mean() - 0.05 * self.density(z).mean()


@BY_EM
@pytest.mark.parametrize("policy", ["floor", "reseed"])
def test_latents_on_one_spot_are_repaired_and_reported(
    rows: Tensor, way: str, policy: str, caplog: pytest.LogCaptureFixture
) -> None:
    torch.manual_seed(5)
    module, em = Collapsing(), by(way, collapse=policy)
    assert isinstance(em, BaseEMCallback)
    train(module, rows, InitializeCallback(target="density"), em, epochs=4)
    action = {"floor": "floored", "reseed": "reseeded"}[policy]
    assert action in [event.action for event in em.events]
    assert len(em.events) <= 3 * (3 + 1)
    assert len([r for r in caplog.records if "component" in r.message]) == len(em.events)
    assert finite(module.density)
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())


@BY_EM
def test_all_latents_equal(rows: Tensor, way: str) -> None:
    module, em = model(beta=0.0), by(way)
    nn.init.zeros_(module.encoder[3].weight)  # pyright: ignore
    module.encoder.requires_grad_(requires_grad=False)
    train(module, rows, em, epochs=3)
    assert finite(module.density)
    spot = module.encoder[3].bias.expand(3, 2)  # pyright: ignore
    held = module.density.weights > 1e-6
    # Where the weights are, the means are.
    torch.testing.assert_close(module.density.means[held], spot[held], rtol=0, atol=1e-6)
    assert torch.isfinite(module.density(module.encoder(rows))).all()


@BY_EM
def test_a_collapse_can_end_the_fit(rows: Tensor, way: str) -> None:
    torch.manual_seed(5)
    module = Collapsing()
    with pytest.raises(CollapseError, match=r"component .*held at the floor.*collapse='floor'"):
        train(
            module, rows, InitializeCallback(target="density"), by(way, collapse="raise"), epochs=4
        )
    assert all(p.requires_grad for p in module.density.parameters())
    with pytest.raises(InvalidArgumentError, match="unknown collapse policy 'ignore'"):
        by(way, collapse="ignore")


def test_a_component_that_starts_anew_forgets_where_it_was(rows: Tensor) -> None:
    torch.manual_seed(5)
    module, em = Collapsing(), StepwiseEMCallback(target="density", collapse="reseed")
    found: list[float] = []

    class After(L.Callback):
        """Stands behind the callback that moves."""

        def on_train_batch_end(self, *args: Any) -> None:
            if em.events and em.events[-1].action == "reseeded" and not found:
                (k,) = em.events[-1].component
                running = em.state_dict()["stream"]["running"]
                layer = module.density
                found.append(float((running["shift"][k] - layer.means[k]).abs().max()))
                found.append(float(running["first"][k].abs().max()))
                found.append(float(running["counts"].sum()) - 1)
                own = running["second"][k] / running["counts"][k]
                found.append(float((own - layer.covariance_matrix[k]).abs().max()))

    train(module, rows, InitializeCallback(target="density"), em, After(), epochs=3)
    assert found == pytest.approx([0.0, 0.0, 0.0, 0.0], abs=1e-12)


@BY_EM
def test_latents_that_drift_are_followed(rows: Tensor, way: str) -> None:
    class Drifting(Autoencoder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            z = self.encoder(batch[0]) + 0.2 * self.global_step
            return (self.decoder(z) - batch[0]).square().mean() - 0.05 * self.density(z).mean()

    torch.manual_seed(5)
    module, em = Drifting(), by(way)
    train(module, rows, InitializeCallback(target="density"), em, epochs=10)
    with torch.no_grad():
        last = module.encoder(rows) + 0.2 * 60
    # It lags, by a pass or by what the running statistics remember.
    lag = (module.density.distribution().mean - last.mean(0)).abs().max()
    assert lag < 4.0
    assert finite(module.density)


# -- rows that are not finite -----------------------------------------------------------------


class Careful(Autoencoder):
    """A loss that leaves out rows with NaN, and latents that have them."""

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        x = batch[0]
        good = torch.isfinite(x).all(-1)
        z = self.encoder(x)
        log_prob = self.density(z)
        return (self.decoder(z[good]) - x[good]).square().mean() - 0.0 * log_prob[good].sum()


def with_nan(rows: Tensor, *bad: int) -> DataLoader[Any]:
    rows = rows.clone()
    rows[list(bad), 1] = torch.nan
    return DataLoader(TensorDataset(rows), batch_size=20)


def careful(rows: Tensor, em: L.Callback, *bad: int) -> tuple[Careful, L.Trainer]:
    torch.manual_seed(5)
    module = Careful()
    for parameter in module.encoder.parameters():
        parameter.requires_grad = False
    module.encoder[2].p = 0.0  # pyright: ignore
    run = trainer(em, max_epochs=2)
    run.fit(module, with_nan(rows, *bad))
    return module, run


@BY_EM
def test_rows_that_are_not_finite_are_left_out_and_counted(
    rows: Tensor, way: str, caplog: pytest.LogCaptureFixture
) -> None:
    em = by(way, skip_nonfinite=True)
    assert isinstance(em, BaseEMCallback)
    bad = (3, 41, 42, *range(60, 80))
    module, run = careful(rows, em, *bad)
    assert em.skipped == 2 * len(bad)
    assert em.state_dict()["skipped"] == em.skipped
    assert float(run.callback_metrics["train/skipped_rows"]) == len(bad)
    assert sum("23 rows have NaN or infinity" in r.message for r in caplog.records) == 2
    assert finite(module.density)
    if way == "em":
        torch.manual_seed(5)
        twin = Careful()
        good = [n for n in range(103) if n not in bad]
        z = twin.eval().encoder(rows[good]).detach()
        for _ in range(2):
            m_step(twin.density, e_step(twin.density, z))
        assert distance(state(module.density), state(twin.density)) < ROUNDING


@BY_EM
def test_a_row_that_is_not_finite_is_named(rows: Tensor, way: str) -> None:
    with pytest.raises(InvalidDataError, match=r"batch 2.* row\(s\) 1; .*skip_nonfinite=True"):
        careful(rows, by(way), 41)


@BY_EM
def test_a_pass_of_nothing_else_is_refused(rows: Tensor, way: str) -> None:
    with pytest.raises(InvalidDataError, match=r"all 103 rows of a pass.*network has diverged"):
        careful(rows, by(way, skip_nonfinite=True), *range(103))


def test_a_start_leaves_them_out_too(rows: Tensor, caplog: pytest.LogCaptureFixture) -> None:
    module, loader = Careful(), with_nan(rows, 5, 30)
    module.encoder.requires_grad_(requires_grad=False)
    with pytest.raises(InvalidDataError, match=r"row\(s\) 5, 30"):
        fit_latents(module, loader, "density")
    fit_latents(module, loader, "density", skip_nonfinite=True, max_iter=2)
    start = InitializeCallback(target="density", skip_nonfinite=True)
    trainer(start, by("em", skip_nonfinite=True), max_epochs=1).fit(module, loader)
    assert sum("2 rows have NaN or infinity" in r.message for r in caplog.records) == 3
    assert finite(module.density)


def test_the_rows_of_a_gmm_module_are_its_data_modules() -> None:
    with pytest.raises(InvalidArgumentError, match="skip_nonfinite is for a target"):
        EMCallback(skip_nonfinite=True)


# -- targets and loaders ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "callback", [EMCallback, StepwiseEMCallback, CovarianceFloorCallback, InitializeCallback]
)
def test_a_target_that_is_no_layer(rows: Tensor, callback: Any) -> None:
    module = model()
    module.head = DensityHead(2, 1, 2)
    with pytest.raises(InvalidArgumentError, match=r"where a Linear stands; found are: density"):
        train(module, rows, callback(target="encoder.0"))
    with pytest.raises(
        InvalidArgumentError, match=r"a DensityHead stands.*head is trained by gradient"
    ):
        train(module, rows, callback(target="head"))


@pytest.mark.parametrize(
    "callback", [EMCallback, StepwiseEMCallback, CovarianceFloorCallback, InitializeCallback]
)
def test_a_target_as_the_module_itself_calls_it(rows: Tensor, callback: Any) -> None:
    made = callback(target="self.density")
    assert made.target == "density"
    assert made.state_key == callback(target="density").state_key
    train(model(), rows, made, epochs=1)
    with pytest.raises(InvalidArgumentError, match=r"target='dens'\) names no .*: density"):
        train(model(), rows, callback(target="self.dens"))
    with pytest.raises(InvalidArgumentError, match=r"the path of a layer.*got a GMMLayer"):
        callback(target=model().density)
    assert collect_latents(model(), [(rows,)], "self.density").shape == (len(rows), 2)


def test_a_layer_of_two_names(rows: Tensor) -> None:
    module = model()
    module.other = module.density
    em = EMCallback(target="other")
    train(module, rows, em)
    assert len(em.history) == 2


@pytest.mark.parametrize(
    ("count", "drop_last", "exact"), [(102, False, True), (103, True, True), (103, False, False)]
)
def test_shards_that_repeat_no_rows_are_fine(
    rows: Tensor, count: int, drop_last: bool, exact: bool
) -> None:
    dataset = TensorDataset(rows[:count])
    sampler = DistributedSampler(dataset, 2, 0, drop_last=drop_last)
    run = trainer(by("em"), use_distributed_sampler=False, max_epochs=1)
    loader = DataLoader(dataset, sampler=sampler, batch_size=20)
    if exact:
        run.fit(model(), loader)
    else:
        with pytest.raises(InvalidArgumentError, match=r"repeats rows.*drop_last=True"):
            run.fit(model(), loader)


# -- stopping ---------------------------------------------------------------------------------


@BY_EM
def test_early_stopping_on_the_objective_of_the_mixture(rows: Tensor, way: str) -> None:
    module, em = model(beta=0.0), by(way)
    module.encoder.requires_grad_(requires_grad=False)
    module.encoder[2].p = 0.0  # pyright: ignore
    stopping = EarlyStopping(
        "train/objective", mode="max", min_delta=1e-4, patience=1, check_on_train_epoch_end=True
    )
    run = train(module, rows, InitializeCallback(target="density"), em, stopping, epochs=200)
    assert 2 < run.current_epoch < 200


def test_early_stopping_on_the_loss_is_left_alone(rows: Tensor) -> None:
    class Worse(Autoencoder):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            self.log("worse", float(self.current_epoch), on_step=False, on_epoch=True, batch_size=1)
            return loss

    stopping = EarlyStopping("worse", mode="min", patience=3, check_on_train_epoch_end=True)
    # While it anneals, no pass tells whether EM has converged.
    run = train(Worse(), rows, by("em", annealing=0.1), stopping, epochs=20)
    assert run.current_epoch == 4


# -- the floor of a fit by gradient -----------------------------------------------------------


def raise_to_floor(layer: GMMLayer, min_std: float = 1e-6) -> list[CollapseEvent]:
    """What the callback does after a step of the optimizer."""
    model, parameters = MixtureModel.from_layer(layer), MixtureParameters.from_layer(layer)
    raised, collapsed = _raise_to_floor(model, parameters, min_std)
    raised.write_to(layer)
    return [] if collapsed is None else [event for _, event in collapsed.events(model, 0)]


def test_the_floor_is_that_of_em() -> None:
    flat = torch.diag_embed(torch.tensor([[1.0, 1.0], [1.0, 1e-12], [1e-30, 1e-30]]))
    layer = GMMLayer.from_parameters(torch.ones(3), torch.zeros(3, 2), flat)
    before = layer.covariance_matrix[0].detach().clone()
    events = raise_to_floor(layer, 1e-7)
    assert [(event.component, event.action) for event in events] == [
        ((1,), "floored"),
        ((2,), "floored"),
    ]
    covariance = layer.covariance_matrix.detach()
    assert torch.equal(covariance[0], before)
    # 1e-8 of the variance of the mixture, 2/3 and 1/3.
    variances = covariance.diagonal(dim1=-2, dim2=-1)
    torch.testing.assert_close(variances[1], torch.tensor([1.0, 1e-8 / 3]))
    torch.testing.assert_close(variances[2], torch.tensor([2e-8 / 3, 1e-8 / 3]))
    raise_to_floor(layer, 0.1)
    assert torch.linalg.eigvalsh(layer.covariance_matrix).min().item() == pytest.approx(0.01)


@pytest.mark.parametrize("floor", [True, False])
def test_without_the_floor_a_component_on_one_spot_underflows(floor: bool) -> None:
    # Where EM leaves a component of equal rows: at the spot, so nothing but the volume changes.
    layer = GMMLayer(2, 1, "diag", dtype=torch.float32)
    layer.set_parameters(means=torch.tensor([[1.5, -2.0]]))
    optimizer = torch.optim.SGD(layer.parameters(), lr=1.0)
    for _ in range(150):
        optimizer.zero_grad()
        (-layer(torch.tensor([[1.5, -2.0]] * 4)).mean()).backward()
        optimizer.step()
        if floor:
            raise_to_floor(layer)
    assert bool(torch.isfinite(layer(torch.zeros(1, 2))).all()) == floor
    assert finite(layer) == floor


def test_the_floor_of_a_component_is_reported_once(rows: Tensor) -> None:
    module, floor = model(), CovarianceFloorCallback(target="density", min_std=1.1)
    train(module, rows, floor, epochs=3)
    assert [event.component for event in sorted(floor.events, key=lambda e: e.component)] == [
        (k,) for k in range(3)
    ]
    again = CovarianceFloorCallback(target="density")
    again.load_state_dict(floor.state_dict())
    assert again.events == floor.events
    assert torch.linalg.eigvalsh(module.density.covariance_matrix).min() > 1.21 - 1e-9
    with pytest.raises(InvalidArgumentError, match="min_std must be a finite number > 0, got 0"):
        CovarianceFloorCallback(min_std=0)


def test_a_mixture_that_diverged_is_reported(rows: Tensor) -> None:
    module = model()
    module.density.means.register_hook(lambda grad: grad * torch.nan)
    with pytest.raises(InvalidDataError, match=r"not finite after step 1.*clip gradients"):
        train(module, rows, CovarianceFloorCallback(target="density"))


# -- anything at all --------------------------------------------------------------------------


def adversarial(number: int, generator: torch.Generator) -> Tensor:
    """Outliers of 1e6, constants, duplicated rows, batches of one."""
    size = 1 if number % 5 == 4 else 16
    x = torch.randn(size, 4, generator=generator)
    kind = number % 7
    if kind == 1:
        x[: size // 2 + 1] *= 1e6
    if kind == 2:
        x[:] = 3.0
    if kind in (3, 4):
        x[:] = x[0].clone()
    if kind == 5:
        x[:, 1] = 0.0
    return x


def survive(way: str, steps: int, covariance: str, **options: Any) -> tuple[Autoencoder, Any]:
    """A fit in float32 on nothing but bad batches."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float32)
    try:
        generator = torch.Generator().manual_seed(0)
        batches = [(adversarial(n, generator),) for n in range(steps)]
        module = model(covariance=covariance)
        callback = by(way)
        run = trainer(callback, max_epochs=1, precision="32-true", **options)
        run.fit(module, DataLoader(batches, batch_size=None))  # pyright: ignore
    finally:
        torch.set_default_dtype(before)
    assert run.global_step == steps
    assert all(bool(torch.isfinite(p).all()) for p in module.parameters())
    return module, callback


@pytest.mark.parametrize(
    ("way", "covariance"), [("em", "full"), ("stepwise", "spherical"), ("gradient", "full")]
)
def test_bad_batches_leave_every_parameter_finite(way: str, covariance: str) -> None:
    # Three of each kind of batch with each size.
    survive(way, 105, covariance)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "covariance"), [("stepwise", "full"), ("gradient", "full"), ("gradient", "diag")]
)
def test_ten_thousand_bad_batches(way: str, covariance: str) -> None:
    _, callback = survive(way, 10_000, covariance)
    assert len(callback.events) <= 6


class Two(Autoencoder):
    """A model with a mixture of its latents and one of its rows."""

    def __init__(self) -> None:
        super().__init__()
        self.rows = GMMLayer(4, 2, "diag")

    def objective(self, x: Tensor) -> Tensor:
        return super().objective(x) - 0.0 * self.rows(x).mean()


def test_two_mixtures_of_one_model(rows: Tensor, tmp_path: Path) -> None:
    module = Two()
    before = state(module)
    both = [StepwiseEMCallback(target=name) for name in ("density", "rows")]
    run = train(module, rows, *both)
    assert all(
        bool((state(module)[f"{n}.means"] != before[f"{n}.means"]).any())
        for n in ("density", "rows")
    )
    run.save_checkpoint(tmp_path / "both.ckpt")
    stored = torch.load(tmp_path / "both.ckpt", weights_only=True)["callbacks"]
    assert {"StepwiseEMCallback(density)", "StepwiseEMCallback(rows)"} <= stored.keys()


@BY_EM
def test_nothing_is_left_for_the_optimizer(rows: Tensor, way: str) -> None:
    module = model()
    module.encoder.requires_grad_(False)
    module.decoder.requires_grad_(False)
    with pytest.raises(InvalidArgumentError, match=r"fit_latents\(module, loader, 'density'\)"):
        train(module, rows, by(way))


class Wrapped(Autoencoder):
    def training_step(self, *args: Any) -> Tensor:  # pyright: ignore
        assert len(args) == 2
        return super().training_step(*args)


class Loose(Autoencoder):
    def training_step(self, batch: Any, **options: Any) -> Tensor:  # pyright: ignore
        return super().training_step(batch, 0)


@pytest.mark.parametrize("kind", [Wrapped, Loose])
def test_steps_of_other_signatures(rows: Tensor, kind: type[Autoencoder]) -> None:
    assert collect_latents(kind(), [(rows,)], "density").shape == (len(rows), 2)


def test_loaders_and_steps_that_give_no_latents(rows: Tensor) -> None:
    with pytest.raises(InvalidDataError, match="the loader gave no batches"):
        fit_latents(model(), [], "density")
    module = model()
    module.automatic_optimization = False
    with pytest.raises(InvalidArgumentError, match="optimises by hand: give step="):
        fit_latents(module, [(rows,)], "density")
    assert collect_latents(module, [rows], "density", step="objective").shape == (len(rows), 2)
