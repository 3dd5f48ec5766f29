"""Task files are read strictly: what would make a wrong score is refused with the line it stands in."""

import json
from pathlib import Path

import pytest
from asked import rows, write

from vlm4vla.study import questions
from vlm4vla.types import UserError


def changed(file: Path, **changes: object) -> Path:
    """A file of four questions, the last of which is changed; None takes a key out."""
    found = rows(4)
    last = {k: v for k, v in (found[-1] | changes).items() if v is not None}
    return write(file, [*found[:-1], last])


def test_a_letter_task_lists_its_choices(tmp_path: Path) -> None:
    (task,) = questions.read([write(tmp_path / "colours.jsonl", rows())], "letter")
    assert (task.name, task.way, len(task.questions)) == ("colours", "letter", 8)
    asked = task.ask(task.questions[0])
    assert asked.startswith("Which colour is it?\nA. red\nB. green\nC. blue\nD. white\n")
    assert task.pictures(task.questions[0])[0].shape == (96, 96, 3)


def test_by_text_the_choices_stay_out_of_the_prompt_and_words_need_none(tmp_path: Path) -> None:
    (chosen,) = questions.read([write(tmp_path / "a.jsonl", rows())], "text")
    (said,) = questions.read([write(tmp_path / "b.jsonl", rows(choices=False))], "letter")
    assert chosen.ask(chosen.questions[0]) == "Which colour is it?" and said.way == "said"


def test_a_question_that_spells_a_placeholder_stays_a_question(tmp_path: Path) -> None:
    (task,) = questions.read([changed(tmp_path / "a.jsonl", question="what is {choices} here?")], "letter")
    assert "what is {choices} here?" in task.ask(task.questions[-1])


def test_prompt_names_the_template_and_the_way_and_digest_the_content(tmp_path: Path) -> None:
    file = write(tmp_path / "a.jsonl", rows())
    (first,) = questions.read([file], "letter")
    (again,) = questions.read([file], "letter")
    (by_text,) = questions.read([file], "text")
    own = [row | {"prompt": "Look. {question} {choices} Letter:"} for row in rows()]
    (other,) = questions.read([write(file, own)], "letter")
    assert first == again and len({first.prompt, by_text.prompt, other.prompt}) == 3
    assert other.ask(other.questions[0]).startswith("Look. Which colour is it? A. red\n")
    write(file, rows())
    (tmp_path / "0.png").write_bytes((tmp_path / "1.png").read_bytes())
    (repainted,) = questions.read([file], "letter")
    assert repainted.digest != first.digest and repainted.prompt == first.prompt


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"answer": "orange"}, r":4: the answer 'orange' is not among the choices\. Possible: red, green, blue, white"),
        ({"answer": "whit"}, r"Did you mean 'white'"),
        ({"answer": ["white"]}, r"not among the choices"),
        ({"choices": []}, r":4: 0 choices"),
        ({"choices": ["white"]}, r":4: 1 choices, of which 1 differ"),
        ({"choices": ["white", "white"]}, r":4: 2 choices, of which 1 differ"),
        ({"choices": [str(i) for i in range(27)], "answer": "3"}, r"2 to 26 choices"),
        ({"choices": None}, r"3 questions with choices and 1 without"),
        ({"id": "q0"}, r":4: id 'q0' is there twice"),
        ({"images": []}, r"'images' in .*:4"),
        ({"image": "x.png"}, r"Unknown setting 'image' in .*:4.*Did you mean 'images'"),
        ({"question": " "}, r"'question' in .*:4"),
        ({"answer": None}, r"'answer' is missing in .*:4"),
        ({"prompt": "Look. {question}{choices}"}, r"under 2 prompts"),
    ],
)
def test_a_line_that_would_make_a_wrong_score_is_refused(tmp_path: Path, changes: dict[str, object], told: str) -> None:
    with pytest.raises(UserError, match=told):
        questions.read([changed(tmp_path / "a.jsonl", **changes)], "letter")


@pytest.mark.parametrize("prompt", ["Look.", "{question}{question} {choices}", "{choices}", "{question}"])
def test_a_prompt_must_have_its_places(tmp_path: Path, prompt: str) -> None:
    file = write(tmp_path / "a.jsonl", [row | {"prompt": prompt} for row in rows()])
    with pytest.raises(UserError, match="does not fit questions answered by letter"):
        questions.read([file], "letter")


def test_torn_lines_missing_pictures_and_files(tmp_path: Path) -> None:
    file = write(tmp_path / "colours.jsonl", rows())
    whole = file.read_text()
    file.write_text(whole[:-20])
    with pytest.raises(UserError, match=r"colours\.jsonl:8 is torn or no JSON"):
        questions.read([file], "letter")
    file.write_text(json.dumps([1]) + "\n")
    with pytest.raises(UserError, match="holds list"):
        questions.read([file], "letter")
    file.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="is no text"):
        questions.read([file], "letter")
    file.write_text("\n")
    with pytest.raises(UserError, match="holds no question"):
        questions.read([file], "letter")
    with pytest.raises(UserError, match=r"No task file .*Did you mean 'colours\.jsonl'"):
        questions.read([tmp_path / "colour.jsonl"], "letter")
    file.write_text(whole)
    (tmp_path / "3.png").rename(tmp_path / "three.png")
    with pytest.raises(UserError, match=r"names the picture '.*3\.png', which cannot be read"):
        questions.read([file], "letter")


def test_a_file_that_is_no_picture_is_told_with_its_question(tmp_path: Path) -> None:
    (task,) = questions.read([write(tmp_path / "a.jsonl", rows())], "letter")
    (tmp_path / "2.png").write_text("no picture")
    with pytest.raises(UserError, match=r"Question 'q2', .*2\.png: 10 bytes are no picture"):
        task.pictures(task.questions[2])


def test_two_tasks_of_one_name(tmp_path: Path) -> None:
    files = [write(tmp_path / part / "a.jsonl", rows()) for part in ("one", "two")]
    with pytest.raises(UserError, match="Two task files are called 'a'"):
        questions.read(files, "letter")


def test_equal_answers() -> None:
    assert questions.equal(" Red. ", ["red"]) and questions.equal("“two  blocks”", ["blue", "two blocks"])
    assert questions.equal("Ｒed", ["red"])  # a full-width letter
    assert not questions.equal("dark red", ["red"]) and not questions.equal("", ["red"])
    assert not questions.equal("-3.5", ["3.5"]) and not questions.equal("50%", ["50"])
