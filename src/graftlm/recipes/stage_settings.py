"""Settings of the stages: what each kind of stage can be told."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator, model_validator

from graftlm.data.mixing import Order
from graftlm.models.merge_gate import Bounds
from graftlm.models.merging import MergeMethod
from graftlm.recipes.method_settings import (
    RATES,
    ExpandSettings,
    FreezeSettings,
    HeadsSettings,
    LoraSettings,
    Method,
    Part,
    PtuningSettings,
)


def listed_rewards(value: object) -> object:
    """A name is a reward model; one reward is a list of one."""
    listed = value if isinstance(value, list) else [value]
    return [{"model": one} if isinstance(one, str) else one for one in listed]


def named_recompute(value: object) -> object:
    """true and false are names, too."""
    return {True: "full", False: "none"}.get(value, value) if isinstance(value, bool) else value


class SafetyReward(Part):
    """LLaMA 2's rule for two reward models: safety decides where the prompt or the answer is unsafe."""

    model: str = Field(description="the safety reward model: a reward stage, a folder, or a hub name")
    threshold: float = Field(0.15, ge=0, le=1, description="answers that are safe with less probability are unsafe")
    blocks: list[str] = Field(default_factory=list, description="blocks whose prompts are unsafe by themselves")


class RewardSettings(Part):
    """What answers are rewarded for; exactly one of the kinds, from `model` to `length`."""

    model: str | None = Field(None, description="a reward stage of this recipe, a folder, or a hub name")
    safety: SafetyReward | None = Field(None, description="a second reward model beside `model`")
    function: str | None = Field(None, description="Python function by dotted path: package.module:name")
    endpoint: str | None = Field(None, description="http address that takes prompts and answers and returns rewards")
    exact: bool = Field(False, description="1 for an answer that equals an accepted one, else 0")
    contains: bool = Field(False, description="1 for an answer that contains an accepted one, else 0")
    format: str | None = Field(None, description="1 where the whole answer matches this regular expression, else 0")
    regex: str | None = Field(None, description="1 where this regular expression is found in the answer, else 0")
    length: int | None = Field(None, gt=0, description="minus the share of words above this number, at most 1")
    weight: float = Field(1.0, description="factor on this reward; rewards are added up")

    @model_validator(mode="after")
    def _one_kind(self) -> RewardSettings:
        kinds = ("model", "function", "endpoint", "exact", "contains", "format", "regex", "length")
        given = [name for name in kinds if getattr(self, name) not in (None, False)]
        if len(given) != 1:
            raise ValueError(f"give exactly one of {', '.join(kinds)} (given: {', '.join(given) or 'none'})")
        if self.safety and not self.model:
            raise ValueError("safety stands beside a reward model: give `model`, too")
        return self


Rewards = Annotated[list[RewardSettings], Field(min_length=1), BeforeValidator(listed_rewards)]


class BaseStage(Part):
    """Settings that every stage has; a stage without gradients adds its own to them."""

    stage: str = Field(description="its kind")
    start_from: str | None = Field(
        None, alias="from", description="stage whose model to start from; the last language model before it by default"
    )
    blocks: dict[str, float] | list[str] = Field(default_factory=list, description="blocks whose texts it looks at")

    @property
    def makes_language_model(self) -> bool:
        """Whether the stage's model can go on to other stages and be evaluated."""
        return True


class GradientStage(BaseStage):
    """Settings that every stage with gradients has."""

    blocks: dict[str, float] | list[str] = Field(
        description="share of the tokens of each block, or a list: as they come"
    )
    method: Method = "full"
    freeze: FreezeSettings = Field(default_factory=FreezeSettings)
    lora: LoraSettings = Field(default_factory=LoraSettings)
    ptuning: PtuningSettings = Field(default_factory=PtuningSettings)
    heads: HeadsSettings = Field(default_factory=HeadsSettings)
    expand: ExpandSettings = Field(default_factory=ExpandSettings)
    weights: Literal["fp32", "bf16", "bf16_master"] = Field(
        "fp32", description="format of weights trained in full: bf16 is rounded stochastically; _master keeps the rest"
    )
    moments: Literal["fp32", "bf16", "8bit"] = Field("fp32", description="format of AdamW's two moments")
    learning_rate: float | None = Field(None, gt=0, description="by default the method's")
    weight_decay: float = Field(0.1, ge=0)
    warmup: float = Field(0.03, ge=0, lt=1, description="share of the steps")
    clip: float = Field(1.0, gt=0)
    row_tokens: int = Field(2048, gt=1, description="tokens of one packed row, the unit of a forward pass")
    max_tokens: int | None = Field(None, gt=1, description="longest sample; a row by default")
    recompute: Annotated[Literal["auto", "none", "cheap", "full"], BeforeValidator(named_recompute)] = Field(
        "auto", description="what the backward pass computes again to save memory; auto: as little as fits on a GPU"
    )
    compile: bool = Field(True, description="on a GPU: compiled layers and stacked adapters")
    float8: bool = Field(False, description="products of the layers in 8-bit floating point, on a GPU that has it")
    save_every: int = Field(0, ge=0, description="steps between checkpoints; 0: every five minutes")
    keep: int = Field(2, gt=0, description="checkpoints to keep")

    @field_validator("blocks")
    @classmethod
    def _positive(cls, blocks: dict[str, float] | list[str]) -> dict[str, float] | list[str]:
        if not blocks:
            raise ValueError("name at least one block of data")
        if isinstance(blocks, dict) and any(share <= 0 for share in blocks.values()):
            raise ValueError("shares must be above 0")
        return blocks

    @model_validator(mode="after")
    def _adapters_are_fp32(self) -> GradientStage:
        if self.weights != "fp32" and self.method != "full":
            raise ValueError(f"weights: {self.weights} belongs to method: full; all others train in fp32")
        return self

    @model_validator(mode="after")
    def _pissa_fits(self) -> GradientStage:
        if self.method == "qlora" and self.lora.kind == "pissa":
            raise ValueError("kind: pissa changes the frozen weights, quantised ones cannot be: use method: lora")
        return self

    @model_validator(mode="after")
    def _eight_bits_come_in_sixteens(self) -> GradientStage:
        if self.float8 and self.row_tokens % 16:
            raise ValueError(f"float8 needs row_tokens that 16 divides ({self.row_tokens} does not)")
        return self

    @property
    def peak_rate(self) -> float:
        return self.learning_rate or RATES[self.method]

    @property
    def bits(self) -> Literal[4, 8] | None:
        """Of the frozen weights, where they are quantised."""
        if self.method == "ptuning":
            return self.ptuning.bits
        return self.lora.bits if self.method == "qlora" else None

    @property
    def rounding(self) -> Literal["stochastic", "master"]:
        """Of trained weights that are bf16."""
        return "master" if self.weights == "bf16_master" else "stochastic"

    @property
    def longest(self) -> int:
        return min(self.max_tokens or self.row_tokens, self.row_tokens)


class TrainingStage(GradientStage):
    """Settings of the stages that train on given tokens."""

    mix: Order | None = Field(None, description="hybrid (shuffled together) or sequential; the recipe's by default")
    tokens: int | None = Field(None, gt=0, description="train on this many tokens")
    epochs: float | Literal["auto"] = Field(
        "auto", description="passes over the first block; auto: rule of thumb by size"
    )
    step_tokens: int | None = Field(None, gt=1, description="tokens of one optimizer step; one row by default")
    evaluate_every: int = Field(0, ge=0, description="steps between held-out losses; 0: ten times a stage")
    patience: int = Field(0, ge=0, description="stop after this many held-out losses without a new best; 0: never")

    @property
    def rows_per_step(self) -> int:
        return max(1, round((self.step_tokens or self.row_tokens) / self.row_tokens))


class PretrainStage(TrainingStage):
    """Continued pre-training: text blocks train every token, instruction blocks their answers."""

    stage: Literal["pretrain"] = "pretrain"


class ShrinkSettings(Part):
    """A share of the embedding's gradient that moves from one value to another."""

    start: float = Field(0.2, gt=0, le=1)
    end: float = Field(1.0, gt=0, le=1)
    after: int = Field(0, ge=0, description="steps at the first value")
    over: int = Field(1, gt=0, description="steps from there to the second")


class InfillStage(TrainingStage):
    """Blank infilling: what is masked in texts, and the answers to instructions, is filled in."""

    stage: Literal["infill"] = "infill"
    row_tokens: int = Field(2048, ge=64, description="tokens of one packed row, the unit of a forward pass")
    masks: dict[Literal["mask", "smask", "gmask"], float] = Field(
        {"gmask": 0.7, "mask": 0.3},
        description="share of the tokens of each mask: short spans, sentences, the tail of a text",
    )
    mask_ratio: float = Field(0.15, gt=0, lt=1, description="share of the tokens that mask and smask leave out")
    span: float = Field(3.0, gt=0, description="mean length of a mask's spans (Poisson)")
    least_tail: float = Field(0.2, gt=0, le=1, description="least share of a text that gmask leaves out")
    mask_window: int = Field(512, ge=32, description="tokens of a text in which spans and sentences are masked")
    embedding_gradient: Annotated[float, Field(gt=0, le=1)] | ShrinkSettings | None = Field(
        None, description="share of the gradient that reaches the embedding; the model's own by default"
    )

    @field_validator("masks")
    @classmethod
    def _some_mask(cls, masks: dict[str, float]) -> dict[str, float]:
        if min(masks.values(), default=0) < 0 or sum(masks.values()) <= 0:
            raise ValueError("shares must not be below 0, and one must be above it")
        return masks

    @property
    def longest(self) -> int:
        """A mark has to fit beside the longest sample."""
        return min(self.max_tokens or self.row_tokens, self.row_tokens - 1)


class SftStage(TrainingStage):
    """Instruction tuning: every assistant turn, its stop token included."""

    stage: Literal["sft"] = "sft"
    loss: Literal["token", "example"] = Field(
        "token", description="what counts once: a target token, or an example (short answers are not drowned)"
    )


class RewardStage(TrainingStage):
    """A reward model: a scalar head that scores the better answer of a pair above the worse one."""

    stage: Literal["reward"] = "reward"
    model: str | None = Field(
        None, description="start from this model instead of a stage's: a folder or hub name, as a DeBERTa reward model"
    )
    epochs: float | Literal["auto"] = 1.0
    margin: Literal["none", "small", "large"] = Field(
        "none", description="how far apart: by the pairs' strength, on LLaMA 2's small (to 1) or large (to 3) scale"
    )

    @model_validator(mode="after")
    def _has_a_head(self) -> RewardStage:
        if self.method == "qlora":
            raise ValueError("a reward model is not trained on quantised weights: use method: lora")
        if self.method not in ("full", "freeze", "lora"):
            raise ValueError(f"method: {self.method} would not train a reward model's head: use lora, freeze or full")
        return self

    @property
    def makes_language_model(self) -> bool:
        return False


class EncoderStage(TrainingStage):
    """An encoder (BERT and its kin) trained for one task of understanding."""

    stage: Literal["encoder"] = "encoder"
    task: Literal["classify", "match", "tag", "choice", "mlm"] = Field(
        description="class of a text, of a pair of texts, named entities, one of several options, masked words"
    )
    model: str | None = Field(None, description="start from this encoder instead of the recipe's base")
    answer_words: tuple[str, str] | None = Field(
        None, description="choice: what a right and a wrong option's mask is filled with; 是/非 or yes/no by default"
    )
    mask_share: float = Field(0.15, gt=0, lt=1, description="mlm: share of the words that are masked")
    max_tokens: int | None = Field(512, gt=1, description="longest document; the encoder's positions at most")
    compile: bool = False

    @model_validator(mode="after")
    def _in_full(self) -> EncoderStage:
        if self.method != "full":
            raise ValueError("an encoder is small and is trained in full: use method: full")
        return self

    @property
    def makes_language_model(self) -> bool:
        return False


class ImageTextStage(TrainingStage):
    """A text tower trained to a frozen vision tower: images and texts find each other."""

    stage: Literal["image_text"] = "image_text"
    model: str | None = Field(None, description="text encoder, or finished pair, instead of the recipe's base")
    vision: str | None = Field(None, description="vision tower: a CLIP or a ViT; none where a finished pair goes on")
    projection: int = Field(512, gt=0, description="size of the common space; a CLIP brings its own")
    learning_rate: float | None = Field(1e-4, gt=0)
    max_tokens: int | None = Field(64, gt=1, description="longest caption")
    compile: bool = False

    @model_validator(mode="after")
    def _in_full(self) -> ImageTextStage:
        if self.method != "full":
            raise ValueError("the text tower is trained in full: use method: full")
        return self

    @property
    def makes_language_model(self) -> bool:
        return False


class Seq2SeqStage(TrainingStage):
    """An encoder–decoder (T5, BART, Pegasus and their kin): texts made of texts."""

    stage: Literal["seq2seq"] = "seq2seq"
    task: Literal["answer", "gap_sentences"] = Field(
        "answer", description="the last answer of a chat from all before it, or the masked sentences of plain text"
    )
    max_target: int = Field(128, gt=1, description="longest target in tokens; what is longer is cut")
    gap_share: float = Field(0.3, gt=0, lt=1, description="gap_sentences: share of the sentences that are masked")
    compare: int = Field(100, ge=0, description="held-out rows that are answered before and after; 0: none")
    beams: int = Field(1, gt=0, description="of the search that answers them; 1: greedy")
    epochs: float | Literal["auto"] = 1.0
    compile: bool = False

    @model_validator(mode="after")
    def _in_full(self) -> Seq2SeqStage:
        if self.method != "full":
            raise ValueError("an encoder–decoder is trained in full: use method: full")
        if self.max_target >= self.longest:
            raise ValueError(f"max_target ({self.max_target}) leaves no room for a source in {self.longest} tokens")
        return self

    @property
    def most_source(self) -> int:
        """Tokens of a source: what a row leaves beside a target."""
        return self.longest - self.max_target

    @property
    def makes_language_model(self) -> bool:
        return False


class ComparedStage(Part):
    """Settings of the stages whose answers are read side by side before and after."""

    compare: int = Field(100, ge=0, description="held-out prompts that are answered before and after; 0: none")
    max_new_tokens: int = Field(64, gt=0, description="longest answer")


class PreferenceStage(TrainingStage, ComparedStage):
    """Settings of the stages that learn from which answer is better."""

    epochs: float | Literal["auto"] = 1.0
    sft_weight: float = Field(0.0, ge=0, description="weight of the usual loss on the better answers, beside")
    reward: Rewards | None = Field(None, description="scores the answers before and after; trains nothing")


class DpoStage(PreferenceStage):
    """Direct preference optimisation."""

    stage: Literal["dpo"] = "dpo"
    beta: float = Field(0.1, gt=0)
    loss: Literal["sigmoid", "hinge", "ipo", "robust"] = "sigmoid"
    label_smoothing: float = Field(0.0, ge=0, lt=0.5, description="share of the pairs that are the wrong way round")

    @model_validator(mode="after")
    def _smoothing_has_a_loss(self) -> DpoStage:
        if self.label_smoothing and self.loss not in ("sigmoid", "robust"):
            raise ValueError("label_smoothing belongs to the losses sigmoid and robust")
        return self


class KtoStage(PreferenceStage):
    """Kahneman-Tversky optimisation: answers with a thumb up or down."""

    stage: Literal["kto"] = "kto"
    beta: float = Field(0.1, gt=0)
    desirable_weight: float = Field(1.0, gt=0)
    undesirable_weight: float = Field(1.0, gt=0)


class OrpoStage(PreferenceStage):
    """Odds-ratio preference optimisation: no reference model; the usual loss on the better answer is part of it."""

    stage: Literal["orpo"] = "orpo"
    beta: float = Field(0.1, gt=0, description="weight of the odds ratio beside the usual loss")
    sft_weight: float = Field(1.0, ge=0, description="weight of the usual loss on the better answers")


class SimpoStage(PreferenceStage):
    """Simple preference optimisation: no reference model, mean log-probability a token."""

    stage: Literal["simpo"] = "simpo"
    beta: float = Field(2.0, gt=0)
    target_margin: float = Field(1.0, ge=0, description="how far apart the two answers are to be, in units of reward")


class PolicyStage(GradientStage, ComparedStage):
    """Settings of the stages that learn from their own answers."""

    reward: Rewards = Field(description="what answers are rewarded for")
    iterations: int = Field(100, gt=0, description="rounds of answering and learning")
    answers: int = Field(64, gt=0, description="answers of one round")
    passes: int = Field(2, gt=0, description="how often the answers of a round are learnt from")
    minibatches: int = Field(2, gt=0, description="optimizer steps of one pass")
    clip_ratio: float = Field(0.2, gt=0, description="how far the probability of a token may move in one round")
    kl: float = Field(0.05, ge=0, description="price of a nat of divergence from the start model")
    max_kl: float = Field(20.0, gt=0, description="training stops above this many nats an answer")
    unfinished_reward: float | None = Field(None, description="reward of an answer that was cut off")

    @model_validator(mode="after")
    def _reference_is_below(self) -> PolicyStage:
        if self.method == "lora" and self.lora.kind == "pissa":
            raise ValueError("without its adapter a model with kind: pissa is not what it was: use kind: lora")
        return self


class PpoStage(PolicyStage):
    """Proximal policy optimisation with a value head."""

    stage: Literal["ppo"] = "ppo"
    kl_target: float | None = Field(None, gt=0, description="nats an answer that the price is adapted to hold")
    whiten_rewards: bool = Field(True, description="in standard deviations of the start model's rewards")
    gae_lambda: float = Field(0.95, ge=0, le=1)
    discount: float = Field(1.0, gt=0, le=1)
    value_weight: float = Field(0.1, ge=0)
    value_clip: float = Field(0.2, gt=0)
    entropy_weight: float = Field(0.0, ge=0)


class GrpoStage(PolicyStage):
    """Group-relative policy optimisation: several answers to one prompt are each other's baseline."""

    stage: Literal["grpo"] = "grpo"
    group: int = Field(8, gt=1, description="answers to one prompt")
    advantage: Literal["grpo", "rloo"] = Field(
        "grpo", description="reward less the group's mean in its standard deviations, or less the others' mean"
    )
    kl: float = Field(0.0, ge=0, description="price of a nat of divergence from the start model")

    @model_validator(mode="after")
    def _whole_groups(self) -> GrpoStage:
        if self.answers % self.group:
            raise ValueError(f"answers ({self.answers}) must be a multiple of group ({self.group})")
        return self


class BestOfStage(TrainingStage, ComparedStage):
    """Rejection sampling: answer each prompt several times, train on the best answers of all rounds so far."""

    stage: Literal["best_of"] = "best_of"
    reward: Rewards = Field(description="what the best answer is")
    samples: int = Field(4, gt=1, description="answers to one prompt")
    rounds: int = Field(2, gt=0)
    prompts: int = Field(256, gt=0, description="prompts of one round")
    epochs: float | Literal["auto"] = 1.0
    ghost_instructions: list[str] = Field(
        default_factory=list, description="ghost attention: instructions that are to hold through a whole conversation"
    )


class ConvertStage(BaseStage):
    """The model in another layout, or with fewer key/value heads; see docs/families.md."""

    stage: Literal["convert"] = "convert"
    to: Literal["hugging-face", "chatglm", "baichuan", "meta"] = "hugging-face"
    kv_heads: int | None = Field(None, gt=0, description="pool keys and values to so many heads")

    @property
    def makes_language_model(self) -> bool:
        return self.to == "hugging-face"


class QuantizeStage(BaseStage):
    """Weights in 8 or 4 bits, made without gradients; a gate compares the model before and after."""

    stage: Literal["quantize"] = "quantize"
    blocks: dict[str, float] | list[str] = Field(description="texts and conversations to calibrate with and judge by")
    method: Literal["absmax", "gptq", "awq", "nf4"] = "gptq"
    bits: Literal[4, 8] = 4
    group: Literal[0, 32, 64, 128] | None = Field(
        None, description="weights that share a scale; 0: a row; by default 64 in 4 bits and a row in 8"
    )
    symmetric: bool = Field(True, description="false: a zero point a group; vLLM and graft load it")
    mean_bits: float | None = Field(None, gt=4, le=16, description="4, 8 or 16 bits a layer, by measured error")
    head: bool = Field(False, description="also the output head, where it is not the embedding")
    rest: Literal["bf16", "fp32"] = Field("bf16", description="format of what is not quantised, and of the scales")
    rows: int = Field(128, gt=0, description="rows of text to calibrate with")
    row_tokens: int = Field(512, gt=1)
    exam: str | None = Field(None, description="task of `evaluation` that judges; the first of the domain by default")
    max_exam_loss: float | None = Field(None, ge=0, description="points; by default 0.5 in 8 bits and 2 in 4")
    max_kl: float | None = Field(None, ge=0, description="nats a token; without an exam 0.01 in 8 bits and 0.1 in 4")
    keep_failed: bool = Field(False, description="keep the model also where the gate stops it")

    @model_validator(mode="after")
    def _nf4_is_fixed(self) -> QuantizeStage:
        if self.method == "nf4" and (self.bits != 4 or self.group or self.mean_bits or self.head):
            raise ValueError("nf4 has 4 bits, groups of 64, and neither mean_bits nor head")
        return self

    @property
    def group_size(self) -> int | None:
        """Weights that share a scale; None: a row."""
        return (self.group or None) if self.group is not None else {4: 64, 8: None}[self.bits]


class PruneVocabularyStage(BaseStage):
    """Keep the pieces of the vocabulary that the blocks' texts need; no gradients."""

    stage: Literal["prune_vocabulary"] = "prune_vocabulary"
    blocks: dict[str, float] | list[str] = Field(min_length=1, description="blocks whose texts say what is needed")
    at_least: int = Field(1, gt=0, description="keep pieces that stand in the texts so often")


class GateSettings(Part):
    """How far a merged adapter may be from the unmerged model; divergences in nats a token."""

    mean_kl: float = Field(default=0.01, gt=0, description="mean divergence")
    max_kl: float = Field(default=0.5, gt=0, description="greatest divergence")
    greedy: float = Field(default=0.98, ge=0, le=1, description="share of the positions with the same likeliest token")

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.mean_kl, self.max_kl, self.greedy)


class MergeStage(BaseStage):
    """Several models made one, or an adapter merged into the model before."""

    stage: Literal["merge"] = "merge"
    models: dict[str, float] | list[str] = Field(
        min_length=1, description="stages, folders or hub names, with weights or as a list; one adapter's folder alone"
    )
    method: MergeMethod = Field("linear", description="rule of merging")
    base: str | None = Field(None, description="what the models were trained from; the model of `from` by default")
    density: float = Field(0.5, gt=0, le=1, description="share of each change that TIES and DARE keep")
    scale: float = Field(1.0, description="factor on the merged change")
    alpha: float = Field(0.5, ge=0, le=1, description="where between the two ends of slerp and wise-ft")
    gate: GateSettings = Field(default_factory=GateSettings)

    @property
    def weighted(self) -> dict[str, float]:
        return self.models if isinstance(self.models, dict) else dict.fromkeys(self.models, 1.0)


class ExportStage(BaseStage):
    """The model before it, for another program; makes nothing that later stages could start from."""

    stage: Literal["export"] = "export"
    to: Literal["hugging-face", "gguf", "ollama"] = Field(description="which program's format")
    type: Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0"] | None = Field(
        None, description="format of the weights; as they are stored by default"
    )
    licence: str | None = Field(None, description="for the model card, as apache-2.0")

    @model_validator(mode="after")
    def _hub_types(self) -> ExportStage:
        if self.to == "hugging-face" and (self.type or "f32") not in ("f32", "f16", "bf16"):
            raise ValueError(f"type: {self.type} belongs to gguf and ollama")
        return self

    @property
    def makes_language_model(self) -> bool:
        return False


class VocabularyStage(BaseStage):
    """More pieces for the tokenizer, learnt from its blocks or taken from a SentencePiece model, and rows for them."""

    stage: Literal["vocabulary"] = "vocabulary"
    blocks: dict[str, float] | list[str] = Field(min_length=1, description="the domain's texts; shares do not matter")
    general: list[str] = Field(
        default_factory=list, description="blocks whose encoding is compared; graft's own general text by default"
    )
    pieces: int | None = Field(None, gt=0, description="new pieces at most; all of `sentencepiece`, else 8,000")
    sentencepiece: str | None = Field(None, description="SentencePiece model to take the pieces from")
    kind: Literal["auto", "spm-bpe", "spm-unigram", "byte-level"] = Field(
        "auto", description="how pieces are learnt; auto: the base's own merges go on"
    )
    ascii: bool = Field(False, description="also pieces of ASCII signs only: English is then encoded differently")
    init: Literal["mean", "noise"] = Field("mean", description="new rows: mean of the old pieces' rows, or beside it")
    multiple: int = Field(1, gt=0, description="the model's rows are rounded up to a multiple of this")


Stage = Annotated[
    PretrainStage | SftStage | RewardStage | DpoStage | KtoStage | OrpoStage | SimpoStage | PpoStage | GrpoStage
    | BestOfStage | InfillStage | ConvertStage | PruneVocabularyStage | QuantizeStage
    | EncoderStage | ImageTextStage | Seq2SeqStage | MergeStage | ExportStage | VocabularyStage,
    Field(discriminator="stage"),
]  # fmt: skip
STAGE_KINDS = (
    "pretrain", "sft", "reward", "dpo", "kto", "orpo", "simpo", "ppo", "grpo", "best_of", "infill", "convert",
    "prune_vocabulary", "encoder", "image_text", "quantize", "merge", "export", "vocabulary",
    "seq2seq",
)  # fmt: skip


def reward_models(stage: BaseStage) -> list[str]:
    """The reward models that a stage asks, by name."""
    rewards: list[RewardSettings] = getattr(stage, "reward", None) or []
    found = [name for one in rewards for name in (one.model, one.safety.model if one.safety else None) if name]
    return list(dict.fromkeys(found))


def merged_models(stage: BaseStage) -> list[str]:
    """What a merge stage is made of, by name."""
    return [*stage.weighted, *([stage.base] if stage.base else [])] if isinstance(stage, MergeStage) else []


def unsafe_blocks(stage: BaseStage) -> set[str]:
    """Blocks whose prompts a stage's safety reward judges alone."""
    rewards: list[RewardSettings] = getattr(stage, "reward", None) or []
    return {block for one in rewards if one.safety for block in one.safety.blocks}


def both_encoders(stage: BaseStage, start: BaseStage) -> bool:
    """Whether an encoder, or a pair of towers, goes on from an encoder's stage, a pair from a pair's, or an
    encoder–decoder from its like."""
    if isinstance(stage, Seq2SeqStage):
        return isinstance(start, Seq2SeqStage)
    if isinstance(stage, ImageTextStage):
        return isinstance(start, EncoderStage if stage.vision else ImageTextStage)
    return isinstance(stage, EncoderStage) and isinstance(start, EncoderStage)
