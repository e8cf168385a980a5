"""Several adapters on one model: added up once, or mixed anew for every token by a small trained router.

The router follows X-LoRA (Buehler and Buehler, arXiv 2402.07148): a first pass without adapters gives hidden states, a
linear layer makes of each the shares of the adapters in every layer, a second pass uses them. peft's own X-LoRA forbids
the key-value cache and lives in hooks around `forward`, so neither generation nor scoring here could use it.

Shapes: B rows, L positions, D hidden size, N adapted layers, K adapters.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from peft.tuners.lora import Linear as LoraLinear
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutputWithPast

from graftlm.core.errors import ModelError
from graftlm.core.files import read_json, write_json
from graftlm.models.composite import CompositeModel, JointCache, caches_of
from graftlm.models.loading import unloadable
from graftlm.models.trunk import causal_lm, decoder_of, output_head

Combination = Literal["cat", "linear", "svd", "ties", "dare_linear", "dare_ties"]
COMBINED = "combined"


def load_adapters(base: PreTrainedModel, adapters: Mapping[str, str]) -> PeftModel:
    """The base with several adapters, by name; the first one is active.

    Raises:
        ModelError: one cannot be read, or belongs to another model.
    """
    model: PeftModel | None = None
    for name, folder in adapters.items():
        try:
            if model is None:
                model = PeftModel.from_pretrained(base, folder, adapter_name=name)
            else:
                model.load_adapter(folder, adapter_name=name)
        except Exception as error:
            raise unloadable("adapter", folder, error) from error
    if model is None:
        raise ModelError("no adapter is given", where="adapters")
    return model.eval()


def combine_adapters(
    model: PeftModel, weights: Mapping[str, float], combination: Combination = "cat", density: float = 0.5
) -> PeftModel:
    """Add one adapter made of several, and make it the active one; merge or save it like any other.

    Args:
        weights: of each adapter, by name.
        combination: `cat` is the weighted sum of the adapters' changes, exactly (its rank is the sum of theirs); `svd`
            the nearest to that of the largest rank among them; `linear` adds their factors instead, which is not the
            sum of changes; `ties`, `dare_…` thin the factors first, to `density`.

    Raises:
        ModelError: the adapters do not fit together.
    """
    options: dict[str, Any] = {} if combination in ("cat", "linear", "svd") else {"density": density}
    try:
        model.add_weighted_adapter(
            list(weights), list(weights.values()), COMBINED, combination_type=combination, **options
        )
    except (ValueError, KeyError) as error:
        raise ModelError(f"these adapters cannot be combined: {error}", where=", ".join(weights)) from error
    model.set_adapter(COMBINED)
    return model


class Router(nn.Module):
    """Hidden states [B, L, D] → each adapter's share in each layer, [B, L, N, K], all sums 1.

    Args:
        width: of its one hidden layer.
        temperature: divides the scores; below 1 the shares are more decided.
        top_k: only the k best adapters of a token get a share; 0: all.
    """

    def __init__(
        self, D: int, N: int, K: int, *, width: int = 128, temperature: float = 1.0, top_k: int = 0
    ) -> None:
        super().__init__()
        self.shape, self.temperature, self.top_k = (N, K), temperature, top_k
        self.hidden = nn.Linear(D, width)
        self.scores = nn.Linear(width, N * K)
        nn.init.zeros_(self.scores.weight)  # equal shares at the start
        nn.init.zeros_(self.scores.bias)

    def forward(self, hidden_BLD: Tensor) -> Tensor:
        scores = self.scores(self.hidden(hidden_BLD.float()).relu()).unflatten(-1, self.shape) / self.temperature
        if 0 < self.top_k < scores.shape[-1]:
            least = scores.topk(self.top_k, dim=-1).values[..., -1:]
            scores = scores.masked_fill(scores < least, float("-inf"))
        return scores.softmax(dim=-1)


class _Routed(nn.Module):
    """The decoder, twice: without adapters for the router, then with the shares it gave."""

    def __init__(self, decoder: nn.Module, layers: Sequence[LoraLinear], names: Sequence[str], router: Router) -> None:
        super().__init__()
        self.decoder, self.router = decoder, router
        self._names = tuple(names)
        self._shares: Tensor | None = None  # of the pass that is running; None in the first
        for number, layer in enumerate(layers):
            layer.enable_adapters(False)  # it gives what its base layer gives; the hook adds the rest
            layer.register_forward_hook(self._adding(number))

    def _adding(self, number: int) -> Any:
        def add(layer: LoraLinear, arguments: tuple[Tensor, ...], output: Tensor) -> Tensor:
            if self._shares is None:
                return output
            states = arguments[0].float()
            for place, name in enumerate(self._names):
                change = layer.lora_B[name](layer.lora_A[name](states)) * layer.scaling[name]
                output = output + (self._shares[:, :, number, place, None] * change).to(output.dtype)
            return output

        return add

    @contextmanager
    def _mixing(self, shares: Tensor) -> Iterator[None]:
        self._shares = shares
        try:
            yield
        finally:
            self._shares = None

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: Cache | None = None,
        use_cache: bool = False,
    ) -> BaseModelOutputWithPast:
        first, second = caches_of(past_key_values, use_cache, 2)
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        inputs["use_cache"] = use_cache  # type: ignore[assignment]
        with torch.no_grad():
            dry = self.decoder(**inputs, past_key_values=first).last_hidden_state
        with self._mixing(self.router(dry)):
            states = self.decoder(**inputs, past_key_values=second).last_hidden_state
        joint = JointCache([cache for cache in (first, second) if cache is not None]) if use_cache else None
        return BaseModelOutputWithPast(last_hidden_state=states, past_key_values=joint)


def mix_adapters(
    base: PreTrainedModel, adapters: Mapping[str, str], *, temperature: float = 1.0, top_k: int = 0
) -> CompositeModel:
    """The base with frozen LoRA adapters and a new router, the only thing that is trained (equal shares at the start).

    It costs two passes a token, and a cache for each.

    Args:
        adapters: folder of each, by name.

    Raises:
        ModelError: an adapter cannot be read, or adapts more than linear layers.
    """
    adapted = load_adapters(base, adapters)
    inner = causal_lm(adapted)
    layers = [module for module in inner.modules() if isinstance(module, LoraLinear)]
    parts = [name for name, _ in inner.named_parameters() if "lora_" in name]
    others = [name for name in parts if "lora_A" not in name and "lora_B" not in name]
    if not layers or others or any(set(adapters) - set(layer.lora_A) for layer in layers):
        raise ModelError("the adapters are not LoRA on the same linear layers", where=", ".join(adapters.values()))
    head = output_head(inner)
    if head.scale != 1 or head.softcap is not None:
        raise ModelError("its head is not linear", where=type(inner).__name__, fix="mix adapters of another base")
    inner.requires_grad_(False)
    router = Router(head.weight_VD.shape[1], len(layers), len(adapters), temperature=temperature, top_k=top_k)
    trunk = _Routed(decoder_of(inner), layers, list(adapters), router.to(inner.device))
    positions = getattr(inner.config.get_text_config(), "max_position_embeddings", None)
    return CompositeModel(trunk, inner.get_output_embeddings(), inner.get_input_embeddings(), positions)


def save_router(model: CompositeModel, folder: Path, base: str, adapters: Mapping[str, str]) -> None:
    """The router and where its base and adapters are; `load_mixture` puts them together again."""
    folder.mkdir(parents=True, exist_ok=True)
    router = model.trunk.router
    assert isinstance(router, Router)
    save_file(router.state_dict(), folder / "router.safetensors")
    settings = {"base": base, "adapters": dict(adapters), "temperature": router.temperature, "top_k": router.top_k}
    write_json(folder / "mixture.json", settings)


def load_mixture(folder: Path, base: PreTrainedModel) -> CompositeModel:
    """A mixture with its trained router, on the base that `mixture.json` names."""
    kept = read_json(folder / "mixture.json")
    model = mix_adapters(base, kept["adapters"], temperature=kept["temperature"], top_k=kept["top_k"])
    model.trunk.router.load_state_dict(load_file(folder / "router.safetensors"))  # type: ignore[union-attr]
    return model.eval()
