"""TRL's and Unsloth's LoRA fine-tuning on documents of mixed length, as their users run it: one JSON line.

    python bench/peers/fine_tune.py trl-default | trl-best | unsloth-packing

LLaMA-2-7B shape, random weights, r16 on all linear layers. trl-default: recomputation, padded batches of 8, two of
them a step. trl-best: Liger kernels, packing, no recomputation, batches of 4 rows of 2,048. unsloth-packing: its own
kernels, packing, no recomputation. Useful tokens are those that are no padding.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time

os.environ.update(
    UNSLOTH_DISABLE_STATISTICS="1", HF_HUB_OFFLINE="1", HF_DATASETS_OFFLINE="1", WANDB_DISABLED="true",
    UNSLOTH_COMPILE_LOCATION=tempfile.mkdtemp(),
)  # fmt: skip
setting = sys.argv[1]
if setting.startswith("unsloth"):
    import unsloth
import torch
from datasets import Dataset
from peft import LoraConfig
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast, TrainerCallback
from trl import SFTConfig, SFTTrainer

WARM_UP = 3
STEPS = {"trl-default": 6, "trl-best": 14, "unsloth-packing": 9}[setting]
SHAPE = {
    "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 32, "vocab_size": 32000, "max_position_embeddings": 8192, "bos_token_id": 3,
    "eos_token_id": 2, "pad_token_id": 1,
}  # fmt: skip


class Clock(TrainerCallback):
    """Seconds of each step."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def on_step_begin(self, *_: object, **__: object) -> None:
        torch.cuda.synchronize()
        self.began = time.perf_counter()

    def on_step_end(self, *_: object, **__: object) -> None:
        torch.cuda.synchronize()
        self.seconds.append(time.perf_counter() - self.began)


def random_model() -> LlamaForCausalLM:
    torch.set_default_dtype(torch.bfloat16)
    try:
        with torch.device("cuda"):
            return LlamaForCausalLM(LlamaConfig(**SHAPE))
    finally:
        torch.set_default_dtype(torch.float32)


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = Tokenizer(models.WordLevel({f"t{i}": i for i in range(32000)}, unk_token="t0"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, bos_token="t3", eos_token="t2", pad_token="t1", unk_token="t0"
    )


def unsloth_model() -> tuple[torch.nn.Module, object]:
    folder = tempfile.mkdtemp()
    random_model().save_pretrained(folder, max_shard_size="20GB")
    word_tokenizer().save_pretrained(folder)
    torch.cuda.empty_cache()
    model, tokenizer = unsloth.FastLanguageModel.from_pretrained(
        folder, max_seq_length=2048, dtype=torch.bfloat16, load_in_4bit=False
    )
    model = unsloth.FastLanguageModel.get_peft_model(
        model, r=16, lora_alpha=16, lora_dropout=0, bias="none", use_gradient_checkpointing=False, random_state=0,
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    )  # fmt: skip
    return model, tokenizer


def samples() -> Dataset:
    rng = random.Random(0)
    lengths = [min(2048, max(16, int(rng.lognormvariate(5.5, 0.8)))) for _ in range(4000)]
    ids = [[rng.randrange(5, 32000) for _ in range(n)] for n in lengths]
    return Dataset.from_dict({"input_ids": ids, "attention_mask": [[1] * n for n in lengths]})


def main() -> None:
    lora = None
    if setting.startswith("unsloth"):
        model, tokenizer = unsloth_model()
    else:
        model, tokenizer = random_model(), word_tokenizer()
        lora = LoraConfig(r=16, lora_alpha=16, target_modules="all-linear")
    arguments = {
        "output_dir": tempfile.mkdtemp(), "max_steps": STEPS, "per_device_train_batch_size": 8,
        "gradient_accumulation_steps": 2, "bf16": True, "logging_steps": 1000, "save_strategy": "no", "report_to": [],
        "max_length": 2048, "learning_rate": 1e-4, "optim": "adamw_torch_fused",
    }  # fmt: skip
    if setting == "trl-best":
        arguments |= {"use_liger_kernel": True, "packing": True, "gradient_checkpointing": False,
                      "per_device_train_batch_size": 4, "gradient_accumulation_steps": 1}  # fmt: skip
    if setting == "unsloth-packing":
        arguments |= {"packing": True}
    clock, counts = Clock(), []
    extra = {"peft_config": lora} if lora else {}
    trainer = SFTTrainer(
        model=model, args=SFTConfig(**arguments), train_dataset=samples(), processing_class=tokenizer,
        callbacks=[clock], **extra,
    )  # fmt: skip
    plain = trainer.training_step

    def counting(model: torch.nn.Module, inputs: dict[str, torch.Tensor], *rest: object, **named: object) -> object:
        mask = inputs.get("attention_mask")
        counts.append(int(mask.sum()) if mask is not None and mask.dim() == 2 else inputs["input_ids"].numel())
        return plain(model, inputs, *rest, **named)

    trainer.training_step = counting
    trainer.train()
    each = len(counts) // STEPS
    useful = sum(counts[WARM_UP * each :]) / sum(clock.seconds[WARM_UP:])
    peer, _, name = setting.partition("-")
    print(flush=True)
    print(json.dumps({"peer": peer, "setting": name, "useful_tok_s": round(useful),
                      "peak_gib": round(torch.cuda.max_memory_allocated() / 2**30, 1)}), flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
