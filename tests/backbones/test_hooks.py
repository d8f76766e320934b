"""Attachments come off without a trace, in every order, after errors and between threads."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.frozen_network import IMAGES, Site
from petiole.backbones.hooks import Attach, _hook, _slices, attached
from petiole.backbones.weights import fingerprint
from petiole.errors import BackboneError, ConfigError
from petiole.testing import backbones as tiny


class Add(nn.Module):
    def __init__(self, amount: float) -> None:
        super().__init__()
        self.amount = amount

    def forward(self, x: Tensor) -> Tensor:
        # No constant, which a normalisation would take out again.
        return self.amount * torch.linspace(0, 1, x.shape[-1]).expand_as(x)


def vector(backbone: Backbone, images: Tensor) -> Tensor:
    with torch.no_grad():
        return backbone.upper({IMAGES: images}, (backbone.vector,))[backbone.vector]


def hooks(backbone: Backbone) -> int:
    parts = backbone.module.modules()
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in parts)


def test_every_role_can_be_changed_and_comes_off(transformer: Backbone) -> None:
    images = tiny.images(transformer)
    own_hooks, bare, whole = (
        hooks(transformer),
        vector(transformer, images),
        transformer.fingerprint,
    )
    for role in transformer.sites:
        if role.startswith("text."):  # beside the image; see test_towers.py
            continue
        with attached(transformer, [Attach(role, Add(2.0))]):
            changed = vector(transformer, images)
        # The same vector added to every key cancels in the softmax.
        assert torch.allclose(changed, bare, atol=1e-5) == role.endswith("attn.k"), role
        assert torch.equal(vector(transformer, images), bare)
    assert hooks(transformer) == own_hooks
    assert fingerprint(transformer.module.state_dict()) == whole


def test_one_layer_may_read_what_came_before(transformer: Backbone) -> None:
    images = tiny.images(transformer)

    class Keep(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            self.seen = x
            return torch.zeros_like(x)

    keep, tap = Keep(), Keep()
    with attached(
        transformer,
        [
            Attach("block.1.in", Add(1.0)),
            Attach("block.1.mlp.out", keep, reads="block.1.mid"),
            Attach("block.1.mid", tap),
        ],
    ):
        vector(transformer, images)
    assert torch.equal(keep.seen, tap.seen)


def test_layers_on_one_role_work_in_the_given_order() -> None:
    backbone = tiny.plain()

    class Double(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x

    images = tiny.images(backbone)
    with attached(backbone, [Attach("final.tokens", Add(1.0)), Attach("final.tokens", Double())]):
        first_add = vector(backbone, images)
    torch.testing.assert_close(
        first_add, (vector(backbone, images) + torch.linspace(0, 1, tiny.WIDTH)) * 2
    )


def test_slices_of_one_value_are_changed_at_once_and_each_as_alone() -> None:
    backbone = tiny.build("vit", Path())
    roles = [f"block.1.attn.{name}" for name in ("v", "q", "k")]
    layers = [Add(1.0 + i) for i in range(3)] + [nn.Linear(backbone.site(roles[0]).width, 8)]
    layers[3] = nn.Sequential(layers[3], nn.Linear(8, backbone.site(roles[0]).width))
    attachments = [
        Attach(role, layer) for role, layer in zip([*roles, "block.1.attn.v"], layers, strict=True)
    ]
    own = hooks(backbone)
    qkv = backbone.site(roles[0]).module
    with attached(backbone, attachments), torch.no_grad():
        assert hooks(backbone) == own + 1
        x = torch.randn(2, 5, qkv.in_features)
        found = qkv(x)
    bare = qkv(x)
    for role, layer in zip(roles[1:], layers[1:3], strict=True):
        columns = backbone.site(role).columns
        part = bare[..., columns]
        assert torch.equal(found[..., columns], part + layer(part))
    columns = backbone.site(roles[0]).columns
    part = bare[..., columns] + layers[0](bare[..., columns])
    assert torch.equal(found[..., columns], part + layers[3](part))


def test_tuned_copies_stand_in_and_leave(backbone: Backbone) -> None:
    images = tiny.images(backbone)
    bare, before = vector(backbone, images), dict(backbone.module.named_parameters())
    name = backbone.parameters_under()[-1]
    copy = nn.Parameter(before[name].detach().clone() + 1)
    with attached(backbone, [], {name: copy}):
        assert not torch.allclose(vector(backbone, images), bare)
    after = dict(backbone.module.named_parameters())
    assert all(after[key] is value for key, value in before.items())
    assert list(after) == list(before)
    assert torch.equal(vector(backbone, images), bare)


@pytest.mark.parametrize("when", ["inside", "bad role", "bad parameter"])
def test_an_exception_still_restores_everything(when: str) -> None:
    backbone = tiny.plain()
    images = tiny.images(backbone)
    bare, before = vector(backbone, images), hooks(backbone)
    name = "blocks.0.mlp.fc1.weight"
    own = backbone.module.get_parameter(name)
    tuned: dict[str, Tensor] = {name: torch.zeros_like(own)}
    roles = ["block.0.out"]
    if when == "bad role":
        roles.append("block.7.out")
    if when == "bad parameter":
        tuned["blocks.0.mlp.fc9.weight"] = torch.zeros(1)
    kind, words = {
        "inside": (RuntimeError, "boom"),
        "bad role": (ConfigError, r"block\.7\.out"),
        "bad parameter": (AttributeError, "fc9"),
    }[when]
    with (
        pytest.raises(kind, match=words),
        attached(backbone, [Attach(role, Add(1.0)) for role in roles], tuned),
    ):
        raise RuntimeError("boom" if when == "inside" else "the body must not run")
    assert hooks(backbone) == before
    assert backbone.module.get_parameter(name) is own
    assert not backbone.carries
    assert torch.equal(vector(backbone, images), bare)


def test_two_adapters_at_once_in_one_thread_are_refused() -> None:
    backbone = tiny.plain()
    with (
        attached(backbone, [Attach("block.0.out", Add(1.0))]),
        pytest.raises(BackboneError, match="already carries an adapter"),
        attached(backbone, [Attach("block.1.out", Add(1.0))]),
    ):
        pass
    with attached(backbone, []):
        pass


def test_the_fingerprint_is_never_that_of_tuned_copies() -> None:
    backbone = tiny.plain()
    name = "norm.weight"
    tuned = {name: torch.zeros(tiny.WIDTH)}
    with attached(backbone, [], tuned), pytest.raises(BackboneError, match="outside"):
        _ = backbone.fingerprint
    assert backbone.fingerprint == tiny.plain().fingerprint


def test_threads_with_other_adapters_or_none_get_their_own_answers() -> None:
    backbone = tiny.plain()
    images = tiny.images(backbone)
    jobs: list[list[Attach]] = [
        [],
        [Attach("block.0.out", Add(0.3))],
        [Attach("block.1.attn.v", Add(-0.7)), Attach("block.2.mlp.out", Add(0.2))],
    ]

    def answer(attachments: list[Attach]) -> Tensor:
        if not attachments:
            return backbone.lower(images, (backbone.vector,))[backbone.vector]
        with attached(backbone, attachments):
            return vector(backbone, images)

    want = [answer(job) for job in jobs]
    wrong: list[int] = []
    start = threading.Barrier(6)

    def workspace(index: int) -> None:
        start.wait()
        for _ in range(20):
            if not torch.equal(answer(jobs[index % 3]), want[index % 3]):
                wrong.append(index)

    threads = [threading.Thread(target=workspace, args=(i,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_the_bare_backbone_waits_for_an_adapter_of_another_thread() -> None:
    backbone = tiny.plain()
    images = tiny.images(backbone)
    want = vector(backbone, images)
    got: list[Tensor] = []
    with attached(backbone, [Attach("block.0.out", Add(5.0))]):
        thread = threading.Thread(
            target=lambda: got.append(backbone.lower(images, ("final.cls",))["final.cls"])
        )
        thread.start()
        thread.join(0.2)
        assert not got
    thread.join()
    assert torch.equal(got[0], want)


def test_slices_of_one_value_change_in_their_places_and_one_after_the_other() -> None:
    def site(start: int, stop: int) -> Site:
        return Site(nn.Identity(), "out", stop - start, slice(start, stop))

    value = torch.arange(8.0)[None]
    changed = _slices(
        [
            (site(5, 7), lambda part: part * 10),
            (site(2, 4), lambda part: part + 100),
            (site(5, 7), lambda part: part + 1),
        ]
    )
    assert changed(value).tolist() == [[0, 1, 102, 103, 4, 51, 61, 7]]
    assert value.tolist() == [[0, 1, 2, 3, 4, 5, 6, 7]]


def test_what_a_module_takes_and_gives_beside_the_value_stays() -> None:
    class Pair(nn.Module):
        def forward(self, x: Tensor, y: float, z: float) -> tuple[Tensor, float, float]:
            return x, y, z

    part, x = Pair(), torch.ones(1, 2)
    for side in ("in", "out"):
        remove = _hook(Site(part, side, 2), lambda value: value + 1)  # type: ignore[arg-type]
        changed, *rest = part(x, 5.0, 6.0)
        assert (changed.tolist(), rest) == ([[2, 2]], [5.0, 6.0])
        remove()
        quiet = _hook(Site(part, side, 1, slice(1, 2)), lambda _: None)  # type: ignore[arg-type]
        assert part(x, 5.0, 6.0) == (x, 5.0, 6.0)
        quiet()
    assert not part._forward_hooks
    assert not part._forward_pre_hooks
