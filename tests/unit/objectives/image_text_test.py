"""CLIP's loss in closed form, recall by hand, towers that come from files."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from transformers import (
    ChineseCLIPConfig,
    ChineseCLIPModel,
    CLIPConfig,
    CLIPModel,
    CLIPVisionConfig,
    CLIPVisionModel,
    ViTConfig,
    ViTModel,
)

from graftlm.core.errors import DataError, ModelError
from graftlm.data.annotated import AnnotatedStore, Notebook
from graftlm.data.encode_annotated import encode_classified
from graftlm.data.images import image_files, open_image
from graftlm.data.packing import pack_samples
from graftlm.data.samples import Classified, Origin
from graftlm.evaluation.image_text import recall
from graftlm.models.image_text import (
    freeze_vision,
    image_states,
    image_vectors,
    inverse_temperature,
    load_dual_encoder,
    text_vectors,
)
from graftlm.models.loading import save_model
from graftlm.models.scratch_encoder import new_encoder, train_wordpiece
from graftlm.objectives.image_text import ContrastivePairs, Pictures, clip_loss

CPU = torch.device("cpu")
O = Origin("rows.jsonl", 1)
TEXT = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
VISION = TEXT | {"image_size": 16, "patch_size": 8}
CAPTIONS = ["红色的圆", "蓝色的方", "绿色的三角", "红色的圆"]


def test_two_pairs_in_closed_form() -> None:
    """One mean of two softmaxes a pair: ln(1 + e^{s(c_12 - c_11)}) by text, with c_21 by image, and so on."""
    cosine, s = torch.tensor([[0.9, 0.1], [0.3, 0.6]], dtype=torch.float64), 5.0
    by_text = math.log1p(math.exp(s * (0.1 - 0.9))) + math.log1p(math.exp(s * (0.3 - 0.6)))
    by_image = math.log1p(math.exp(s * (0.3 - 0.9))) + math.log1p(math.exp(s * (0.1 - 0.6)))
    assert clip_loss(cosine, torch.tensor(s)).item() == pytest.approx((by_text + by_image) / 2, rel=1e-9)
    assert clip_loss(torch.zeros(4, 4), torch.tensor(s)).item() == pytest.approx(4 * math.log(4))


def test_it_is_the_mean_of_two_cross_entropies() -> None:
    torch.manual_seed(0)
    cosine = torch.rand(7, 7, dtype=torch.float64)
    target = torch.arange(7)
    expected = (F.cross_entropy(3 * cosine, target) + F.cross_entropy(3 * cosine.T, target)) / 2
    torch.testing.assert_close(clip_loss(cosine, torch.tensor(3.0)) / 7, expected)


def test_equal_captions_are_no_wrong_answers() -> None:
    cosine = torch.tensor([[0.5, 0.5, 0.0], [0.5, 0.5, 0.0], [0.0, 0.0, 1.0]])
    same = torch.tensor([[1, 1, 0], [1, 1, 0], [0, 0, 1]]).bool()
    left_out = clip_loss(cosine, torch.tensor(2.0), same)
    # Each of the first two is compared with the third alone; the third with both.
    expected = 2 * math.log1p(math.exp(-1.0)) + math.log1p(2 * math.exp(-2.0))
    assert left_out.item() == pytest.approx(expected, rel=1e-6) and clip_loss(cosine, torch.tensor(2.0)) > left_out


@pytest.mark.parametrize(
    ("cosine", "k", "value"),
    [
        ([[0.9, 0.5, 0.1], [0.8, 0.2, 0.1]], 1, 0.5),
        ([[0.9, 0.5, 0.1], [0.8, 0.2, 0.1]], 2, 1.0),
        ([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], 1, 0.0),  # saying nothing is no hit
        ([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]], 3, 1.0),
    ],
)
def test_recall(cosine: list[list[float]], k: int, value: float) -> None:
    relevant = torch.tensor([[1, 0, 0], [0, 1, 0]]).bool()
    assert recall(torch.tensor(cosine), relevant, k).value == value


def test_recall_asks_for_one_of_several() -> None:
    relevant = torch.tensor([[1, 0, 1]]).bool()
    assert recall(torch.tensor([[0.1, 0.5, 0.9]]), relevant, 1).value == 1
    assert recall(torch.tensor([[0.1, 0.9, 0.5]]), relevant, 1).value == 0


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders: text (an encoder), tower, vit, clip, chinese."""
    folder = tmp_path_factory.mktemp("towers")
    torch.manual_seed(0)
    tokenizer = train_wordpiece(CAPTIONS * 3, 310, max_tokens=32)
    text = {"model_type": "bert", "max_position_embeddings": 32, "initializer_range": 0.2} | TEXT
    save_model(new_encoder(text, tokenizer, 0), tokenizer, folder / "text")
    save_model(
        new_encoder(TEXT | {"model_type": "roformer", "embedding_size": 32}, tokenizer, 0),
        tokenizer,
        folder / "roformer",
    )
    CLIPVisionModel(CLIPVisionConfig(**VISION)).save_pretrained(folder / "tower")
    ViTModel(ViTConfig(**VISION)).save_pretrained(folder / "vit")
    both = {"text_config": TEXT | {"vocab_size": 60}, "vision_config": VISION, "projection_dim": 24}
    CLIPModel(CLIPConfig(**both)).save_pretrained(folder / "clip")
    ChineseCLIPModel(ChineseCLIPConfig(**both)).save_pretrained(folder / "chinese")
    return folder


def load(places: Path, text: str, vision: str | None) -> Any:
    torch.manual_seed(1)
    named = None if vision is None else str(places / vision)
    return load_dual_encoder(str(places / text), named, projection=16, dtype=torch.float32, device=CPU)


@pytest.mark.parametrize(("text", "vision", "size"), [
    ("text", "tower", 16), ("text", "vit", 16), ("text", "clip", 24), ("text", "chinese", 24), ("clip", None, 24),
    ("chinese", None, 24),
])  # fmt: skip
def test_towers_of_every_kind(text: str, vision: str | None, size: int, places: Path) -> None:
    model = load(places, text, vision)
    tokens, real = torch.tensor([[2, 7, 9, 3], [2, 8, 3, 0]]), torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0]]).bool()
    with torch.no_grad():
        texts = text_vectors(model, tokens, real)
        images = image_vectors(model, image_states(model, torch.randn(3, 3, 16, 16)))
    assert texts.shape == (2, size) and images.shape == (3, size)
    torch.testing.assert_close(images.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize(("kind", "vision"), [(CLIPModel, "clip"), (ChineseCLIPModel, "chinese")])
def test_a_clip_gives_its_tower_and_its_projection(kind: Any, vision: str, places: Path) -> None:
    whole = kind.from_pretrained(places / vision).eval()
    model, pixels = load(places, "text", vision), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        theirs = whole.get_image_features(pixel_values=pixels)
        theirs = theirs if isinstance(theirs, torch.Tensor) else theirs.pooler_output
        torch.testing.assert_close(image_vectors(model, image_states(model, pixels)), F.normalize(theirs, dim=-1))


def test_what_is_no_pair_of_towers_is_refused(places: Path) -> None:
    for text, vision, reason in (
        ("text", None, "has no vision tower"), ("clip", "tower", "no text encoder"),
        ("text", "text", "looks at no images"), ("roformer", "tower", "no pooled output"),
    ):  # fmt: skip
        with pytest.raises(ModelError, match=reason):
            load(places, text, vision)


def test_a_step_leaves_the_frozen_tower_alone_and_is_that_of_the_formula(places: Path) -> None:
    model = load(places, "text", "tower")
    freeze_vision(model)
    tokenizer = train_wordpiece(CAPTIONS * 3, 310, max_tokens=32)
    documents = encode_classified(tokenizer, [Classified(text, "", O) for text in CAPTIONS], [], longest=32)
    store = AnnotatedStore.of(documents, "captioned", {})
    [row] = pack_samples(store.store, 100).all_rows(pad=False)
    states = image_states(model, torch.randn(3, 3, 16, 16)).detach()
    images = torch.tensor([0, 1, 2, 2])  # the last caption, which equals the first, has another's image
    objective = ContrastivePairs(Notebook([store]), Pictures(states, [images], [torch.tensor([0, 1, 2, 0])]))
    loss = objective(model, row)
    assert loss.units == objective.units(row) == 4

    order = [number & 0xFFFF for number in row.document.tolist()]
    with torch.no_grad():
        asked = [tokenizer(CAPTIONS[n], return_tensors="pt") for n in order]
        texts = torch.cat([text_vectors(model, one["input_ids"], one["attention_mask"].bool()) for one in asked])
        cosine = texts @ image_vectors(model, states[images[order]]).T
    same = torch.tensor([[CAPTIONS[a] == CAPTIONS[b] or images[a] == images[b] for b in order] for a in order])
    torch.testing.assert_close(loss.total.detach(), clip_loss(cosine, inverse_temperature(model), same).detach())

    before = {name: value.clone() for name, value in model.state_dict().items()}
    (loss.total / 4).backward()
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0).step()
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert not [name for name in changed if name.startswith("vision_model")]
    assert {"visual_projection.weight", "text_projection.weight", "logit_scale"} <= changed
    assert any(name.startswith("text_model") for name in changed)


def test_the_temperature_ends_at_a_hundred(places: Path) -> None:
    model = load(places, "text", "tower")
    assert inverse_temperature(model).item() == pytest.approx(1 / 0.07, rel=1e-3)
    with torch.no_grad():
        model.logit_scale.fill_(9.0)
    assert inverse_temperature(model).item() == pytest.approx(100)


def test_images_are_opened_in_rgb_and_broken_ones_named(tmp_path: Path) -> None:
    Image.new("L", (4, 3), 7).save(tmp_path / "grey.png")
    Image.new("RGBA", (4, 3)).save(tmp_path / "clear.PNG")
    assert open_image(tmp_path / "grey.png").mode == open_image(tmp_path / "clear.PNG").mode == "RGB"
    turned = Image.new("RGB", (4, 3))
    exif = turned.getexif()
    exif[0x0112] = 6  # the camera lay on its side
    turned.save(tmp_path / "turned.jpg", exif=exif)
    assert open_image(tmp_path / "turned.jpg").size == (3, 4)
    (tmp_path / "text.png").write_text("x")
    with pytest.raises(DataError, match="it is no image"):
        open_image(tmp_path / "text.png")
    assert [path.name for path in image_files(tmp_path)] == ["clear.PNG", "grey.png", "text.png", "turned.jpg"]
