"""Suites of public leaderboards from bare task scores: normalise, average, carry the errors along."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from graftlm.evaluation.leaderboard.entries import GroupScore
from graftlm.evaluation.leaderboard.published import SUITES, Member, Part

Z95 = 1.959964
"""Half the width of a 95 % interval in standard errors."""


@dataclass(frozen=True)
class Measured:
    """A raw score between 0 and 1 and its standard error; shots: None where not known."""

    value: float
    error: float | None
    shots: int | None = None


Table = Mapping[tuple[str, str], Measured]
"""Raw scores by task and metric."""


def normalise(value: float, chance: float) -> float:
    """max(0, (value - chance) / (1 - chance)), times 100."""
    return 100 * max(0.0, (value - chance) / (1 - chance))


def suite_groups(table: Table) -> list[GroupScore]:
    """Every suite that some task belongs to, as a group, with a group for each member of several tasks.

    A member that lacks a task, or was run with other shots than the suite prescribes, is missing: its part of a mean
    would be another number under the same name.
    """
    found: list[GroupScore] = []
    for suite in SUITES:
        scored = {member.name: score_member(member, table) for member in suite.members}
        have = {name: score for name, score in scored.items() if isinstance(score, Measured)}
        if len(have) < suite.least:
            continue
        missing = {name: score for name, score in scored.items() if isinstance(score, str)}
        found.append(_group(suite.name, suite.how, list(scored), have, missing))
        found += [
            _group(member.name, _how(member), [_first_name(part) for part in member.parts], {"": have[member.name]}, {})
            for member in suite.members
            if member.name in have and not _is_the_task(member, table)
        ]
    return found


def _is_the_task(member: Member, table: Table) -> bool:
    """Whether the member is a task of its name as it is."""
    [name, *more] = [next((task for task in part.names if task in table), ("", "")) for part in member.parts]
    return not more and name[0] == member.name and not member.parts[0].chance


def _how(member: Member) -> str:
    if not any(part.chance for part in member.parts):
        return "raw score" if len(member.parts) == 1 else "mean by items" if member.pooled else "mean"
    if member.pooled:
        return "mean by items, normalised"
    return "normalised" if len(member.parts) == 1 else "mean of normalised scores"


def _first_name(part: Part) -> str:
    return part.names[0][0]


def _group(
    name: str, how: str, members: list[str], have: dict[str, Measured], missing: dict[str, str]
) -> GroupScore:
    """The plain mean; independent errors add up in squares."""
    value = sum(score.value for score in have.values()) / len(have)
    errors = [score.error for score in have.values()]
    if None in errors:
        return GroupScore(name, value, None, None, how, tuple(members), missing)
    half = Z95 * math.sqrt(sum(error**2 for error in errors if error is not None)) / len(have)
    return GroupScore(name, value, max(0.0, value - half), min(100.0, value + half), how, tuple(members), missing)


def score_member(member: Member, table: Table) -> Measured | str:
    """In points of 100 with its standard error; or, in words, why it has no score."""
    found = [next((table[name] for name in part.names if name in table), None) for part in member.parts]
    absent = [_first_name(part) for part, score in zip(member.parts, found, strict=True) if score is None]
    if absent:
        some = "" if len(absent) == len(found) else f" ({len(absent)} of {len(found)} tasks: {absent[0]} …)"
        return f"not run{some}"
    scores = [score for score in found if score is not None]
    shots = {score.shots for score in scores} - {None, member.shots}
    if member.shots is not None and shots:
        return f"run with {min(s for s in shots if s is not None)} shots, the suite asks for {member.shots}"
    return _pooled(member, scores) if member.pooled else _mean(member, scores)


def _pooled(member: Member, scores: list[Measured]) -> Measured:
    total, chance = sum(part.size for part in member.parts), member.parts[0].chance
    shares = [part.size / total for part in member.parts]
    value = sum(share * score.value for share, score in zip(shares, scores, strict=True))
    error = _root([None if s.error is None else share * s.error for share, s in zip(shares, scores, strict=True)])
    return Measured(normalise(value, chance), None if error is None else 100 * error / (1 - chance))


def _mean(member: Member, scores: list[Measured]) -> Measured:
    pairs = list(zip(member.parts, scores, strict=True))
    value = sum(normalise(score.value, part.chance) for part, score in pairs) / len(pairs)
    errors = [None if s.error is None else 100 * s.error / (1 - part.chance) / len(pairs) for part, s in pairs]
    if member.correlated and None not in errors:
        return Measured(value, sum(error for error in errors if error is not None))
    return Measured(value, _root(errors))


def _root(errors: list[float | None]) -> float | None:
    if None in errors:
        return None
    return math.sqrt(sum(error**2 for error in errors if error is not None))
