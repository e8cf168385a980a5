"""Option letters in written answers, one and several."""

from __future__ import annotations

import pytest

from graftlm.evaluation.graders.letters import said_letter, said_letters


@pytest.mark.parametrize(
    ("text", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("The answer is (D).", "D"),
        ("Answer: B", "B"),  # the first capital letter of the text is A
        ("A is wrong because it melts. The answer is therefore C", "C"),
        ("答案是 A。因为B不对", "A"),
        ("[正确答案]D<eoa>", "D"),
        ("正确答案：B。", "B"),
        ("由此可知A、B均错，故选C", "C"),
        ("选择 B 项", "B"),
        ("The answer is B, not A.", "B"),
        ("the answer is: option (E), see Article 12", "E"),
        ("I think B", "B"),
        ("I'd say A is right", "A"),
        ("A good guess would be D", "D"),
        ("A is right because B melts", "A"),
        ("The correct option is C", "C"),
        ("选项A是错的，答案B", "B"),
        ("应选B，不选A", "B"),
        ("本题选D。", "D"),
        ("这是一道选择题，考查C项。", "C"),
        ("I am not sure", None),
        ("Because DNA is a polymer.", None),  # letters inside words are none
        ("我不知道", None),
        ("", None),
    ],
)
def test_one_letter(text: str, letter: str | None) -> None:
    assert said_letter(text) == letter


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("AC", "AC"),
        ("A、C", "AC"),
        ("(A)(C)", "AC"),
        ("[正确答案]ABD<eoa>", "ABD"),
        ("答案是 B 和 D", "BD"),
        ("答案：C,A", "AC"),
        ("B项错误。答案是 AD", "AD"),
        ("A and B", "AB"),
        ("DNA", ""),
        ("", ""),
    ],
)
def test_several_letters(text: str, letters: str) -> None:
    assert said_letters(text) == frozenset(letters)
