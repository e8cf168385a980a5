"""Planted leaks are found and nothing else; questions and answers apart; scores by what was found."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from graftlm.core.errors import DataError
from graftlm.data import worlds
from graftlm.data.samples import Chat, Labelled, Origin, Text, Turn
from graftlm.evaluation.contamination import Item, TaskOverlap, find_contamination, score_by_overlap
from graftlm.evaluation.metrics import split_words
from graftlm.evaluation.results import TaskResult
from graftlm.evaluation.statistics import Scores, difference
from graftlm.recipes.schema import Source
from graftlm.recipes.sources import read_source, stream_source

SHARED = Path(__file__).parents[4] / "shared" / "data"
QUESTION = "Which of the four great rivers of the northern plain floods first in a spring after a hard winter?"
LONG = "First take the number of boats, which is twelve, and divide it among the three harbours of the bay."


def item(question: str, *answers: str, line: int = 1) -> Labelled:
    return Labelled((Turn("user", question),), answers, Origin("exam.csv", line))


def text(content: str, line: int = 1) -> Text:
    return Text(content, Origin("train.txt", line))


def search(items: list[Item], *training: str) -> TaskOverlap:
    return find_contamination({"exam": items}, [text(one, line) for line, one in enumerate(training, 1)]).tasks[0]


def test_question_and_answer_are_told_apart() -> None:
    both, asked, none = (
        search([item(QUESTION, "the Elm")], row).items[0]
        for row in (f"Q: {QUESTION} A: The Elm, as all know.", f"Q: {QUESTION}", "the Elm flows to the sea")
    )
    assert (both.question_share, both.answer_share, both.in_one, both.exact) == (1.0, 1.0, 1.0, 19)
    assert both.evidence[0].train == "train.txt:1" and both.evidence[0].part == "question"
    assert both.evidence[0].words == QUESTION.lower().rstrip("?")
    assert (asked.question_share, asked.answer_share) == (1.0, 0.0)
    assert (none.question_share, none.answer_share, none.evidence) == (0.0, 0.0, [])


def test_a_long_answer_gives_itself_away_and_a_short_one_does_not() -> None:
    found = search([item("How many boats lie in each harbour of the bay today?", LONG)], f"We read: {LONG}").items[0]
    assert (found.question_share, found.answer_share, found.share) == (0.0, 1.0, 1.0)
    assert found.evidence[0].part == "answer"
    name = "human immunodeficiency virus of the type number one"
    assert search([item(QUESTION, name)], f"It is the {name} again.").items[0].share == 0.0


def test_items_too_short_to_judge_are_said_to_be() -> None:
    task = search([item("What is 2 + 2?", "4"), item(QUESTION, "the Elm")], "What is 2 + 2? 4")
    assert task.items[0].share is None and task.judged == 1 and task.touched == 0
    assert task.places(0.0) == [1]


def test_an_item_of_eight_to_twelve_words_must_stand_as_a_whole() -> None:
    question = "Who wrote the first book on northern rivers?"
    assert search([item(question, "x")], "we ask: who wrote the first book on northern rivers").items[0].share == 1.0
    assert search([item(question, "x")], "who wrote the first book on northern trees").items[0].share == 0.0


def test_shares_add_up_over_texts_and_one_text_is_told_apart() -> None:
    words = QUESTION.split()
    found = search([item(QUESTION, "x")], " ".join(words[:13]), " ".join(words[6:])).items[0]
    assert found.share == 1.0 and found.in_one == pytest.approx(13 / 19) and found.texts == 2


def test_conversations_and_documents_are_searched_and_the_places_named() -> None:
    chat = Chat((Turn("user", QUESTION), Turn("assistant", "The Elm.")), Origin("chat.jsonl", 31))
    tasks = {"exam": [item(QUESTION, "the Elm")], "texts": [text(QUESTION, 7)]}
    found = find_contamination(tasks, iter([text("nothing"), chat]))
    assert found.texts == 2
    assert [task.items[0].evidence[0].train for task in found.tasks] == ["chat.jsonl:31"] * 2
    assert found.tasks[1].items[0].answer_share is None and found.tasks[1].items[0].origin == "train.txt:7"
    assert found.tasks[0].answered == 1 and found.tasks[1].answered == 0


def planted_forms(question: str) -> dict[str, str]:
    units = split_words(question)
    return {
        "exact": question,
        "disguised": "  ".join(question.upper().translate({c: c + 0xFEE0 for c in range(0x21, 0x7F)}).split(" ")),
        "partial": question[: round(0.6 * len(question))],
        "reworded": " ".join("qq" if place % 6 == 3 else unit for place, unit in enumerate(units)),
    }


def recall(items: list[Labelled], carriers: list[str], clean: int) -> tuple[dict[str, float], float]:
    """Share found of each planted form, and of all items where nothing was planted."""
    rng = random.Random(0)
    rows, kinds = list(carriers), {}
    for place, one in enumerate(items[clean:]):
        forms = planted_forms(one.prompt[-1].content)
        kind = list(forms)[place % len(forms)]
        kinds[clean + place] = kind
        rows.append(f"{rng.choice(carriers)}\n{forms[kind]}\n{rng.choice(carriers)}")
    rng.shuffle(rows)
    found = set(search(list(items), *rows).places(0.2))
    counts = {kind: [place in found for place in kinds if kinds[place] == kind] for kind in set(kinds.values())}
    false = len(search(list(items), *carriers).places(0.2)) / len(items)
    return {kind: float(np.mean(hits)) for kind, hits in counts.items()}, false


def test_planted_leaks_in_generated_text() -> None:
    notes = worlds.generate("clinic", "consultations", count=400, seed=5)
    carriers = ["\n".join(turn.content for turn in chat.turns) for chat in notes if isinstance(chat, Chat)]
    rng = random.Random(3)
    terms = [f"{a}{b}" for a in ("lor", "ven", "mas", "pin", "dru") for b in ("a", "eth", "ick", "um", "os", "ent")]
    items = [item("Does " + " ".join(rng.choices(terms, k=30)) + " help?", "yes", line=n) for n in range(400)]
    found, false = recall(items, carriers, clean=200)
    assert found == {"exact": 1.0, "disguised": 1.0, "partial": 1.0, "reworded": 0.0}
    assert false == 0.0


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_planted_leaks_in_real_text() -> None:
    files = [SHARED / "eval" / name for name in ("mmlu/test", "cmmlu/test/marketing.csv", "cmmlu/test/genetics.csv")]
    read = [one for file in files for one in read_source("test", Source(path=str(file), kind="labelled")).samples]
    items = [one for one in read if isinstance(one, Labelled) and len(split_words(one.prompt[-1].content)) >= 26]
    random.Random(1).shuffle(items)
    texts = stream_source(Source(path=str(SHARED / "pretrain/wikitext2"), split="paragraph", limit=600))
    carriers = [one.text for one in texts if isinstance(one, Text)]
    found, false = recall(items[:400], carriers, clean=200)
    assert found["exact"] == found["disguised"] == found["partial"] == 1.0 and found["reworded"] == 0.0
    assert false <= 0.01


@pytest.mark.skipif(not SHARED.is_dir(), reason="needs ../shared/data")
def test_two_halves_of_a_text_share_little() -> None:
    texts = stream_source(Source(path=str(SHARED / "pretrain/wikitext2"), split="paragraph"))
    rows = [one for one in texts if isinstance(one, Text) and len(split_words(one.text)) >= 20][:2000]
    half = len(rows) // 2
    task = find_contamination({"half": rows[half:]}, rows[:half]).tasks[0]
    assert task.judged == len(rows) - half > 200 and len(task.places(0.2)) / task.judged <= 0.01


def test_a_translation_is_not_found() -> None:
    assert search([item(QUESTION, "the Elm")], "严冬之后的春天，北方平原四条大河中哪一条最先泛滥？").touched == 0


def result(scores: list[float]) -> TaskResult:
    value = float(np.mean(scores))
    return TaskResult(
        name="exam", side="domain", metric="accuracy", higher_is_better=True, value=value, low=0.0, high=1.0,
        n=len(scores), metrics={}, kinds={}, scores=scores, weights=[1.0] * len(scores), samples=[], items_hash="",
        seconds=0.0,
    )  # fmt: skip


def test_the_score_on_clean_and_on_other_items() -> None:
    """40 clean items at 0.5, 20 copied ones at 1, 1 too short to judge."""
    rng = random.Random(4)
    items = [item(" ".join(f"w{rng.randrange(999)}" for _ in range(20)), "x", line=n) for n in range(60)]
    items.append(item("What is 2 + 2?", "4"))
    overlap = search(list(items), *(one.prompt[-1].content for one in items[40:60]))
    found = score_by_overlap(result([0.0, 1.0] * 20 + [1.0] * 20 + [0.0]), overlap)
    assert {name: (one.value, one.n) for name, one in found.subsets.items()} == {
        "clean": (0.5, 40), "not clean": (1.0, 20), "not dirty": (0.5, 40), "dirty": (1.0, 20),
    }  # fmt: skip
    assert found.change is not None and found.change.value == 0.5 and found.change.is_clear
    nothing = score_by_overlap(result([0.0, 1.0] * 30 + [0.0]), search(list(items), "nothing"))
    assert nothing.change is None and nothing.subsets.keys() == {"clean", "not dirty"}
    with pytest.raises(DataError, match="3 items, but 61"):
        score_by_overlap(result([0.0, 1.0, 1.0]), overlap)


def test_the_interval_of_a_difference_is_that_of_two_independent_means() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.random(300), rng.random(200) + 0.1
    found = difference(Scores.of(first.tolist()), Scores.of(second.tolist()))
    spread = np.sqrt(first.var() / 300 + second.var() / 200)
    assert found.value == pytest.approx(second.mean() - first.mean())
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * spread, rel=0.08)
    assert found.n == 500
