"""Ratings of battle files: what `graft arena rate` prints, and its page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from graftlm.core.console import say, warn
from graftlm.core.errors import DataError, GraftError
from graftlm.core.files import write_text
from graftlm.evaluation.arena.battles import Battle, Grade, each_once
from graftlm.evaluation.arena.elo import START, online_elo
from graftlm.evaluation.arena.grades import grade_battles
from graftlm.evaluation.arena.ratings import Anchor, rate
from graftlm.evaluation.arena.record_log import RecordLog
from graftlm.recipes.arena_page import arena_page
from graftlm.recipes.arena_table import effect_table, rating_table


def rate_files(
    files: Sequence[Path],
    *,
    anchor: str | None,
    style_control: bool,
    category: str | None,
    judge: str | None,
    bootstraps: int,
    seed: int,
    page: Path | None,
) -> None:
    """Print the ratings of all battles in the files, and write them as a page if asked to.

    Args:
        anchor: MODEL or MODEL:RATING.
        category, judge: only these battles.

    Raises:
        DataError: a file cannot be read, holds no battles, or models never met.
    """
    read = [battle for file in files for battle in read_battles(file)]
    battles = each_once(read)
    if len(battles) < len(read):
        warn(f"{len(read) - len(battles):,} lines repeat a battle and are not counted")
    chosen = _only(battles, "category", category)
    chosen = _only(chosen, "judge", judge)
    unreadable = sum(battle.verdict == "unreadable" for battle in chosen)
    if unreadable:
        warn(f"{unreadable:,} of {len(chosen):,} battles have no verdict and are not rated")
    if style_control and (unknown := sum(not (battle.style_a and battle.style_b) for battle in chosen)):
        warn(f"{unknown:,} of {len(chosen):,} battles do not tell the style of their answers and are not rated")
    found = rate(chosen, anchor=_anchor(anchor), style_control=style_control, bootstraps=bootstraps, seed=seed)
    for note in found.notes:
        warn(note)
    elo = online_elo(chosen)
    say(rating_table(found, elo))
    if found.effects:
        say()
        say(effect_table(found))
    if page is not None:
        write_text(page, arena_page(found, elo, chosen))
        say(str(page))


def read_battles(file: Path) -> list[Battle]:
    """Of a file of battles, or of grades: then two models battle over each answer.

    Raises:
        DataError: the file is absent, empty, or holds something else.
    """
    if not file.is_file():
        raise DataError("the file does not exist", where=file, fix="graft arena judge, vote or exam write such files")
    with file.open(encoding="utf-8", errors="replace") as lines:
        graded = '"grade":' in lines.readline()
    battles = grade_battles(RecordLog(file, Grade).read()) if graded else RecordLog(file, Battle).read()
    if not battles:
        raise DataError("no battle in it", where=file, fix="graft arena judge, vote or exam write such files")
    return battles


def _only(battles: list[Battle], field: str, wanted: str | None) -> list[Battle]:
    if wanted is None:
        return battles
    found = [battle for battle in battles if getattr(battle, field) == wanted]
    if not found:
        known = ", ".join(sorted({str(getattr(battle, field)) for battle in battles}))
        raise GraftError(f"no battle of this {field}", where=wanted, fix=f"take one of: {known}")
    return found


def _anchor(text: str | None) -> Anchor | None:
    if text is None:
        return None
    model, colon, rating = text.rpartition(":")
    if not colon:
        return Anchor(text, START)
    try:
        return Anchor(model, float(rating))
    except ValueError:
        return Anchor(text, START)  # a name with a colon in it
