"""Which rule claims which tensor, and how each that is claimed is cut. Made from headers alone."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import NoReturn

from normtree.errors import InvalidRecipe, refusal
from normtree.formats.elements import CODES, dtype_of, is_projectable
from normtree.formats.stored import Stored
from normtree.jobs.checkpoint.checkpoint import Checkpoint
from normtree.jobs.plan.cut import MOST_PANEL_BYTES, Cut, cut_up
from normtree.jobs.plan.layout import Layout
from normtree.jobs.plan.pieces import TensorWork
from normtree.jobs.recipe import Recipe, Rule
from normtree.splits import parse_split
from normtree_kernels.norms.mixed_norm import MixedNorm
from normtree_kernels.refusals import Refusal, ValueRefused
from normtree_kernels.tree.exact import merged, needs_own_algorithm
from normtree_kernels.tree.goal import Aim, Goal
from normtree_kernels.tree.projection import ranks_elements


@dataclass(frozen=True)
class Claim:
    """A tensor that a rule claims.

    Args:
        shard: the file it is in.
        entry: the tensor.
        rule: index of the rule.
    """

    shard: str
    entry: Stored
    rule: int


def claims_of(recipe: Recipe, checkpoint: Checkpoint) -> list[Claim]:
    """Find the tensors that a recipe's rules claim, in the order of their bytes; those without elements are none.

    Raises:
        InvalidRecipe: a rule that takes nothing, or a tensor that two rules take.
    """
    found = list(_found(recipe, checkpoint))
    taking = {index for _, _, indices in found for index in indices}
    for index in range(len(recipe.rules)):
        if index not in taking:
            _refuse(recipe, index, checkpoint)
    return [Claim(shard, entry, indices[0]) for shard, entry, indices in found if entry.nbytes]


def works_of(recipe: Recipe, claims: Iterable[Claim], panel_bytes: int, *, in_order: bool) -> Iterator[TensorWork]:
    """Cut what is claimed. Tensors of one rule, shape and type share their cut, and all that is worked out of it.

    Args:
        recipe: whose rules claim them.
        claims: the tensors, in the order of their bytes.
        panel_bytes: what a panel takes at most, if that can be.
        in_order: whether files are read or written from their start to their end.

    Raises:
        InvalidRecipe: a tensor that cannot be projected so.
    """
    forms: dict[tuple[int, str, tuple[int, ...]], _Form] = {}
    for index, claim in enumerate(claims):
        entry = claim.entry
        key = (claim.rule, entry.code, entry.shape)
        if key not in forms:
            forms[key] = _form(recipe.rules[claim.rule], claim, panel_bytes, in_order=in_order)
        form = forms[key]
        yield TensorWork(entry.name, claim.shard, entry.start, index, form.cut, claim.rule, form.aim, form.own)


@dataclass(frozen=True)
class _Form:
    """What tensors share; see `TensorWork`."""

    cut: Cut
    aim: Aim
    own: bool


def _found(recipe: Recipe, checkpoint: Checkpoint) -> Iterator[tuple[str, Stored, list[int]]]:
    """Go through the tensors that rules take: the file, the tensor, the rules' indices."""
    for shard in checkpoint.shards:
        for entry in shard.entries:
            indices = [index for index, rule in enumerate(recipe.rules) if rule.takes(entry)]
            if len(indices) > 1 and recipe.overlap == "refuse":
                names = " and ".join(f"rules[{index}]" for index in indices)
                raise InvalidRecipe(
                    f'tensor {entry.name!r} is claimed by {names}; with overlap = "first" the first would win',
                    pointer=f"rules[{indices[1]}].tensors",
                )
            if indices:
                yield shard.name, entry, indices


def _refuse(recipe: Recipe, index: int, checkpoint: Checkpoint) -> NoReturn:
    """Refuse a rule that takes nothing; where it means some tensors, the first of them tells why.

    Raises:
        InvalidRecipe: always.
    """
    rule = recipe.rules[index]
    entries = [(shard.name, entry) for shard in checkpoint.shards for entry in shard.entries]
    for shard, entry in entries:
        if rule.claims(entry.name):
            _form(rule, Claim(shard, entry, index), MOST_PANEL_BYTES, in_order=False)
    raise InvalidRecipe(
        f"rules[{index}].tensors: {rule.tensors!r} matches none of the {len(entries)} tensors of {recipe.input}",
        pointer=f"rules[{index}].tensors",
        got=rule.tensors,
    )


def _form(rule: Rule, claim: Claim, panel_bytes: int, *, in_order: bool) -> _Form:
    entry, aim = claim.entry, rule.aim
    try:
        if not is_projectable(dtype_of(entry.code)):
            raise ValueRefused("dtype", f"an element type of {CODES}", entry.code)
        split = parse_split(rule.split)
        seen = split.seen(entry.shape)
        norm = MixedNorm.parse(rule.norm, rule.axes, ndim=len(seen))
        own = rule.exact and needs_own_algorithm(norm, aim.for_norm(1.0))
        if isinstance(aim, Goal) and rule.scope == "tensor":
            aim.check_fits(norm, seen)
    except Refusal as error:
        where = f"rules[{claim.rule}]"
        found = refusal(error, InvalidRecipe, where)
        raise found.about(f"{claim.shard}: tensor {entry.name!r}, claimed by {where}") from None
    layout = Layout(seen, dtype_of(entry.code), merged(norm) if own else norm, split)
    in_rounds = own or (norm.inner.norm.searches and len(norm.levels) > 1)  # ranks of elements take rounds anyway
    cut = cut_up(layout, panel_bytes, in_rounds=in_rounds, in_order=in_order)
    return _Form(replace(cut, ranks=ranks_elements(norm, aim)), aim, own)
