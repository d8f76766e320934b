"""Shift spectra: known maps are found again, gradients equal naive ones, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from petiole.engine.run import RunSpec, run
from petiole.engine.task import open_workspace
from petiole.errors import RunError
from petiole.methods.registry import create
from petiole.tasks.classification import spectrum
from petiole.tasks.classification.model import AdaptedClassifier
from petiole.tasks.classification.spectrum import BlockSpectrum, Moments, ShiftSpectrum, measure
from petiole.tasks.classification.workspace import Classification, Subset
from petiole.testing import backbones as tiny

D = 12


def known(noise: float, tokens: int = 4000) -> tuple[Moments, torch.Tensor, torch.Tensor]:
    """Shifts of rank 3 of correlated, off-centre tokens, in batches; the map and the tokens."""
    g = torch.Generator().manual_seed(0)
    mixing = torch.randn(D, D, generator=g, dtype=torch.float64)
    x = torch.randn(tokens, D, generator=g, dtype=torch.float64) @ mixing + 5
    left, right = (torch.randn(D, 3, generator=g, dtype=torch.float64) for _ in range(2))
    delta = left @ right.T
    e = noise * torch.randn(tokens, D, generator=g, dtype=torch.float64)
    y = x @ delta.T + e - 7  # the constant is a bias, which costs no rank
    moments = Moments(D)
    for rows in torch.arange(tokens).split(333):
        moments.add(x[rows], y[rows])
    return moments, delta, x


def test_a_known_low_rank_shift_has_its_spectrum() -> None:
    moments, delta, x = known(noise=0.0)
    values, noise = moments.spectrum()
    covariance = torch.cov(x.T, correction=0)
    vectors, energy = torch.linalg.eigh(covariance)[::-1]
    root = vectors @ energy.sqrt().diag() @ vectors.T
    expected = torch.linalg.svdvals(delta @ root) / covariance.trace().sqrt()
    assert values[:3] == pytest.approx(expected[:3].tolist(), rel=1e-2)  # ridge shrinks a little
    assert max(values[3:]) < 1e-2 * values[0]
    assert noise < 1e-4 * values[0] ** 2


def test_what_is_no_linear_shift_is_noise() -> None:
    moments, _, x = known(noise=2.0)
    per_coordinate = 4.0 / torch.cov(x.T, correction=0).trace()
    assert moments.spectrum()[1] == pytest.approx(float(per_coordinate), rel=0.03)


def test_few_tokens_do_not_shrink_the_noise() -> None:
    """n - d in the denominator: with n = 3 d, a plain mean would be a third too small."""
    got = []
    for seed in range(200):
        g = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(3 * D, D, generator=g, dtype=torch.float64) for _ in range(2))
        moments = Moments(D)
        moments.add(x, y)
        energy = (x - x.mean(0)).square().sum() / len(x)
        got.append(moments.spectrum()[1] * float(energy))
    assert sum(got) / len(got) == pytest.approx(1, rel=0.05)


def test_too_few_tokens_are_refused() -> None:
    moments = Moments(D)
    moments.add(torch.ones(D, D, dtype=torch.float64), torch.ones(D, D, dtype=torch.float64))
    with pytest.raises(RunError, match="12 probe tokens"):
        moments.spectrum()


def test_pooled_spectra_keep_the_energy() -> None:
    def block(values: list[float], gradient: list[float]) -> BlockSpectrum:
        return BlockSpectrum(role="r", values=values, noise=values[0], gradient=gradient)

    blocks = [block([3.0, 1.0], [2.0, 0.0]), block([1.0, 0.0], [0.03, 0.04])]
    s = ShiftSpectrum(teacher="t", width=2, images=10, tokens=39, blocks=blocks)
    assert s.values == pytest.approx([5.0**0.5, 0.5**0.5])
    assert s.noise == 2.0
    assert s.gradient == pytest.approx([((1 + 0.36) / 2) ** 0.5, (0.64 / 2) ** 0.5])
    still = s.model_copy(update={"blocks": [block([1.0, 0.0], [0.0, 0.0])]})
    assert still.gradient == [0, 0], "a start at which nothing pulls"
    assert not s.enough  # 40 are wanted
    assert s.model_copy(update={"tokens": 40}).enough


def test_the_start_s_gradient_is_that_of_a_linear_adapter() -> None:
    """G_l against autograd through h + h M^T with M = 0, one matrix for all tokens."""
    backbone = tiny.plain()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        fresh = AdaptedClassifier(
            backbone, create("adaptertune", {"rank": 2}).plan(backbone, 3)
        ).eval()
    images, labels = tiny.images(backbone, 5), torch.tensor([0, 1, 2, 1, 0])
    roles = [f"block.{i}.out" for i in range(tiny.DEPTH)]
    bare, slopes = spectrum._start(fresh, {"images": images}, labels, roles)
    parts = backbone.parts  # type: ignore[attr-defined]
    maps = [torch.zeros(tiny.WIDTH, tiny.WIDTH, requires_grad=True) for _ in roles]
    tokens = parts.tokenise(images)
    for branches, m in zip(parts.blocks, maps, strict=True):
        tokens = branches.block(tokens)
        tokens = tokens + tokens.detach() @ m.T
    logits = fresh.head(parts.norm(tokens)[:, 0])
    cross_entropy(logits, labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
    for role, m in zip(roles, maps, strict=True):
        assert m.grad is not None
        got = slopes[role].T @ bare[role]
        torch.testing.assert_close(got, m.grad.double(), rtol=1e-4, atol=1e-7)
        assert m.grad.abs().max() > 0


@pytest.fixture(scope="module")
def teacher(
    bench: Classification, photos: Path, tmp_path_factory: pytest.TempPathFactory
) -> RunSpec:
    small = Classification("petiole/tiny-vit", photos, cache=bench.cache, quiet=True)
    settings = {"rank": 2, "blocks": "last:2", "steps": 12, "views": 0, "batch_size": 5, "lr": 0.02}
    folder = tmp_path_factory.mktemp("teacher")
    job = RunSpec(small, "adaptertune", folder / "run", settings, Subset(None, validation=0.25))
    run(job)
    return job


def test_a_run_is_measured_on_its_own_training_images(
    teacher: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectrum, "TOKENS", 1)
    workspace = open_workspace(teacher.task)
    # 12 training images of 26 tokens are more than d = 192.
    got = measure(workspace, teacher)
    assert got is not None
    assert got.teacher == "adaptertune, rank 2"
    assert (got.images, got.tokens, got.width) == (12, 12 * 26, 192)
    assert [b.role for b in got.blocks] == ["block.2.out", "block.3.out"]
    first, last = got.blocks
    # Behind the first adapted block, the shift lies in b_up + rowspace(W_up).
    assert first.values[2] < 1e-3 * first.values[0]
    assert last.values[0] > 0
    # The last block's gradient reaches class tokens alone, and 3 classes make 2 independent errors.
    assert last.gradient[2] < 0.05 * last.gradient[0]
    assert got.model_validate_json(got.model_dump_json()) == got


def test_measuring_leaves_the_backbone_bare(teacher: RunSpec) -> None:
    backbone = open_workspace(teacher.task).backbone
    before = {name: t.clone() for name, t in backbone.module.state_dict().items()}
    measure(open_workspace(teacher.task), teacher)
    assert not backbone.carries
    hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in backbone.module.modules()]
    assert sum(hooks) == 0
    assert all(torch.equal(before[n], t) for n, t in backbone.module.state_dict().items())


def test_a_method_that_moves_no_tokens_has_no_spectrum(
    bench: Classification, photos: Path, tmp_path: Path
) -> None:
    small = Classification("petiole/tiny-vit", photos, cache=bench.cache, quiet=True)
    settings = {"steps": 2, "views": 0}
    job = RunSpec(small, "cls-residual-lora", tmp_path / "run", settings, Subset(3))
    run(job)
    assert measure(open_workspace(small), job) is None


def test_the_probe_is_spread_over_the_classes(
    teacher: RunSpec, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(spectrum, "TOKENS", 1)
    monkeypatch.setattr(spectrum, "IMAGES", 6)
    workspace = open_workspace(teacher.task)
    probe = spectrum._probe(workspace, teacher)
    assert len(probe) == 8  # 192 tokens of 25 patches
    assert set(probe.counts().values()) <= {2, 3}
    assert set(probe.ids) <= set(workspace.parts(teacher.options)[0].ids)


def test_a_spectrum_has_no_unit() -> None:
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randn(40, D, generator=generator, dtype=torch.float64) for _ in range(2))
    found = []
    for unit in (1.0, 1e-3, 1e3):
        moments = Moments(D)
        moments.add(unit * x, unit * y)
        found.append(moments.spectrum())
    for values, noise in found[1:]:
        assert values == pytest.approx(found[0][0], rel=1e-6)
        assert noise == pytest.approx(found[0][1], rel=1e-6)
