"""The interactions and item texts of LETTER, and the key phrases of IDGenRec for its Beauty.

LETTER (arXiv 2405.07314, github.com/HonghuiBao2000/LETTER) publishes, for each data set, a JSON
object from user index to the list of the user's items in time order, and one from item index to
title and description. IDGenRec (arXiv 2403.19021, github.com/agiresearch/IDGenRec) has Beauty
too, in the same order of users and items but under the shop's own item numbers (ASIN); so position
j of user i names the same item in both, which maps one numbering to the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmark.data.download import Downloads, RemoteFile
from benchmark.data.interactions import Rows
from benchmark.data.source import ItemText, Vectors, check_keys, pinned_file
from benchmark.data.textfile import read_json_object, text_lines
from benchmark.errors import UserError

PINS = ("repository", "commit", "url")


def read_letter_rows(path: Path) -> Rows:
    """Interactions of a ``.inter.json`` file: users in file order, each one's items in theirs.

    Raises:
        UserError: not such a file; the message names the user.
    """
    users: list[str] = []
    items: list[str] = []
    for user, own in read_json_object(path).items():
        if not isinstance(own, list):
            raise UserError(f"{path}: user {user[:40]!r} must have a list of item indices")
        for item in own:
            if type(item) is not int or item < 0:
                raise UserError(
                    f"{path}: user {user[:40]!r} has the item {str(item)[:40]!r}, "
                    "which is not a whole number from 0"
                )
            items.append(str(item))
        users.extend([user] * len(own))
    if not users:
        raise UserError(f"{path} holds no interactions")
    return Rows(users, items)


def read_letter_texts(path: Path) -> dict[str, ItemText]:
    """Texts of an ``.item.json`` file, by item index.

    Raises:
        UserError: not such a file; the message names the item.
    """
    texts = {}
    for item, entry in read_json_object(path).items():
        fields = entry if isinstance(entry, dict) else {}
        title, description = fields.get("title", ""), fields.get("description", "")
        if not fields or not isinstance(title, str) or not isinstance(description, str):
            raise UserError(
                f"{path}: item {item[:40]!r} must have a title and a description, both text"
            )
        try:
            (title + description).encode()
        except UnicodeEncodeError:
            raise UserError(f"{path}: the text of item {item[:40]!r} is not Unicode") from None
        texts[item] = ItemText(title.strip(), description.strip())
    if not texts:
        raise UserError(f"{path} holds no items")
    return texts


def read_key_phrases(path: Path) -> dict[str, str]:
    """Key phrase by ASIN, from a file with an item a line: ASIN, a blank, the phrase. It may be
    empty: that of one item of Beauty (B001LTVF7G) is.

    Raises:
        UserError: not such a file; the message names the line.
    """
    phrases: dict[str, str] = {}
    for number, line in _lines(path):
        asin, blank, phrase = line.partition(" ")
        if not asin or not blank:
            raise UserError(f"{path}, line {number}: expected an item, a blank and its key phrase")
        if asin in phrases:
            raise UserError(f"{path}, line {number}: item {asin[:40]!r} appears twice")
        phrases[asin] = phrase.strip()
    return phrases


def read_user_sequences(path: Path) -> list[list[str]]:
    """The users' ASINs in time order, from a file with a user a line: user, then items.

    Raises:
        UserError: not such a file; the message names the line.
    """
    sequences = []
    for number, line in _lines(path):
        _, *items = line.split()
        if not items:
            raise UserError(f"{path}, line {number}: expected a user and at least one item")
        sequences.append(items)
    return sequences


def _lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, line) of a text file's lines; blank ones are an error but at the end."""
    lines = [line.removesuffix("\n").removesuffix("\r") for line in text_lines(path)]
    while lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise UserError(f"{path} is empty")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            raise UserError(f"{path}, line {number}: the line is empty")
    return list(enumerate(lines, start=1))


def match_items(rows: Rows, sequences: list[list[str]], where: Path) -> dict[str, str]:
    """ASIN by LETTER's item index, from two files with the same users in the same order.

    Raises:
        UserError: the files have other users or items than each other, so that position j of
            user i does not name the same item in both.
    """
    asins = [asin for sequence in sequences for asin in sequence]
    lengths: dict[str, int] = {}
    for user in rows.users:
        lengths[user] = lengths.get(user, 0) + 1
    if list(lengths.values()) != [len(sequence) for sequence in sequences]:
        raise UserError(
            f"{where} does not have the users of LETTER's interactions: {len(sequences)} users "
            f"with {len(asins)} items against {len(lengths)} with {len(rows.items)}, "
            "or other lengths"
        )
    found: dict[str, str] = {}
    back: dict[str, str] = {}
    for item, asin in zip(rows.items, asins, strict=True):
        if found.setdefault(item, asin) != asin or back.setdefault(asin, item) != item:
            raise UserError(
                f"{where} contradicts LETTER's interactions: item {item} is both {found[item]} "
                f"and {asin}, or {asin} is both {back.get(asin)} and {item}"
            )
    return found


class Letter:
    """A data set of LETTER, pinned to a commit.

    Options: ``repository``, ``commit``, ``url`` (template), ``interactions`` and ``items``, each
    a file as `pinned_file` knows it, and ``text``, which says in words what the items' texts are;
    without ``items`` the data set has none.
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_keys("source", options, ("kind", *PINS, "interactions"), ("items", "text"))
        self._options = dict(options)
        self._interactions = pinned_file(
            "source.interactions", options, options["interactions"], "letter"
        )
        items = options.get("items")
        self._items = pinned_file("source.items", options, items, "letter") if items else None

    @property
    def revision(self) -> str:
        return f"LETTER {self._options['commit']}"

    @property
    def text_source(self) -> str | None:
        return f"LETTER: {self._options.get('text', 'text')}" if self._items else None

    @property
    def identity(self) -> dict[str, Any]:
        # The files' checksums say all; where they were fetched from does not matter.
        return {
            "kind": self._options["kind"],
            "inputs": {**self.row_inputs(), **self.text_inputs()},
        }

    def row_inputs(self) -> dict[str, str]:
        return {self._interactions.name: self._interactions.checksum}

    def text_inputs(self) -> dict[str, str]:
        return {self._items.name: self._items.checksum} if self._items else {}

    def read_rows(self, downloads: Downloads) -> Rows:
        return read_letter_rows(downloads.get(self._interactions))

    def read_texts(self, downloads: Downloads) -> dict[str, ItemText] | None:
        return read_letter_texts(downloads.get(self._items)) if self._items else None

    def read_vectors(self, downloads: Downloads) -> Vectors | None:
        return None


class LetterWithKeyPhrases(Letter):
    """LETTER's interactions with IDGenRec's key phrases as item texts, for places where LETTER's
    own texts are not at hand.

    Options: those of `Letter` without ``items``, and ``texts`` with ``repository``, ``commit``,
    ``url``, ``phrases`` and ``sequences`` (files).
    """

    def __init__(self, options: Mapping[str, Any]) -> None:
        check_keys("source", options, ("kind", *PINS, "interactions", "texts"))
        super().__init__({key: value for key, value in options.items() if key != "texts"})
        self._options = dict(options)
        texts = options["texts"]
        check_keys("source.texts", texts, (*PINS, "phrases", "sequences"))
        self._phrases, self._sequences = (
            pinned_file(f"source.texts.{key}", texts, texts[key], "idgenrec")
            for key in ("phrases", "sequences")
        )

    @property
    def text_source(self) -> str:
        return "IDGenRec: key phrase"

    def text_inputs(self) -> dict[str, str]:
        # The interactions count too: they decide which phrase an item gets.
        files: tuple[RemoteFile, ...] = (self._phrases, self._sequences)
        return {**self.row_inputs(), **{file.name: file.checksum for file in files}}

    def read_texts(self, downloads: Downloads) -> dict[str, ItemText]:
        phrases = read_key_phrases(downloads.get(self._phrases))
        path = downloads.get(self._sequences)
        asins = match_items(self.read_rows(downloads), read_user_sequences(path), path)
        lacking = next((asin for asin in asins.values() if asin not in phrases), None)
        if lacking is not None:
            raise UserError(f"{self._phrases.name} has no key phrase for the item {lacking}")
        return {item: ItemText(phrases[asin], "") for item, asin in asins.items()}
