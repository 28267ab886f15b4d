"""Which attacks an example still lacks follows from the verdicts, whoever made them."""

from __future__ import annotations

from sparring.evaluation.journal import Entry, Verdict
from sparring.evaluation.standing import Standing


def standing() -> Standing:
    """Five examples, the third of which is wrong without an attack."""
    return Standing([10, 11, 12, 13, 14], [True, True, False, True, True], ("a", "b", "c"))


def test_an_example_lacks_what_it_has_not_survived() -> None:
    made = standing()
    assert made.lacking(range(5)) == {("a", "b", "c"): [0, 1, 3, 4]} and (made.wrong, made.robust) == (1, 0)
    assert made.take(Entry("a", (), (Verdict(10, None, 1.0, 5), Verdict(11, "a", 2.0, 5)))) == 2
    made.take(Entry("c", (), (Verdict(10, None, 3.0, 2), Verdict(14, None, 1.0, 4))))
    made.take(Entry("b", ("c",), (Verdict(10, None, 2.0, 3), Verdict(14, "b", 1.0, 5))))
    assert made.lacking(range(5)) == {("a", "b", "c"): [3]}
    assert made.correct == [True, False, False, True, False] and made.alive() == [0, 3]
    assert (made.wrong, made.robust) == (3, 1)
    assert made.verdicts[0] == Verdict(10, None, 3.0, 10)


def test_attacks_and_examples_that_do_not_count_say_nothing() -> None:
    made = standing()
    assert made.take(Entry("other", (), (Verdict(10, "other", 1.0, 5),), ("warned",))) == 0
    assert made.take(Entry("a", (), (Verdict(99, "a", 1.0, 5), Verdict(12, "a", 1.0, 5)), ("warned",))) == 0
    assert made.verdicts == {} and made.warnings == {} and made.wrong == 1


def test_a_verdict_counts_once() -> None:
    made, entry = standing(), Entry("a", (), (Verdict(10, None, 1.0, 5), Verdict(11, "a", 2.0, 5)), ("warned",))
    assert (made.take(entry), made.take(entry)) == (2, 0)
    assert made.verdicts[0].queries == 5 and made.wrong == 2 and list(made.warnings) == ["warned"]
