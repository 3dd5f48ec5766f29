"""Files of questions about pictures, one JSON object a line, and what a VLM is asked and graded by.

A line: ``id``, ``images`` (paths beside the file), ``question``, ``answer``, and for multiple choice ``choices``, which
hold the answer. Without choices ``answer`` may be a list of wordings that all count. ``prompt`` replaces the house's
template, in every line of the file: two templates are two tests.

Three ways to answer. *letter*: the choices stand in the prompt under letters, the likeliest letter is the answer.
*text*: the choices do not stand in the prompt, that one is the answer whose words are likeliest per byte. *said*: the
model speaks, and what it says must equal a right wording (case, spaces and marks around it do not count).
"""

import hashlib
import json
import re
import string
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import Field

from vlm4vla import config as configs
from vlm4vla.config import Config
from vlm4vla.data import pictures
from vlm4vla.types import Image, UserError, refuse

Way = Literal["letter", "text", "said"]
Choosing = Literal["letter", "text"]
Text = Annotated[str, Field(pattern=r"\S")]
TEMPLATES: dict[Way, str] = {
    "letter": "{question}\n{choices}\nAnswer with the letter of the right choice.",
    "text": "{question}",
    "said": "{question}\nAnswer with one word or a short phrase.",
}
LETTERS = string.ascii_uppercase
MARKS = ".,;:!?()[]\"'`*“”‘’"
"""What may stand around an answer: no sign, no unit, which would make it another one."""


class Question(Config):
    """One line of a file; see the module's head."""

    id: Text
    images: Annotated[tuple[Path, ...], Field(min_length=1)]
    question: Text
    answer: Text | Annotated[tuple[Text, ...], Field(min_length=1)]
    choices: tuple[Text, ...] | None = None
    prompt: str | None = None

    @property
    def right(self) -> tuple[str, ...]:
        return (self.answer,) if isinstance(self.answer, str) else self.answer


@dataclass(frozen=True)
class Task:
    """``digest`` names the file and the pictures by their content, ``prompt`` the template and the way by theirs."""

    name: str
    folder: Path
    way: Way
    template: str
    questions: tuple[Question, ...]
    digest: str

    @property
    def prompt(self) -> str:
        return f"{self.way}-{configs.digest({'way': self.way, 'template': self.template})[:8]}"

    def ask(self, question: Question) -> str:
        """The template with the question in it, and for *letter* the choices, one a line."""
        listed = "\n".join(f"{LETTERS[i]}. {choice}" for i, choice in enumerate(question.choices or ()))
        words = {"question": question.question.strip(), "choices": listed}
        # In one pass: a question that spells a placeholder stays a question.
        return re.sub(r"\{(question|choices)\}", lambda found: words[found[1]], self.template)

    def pictures(self, question: Question) -> list[Image]:
        return [_picture(self.folder / file, question.id) for file in question.images]


def read(files: Sequence[Path], choosing: Choosing) -> list[Task]:
    """The tasks of some files, each named after its file; ``choosing`` is the way for those with choices."""
    tasks = [_read(file, choosing) for file in files]
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise refuse(
            f"Two task files are called {twice[0]!r}",
            possible="files with different names: a task is named after its file",
            todo="Rename one of them, or give it once.",
        )
    return tasks


def equal(said: str, right: Sequence[str]) -> bool:
    """Whether an answer is one of the right ones, apart from case, spaces, and marks at its ends."""
    return _plain(said) in {_plain(text) for text in right}


def _read(file: Path, choosing: Choosing) -> Task:
    questions = _questions(file)
    way = _way(file, questions, choosing)
    digest = hashlib.sha256(file.read_bytes())
    for picture in dict.fromkeys(picture for question in questions for picture in question.images):
        digest.update(hashlib.sha256(_bytes(file.parent / picture, file)).digest())
    return Task(file.stem, file.parent, way, _template(file, questions, way), questions, digest.hexdigest()[:12])


def _questions(file: Path) -> tuple[Question, ...]:
    if not file.is_file():
        raise refuse(
            f"No task file {str(file)!r}",
            given=file.name,
            possible=sorted(f.name for f in file.parent.glob("*.jsonl")) if file.parent.is_dir() else [],
            todo="Give a file with one question a line; docs/scores.md shows one.",
        )
    found: dict[str, Question] = {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise refuse(f"{file} is no text: {error}", possible="UTF-8", todo="Convert it.") from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        question = configs.validate(Question, _plain_line(file, number, line), f"{file}:{number}")
        if question.id in found:
            raise refuse(
                f"{file}:{number}: id {question.id!r} is there twice",
                possible="an id of its own for every question",
                todo="Rename one of the two, or take it out.",
            )
        _check_answer(question, f"{file}:{number}")
        found[question.id] = question
    if not found:
        raise refuse(f"{file} holds no question", possible="one JSON object a line", todo="Write one.")
    return tuple(found.values())


def _plain_line(file: Path, number: int, line: str) -> dict[str, Any]:
    try:
        plain = json.loads(line)
    except json.JSONDecodeError as error:
        raise refuse(
            f"{file}:{number} is torn or no JSON: {error}",
            possible="one whole JSON object a line",
            todo="Write the line again; a file of which the end is missing must be fetched again.",
        ) from error
    if not isinstance(plain, dict):
        raise refuse(
            f"{file}:{number} holds {type(plain).__name__}", possible="a JSON object", todo="Write id, images, ..."
        )
    return plain


def _check_answer(question: Question, where: str) -> None:
    choices = question.choices
    if choices is None:
        return
    if len(choices) < 2 or len({*choices}) < len(choices) or len(choices) > len(LETTERS):
        raise refuse(
            f"{where}: {len(choices)} choices, of which {len({*choices})} differ",
            possible=f"2 to {len(LETTERS)} choices that all differ; or no choices, for an answer in words",
            todo="Give the choices, or leave them out.",
        )
    if not isinstance(question.answer, str) or question.answer not in choices:
        raise refuse(
            f"{where}: the answer {question.answer!r} is not among the choices",
            given=question.answer,
            possible=choices,
            todo="Write the right choice in the same words.",
        )


def _way(file: Path, questions: Sequence[Question], choosing: Choosing) -> Way:
    assert choosing in get_args(Choosing)
    chosen = [question for question in questions if question.choices is not None]
    if chosen and len(chosen) < len(questions):
        raise refuse(
            f"{file} has {len(chosen)} questions with choices and {len(questions) - len(chosen)} without",
            possible="all with choices, or none: they are graded in different ways",
            todo="Make two files of it.",
        )
    return choosing if chosen else "said"


def _template(file: Path, questions: Sequence[Question], way: Way) -> str:
    found = {question.prompt for question in questions}
    if len(found) > 1:
        raise refuse(
            f"{file} has questions under {len(found)} prompts",
            possible="one prompt in all lines, or in none",
            todo="Make one file per prompt: two prompts are two tests.",
        )
    template = next(iter(found)) or TEMPLATES[way]
    wanted = {"question", "choices"} if way == "letter" else {"question"}
    if any(template.count("{" + name + "}") != (name in wanted) for name in ("question", "choices")):
        raise refuse(
            f"{file}: the prompt {template!r} does not fit questions answered by {way}",
            possible=" and ".join(f"{{{name}}}" for name in sorted(wanted, reverse=True)) + ", each once, no other",
            todo="Mend the prompt, or choose another --by.",
        )
    return template


def _bytes(picture: Path, file: Path) -> bytes:
    try:
        return picture.read_bytes()
    except OSError as error:
        raise refuse(
            f"{file} names the picture {str(picture)!r}, which cannot be read: {error.strerror}",
            given=picture.name,
            possible=sorted(f.name for f in picture.parent.glob("*"))[:20] if picture.parent.is_dir() else [],
            todo="Put the picture there; its path is counted from the folder of the task file.",
        ) from error


def _picture(file: Path, question: str) -> Image:
    try:
        return pictures.decode_any(file.read_bytes())
    except UserError as error:
        raise UserError(f"Question {question!r}, {file}: {error}") from error


def _plain(text: str) -> str:
    folded = " ".join(unicodedata.normalize("NFKC", text).casefold().split())
    return folded.strip(MARKS + string.whitespace)
