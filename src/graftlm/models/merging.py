"""Several models of one architecture made into one, tensor by tensor (one tensor of each is in memory at a time).

linear, slerp; task arithmetic (arXiv 2212.04089), TIES (2306.01708), DARE (2311.03099) and both together; WiSE-FT
(2109.01903). What a model learnt is its *change*: its weights less the base's. Sums are made in fp32 and rounded once,
to the format of the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from graftlm.core.errors import ModelError
from graftlm.core.files import write_json
from graftlm.core.hashing import hash_value
from graftlm.models.loading import load_tokenizer
from graftlm.models.saved_weights import TensorForm, WeightFiles, write_weights

MergeMethod = Literal["linear", "slerp", "task", "ties", "dare", "dare-ties", "wise-ft"]
ON_A_BASE = ("task", "ties", "dare", "dare-ties", "wise-ft")
COLLINEAR = 0.9995
"""Cosine above which slerp is lerp: the sine of the angle, by which it divides, is below 0.03."""


@dataclass(frozen=True)
class Merging:
    """How to merge.

    Attributes:
        weights: of each model; `linear` divides them by their sum, the methods on a base multiply changes by them.
        density: share of a change's numbers that TIES and DARE keep.
        scale: factor on the merged change.
        alpha: where between the two ends of slerp and wise-ft.
        seed: of what DARE drops.
    """

    method: MergeMethod
    weights: tuple[float, ...]
    density: float = 0.5
    scale: float = 1.0
    alpha: float = 0.5
    seed: int = 0

    def check(self, *, has_base: bool) -> None:
        """Raises ModelError for a number out of range, or models that the method cannot take."""
        count = len(self.weights)
        wanted = {"slerp": 2, "wise-ft": 1}.get(self.method)
        fault = None
        if self.method not in get_args(MergeMethod):
            fault = f"there is no such method; there are {', '.join(get_args(MergeMethod))}"
        elif (self.method in ON_A_BASE) != has_base:
            fault = "give the base that all models were trained from" if not has_base else "this method takes no base"
        elif wanted is not None and count != wanted:
            fault = f"it takes {wanted} model(s), not {count}"
        elif count == 0:
            fault = "no model is given"
        elif not 0 < self.density <= 1:
            fault = f"density is a share above 0 and up to 1, not {self.density:g}"
        elif not 0 <= self.alpha <= 1:
            fault = f"alpha is between 0 and 1, not {self.alpha:g}"
        elif self.method == "linear" and sum(self.weights) == 0:
            fault = "the weights add up to 0"
        elif self.method in ("ties", "dare-ties") and min(self.weights) <= 0:
            fault = "signs are elected by weighted mass: weights must be above 0"
        if fault:
            raise ModelError(fault, where=f"merging by {self.method}", fix="see docs/merging.md")


def merge_tensors(how: Merging, base: Tensor | None, tuned: Sequence[Tensor], name: str = "") -> Tensor:
    """One tensor of the merged model, fp32, from the same tensor of each model.

    Args:
        name: of the tensor; with the seed it decides what DARE drops.
    """
    tuned = [tensor.float() for tensor in tuned]
    if base is None:
        if how.method == "slerp":
            return slerp(tuned[0], tuned[1], how.alpha)
        return linear(tuned, how.weights)
    base = base.float()
    if how.method == "wise-ft":
        return torch.lerp(base, tuned[0], how.alpha)  # exact at both ends
    changes = [tensor - base for tensor in tuned]
    if how.method in ("dare", "dare-ties"):
        changes = [
            drop_and_rescale(change, how.density, int(hash_value([how.seed, number, name]), 16) % 2**63)
            for number, change in enumerate(changes)
        ]
    if how.method == "ties":
        changes = [trim(change, how.density) for change in changes]
    if how.method in ("ties", "dare-ties"):
        return _moved(base, how.scale * agreeing_mean(changes, how.weights))
    moved = sum((w * change for w, change in zip(how.weights, changes, strict=True)), torch.zeros_like(base))
    return _moved(base, how.scale * moved)


def linear(tensors: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Weighted mean, as steps from the first: equal tensors stay what they are, to the bit."""
    total, first = sum(weights), tensors[0]
    steps = [(w / total) * (other - first) for w, other in zip(weights[1:], tensors[1:], strict=True)]
    return _moved(first, sum(steps, torch.zeros_like(first)))


def slerp(one: Tensor, other: Tensor, t: float) -> Tensor:
    """Along the arc from `one` (t = 0) to `other` (t = 1), tensors taken as vectors.

    sin((1-t)Ω)/sin Ω · one + sin(tΩ)/sin Ω · other, Ω the angle between them. Where there is no arc (a zero vector,
    or the two on one line) it is the straight line.
    """
    lengths = one.norm() * other.norm()
    cosine = float((one * other).sum() / lengths) if lengths > 0 else 1.0
    if abs(cosine) > COLLINEAR or t in (0, 1):
        return torch.lerp(one, other, t)
    angle = torch.acos(torch.tensor(cosine, dtype=torch.float64))
    shares = torch.sin(torch.stack([(1 - t) * angle, t * angle])) / torch.sin(angle)
    return float(shares[0]) * one + float(shares[1]) * other


def trim(change: Tensor, density: float) -> Tensor:
    """Keep the share `density` of the numbers, the largest by magnitude; the others become 0.

    Numbers as large as the smallest one kept stay, too.
    """
    kept = max(1, round(density * change.numel()))
    if kept >= change.numel():
        return change
    magnitudes = change.abs()
    smallest = magnitudes.flatten().kthvalue(change.numel() - kept + 1).values
    return torch.where(magnitudes >= smallest, change, 0.0)


def drop_and_rescale(change: Tensor, density: float, seed: int) -> Tensor:
    """Drop each number with probability p = 1 - density and multiply the others by 1/(1 - p): the mean stays."""
    generator = torch.Generator().manual_seed(seed)
    kept = torch.rand(change.shape, generator=generator) < density
    return torch.where(kept, change / density, 0.0)


def agreeing_mean(changes: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    """Elect each number's sign by the weighted sum of the changes (a sum of 0 elects +), then average those that
    have it, by weight; where none has it: 0."""
    weighted = torch.stack([w * change for w, change in zip(weights, changes, strict=True)])
    elected = torch.where(weighted.sum(0) >= 0, 1.0, -1.0)
    agrees = weighted * elected > 0
    mass = sum(w * agree for w, agree in zip(weights, agrees, strict=True))
    assert isinstance(mass, Tensor)
    return torch.where(agrees, weighted, 0.0).sum(0) / torch.where(mass == 0, 1.0, mass)


def _moved(base: Tensor, change: Tensor) -> Tensor:
    """base + change; unchanged numbers stay what they are to the bit (-0.0 + 0.0 would be 0.0)."""
    return torch.where(change == 0, base, base + change)


def merge_models(
    out: Path, models: Sequence[str], how: Merging, *, base: str | None = None, dtype: torch.dtype | None = None
) -> int:
    """Write the merged model, with the base's (or the first model's) configuration and tokenizer.

    Args:
        out: an empty folder.
        models: folders, hub names, or `rootstock`.
        dtype: number format of the result; by default each tensor keeps the base's (or the first model's).

    Returns:
        The number of tensors.

    Raises:
        ModelError: the models differ in architecture, tensors, shapes or vocabulary.
    """
    how.check(has_base=base is not None)
    opened = [WeightFiles(model) for model in ([] if base is None else [base]) + list(models)]
    first = opened[0]
    for other in opened[1:]:
        _check_alike(first, other)
    forms = {name: _result_form(first.form(name), dtype) for name in first.names}

    def make(name: str) -> Tensor:
        tensors = [files.read(name) for files in opened]
        if not tensors[0].is_floating_point():
            return _the_same(name, tensors, opened)
        start, tuned = (None, tensors) if base is None else (tensors[0], tensors[1:])
        return merge_tensors(how, start, tuned, name).to(forms[name].dtype)

    write_weights(out / "model.safetensors", forms, make)
    first.copy_companions(out)
    if dtype is not None:
        write_json(out / "config.json", first.config | {"dtype": str(dtype).removeprefix("torch.")})
    return len(forms)


def _result_form(form: TensorForm, dtype: torch.dtype | None) -> TensorForm:
    return replace(form, dtype=dtype) if dtype is not None and form.dtype.is_floating_point else form


def _the_same(name: str, tensors: list[Tensor], opened: list[WeightFiles]) -> Tensor:
    for tensor, files in zip(tensors, opened, strict=True):
        if not torch.equal(tensor, tensors[0]):
            raise ModelError(f"the whole numbers of `{name}` differ from {opened[0].name}", where=files.name)
    return tensors[0]


def _check_alike(first: WeightFiles, other: WeightFiles) -> None:
    fix = f"merge models that were trained from one base; {first.name} is the other one"
    kinds = [files.config.get("model_type") for files in (first, other)]
    if kinds[0] != kinds[1]:
        raise ModelError(f"it is a {kinds[1]}, the other one a {kinds[0]}", where=other.name, fix=fix)
    if odd := sorted(set(first.names) ^ set(other.names)):
        owner = first if odd[0] in first.names else other
        reason = f"only {owner.name} has the tensor `{odd[0]}` ({len(odd)} such tensors)"
        tied = [bool(files.config.get("tie_word_embeddings")) for files in (first, other)]
        if tied[0] != tied[1]:
            reason += ", and only one of them ties its head to its embedding"
        raise ModelError(reason, where=other.name, fix=fix)
    for name in first.names:
        ours, theirs = first.form(name).shape, other.form(name).shape
        if ours != theirs:
            reason = f"tensor `{name}` is {list(theirs)}, in the other one {list(ours)}"
            raise ModelError(reason, where=other.name, fix=fix)
    _check_vocabulary(first, other, fix)


def _check_vocabulary(first: WeightFiles, other: WeightFiles, fix: str) -> None:
    """The same token must have the same number in both: a row of the embedding is merged with that of its number."""
    if not all((files.folder / "tokenizer.json").is_file() for files in (first, other)):
        return
    ours, theirs = (load_tokenizer(str(files.folder)).get_vocab() for files in (first, other))
    odd = sorted(token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token))
    if odd:
        raise ModelError(f"its tokenizer differs: {len(odd)} tokens, `{odd[0]}` among them", where=other.name, fix=fix)
