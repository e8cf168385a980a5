"""Learning from own answers: PPO with a value head, GRPO and RLOO with groups of answers."""

from __future__ import annotations

from graftlm.alignment.credit import Credit, GroupCredit, ValueCredit
from graftlm.alignment.diagnosis import diagnose_policy
from graftlm.alignment.feed import RolloutFeed, RolloutSettings
from graftlm.alignment.objective import PolicyObjective
from graftlm.alignment.policy import Policy
from graftlm.alignment.prompts import Asked, draw_order
from graftlm.core.console import say
from graftlm.core.errors import DataError
from graftlm.core.receipts import Receipt
from graftlm.evaluation.language_model import LanguageModel, language_model
from graftlm.models.trunk import causal_lm
from graftlm.recipes.stage_settings import GrpoStage, PolicyStage, PpoStage
from graftlm.recipes.stages.comparing import compare_stage, encode_for_answers
from graftlm.recipes.stages.context import StageContext
from graftlm.recipes.stages.outcome import save_language_model, write_receipt
from graftlm.recipes.stages.rewards import build_reward
from graftlm.recipes.stages.tuning import load_trainable, make_trainer, run_trainer


def run(stage: StageContext) -> Receipt:
    settings = stage.settings
    assert isinstance(settings, PolicyStage)
    loaded = load_trainable(stage)
    subject = language_model(causal_lm(loaded.model), stage.tokenizer, stage.template)
    rounds = draw_rounds(stage, subject, loaded.notes)
    reward = build_reward(stage, settings.reward, policy=loaded.model)
    policy = Policy(loaded.model, value=isinstance(settings, PpoStage))
    feed = RolloutFeed(
        policy,
        subject,
        rounds,
        reward,
        choose_credit(settings),
        RolloutSettings(
            iterations=settings.iterations,
            passes=settings.passes,
            minibatches=settings.minibatches,
            max_new_tokens=settings.max_new_tokens,
            row_tokens=settings.row_tokens,
            max_kl=settings.max_kl,
            unfinished_reward=settings.unfinished_reward,
            bf16=stage.bf16,
            seed=stage.recipe.seed,
        ),
    )
    say(f"  {settings.iterations} rounds of {settings.answers} answers, {feed.steps:,} steps")
    trainer = make_trainer(stage, policy, choose_objective(settings, feed), feed)
    record = run_trainer(stage, trainer)
    if record.stopped != "all data seen":
        say(f"  stopped: {record.stopped}")
    save_language_model(stage, loaded.model)
    receipt = write_receipt(stage, loaded, trainer)
    comparison = compare_stage(stage, build_reward(stage, settings.reward))  # the trunk was merged and saved
    diagnosis = diagnose_policy(feed.history)
    say(f"  {diagnosis}")
    return receipt.model_copy(update={"rollouts": feed.history, "comparison": comparison, "diagnosis": diagnosis})


def draw_rounds(stage: StageContext, subject: LanguageModel, notes: list[str]) -> list[list[Asked]]:
    """The prompts of every round; answers to one prompt stand next to each other.

    Raises:
        DataError: no prompt of a block leaves room for an answer.
    """
    settings = stage.settings
    assert isinstance(settings, PolicyStage)
    blocks: list[list[Asked]] = []
    for name in settings.blocks:
        asked, too_long = encode_for_answers(stage, subject, stage.prompts[name].train)
        if not asked:
            raise DataError(
                "no prompt leaves room for an answer",
                where=f"data.{name}",
                fix="raise row_tokens, or lower max_new_tokens",
            )
        if too_long:
            notes.append(f"{too_long} prompts of {name} leave no room for an answer and are not asked")
            say(f"  {notes[-1]}")
        blocks.append(asked)
    shares = list(settings.blocks.values()) if isinstance(settings.blocks, dict) else [len(block) for block in blocks]
    group = settings.group if isinstance(settings, GrpoStage) else 1
    a_round = settings.answers // group
    order = draw_order([len(block) for block in blocks], shares, settings.iterations * a_round, stage.recipe.seed)
    drawn = [blocks[block][place] for block, place in order]
    return [
        [one for one in drawn[start : start + a_round] for _ in range(group)] for start in range(0, len(drawn), a_round)
    ]


def choose_credit(settings: PolicyStage) -> Credit:
    if isinstance(settings, GrpoStage):
        return GroupCredit(settings.group, settings.advantage)
    assert isinstance(settings, PpoStage)
    return ValueCredit(
        settings.kl, settings.kl_target, settings.whiten_rewards, settings.discount, settings.gae_lambda
    )


def choose_objective(settings: PolicyStage, feed: RolloutFeed) -> PolicyObjective:
    """PPO pays for divergence in the reward, GRPO in the loss."""
    if isinstance(settings, PpoStage):
        return PolicyObjective(
            feed.current,
            settings.clip_ratio,
            value_weight=settings.value_weight,
            value_clip=settings.value_clip,
            entropy_weight=settings.entropy_weight,
        )
    return PolicyObjective(feed.current, settings.clip_ratio, kl_weight=settings.kl)
