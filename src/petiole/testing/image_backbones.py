"""What every backbone of images must do, beside what every frozen network must."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from petiole.backbones.base import Backbone
from petiole.backbones.dual_encoder.text_tower import TEXT
from petiole.backbones.dual_encoder.towers import TwoTowers
from petiole.backbones.frozen_network import IMAGES
from petiole.backbones.hooks import attached
from petiole.data.preprocessing import Preprocessing
from petiole.errors import ConfigError
from petiole.testing.contract import Clause, clause, require, require_close, require_equal
from petiole.testing.frozen_networks import NetworkCase, Values, order_of_sites
from petiole.testing.random_weights import images


@dataclass
class ImageBackboneCase(NetworkCase):
    """A backbone of images, with images."""

    network: Backbone

    @cached_property
    def images(self) -> Tensor:
        """Two of noise, preprocessed."""
        return images(self.network, 2)

    def finals_above(self, cut: str) -> tuple[str, ...]:
        """Final roles that are made of nothing below a cut."""
        backbone, order = self.network, (IMAGES, *self.network.roles)
        at = order.index(cut)
        return tuple(f for f in backbone.finals if order.index(backbone.source_of(f)) >= at)


def run(backbone: Backbone) -> Values:
    """Every final role of noise; of two towers also the vector of a text."""
    with torch.no_grad():
        found = dict(backbone.upper({IMAGES: images(backbone, 2)}, backbone.finals))
        if isinstance(backbone, TwoTowers):
            found["text"] = backbone.encode(_a_text(backbone))
    return found


def _a_text(backbone: TwoTowers) -> Tensor:
    """Ids (1, 5) of some words and the end token."""
    text = backbone.text
    end = text.tokenizer.end if text.tokenizer is not None else 6
    words = [i for i in range(1, 6) if i != end][:4]
    return torch.tensor([[*words, end]], device=backbone.device)


@clause(
    means="Images must reach the network as its weights want them; other sizes or normalisation cost accuracy silently.",
    remedy="Pass the Preprocessing that the weights' own configuration states.",
)
def states_its_preprocessing(case: ImageBackboneCase) -> None:
    """Size, crop, interpolation, mean and standard deviation are stated and possible."""
    stated = case.network.preprocessing
    require(isinstance(stated, Preprocessing), f"preprocessing is a {type(stated).__name__}")
    require(all(side > 0 for side in stated.size), f"the size is {stated.size}")
    require(len(stated.mean) == len(stated.std) == 3, "mean and std are not of three channels")
    require(all(s > 0 for s in stated.std), f"std is {stated.std}")


@clause(
    means="Heads are built for these shapes: one vector an image, and local tokens.",
    remedy="Let vector and patches name final roles, width_of give their last axis, and width be that of the vector.",
)
def gives_final_roles_of_the_stated_shape(case: ImageBackboneCase) -> None:
    """The vector is (B, d), patches are (B, N, c), and every width is as stated."""
    backbone, bare, count = case.network, case.bare, len(case.images)
    for role in (backbone.vector, backbone.patches):
        require(role in backbone.finals, f"{role} is no final role ({', '.join(backbone.finals)})")
    for role in backbone.finals:
        require_equal(bare[role].shape[-1], backbone.width_of(role), f"width of {role}")
        require_equal(len(bare[role]), count, f"rows of {role}")
    require_equal(bare[backbone.vector].shape, (count, backbone.width), "shape of the vector")
    require_equal(bare[backbone.patches].ndim, 3, "axes of the patches")


@clause(
    means="Features are stored image by image and read in other batches.",
    remedy="Let no image of a batch see another: no batch statistics.",
)
def sees_an_image_as_alone(case: ImageBackboneCase) -> None:
    """An image in a batch gives what it gives alone, up to rounding."""
    backbone = case.network
    alone = backbone.lower(case.images[1:2], backbone.finals)
    for role in backbone.finals:
        row = case.bare[role][1:2]
        what = f"{role} of an image in a batch and alone"
        require_close(alone[role], row, 1e-4, what, scale=float(row.abs().max()))


@clause(
    means="The order of roles decides what lies below a cut and is therefore stored, not trained.",
    remedy="Give sites in the order in which data passes them.",
)
def meets_its_sites_in_order(case: ImageBackboneCase) -> None:
    """The forward pass meets the roles as they are listed."""
    got, want = order_of_sites(case), list(case.network.sites)
    wrong = next((pair for pair in zip(got, want, strict=True) if pair[0] != pair[1]), None)
    require(not wrong, f"the forward pass meets {', not '.join(wrong or ())} at that place")
    order = [(IMAGES, *case.network.roles).index(cut) for cut in case.network.cuts]
    require(order == sorted(order), f"cuts are not in order: {', '.join(case.network.cuts)}")


@clause(
    means="Training from stored features is training on images only if every cut gives the same function.",
    remedy="Let _lower stop exactly where _upper goes on, with all that the rest needs in the one value.",
)
def is_the_same_from_every_cut(case: ImageBackboneCase) -> None:
    """upper(lower(x, cut)) is upper(x), for every cut, final roles and checkpointing included."""
    backbone = case.network
    for cut in (IMAGES, *backbone.cuts):
        reads = case.finals_above(cut)
        below = backbone.lower(case.images, (cut,))
        require_equal(list(below), [cut], f"what lower gives for the cut {cut}")
        require(not below[cut].requires_grad, f"the value at the cut {cut} has a graph")
        got = backbone.upper(below, reads)
        for role in reads:
            what = f"{role} from the cut {cut} and from images"
            require_close(got[role], case.bare[role], 1e-5, what)
    stored = backbone.upper(backbone.lower(case.images, backbone.finals), backbone.finals)
    for role in backbone.finals:
        require_close(stored[role], case.bare[role], 1e-5, f"{role}, stored and from images")
    kept = backbone.lower(case.images, (backbone.vector,))
    require_equal(list(kept), [backbone.vector], "what lower gives for one final role")
    again = backbone.upper({IMAGES: case.images}, (backbone.vector,), checkpoint=True)
    require_close(
        again[backbone.vector], case.bare[backbone.vector], 1e-5, "the vector, recomputed"
    )


@clause(
    means="Everything below a cut is computed once and stored. If a layer or a tuned parameter above it could change it, "
    "training would go on with stale features.",
    remedy="Correct the order of sites, role_of or source_of: the cut is the highest one below all that is touched.",
)
def is_frozen_below_the_cut(case: ImageBackboneCase) -> None:
    """What is attached at a role, or tuned, changes nothing at the cut below it."""
    backbone = case.network
    seen = {cut: backbone.lower(case.images, (cut,))[cut] for cut in backbone.cuts}
    sites = [role for role in backbone.sites if not role.startswith(TEXT)]
    for role in sites:
        with attached(backbone, case.attach(role)):
            _same_below(case, seen, role, f"a layer at {role}")
    for name, parameter in backbone.module.named_parameters():
        role = backbone.role_of(name)
        if role.startswith(TEXT):
            continue
        require(role in (IMAGES, *backbone.roles), f"role_of({name!r}) is {role}, which is no role")
        tuned = nn.Parameter(parameter + parameter.abs().mean() + 0.1)
        with attached(backbone, (), {name: tuned}):
            _same_below(case, seen, role, f"the tuned parameter {name}")


def _same_below(case: ImageBackboneCase, seen: dict[str, Tensor], role: str, what: str) -> None:
    cut = case.network.cut_below([role], (case.network.vector,))[0]
    if cut in seen:
        got = case.network.lower(case.images, (cut,))[cut]
        require_equal(got, seen[cut], f"{what} lies above {cut}, whose values")


@clause(
    means="A typo in a role or a cut must be told, not answered with other numbers.",
    remedy="Leave check_cut, site and cut_below as the base class has them.",
)
def refuses_what_is_not_there(case: ImageBackboneCase) -> None:
    """Unknown roles, cuts and final roles are refused with the backbone's name."""
    backbone = case.network
    wrong: dict[str, Callable[[], object]] = {
        "site": lambda: backbone.site("no.such.role"),
        "lower": lambda: backbone.lower(case.images, ("no.such.role",)),
        "upper": lambda: backbone.upper({IMAGES: case.images}, ("no.such.role",)),
        "cut_below": lambda: backbone.cut_below(["no.such.role"], (backbone.vector,)),
    }
    for name, ask in wrong.items():
        try:
            ask()
        except ConfigError as error:
            require(backbone.name in str(error), f"the error of {name} lacks the backbone's name")
        else:
            require(False, f"{name} takes 'no.such.role'")


CLAUSES: tuple[Clause[ImageBackboneCase], ...] = (
    states_its_preprocessing,
    gives_final_roles_of_the_stated_shape,
    sees_an_image_as_alone,
    meets_its_sites_in_order,
    is_the_same_from_every_cut,
    is_frozen_below_the_cut,
    refuses_what_is_not_there,
)
