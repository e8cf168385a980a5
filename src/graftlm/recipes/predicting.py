"""What a trained encoder says of new rows: `graft predict`."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel
from transformers import PreTrainedTokenizerBase as Tokenizer

from graftlm.core.console import console, say, warn
from graftlm.core.errors import DataError, ModelError
from graftlm.core.files import atomic_file, read_json
from graftlm.data.readers import Fault, Row, read_rows
from graftlm.data.records import RowError
from graftlm.data.records.annotations import unclassified, untagged
from graftlm.data.records.choices import unanswered_choice
from graftlm.data.samples import Classified, Labelled, Sample, Tagged
from graftlm.data.tags import entities_of_tokens
from graftlm.evaluation.encoder import classes, options, read_documents, tags
from graftlm.models.encoder import Task, finished_labels, load_encoder, position_limit
from graftlm.models.loading import load_config, load_tokenizer
from graftlm.recipes.answer_words import answer_ids, noted_answer_words
from graftlm.recipes.encoder_blocks import encode_task

CHUNK = 2_000
"""Rows that are read, answered and written at a time."""

MOST_TOKENS = 8_192


@dataclass(frozen=True)
class Predictor:
    """A trained encoder, ready for rows."""

    model: PreTrainedModel
    tokenizer: Tokenizer
    task: Task
    labels: list[str]
    longest: int
    row_tokens: int = MOST_TOKENS

    def answers(self, samples: list[Any]) -> Iterator[dict[str, Any]]:
        """What the encoder says of each sample, in order; {"refused": why} for one that has no room."""
        documents = encode_task(self.tokenizer, samples, self.task, self.labels, self.longest)
        words = noted_answer_words(self.model.config)
        read = {"classify": classes, "match": classes, "tag": tags}.get(self.task)
        found = read_documents(
            self.model,
            documents.store,
            read or options(answer_ids(self.tokenizer, words or ("", ""))),
            row_tokens=max(self.row_tokens, self.longest),
            device=self.model.device,
            bf16=False,
        )
        told = dict(zip(map(id, documents.samples), range(len(found)), strict=True))
        for sample in samples:
            place = told.get(id(sample))
            if place is None:
                yield {"refused": f"its options leave no room for the question in {self.longest} tokens"}
                continue
            offsets = documents.offsets[place] if documents.offsets else ()
            cut = documents.cut[place]
            more = {"tokens_cut": cut} if cut else {}
            yield self._answer(sample, found[place], offsets) | more

    def _answer(self, sample: Sample, found: np.ndarray, offsets: Any) -> dict[str, Any]:
        if isinstance(sample, Tagged):
            named = entities_of_tokens([self.labels[number] for number in found], offsets, sample.text)
            marked = [
                {"start": one.start, "end": one.end, "type": one.kind, "text": sample.text[one.start : one.end]}
                for one in named
            ]
            return {"text": sample.text, "entities": marked}
        best = int(found.argmax())
        if isinstance(sample, Labelled):
            asked = {"question": sample.prompt[-1].content, "choices": list(sample.choices)}
            return asked | {"answer": sample.choices[best], "probability": round(float(found[best]), 4)}
        assert isinstance(sample, Classified)
        texts = {"text": sample.text} | ({"text_b": sample.text_b} if sample.text_b else {})
        return texts | {"label": self.labels[best], "probability": round(float(found[best]), 4)}


def predict_file(place: str, source: Path, output: Path | None) -> None:
    """A prediction a row, as jsonl, in the file's order; rows that cannot be read are named and left out.

    Raises:
        ModelError: the folder holds no encoder that was trained for a task.
        DataError: no row of the file can be used.
    """
    predictor = load_predictor(place)
    if output is None:
        counts = _write(predictor, source, lambda line: console.out(line, highlight=False))
    else:
        with atomic_file(output) as temporary, temporary.open("w", encoding="utf-8") as file:
            counts = _write(predictor, source, lambda line: file.write(line + "\n"))
    if not counts["said"]:
        raise DataError(f"no row among {counts['read']} can be used", where=source, fix="see the reasons above")
    refused = f", {counts['refused']} refused" if counts["refused"] else ""
    cut = f", {counts['cut']} of them cut to {predictor.longest} tokens" if counts["cut"] else ""
    if output is not None:
        say(f"{counts['said']:,} of {counts['read']:,} rows{refused}{cut}: {output}")
    elif refused or cut:
        warn(f"{counts['said']:,} of {counts['read']:,} rows{refused}{cut}")


def load_predictor(place: str) -> Predictor:
    """A model folder, or the folder of a run: its last finished encoder."""
    where = newest_encoder(place)
    task = trained_task(where)
    labels = finished_labels(where, task) or []
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_encoder(where, task, labels, dtype=torch.float32, device=device)
    return Predictor(model, load_tokenizer(where), task, labels, position_limit(where) or MOST_TOKENS)


def trained_task(place: str) -> Task:
    """What a model was trained for, by its configuration."""
    config = load_config(place)
    named = (config.architectures or [""])[0]
    if named.endswith("ForTokenClassification"):
        return "tag"
    if named.endswith("ForSequenceClassification"):
        return "classify"
    if noted_answer_words(config):
        return "choice"
    raise ModelError(
        f"it is `{named or config.model_type}`, which answers nothing by itself",
        where=place,
        fix="train it with a stage `encoder` for one of the tasks classify, match, tag and choice",
    )


def newest_encoder(place: str) -> str:
    """The model of a run's last finished encoder stage when `place` is a run folder, else `place`."""
    folder = Path(place)
    if not (folder / "recipe.yaml").is_file():
        return place
    finished = sorted(folder.glob("[0-9][0-9]-*/receipt.json"))
    found = [file for file in finished if _answers(read_json(file))]
    if not found:
        raise ModelError("no encoder of this run is finished", where=place, fix="let `graft run` finish its stage")
    return str(found[-1].parent / "model")


def _answers(receipt: Mapping[str, Any]) -> bool:
    return receipt.get("kind") == "encoder" and receipt.get("settings", {}).get("task") != "mlm"


def _write(predictor: Predictor, source: Path, write: Any) -> dict[str, int]:
    counts = {"read": 0, "said": 0, "refused": 0, "cut": 0}
    waiting: list[Sample] = []

    def answer() -> None:
        for sample, said in zip(waiting, predictor.answers(waiting), strict=True):
            if "refused" in said:
                counts["refused"] += 1
                warn(f"{sample.origin}: {said['refused']}")
                continue
            counts["said"] += 1
            counts["cut"] += "tokens_cut" in said
            write(json.dumps(said, ensure_ascii=False))
        waiting.clear()

    for row in read_rows(source, split="line"):
        counts["read"] += 1
        sample = row if isinstance(row, Fault) else _sample(row, predictor.task)
        if isinstance(sample, Fault):
            counts["refused"] += 1
            warn(str(sample))
            continue
        waiting.append(sample)
        if len(waiting) == CHUNK:
            answer()
    answer()
    return counts


def _sample(row: Row, task: Task) -> Sample | Fault:
    others: dict[Task, Callable[..., Sample]] = {"tag": untagged, "choice": unanswered_choice}
    build = others.get(task, unclassified)
    try:
        return build(row.values, row.origin)
    except RowError as error:
        return Fault(row.origin, str(error))
