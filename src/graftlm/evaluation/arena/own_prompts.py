"""What graft's own judge is told, in English and Chinese. Any other wording comes from a file: prompts.py."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Wording:
    """The sentences of one language."""

    pair: str
    single: str
    last_turn: str
    referenced: str
    fairness: str
    choose: str
    grade: str
    user: str
    reference: str
    answer: str
    answer_a: str
    answer_b: str


WORDINGS = {
    "en": Wording(
        pair="You compare two assistants, A and B, who were given the same task by a user. Say whose answer serves the "
        "user better: is it correct, does it do what was asked, is it complete, clear and to the point?",
        single="You mark an assistant's answer to a user's task: is it correct, does it do what was asked, is it "
        "complete, clear and to the point?",
        last_turn="There are two turns. Judge the last one; the first is there to understand it.",
        referenced="A reference answer is given. Check against it first, and name every mistake; another way to the "
        "same result is as good.",
        fairness="Neither the order of the answers nor their length nor the names count.",
        choose="Explain your view in a few sentences. Then, on a line of its own, write [[A]] if A is better, [[B]] if "
        "B is better, or [[C]] if neither is.",
        grade="Explain your view in a few sentences. Then, on a line of its own, write a whole number from 1 (useless) "
        "to 10 (could not be better) in double brackets, as [[7]].",
        user="User", reference="Reference answer", answer="Answer", answer_a="Assistant A", answer_b="Assistant B",
    ),
    "zh": Wording(
        pair="两位助手 A 和 B 收到了同一位用户的同一个任务，请判断谁的回答对用户更有帮助："
        "内容是否正确，是否按要求完成，是否完整、清楚、切题。",
        single="请为助手对用户任务的回答打分：内容是否正确，是否按要求完成，是否完整、清楚、切题。",
        last_turn="对话共有两轮。请评判最后一轮，第一轮仅供理解。",
        referenced="下面给出了参考答案。请先与之对照，指出每一处错误；用其他方法得到同样的结果同样算对。",
        fairness="回答的先后顺序、长短和助手的名称都不应影响判断。",
        choose="请先用几句话说明理由，然后另起一行写出结论：A 更好写 [[A]]，B 更好写 [[B]]，不分高下写 [[C]]。",
        grade="请先用几句话说明理由，然后另起一行，用双方括号写出 1（毫无用处）到 10（无可挑剔）的整数，例如 [[7]]。",
        user="用户", reference="参考答案", answer="回答", answer_a="助手 A", answer_b="助手 B",
    ),
}  # fmt: skip


def system_text(words: Wording, *, pairwise: bool, turns: int, referenced: bool) -> str:
    """What the judge is told before it sees anything."""
    parts = [
        words.pair if pairwise else words.single,
        words.last_turn if turns == 2 else "",
        words.referenced if referenced else "",
        words.fairness if pairwise else "",
        words.choose if pairwise else words.grade,
    ]
    return "\n".join(part for part in parts if part)


def template_text(words: Wording, *, pairwise: bool, turns: int, referenced: bool) -> str:
    """What the judge sees, with MT-bench's names for the blanks."""
    sides = [(words.answer_a, "answer_a"), (words.answer_b, "answer_b")] if pairwise else [(words.answer, "answer")]
    shown = [(words.reference, "ref_answer")] if referenced else []
    if turns == 2:
        return "\n\n".join(_conversation(words.user, name, blank) for name, blank in (*shown, *sides))
    blanks = [(words.user, "question"), *((name, f"{blank}_1") for name, blank in shown), *sides]
    return "\n\n".join(_block(name, blank) for name, blank in blanks)


def _conversation(user: str, name: str, blank: str) -> str:
    turns = [(_block(user, f"question_{turn}"), _block(name, f"{blank}_{turn}")) for turn in (1, 2)]
    return "\n\n".join(block for turn in turns for block in turn)


def _block(name: str, blank: str) -> str:
    return f"<{name}>\n{{{blank}}}\n</{name}>"
