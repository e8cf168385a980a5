"""What the rounds of a policy say, in one line."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import fmean


def diagnose_policy(history: Sequence[dict[str, float]]) -> str:
    """The most important thing that the first and the last tenth of the rounds tell; "" without rounds."""
    if not history:
        return ""
    part = max(1, len(history) // 10)

    def ends(name: str) -> tuple[float, float]:
        return fmean(one[name] for one in history[:part]), fmean(one[name] for one in history[-part:])

    reward, spread, finished, kept = ends("reward"), ends("reward_spread"), ends("finished"), None
    if "groups_kept" in history[0]:
        kept = ends("groups_kept")
    rise = reward[1] - reward[0]
    said = f"reward {reward[0]:.2f} → {reward[1]:.2f}, {ends('kl')[1]:.2f} nats an answer from the start model"
    if finished[1] < 0.5 <= finished[0]:
        return f"{said}: answers no longer end by themselves: raise max_new_tokens, or set unfinished_reward"
    if kept and kept[0] < 0.1:
        return f"{said}: nearly all groups had equal rewards at the start: too easy, too hard, or a blind reward"
    if rise <= 0.1 * max(spread[0], 1e-6):
        return f"{said}: the reward did not rise: raise learning_rate or iterations, or lower kl"
    if ends("tokens")[1] > 2 * ends("tokens")[0]:
        return f"{said}: answers got more than twice as long: look whether the reward pays for length"
    return f"{said}: the reward rises, as it should"
