"""What a benchmark is: where its rows lie, what is asked, what counts as right, and how scores become one number.

A declaration is data and small functions of one row. Reading rows is the business of `rows.py`, answering them that of
`run.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

PROTOCOLS = ("cambrian", "official")
"""`cambrian`: the parent's own prompts and rules, with which the paper's tables were made. `official`: the benchmark's;
`docs/evaluation.md` tells which, column by column."""

Row = Mapping[str, Any]
Score = float | None
"""0 to 1; None where the scorer cannot tell what was answered, which counts as wrong."""

LETTER = "\nAnswer with the option's letter from the given choices directly."
WORD = "\nAnswer the question using a single word or phrase."
"""What most questions end with."""
FIELD_KINDS = TEXT, NUMBER, LIST, IMAGE, ANY = "text", "number", "list", "image", "any"
"""Kinds of fields. `any` may be absent from a row's values (None), but not from the schema."""


@dataclass(frozen=True)
class BenchmarkSource:
    """Rows on the Hugging Face hub, or in a local copy of that repository."""

    dataset: str
    """Its id, OWNER/NAME; a local copy lies in a folder of that name below the data root."""
    split: str
    config: str | tuple[str, ...] | None = None
    """A configuration, or several whose rows follow one another; the row's is in its field `config`."""
    data_files: str | None = None
    """One file of the repository, where it has no configurations."""
    revision: str = "main"
    """Branch, tag or commit on the hub. Results name the commit that was read."""
    formerly: tuple[BenchmarkSource, ...] = ()
    """Where the same rows lay before they moved. Tried in order after this one, on the hub and in local copies."""

    @property
    def places(self) -> tuple[BenchmarkSource, ...]:
        """This one, then where the rows lay before."""
        return (self, *self.formerly)


def moved(old: str, new: str, *where: Any, **more: Any) -> BenchmarkSource:
    """A source whose repository has another owner or name now; `old` is still accepted."""
    return BenchmarkSource(new, *where, **more, formerly=(BenchmarkSource(old, *where, **more),))


@dataclass(frozen=True)
class Picture:
    """An image of a row: its bytes, or the path of a file in the dataset's repository."""

    data: bytes | None = None
    path: str | None = None


@dataclass(frozen=True)
class VideoRef:
    """A video of a row: the path of a file, or of a folder of frames, in the dataset's repository."""

    path: str
    clip: Mapping[str, Any] = field(default_factory=dict)
    """`start_time`, `end_time` (seconds) and `fps` (of a folder), where the row gives them."""


Part = str | Picture | VideoRef
"""A piece of a user's message."""


@dataclass(frozen=True)
class Benchmark:
    """One column of a table."""

    name: str
    """What `--tasks` calls it."""
    title: str
    source: BenchmarkSource
    fields: Mapping[str, str]
    """The fields that are read, and their kinds."""
    ask: Callable[[Row, str], list[Part]]
    """(row, protocol) → the user's message."""
    target: Callable[[Row, str], dict[str, Any]]
    """(row, protocol) → what the scorer needs to know, in JSON types; `answer` is the gold answer or a list of them."""
    score: Mapping[str, Callable[[str, Mapping[str, Any]], Score]]
    """Protocol → scorer of (answer, target)."""
    rows: int
    """Rows of the split."""
    samples: int | None
    """Rows that `keep` leaves; None: not known."""
    spellings: Mapping[str, str] = field(default_factory=dict)
    """Other spellings of fields that are in use → the field."""
    identity: Callable[[Row, int], str] = lambda row, number: str(number)
    """(row, place in the split) → id, unique in the benchmark."""
    group: Callable[[Row], str] | None = None
    """Scoring group: rows that share a picture or count together. They are never divided over ranks or by a limit, and
    are drawn together for intervals. None: every row by itself."""
    group_size: int | None = None
    """Rows per group, where all groups have the same."""
    keep: Callable[[Row], bool] | None = None
    stratum: Callable[[Row], str] = lambda row: ""
    """Category whose results are computed apart and then combined."""
    weights: Mapping[str, float] = field(default_factory=dict)
    """Weights of strata in their mean, where they are not 1."""
    figures: tuple[Literal["share", "all"], ...] = ("share",)
    """What a group contributes: the share of right answers, or 1 where all of the group are right."""
    combine: Literal["mean", "sum"] = "mean"
    """The column is 100 times the mean over strata, or the sum over strata and figures."""
    max_new_tokens: int = 512
    join: tuple[str, BenchmarkSource, str] | None = None
    """(field, source, key): the row's `image` is that of the source's row whose `key` equals the row's `field`."""
    column: str = ""
    """Its name in tables, where it is not `name`."""
    video: bool = False
    judge: str = ""
    """What its authors have a judge model decide; without one such answers are undecided, which counts as wrong."""

    @property
    def in_table(self) -> str:
        """The column's name in `eval/tables/*.yaml`."""
        return self.column or self.name


def both(value: Any) -> dict[str, Any]:
    """The same under each protocol."""
    return dict.fromkeys(PROTOCOLS, value)


def picture(row: Row, name: str = "image") -> Picture:
    """The image that a field holds, as `datasets` stores it undecoded: {"bytes": …, "path": …}."""
    value = row[name]
    return Picture(data=value["bytes"], path=value["path"] if value["bytes"] is None else None)


def with_picture(row: Row, text: str, name: str = "image") -> list[Part]:
    """`<image>`, a new line, the text; the text alone where the row has no image."""
    return [text] if row[name] is None else [picture(row, name), "\n" + text]


def film(path: str, text: str, **clip: Any) -> list[Part]:
    """`<video>`, a new line, the text."""
    return [VideoRef(path, clip), "\n" + text]


def absent(value: Any) -> bool:
    """Whether a cell holds nothing: None, not-a-number, "", "nan" (as some exports spell it)."""
    return value is None or value != value or (isinstance(value, str) and value.strip().lower() in ("", "nan"))


def letter(place: int) -> str:
    """The letter of an option, A for 0."""
    return chr(ord("A") + place)


def lettered(options: list[str] | tuple[str, ...]) -> dict[str, str]:
    """Options by letter, from A."""
    return {letter(place): str(option) for place, option in enumerate(options)}


def option_lines(options: Mapping[str, str], mark: str = "{}. {}") -> str:
    """Options as lines, each after a line break."""
    return "".join("\n" + mark.format(letter, text) for letter, text in options.items())


def stripped(options: list[str]) -> dict[str, str]:
    """Options written "A. …" by letter."""
    return {letter: text.split(".", 1)[-1].strip() for letter, text in lettered(options).items()}
