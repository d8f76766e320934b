"""Every task: its text, its limits, its score in percent."""

from fractions import Fraction

import pytest

from petiole.data.text_sample import TextSample
from petiole.errors import ConfigError, DataError
from petiole.metrics.captions import bleu, cider, rouge
from petiole.metrics.vqa import accuracy
from petiole.tasks.text.registry import TASKS, find

TEN = ("red",) * 2 + ("Blue",) * 8


def asked(*references: str, text: str = "What?", group: str = "", **targets: float) -> TextSample:
    return TextSample("q", text=text, references=references, group=group, targets=targets)


@pytest.mark.parametrize(
    ("task", "text", "read"),
    [
        ("vqa", "What is it?", "vqa: What is it?"),
        ("gqa", "What is it?", "gqa: What is it?"),
        ("nlvr", "Two dogs.", "nlvr: Two dogs."),
        ("caption", "", "caption: "),
        ("tvqa", "[Subs] Hi. [Choices] a0: x a1: y", "[Subs] Hi. [Choices] a0: x a1: y tvqa: "),
        ("how2qa", "[Q] Who? ", "[Q] Who? how2qa: "),
        ("tvc", "[Subs] Hi. [TS] ([1, 2])", "[Subs] Hi. [TS] ([1, 2]) tvc: "),
        ("yc2c", "", "yc2c: "),
        ("text", "word", "word"),
        ("question", "What is shown?", "What is shown?"),
    ],
)
def test_text_has_the_prefix_or_the_suffix_of_the_task(task: str, text: str, read: str) -> None:
    sample = asked(text=text)
    assert find(task).text_of(sample, prefixes=True) == read
    assert find(task).text_of(sample, prefixes=False) == text


def test_the_reference_spells_gqa_in_its_own_way() -> None:
    assert find("gqa", spelling="vl-t5").prefix == "gpa: "
    for name in TASKS.keys() - {"gqa"}:
        assert find(name, spelling="vl-t5") == find(name)


@pytest.mark.parametrize(
    ("base", "sizes"), [(500, (500, 833, 166, 416)), (300, (300, 500, 100, 250)), (1, (1, 1, 1, 1))]
)
def test_batches_have_the_published_sizes(base: int, sizes: tuple[int, ...]) -> None:
    names = ("vqa", "gqa", "nlvr", "caption")
    assert tuple(find(name).batch_size(base) for name in names) == sizes


def test_limits_and_decoding_are_those_of_the_reference() -> None:
    limits = {name: (t.max_text, t.max_target, t.beams, t.loss) for name, t in TASKS.items()}
    assert limits["vqa"] == (20, 10, 1, "sample")
    assert limits["gqa"] == (20, None, 1, "sample")
    assert limits["nlvr"] == (None, None, 1, "sample")
    assert limits["caption"] == (40, 40, 5, "token")
    assert limits["tvqa"] == limits["how2qa"] == (600, 20, 1, "sample")
    assert limits["tvc"] == limits["yc2c"] == (600, 20, 5, "sample")
    published = TASKS.keys() - {"text", "question"}
    assert {TASKS[name].max_length for name in published} == {20}
    assert {name for name, t in TASKS.items() if t.choices} == {"nlvr", "choice"}
    assert find("tvqa").share == Fraction(1)


def test_vqa_is_scored_in_both_modes_and_by_its_soft_labels() -> None:
    samples = [asked(*TEN, red=0.6, blue=1.0), asked(*["2"] * 10)]
    scores = find("vqa").score(samples, ["red", "3"])
    assert scores == {
        "vqa_accuracy": pytest.approx(50 * accuracy("red", TEN)),
        "vqa_accuracy_vlt5": pytest.approx(50 * accuracy("red", TEN, "vlt5")),
        "soft_score": pytest.approx(30),
    }
    assert find("vqa").by_sample(samples, ["red", "3"]) == pytest.approx([60, 0])
    assert "soft_score" not in find("vqa").score([asked(*TEN)], ["red"])


def test_nlvr_has_consistency_over_its_groups() -> None:
    samples = [asked("true", group=g) for g in ("s", "s", "t")] + [asked("false")]
    said = ["true", "false", "true", "false"]
    assert find("nlvr").score(samples, said) == {"accuracy": 75, "consistency": 50}
    assert find("gqa").score(samples[3:], ["False"]) == {"accuracy": 0}


def test_a_video_choice_without_a_number_counts_as_the_first_only_when_submitted() -> None:
    samples = [asked("a0"), asked("a2")]
    scores = find("tvqa").score(samples, ["the man", "a2"])
    assert scores == {"accuracy": 50, "accuracy_submitted": 100}


@pytest.mark.parametrize("name", ["caption", "tvc", "yc2c"])
def test_captions_are_scored_by_cider_bleu_and_rouge(name: str) -> None:
    references = [["A dog runs on grass.", "a brown dog"], ["two red cars", "Cars in a street."]]
    said = ["a dog on grass", "red cars"]
    samples = [asked(*texts, text="") for texts in references]
    assert find(name).score(samples, said) == {
        "cider": cider(said, references).value,
        "bleu4": bleu(said, references).value,
        "rouge_l": rouge(said, references).value,
    }


def test_own_answers_match_after_normalisation_with_any_reference() -> None:
    task = find("answers")
    samples = [asked("The two dogs"), asked("car", "a bus")]
    assert task.score(samples, ["2 Dogs.", "Bus"]) == {"exact_match": 100}
    with_ten = task.score([asked(*TEN)], ["red"])
    assert with_ten == {"exact_match": 100, "vqa_accuracy": pytest.approx(60)}
    assert "vqa_accuracy" not in task.score([*samples, asked(*TEN)], ["", "", "red"])


def test_text_is_scored_by_match_and_by_edits() -> None:
    samples = [asked("k ae t"), asked("d ao g s")]
    scores = find("text").score(samples, ["k  ae t", "d o g"])
    assert scores == {
        "exact_match": 50,
        "token_error_rate": pytest.approx(100 * 2 / 7),
        "character_error_rate": pytest.approx(100 * 3 / 14),
    }


def test_a_question_of_a_domain_is_scored_by_its_short_answer_and_its_reason() -> None:
    facts = ("the red thing at top left is a circle", "there is a red circle")
    reason = "circle because the red thing at top left is a circle ."
    asked = [
        TextSample("1", "what shape is the red thing ?", references=(reason,), facts=facts),
        TextSample("2", "how many circles are there ?", references=("one",), facts=facts),
        TextSample(
            "3", "briefly , what shape is the red thing ?", references=("circle",), facts=facts
        ),
    ]
    said = [reason, "Two because there is a red circle and there is a blue square .", "A circle."]
    assert find("question").max_length == 40
    assert find("question").score(asked, said) == {
        "exact_match": pytest.approx(200 / 3),
        "presence": 100,
        "relevance": 100,
        "relevance_given": 100,
        "faithfulness": 50,
        "faithfulness_given": 50,
        "format": 100,
    }
    plain = [TextSample("1", "What is shown?", references=("late blight",))]
    assert find("question").score(plain, ["Late blight"]) == {"exact_match": 100, "presence": 0}


@pytest.mark.parametrize("name", sorted(TASKS))
def test_the_headline_comes_first_and_is_the_mean_over_samples(name: str) -> None:
    samples = [asked("a1", "a1"), asked("a dog", "two dogs"), asked("true", "a red dog")]
    said = ["a1", "a red dog", "false"]
    task = find(name)
    scores = task.score(samples, said)
    assert next(iter(scores)) == task.headline
    each = task.by_sample(samples, said)
    assert sum(each) / len(each) == pytest.approx(scores[task.headline])
    perfect = task.score(samples, ["a1", "a dog", "true"])
    assert perfect[task.headline] > scores[task.headline]


@pytest.mark.parametrize("name", sorted(TASKS))
def test_what_cannot_be_scored_is_refused_with_the_sample(name: str) -> None:
    with pytest.raises(DataError, match="1 predictions for 2 samples"):
        find(name).score([asked("a", "b")] * 2, ["a"])
    with pytest.raises(DataError, match="0 predictions for 0 samples"):
        find(name).score([], [])
    with pytest.raises(DataError, match=r"Sample 'q' of task .* has no reference"):
        find(name).by_sample([asked()], ["a"])


def test_vqa_of_one_answer_names_the_task_to_use() -> None:
    with pytest.raises(DataError, match=r"one human answer(.|\n)*'answers'"):
        find("vqa").score([asked("red")], ["red"])


def test_fixed_choices_are_given_to_the_task_choice_alone() -> None:
    assert find("choice").choices == ("true", "false")
    assert find("choice", choices=("left", "right")).choices == ("left", "right")
    for wrong in (("left",), ("left", "left")):
        with pytest.raises(ConfigError, match="two or more different answers"):
            find("choice", choices=wrong)
    with pytest.raises(ConfigError, match="'nlvr' has no choices of its own"):
        find("nlvr", choices=("left", "right"))


def test_an_unknown_name_lists_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"Unknown task 'captions'.*caption"):
        find("captions")
    with pytest.raises(ConfigError, match="spelling"):
        find("vqa", spelling="british")  # type: ignore[arg-type]
