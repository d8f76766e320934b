"""Every form against a float64 double loop that shares no code with it, values and gradients."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import cross_entropy

from petiole.errors import ConfigError
from petiole.losses.contrastive import (
    ContrastiveForm,
    Prototypes,
    contrastive,
    cross_domain_sup_con,
    nt_xent,
    partners,
    prototype_info_nce,
    sup_con,
)

T = 0.2
Loss = Callable[[Tensor], Tensor]


def batch(seed: int = 0, n: int = 12, classes: int = 4, d: int = 5) -> tuple[Tensor, ...]:
    """A random batch in which the last class has one sample, thus an anchor without positives."""
    generator = torch.Generator().manual_seed(seed)
    u = 3 * torch.randn(n, d, generator=generator, dtype=torch.float64)
    labels = torch.randint(classes - 1, (n,), generator=generator)
    labels[n // 2] = classes - 1
    return u, labels, torch.rand(n, generator=generator) < 0.4


def prototypes(seed: int = 1, classes: int = 4, d: int = 5, unseen: int = 1) -> Prototypes:
    module = Prototypes(classes, d).double()
    labels = torch.arange(classes)
    labels[unseen] = (unseen + 1) % classes
    generator = torch.Generator().manual_seed(seed)
    module.update(torch.randn(classes, d, generator=generator, dtype=torch.float64), labels)
    return module


def cosine(a: Tensor, b: Tensor) -> Tensor:
    return (a * b).sum() / (a.pow(2).sum().sqrt() * b.pow(2).sum().sqrt())


def loop(
    rows: Tensor,
    columns: Tensor,
    positive: Callable[[int, int], bool],
    candidate: Callable[[int, int], bool],
) -> Tensor:
    losses = []
    for i in range(len(rows)):
        terms = []
        for p in range(len(columns)):
            if positive(i, p):
                denominator = sum(
                    torch.exp(cosine(rows[i], columns[a]) / T)
                    for a in range(len(columns))
                    if candidate(i, a)
                )
                terms.append(torch.log(torch.exp(cosine(rows[i], columns[p]) / T) / denominator))
        if terms:
            losses.append(-sum(terms) / len(terms))
    return torch.stack(losses).mean() if losses else rows.sum() * 0


def sup_con_by_loop(u: Tensor, y: Tensor) -> Tensor:
    return loop(u, u, lambda i, p: p != i and bool(y[p] == y[i]), lambda i, a: a != i)


def cross_domain_by_loop(u: Tensor, y: Tensor, t: Tensor) -> Tensor:
    def positive(i: int, p: int) -> bool:
        return bool(y[p] == y[i] and t[p] != t[i])

    return loop(u, u, positive, lambda i, a: positive(i, a) or bool(y[a] != y[i]))


def prototype_by_loop(u: Tensor, y: Tensor, module: Prototypes, symmetric: bool) -> Tensor:
    mu, seen = module.centroids, module.seen
    forward = loop(u, mu, lambda i, c: bool(y[i] == c and seen[c]), lambda _, c: bool(seen[c]))
    if not symmetric:
        return forward
    converse = loop(mu, u, lambda c, i: bool(y[i] == c and seen[c]), lambda *_: True)
    return (forward + converse) / 2


def nt_xent_by_loop(u: Tensor, pairs: Tensor) -> Tensor:
    partner = dict(pairs.nonzero().tolist())
    return loop(u, u, lambda i, p: partner.get(i) == p, lambda i, a: a != i and a in partner)


def forms(seed: int) -> dict[str, tuple[Loss, Loss, Tensor]]:
    """Loss, reference and input by name."""
    u, y, t = batch(seed)
    module = prototypes()
    pairs = partners(y, t, torch.Generator().manual_seed(seed))
    return {
        "c1": (lambda u: sup_con(u, y, T), lambda u: sup_con_by_loop(u, y), u),
        "c2": (
            lambda u: cross_domain_sup_con(u, y, t, T),
            lambda u: cross_domain_by_loop(u, y, t),
            u,
        ),
        "c3": (
            lambda u: prototype_info_nce(u, y, module, T),
            lambda u: prototype_by_loop(u, y, module, False),
            u,
        ),
        "c3 symmetric": (
            lambda u: prototype_info_nce(u, y, module, T, symmetric=True),
            lambda u: prototype_by_loop(u, y, module, True),
            u,
        ),
        "c4": (lambda u: nt_xent(u, pairs, T), lambda u: nt_xent_by_loop(u, pairs), u),
    }


NAMES = list(forms(0))


def gradient(loss: Loss, u: Tensor) -> tuple[Tensor, Tensor]:
    leaf = u.clone().requires_grad_()
    value = loss(leaf)
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("seed", range(4))
def test_value_and_gradient_equal_the_double_loop(name: str, seed: int) -> None:
    loss, reference, u = forms(seed)[name]
    got, got_gradient = gradient(loss, u)
    expected, expected_gradient = gradient(reference, u)
    assert expected > 0.1
    torch.testing.assert_close(got, expected)
    torch.testing.assert_close(got_gradient, expected_gradient)


@pytest.mark.parametrize("name", NAMES)
def test_gradcheck(name: str) -> None:
    loss, _, u = forms(0)[name]
    assert torch.autograd.gradcheck(loss, u.requires_grad_())


@pytest.mark.parametrize("form", ["c1", "c2", "c3"])
@given(st.permutations(range(12)))
@settings(max_examples=15, deadline=None)
def test_order_of_the_batch_does_not_matter(form: ContrastiveForm, order: list[int]) -> None:
    u, y, t = batch()
    a = contrastive(form, u, y, t, prototypes=prototypes().eval())
    b = contrastive(form, u[order], y[order], t[order], prototypes=prototypes().eval())
    torch.testing.assert_close(a, b)


def test_norm_of_the_input_does_not_matter() -> None:
    u, y, t = batch()
    scale = torch.rand(len(u), 1, dtype=u.dtype) + 0.1
    torch.testing.assert_close(cross_domain_sup_con(u * scale, y, t), cross_domain_sup_con(u, y, t))


def test_c2_is_c1_on_what_its_masks_leave() -> None:
    """With one sample a class and domain, C2 ignores nothing but the anchor: it is C1."""
    u = batch(n=8)[0]
    y, t = torch.arange(4).repeat(2), torch.arange(8) >= 4
    torch.testing.assert_close(cross_domain_sup_con(u, y, t, T), sup_con(u, y, T))
    # A second source sample of class 0 is a positive to C1 and nothing at all to C2's class 0.
    u9, y9 = torch.cat([u, -u[:1]]), torch.cat([y, y[:1]])
    t9 = torch.cat([t, t[:1]])
    assert sup_con(u9, y9, T) - cross_domain_sup_con(u9, y9, t9, T) > 0.1


def test_same_class_same_domain_is_neither_pulled_nor_pushed() -> None:
    """Class 1 is all source, thus without anchors: its row is nothing but a negative of class 0.

    A second row of class 0 and target is a positive of the source row only, so the term of the
    other target row is what it was without it.
    """
    u = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    y, t = torch.tensor([0, 0, 1, 0]), torch.tensor([False, True, False, True])
    s = torch.nn.functional.normalize(u, dim=1) @ torch.nn.functional.normalize(u, dim=1).T / T
    targets = [torch.logsumexp(s[i, [0, 2]], 0) - s[i, 0] for i in (1, 3)]
    source = torch.logsumexp(s[0, [1, 2, 3]], 0) - (s[0, 1] + s[0, 3]) / 2
    torch.testing.assert_close(cross_domain_sup_con(u, y, t, T), (sum(targets) + source) / 3)


@pytest.mark.parametrize("form", ["c1", "c2", "c3", "c4"])
def test_batch_without_positives_gives_zero_with_a_graph(form: ContrastiveForm) -> None:
    u = torch.randn(4, 3, requires_grad=True)
    loss = contrastive(
        form,
        u,
        torch.arange(4),
        torch.tensor([True, True, False, False]),
        prototypes=Prototypes(4, 3),
    )
    loss.backward()
    assert loss.item() == 0
    assert u.grad is not None
    assert (u.grad == 0).all()


@pytest.mark.parametrize("form", ["c1", "c2", "c3", "c4"])
def test_empty_and_single_batches_are_finite(form: ContrastiveForm) -> None:
    for n in (0, 1):
        u = torch.randn(n, 3, requires_grad=True)
        labels, is_target = torch.zeros(n, dtype=torch.long), torch.ones(n, dtype=torch.bool)
        loss = contrastive(form, u, labels, is_target, prototypes=Prototypes(4, 3))
        loss.backward()
        assert loss.item() == 0


def test_anchor_without_a_prototype_or_a_partner_gets_no_gradient() -> None:
    u, y, t = batch()
    module = prototypes(unseen=1)
    assert not module.seen[1]
    assert (y == 1).any()
    _, by_prototype = gradient(lambda u: prototype_info_nce(u, y, module, T), u)
    assert (by_prototype[y == 1] == 0).all()
    assert (by_prototype[y != 1].abs().sum(dim=1) > 0).all()
    pairs = partners(y, t)
    _, by_partner = gradient(lambda u: nt_xent(u, pairs, T), u)
    paired = pairs.any(dim=1)
    assert not paired.all()
    assert (by_partner[~paired] == 0).all()


@pytest.mark.parametrize("name", ["c1", "c2"])
def test_anchor_without_positives_is_a_negative_of_others_only(name: str) -> None:
    loss, _, u = forms(0)[name]
    y = batch(0)[1]
    lonely = len(u) // 2
    assert (y == y[lonely]).sum() == 1
    without, _ = gradient(loss, u.index_fill(0, torch.tensor([lonely]), 0.0))
    _, at_row = gradient(loss, u)
    assert torch.isfinite(without)
    assert at_row[lonely].abs().sum() > 0


def test_half_precision_and_autocast_are_computed_in_float32() -> None:
    u, y, t = batch()
    exact = cross_domain_sup_con(u, y, t, 0.01)
    half = u.to(torch.bfloat16)
    expected = cross_domain_sup_con(half.double(), y, t, 0.01)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = cross_domain_sup_con(u.float(), y, t, 0.01)
        got_half = cross_domain_sup_con(half, y, t, 0.01)
    assert got.dtype == got_half.dtype == torch.float32
    torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(got_half.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["c1", "c2", "c3", "c4"])
def test_descent_brings_the_domains_of_a_class_together(form: ContrastiveForm) -> None:
    generator = torch.Generator().manual_seed(0)
    y, t = torch.arange(4).repeat(6), torch.arange(24) >= 12
    domain_axis = torch.where(t, 3.0, -3.0)[:, None] * torch.eye(8)[0]
    u = (torch.randn(24, 8, generator=generator) + domain_axis).requires_grad_()

    def nearest_source_class_is_right() -> float:
        unit = torch.nn.functional.normalize(u.detach(), dim=1)
        centroids = torch.stack([unit[(y == c) & ~t].mean(dim=0) for c in range(4)])
        nearest = torch.cosine_similarity(unit[t][:, None], centroids, dim=2).argmax(dim=1)
        return (nearest == y[t]).double().mean().item()

    before = nearest_source_class_is_right()
    optimiser = torch.optim.Adam([u], lr=0.1)
    module = Prototypes(4, 8)
    for _ in range(60):
        optimiser.zero_grad()
        contrastive(form, u, y, t, prototypes=module, generator=generator).backward()
        optimiser.step()
    assert before < 0.6
    assert nearest_source_class_is_right() > 0.9  # c4 pushes false negatives away: not quite 1


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=24), st.integers(0, 99))
@settings(deadline=None)
def test_pairs_are_disjoint_cross_domain_and_as_many_as_possible(
    rows: list[tuple[int, bool]], seed: int
) -> None:
    y = torch.tensor([label for label, _ in rows], dtype=torch.long)
    t = torch.tensor([target for _, target in rows], dtype=torch.bool)
    pairs = partners(y, t, torch.Generator().manual_seed(seed))
    most = sum(min(rows.count((c, False)), rows.count((c, True))) for c in range(4))
    assert pairs.sum() == 2 * most
    one, other = pairs.nonzero().T
    assert len(set(one.tolist())) == len(one)
    assert torch.equal(pairs, pairs.T)
    assert (y[one] == y[other]).all()
    assert (t[one] != t[other]).all()
    assert torch.equal(pairs, partners(y, t, torch.Generator().manual_seed(seed)))


def test_partners_are_the_first_of_their_class_in_the_order_drawn() -> None:
    y, t = torch.zeros(7, dtype=torch.long), torch.arange(7) >= 5
    pairs = partners(y, t, torch.Generator().manual_seed(1))
    place = torch.randperm(7, generator=torch.Generator().manual_seed(1))
    sources, targets = (
        rows[place[rows].argsort()] for rows in (torch.arange(5), torch.arange(5, 7))
    )
    assert [pairs[row].nonzero().item() for row in targets] == sources[:2].tolist()


def test_pairs_are_drawn_anew() -> None:
    y, t = torch.zeros(20, dtype=torch.long), torch.arange(20) >= 10
    generator = torch.Generator().manual_seed(0)
    assert not torch.equal(partners(y, t, generator), partners(y, t, generator))


def test_prototypes_equal_a_moving_average_by_hand() -> None:
    generator = torch.Generator().manual_seed(0)
    module = Prototypes(3, 4, momentum=0.7)
    by_hand: dict[int, Tensor] = {}
    for labels in ([0, 0, 1], [1, 1, 0], [0, 0, 0]):
        u = 5 * torch.randn(3, 4, generator=generator)
        module.update(u, torch.tensor(labels))
        for c in set(labels):
            rows = [u[i] / u[i].norm() for i in range(3) if labels[i] == c]
            mean = sum(rows[1:], rows[0]) / len(rows)
            mixed = 0.7 * by_hand[c] + 0.3 * mean if c in by_hand else mean
            by_hand[c] = mixed / mixed.norm()
    assert module.seen.tolist() == [True, True, False]
    for c, expected in by_hand.items():
        torch.testing.assert_close(module.centroids[c], expected)
    assert (module.centroids[2] == 0).all()
    assert not list(module.parameters())
    assert set(module.state_dict()) == {"centroids", "seen"}
    module.update(torch.randn(3, 4, requires_grad=True), torch.arange(3))
    assert not module.centroids.requires_grad


def test_contrastive_moves_prototypes_by_source_rows_in_training_only() -> None:
    u, y, t = batch()
    module = Prototypes(4, 5).double()
    contrastive("c3", u, y, t, prototypes=module.eval())
    assert not module.seen.any()
    contrastive("c3", u, y, t, prototypes=module.train())
    assert module.seen.tolist() == [bool(((y == c) & ~t).any()) for c in range(4)]


def test_the_mean_over_one_anchor_is_its_own_loss() -> None:
    u, y = torch.eye(3)[:2], torch.tensor([0, 1])
    seen = Prototypes(2, 3)
    seen.update(u, y)
    expected = cross_entropy(torch.tensor([[1 / T, 0.0]]), torch.tensor([1]))
    torch.testing.assert_close(prototype_info_nce(u[:1], y[1:], seen, T), expected)


def test_unusable_arguments_say_what_to_do() -> None:
    u, y, t = batch()
    with pytest.raises(ConfigError, match="positive"):
        sup_con(u, y, temperature=0)
    with pytest.raises(ConfigError, match="c1, c2, c3 or c4"):
        contrastive("c5", u, y, t)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="Prototypes"):
        contrastive("c3", u, y, t)
    with pytest.raises(ConfigError, match="momentum"):
        Prototypes(3, 4, momentum=1.0)
    assert Prototypes(3, 4, momentum=0).momentum == 0
    with pytest.raises(ValueError, match="a label and a domain a row"):
        cross_domain_sup_con(u, y[:-1], t)
    with pytest.raises(ValueError, match="a label and a domain a row"):
        contrastive("c1", u, y, t[:-1])
    for alone in (sup_con, lambda u, y: prototype_info_nce(u, y, prototypes())):
        with pytest.raises(ValueError, match="a label and a domain a row"):
            alone(u, y[:1])  # which would be spread over the batch
    for wrong in ((u, y[:-1]), (u[0], y)):
        with pytest.raises(ValueError):  # noqa: PT011 - each by the words of its own check
            Prototypes(4, 5).double().update(*wrong)
    with pytest.raises(ValueError, match="partners"):
        nt_xent(u, y)
