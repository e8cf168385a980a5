"""Colours and shapes: a text tower learns to find drawn images, with a frozen random vision tower, from the command
line."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image, ImageDraw
from safetensors.torch import load_file
from transformers import AutoProcessor, AutoTokenizer, CLIPVisionConfig, CLIPVisionModel, VisionTextDualEncoderModel

COLOURS = {
    "红色": (220, 30, 30),
    "绿色": (30, 170, 50),
    "蓝色": (40, 60, 220),
    "黄色": (230, 210, 40),
    "黑色": (10, 10, 10),
}
SHAPES = ("圆形", "方形", "三角", "十字")
SIDE = 32


def draw(colour: str, shape: str, rng: random.Random) -> Image.Image:
    """The shape in its colour, moved by up to a pixel, on a noisy light ground."""
    ground = 235 + np.random.default_rng(rng.randrange(2**32)).integers(-10, 11, (SIDE, SIDE, 3))
    image = Image.fromarray(ground.astype(np.uint8))
    pen, x, y = ImageDraw.Draw(image), 4 + rng.randint(-1, 1), 4 + rng.randint(-1, 1)
    size, fill = 24, COLOURS[colour]
    if shape == "圆形":
        pen.ellipse((x, y, x + size, y + size), fill=fill)
    elif shape == "方形":
        pen.rectangle((x, y, x + size, y + size), fill=fill)
    elif shape == "三角":
        pen.polygon([(x + size // 2, y), (x, y + size), (x + size, y + size)], fill=fill)
    else:
        third = size // 3
        pen.rectangle((x + third, y, x + 2 * third, y + size), fill=fill)
        pen.rectangle((x, y + third, x + size, y + 2 * third), fill=fill)
    return image


@pytest.fixture(scope="module")
def run(nursery: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run."""
    folder = tmp_path_factory.mktemp("images")
    (folder / "drawn").mkdir()
    rng = random.Random(0)
    rows = []
    for number in range(400):
        colour, shape = rng.choice(list(COLOURS)), rng.choice(SHAPES)
        draw(colour, shape, rng).save(folder / f"drawn/{number:03d}.png")
        rows.append({"image": f"drawn/{number:03d}.png", "caption": f"一个{colour}的{shape}"})
    (folder / "drawn/torn.png").write_bytes((folder / "drawn/000.png").read_bytes()[:60])
    (folder / "drawn/text.png").write_text("no image")
    bad = [{"image": "drawn/none.png", "caption": "空"}, {"image": "drawn/torn.png", "caption": "空"}]
    bad += [{"image": "drawn/text.png", "caption": "空"}, {"image": "drawn/001.png", "caption": " "}]
    lines = [json.dumps(row, ensure_ascii=False) for row in rows + bad]
    (folder / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")

    torch.manual_seed(0)
    tower = CLIPVisionModel(CLIPVisionConfig(
        hidden_size=96, intermediate_size=192, num_hidden_layers=1, num_attention_heads=4, image_size=SIDE,
        patch_size=16,
    ))  # fmt: skip
    tower.save_pretrained(folder / "vision")
    processor = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": SIDE}, "crop_size": SIDE}
    (folder / "vision/preprocessor_config.json").write_text(json.dumps(processor))
    tree = {
        "name": "pairs", "offline": True, "device": "cpu", "output": str(folder / "out"),
        "base": {
            "architecture": {
                "model_type": "bert", "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 1,
                "num_attention_heads": 4, "max_position_embeddings": 32, "initializer_range": 0.1,
            },
            "vocabulary": 310, "tokenizer_blocks": ["words"],
        },
        "data": {
            "words": {"path": "rows.jsonl", "kind": "text", "columns": {"text": "caption"}},
            "pictures": {"path": "rows.jsonl", "held_out": 0.2},
        },
        "stages": {"pairs": {
            "stage": "image_text", "vision": "./vision", "blocks": ["pictures"], "projection": 48, "epochs": 15,
            "learning_rate": 3e-3, "row_tokens": 512, "max_tokens": 32,
        }},
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(yaml.safe_dump(tree, sort_keys=False, allow_unicode=True), encoding="utf-8")
    done = nursery.run(folder, "run", folder / "recipe.yaml")
    assert done.code == 0, done.said
    (folder / "said.txt").write_text(done.said, encoding="utf-8")
    return folder


def receipt(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "out/01-pairs/receipt.json").read_text(encoding="utf-8"))
    return found


def test_images_that_were_kept_back_are_found(run: Path) -> None:
    figures = receipt(run)["figures"]
    assert figures["images after"] == 80
    for way in ("text to image", "image to text"):
        assert figures[f"{way} recall@1 before"] < 0.3
        assert figures[f"{way} recall@1 after"] > 0.9
        assert figures[f"{way} recall@5 after"] >= figures[f"{way} recall@1 after"]


def test_the_frozen_tower_is_the_same_bit_for_bit_and_all_else_has_learnt(run: Path) -> None:
    before = load_file(run / "vision/model.safetensors")
    model = VisionTextDualEncoderModel.from_pretrained(run / "out/01-pairs/model")
    tower = CLIPVisionModel.from_pretrained(run / "vision").state_dict()
    after = model.vision_model.state_dict()
    assert len(before) == len(tower) == len(after) and all(torch.equal(tower[name], after[name]) for name in after)
    found = receipt(run)["parameters"]
    frozen = sum(p.numel() for p in model.vision_model.parameters())
    assert found["all"] - found["trained"] == frozen
    assert model.logit_scale.item() != pytest.approx(2.6592, abs=1e-4)


def test_bad_pairs_are_named_and_counted(run: Path) -> None:
    said = (run / "said.txt").read_text(encoding="utf-8")
    assert "there is no image drawn/none.png" in said and "caption is empty" in said
    assert "torn.png: the image is broken" in said and "text.png: it is no image" in said
    counts = receipt(run)["accounting"]["pictures"]
    assert (counts["read"], counts["refused"], counts["samples"]) == (404, 4, 320)


def test_a_folder_is_searched(run: Path, nursery: Any) -> None:
    rng, folder = random.Random(5), run / "album"
    folder.mkdir()
    for colour in COLOURS:
        for shape in SHAPES:
            draw(colour, shape, rng).save(folder / f"{colour}{shape}.png")
    model = run / "out/01-pairs/model"
    right = 0
    for query in ("一个红色的圆形", "一个蓝色的方形", "一个黑色的三角", "一个绿色的十字"):
        done = nursery.run(run, "retrieve-images", model, folder, query, "--top", "3")
        assert done.code == 0, done.said
        first = done.out.splitlines()[0]
        right += query == f"一个{Path(first.split('  ')[1]).stem.replace('色', '色的')}"
        assert len(done.out.splitlines()) == 4 and "3 of 20 images" in done.out
    assert right == 4
    # transformers alone finds the same image first.
    tokenizer, processor = AutoTokenizer.from_pretrained(model), AutoProcessor.from_pretrained(model)
    towers = VisionTextDualEncoderModel.from_pretrained(model)
    files = sorted(folder.glob("*.png"))
    pixels = processor.image_processor([Image.open(file).convert("RGB") for file in files], return_tensors="pt")
    with torch.no_grad():
        out = towers(**tokenizer(query, return_tensors="pt"), pixel_values=pixels["pixel_values"])
    assert str(files[int(out.logits_per_text.argmax())]) == first.split("  ")[1]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("out/00-base", "album-none", "x"), "no image is there"),
        (("vision", "drawn", "x"), "cannot be loaded"),
        (("out/01-pairs/model", "drawn", " "), "the text is empty"),
    ],
)
def test_what_cannot_be_searched_is_said(args: tuple[str, ...], words: str, run: Path, nursery: Any) -> None:
    done = nursery.run(run, "retrieve-images", *args)
    assert done.code == 2 and "Traceback" not in done.said and done.err.startswith("error:"), done.said
