"""Text: the next character, byte or token from those before it."""

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from opt_runner.datasets.data import Data, Measure, Samples
from opt_runner.datasets.labelled import smoothed_cross_entropy
from opt_runner.datasets.stored import read
from opt_runner.errors import UserError
from opt_runner.files import expanded, readable, sha256

Array = np.ndarray[Any, Any]

# Kinds of tokens that need no file.
BUILT_IN = ("characters", "bytes")
_BYTES = 256
_MOST_LOST = 0.01  # share of the characters
_TOO_LOW = (
    "so bits per character would be too low: take a tokenizer that keeps the text, as those on "
    "bytes do"
)


@dataclass(frozen=True, eq=False)
class Text(Data):
    """Windows of a text, one after the other; a network predicts each next token of a window.

    train, test: inputs are tokens t .. t + T - 1, targets t + 1 .. t + T, both (N, T), in the
    smallest integer type. vocabulary: the number of different tokens. characters: of the test part
    for each of its tokens. class_names: the characters, where they are the tokens. scale: which
    tokenizer made the tokens, if one did.

    The error is in bits per character, whatever the tokens are: the mean negative log-likelihood of
    the targets, by log 2 and by `characters`. A window starts without a context.
    """

    vocabulary: int
    characters: float = 1.0
    alphabet: tuple[str, ...] = ()
    scale: str = ""

    measure: ClassVar[Measure] = Measure("bits per character", "")
    samples: ClassVar[str] = "windows"
    outputs: ClassVar[str] = "logits"
    output_classes: ClassVar[bool] = True

    @property
    def class_names(self) -> list[str]:
        return list(self.alphabet)

    @property
    def context(self) -> int:
        return self.train.inputs.shape[1]

    @property
    def gives(self) -> dict[str, Any]:
        return {"vocabulary": self.vocabulary, "context": self.context}

    @property
    def output_shape(self) -> tuple[int, ...]:
        return (self.context, self.vocabulary)

    @property
    def below(self) -> int:
        return self.vocabulary

    def network_input(self, inputs: Tensor, dtype: torch.dtype) -> Tensor:
        return inputs.long()

    def loss(self, outputs: Tensor, targets: Tensor, smoothing: float, floor: float) -> Tensor:
        """Return the mean cross-entropy of logits (B, T, vocabulary) and targets (B, T)."""
        return smoothed_cross_entropy(
            outputs.flatten(0, 1), targets.flatten().long(), smoothing, floor
        )

    def tally(self, device: torch.device) -> "TextTally":
        return TextTally(device, self.characters)

    def hold_back(self, share: float, seed: int) -> tuple[Self, Samples]:
        """Return the data without the last windows of its training part, and these.

        `seed` has no effect: neighbouring windows must not be on both sides.
        """
        count = int(len(self.train) * share)
        if not count:
            raise UserError(
                f"dataset.validation={share:g} of {len(self.train)} windows is none: give a larger "
                "share, at most 0.5"
            )
        return replace(self, train=self.train[:-count]), self.train[-count:]

    def renumbered(self, numbers: Tensor) -> Samples:
        test = self.test
        return Samples(numbers[read(test.inputs).long()], numbers[test.targets.long()])


class TextTally:
    """The likelihood of tokens: bits per character, nats and perplexity of a token."""

    def __init__(self, device: torch.device, characters: float) -> None:
        self.characters = characters
        self.total = torch.zeros(2, dtype=torch.float64, device=device)  # nats, tokens
        self.sums = [self.total]

    def add(self, outputs: Tensor, targets: Tensor) -> None:
        nats = torch.nn.functional.cross_entropy(
            outputs.flatten(0, 1).float(), targets.flatten().long(), reduction="none"
        )
        self.total += torch.stack([nats.sum(dtype=torch.float64), nats.new_tensor(len(nats))])

    def numbers(self) -> dict[str, float]:
        nats, tokens = self.total.tolist()
        mean = nats / tokens
        perplexity = math.exp(mean) if mean < 700 else math.inf  # NaN stays NaN
        bits = mean / math.log(2) / self.characters
        return {"error": bits, "nll": mean, "perplexity": perplexity}


class TextFile:
    """A UTF-8 file, or a folder of .txt files in the order of their names, cut by position.

    root: None for the help texts that every Python has (`pydoc_data.topics`), which differ between
    Pythons. tokens: `characters`, `bytes`, or the tokenizer.json of the library `tokenizers`.
    context: tokens of a window. test_share: the share of the text, at its end, that is for tests.
    """

    content = Text

    def __init__(
        self,
        root: str | None = None,
        tokens: str = "characters",
        context: Annotated[int, Field(ge=1, le=2**20)] = 128,
        test_share: Annotated[float, Field(gt=0, lt=1)] = 0.1,
    ) -> None:
        self.root = Path(expanded(root)) if root else None
        self.tokens = tokens
        self.context = context
        self.test_share = test_share

    def check(self) -> None:
        if self.root is not None and not self._files:
            what = "has no .txt files" if self.root.is_dir() else "does not exist"
            raise UserError(
                f"dataset.root={self.root} {what}: give a text file or a folder of them"
            )
        if self.tokens not in BUILT_IN and not Path(self.tokens).is_file():
            raise UserError(
                f"dataset.tokens={self.tokens}: no such file; characters, bytes and the "
                "tokenizer.json of the library tokenizers are allowed"
            )

    def fingerprint(self) -> str:
        """Return a hash of the text, of the tokenizer's content and of how both are cut."""
        tokens = self.tokens if self.tokens in BUILT_IN else sha256(Path(self.tokens))
        cut = json.dumps([tokens, self.context, self.test_share])
        return hashlib.sha256(f"{cut}\n{self._text}".encode()).hexdigest()[:16]

    def load(self) -> Text:
        """Return the windows. Raises UserError for a text that is too short for two."""
        tokens, begins, alphabet, vocabulary = self._encoded()
        cut = round(len(tokens) * (1 - self.test_share))
        train, test = (self._windows(half) for half in (tokens[:cut], tokens[cut:]))
        count = test.targets.numel()
        characters = int(begins[cut + 1 + count]) - int(begins[cut + 1])
        scale = "" if self.tokens in BUILT_IN else scale_of(self.tokens)
        return Text(train, test, vocabulary, characters / count, alphabet, scale)

    def _windows(self, tokens: Tensor) -> Samples:
        count = (len(tokens) - 1) // self.context
        if count < 1:
            raise UserError(
                f"dataset.root={self.root}: a text of {len(self._text):,} characters is too short "
                f"for windows of {self.context} tokens in training and test: set dataset.context"
            )
        length = count * self.context
        shape = (count, self.context)
        return Samples(tokens[:length].view(shape), tokens[1 : length + 1].view(shape))

    def _encoded(self) -> tuple[Tensor, Sequence[int] | Array, tuple[str, ...], int]:
        """Return tokens (N,), begins (N + 1,), the characters if they are the tokens, vocabulary.

        begins: the number of characters of the text before each token, and before its end.
        """
        if self.tokens == "bytes":
            found = np.frombuffer(self._text.encode(), np.uint8).copy()
            first = np.cumsum(found & 0xC0 != 0x80)  # of the bytes of a character
            return torch.from_numpy(found), np.append(0, first), (), _BYTES
        if self.tokens == "characters":
            points = np.frombuffer(self._text.encode("utf-32-le"), np.uint32)
            different, numbers = np.unique(points, return_inverse=True)
            alphabet = tuple(map(chr, different))
            tokens = _smallest(torch.from_numpy(numbers), len(alphabet))
            return tokens, range(len(tokens) + 1), alphabet, len(alphabet)
        tokenizer = tokenizer_of(self.tokens)
        self._check_normalizer(tokenizer.normalizer)
        encoded = tokenizer.encode(self._text, add_special_tokens=False)
        vocabulary = 1 + max(tokenizer.get_vocab().values())  # numbers may be left out
        tokens = _smallest(torch.tensor(encoded.ids), vocabulary)
        begins = [*(start for start, _ in encoded.offsets), len(self._text)]
        if (lost := self._lost(tokenizer, encoded)) > _MOST_LOST:
            raise UserError(
                f"dataset.tokens={self.tokens} drops {lost:.0%} of the text, or has unknown tokens "
                f"for it, {_TOO_LOW}"
            )
        return tokens, begins, (), vocabulary

    def _check_normalizer(self, normalizer: Any) -> None:
        """Raise UserError if a tokenizer's normalizer makes different characters equal."""
        different = set(self._text)
        kept = set(normalizer.normalize_str(self._text)) if normalizer else different
        if len(kept) < len(different):
            raise UserError(
                f"dataset.tokens={self.tokens} makes {len(kept)} of the text's {len(different)} "
                f"characters, as lower case does, {_TOO_LOW}"
            )

    def _lost(self, tokenizer: Any, encoded: Any) -> float:
        """Return the share of the characters, without blanks, that are in no known token."""
        model = json.loads(tokenizer.to_str())["model"]
        unknown = model.get("unk_id", tokenizer.token_to_id(model.get("unk_token") or ""))
        kept = np.zeros(len(self._text), bool)
        for token, (start, end) in zip(encoded.ids, encoded.offsets, strict=True):
            kept[start:end] |= token != unknown
        seen = np.array([not character.isspace() for character in self._text])
        return float((seen & ~kept).sum() / max(seen.sum(), 1))

    @cached_property
    def _files(self) -> list[Path]:
        assert self.root is not None
        if self.root.is_dir():
            return sorted(
                path
                for path in self.root.rglob("*.txt")
                if path.is_file()
                and not any(part.startswith(".") for part in path.relative_to(self.root).parts)
            )
        return [self.root] if self.root.is_file() else []

    @cached_property
    def _text(self) -> str:
        if self.root is None:
            from pydoc_data.topics import topics

            return "\n".join(topics[name] for name in sorted(topics))
        parts = []
        for path in self._files:
            try:
                with readable(path):
                    parts.append(path.read_bytes().decode())
            except UnicodeDecodeError as error:
                raise UserError(
                    f"{path} is no UTF-8: byte {error.start:,} cannot be read"
                ) from error
        return "\n".join(parts)


def scale_of(path: str) -> str:
    """Return in words which tokenizer a file holds."""
    return f"tokens of the tokenizer with SHA-256 {sha256(Path(path))}"


def tokenizer_of(path: str) -> Any:
    """Return the tokenizer of a file. Raises UserError if it is none, or the library is missing."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise UserError("dataset.tokens=FILE needs a package: pip install tokenizers") from error
    try:
        tokenizer = Tokenizer.from_file(path)
        tokenizer.no_truncation()  # a file may hold both, from another use
        tokenizer.no_padding()
        return tokenizer
    except Exception as error:  # the library raises plain Exception
        raise UserError(f"dataset.tokens={path} is no tokenizer.json: {error}") from error


def _smallest(numbers: Tensor, count: int) -> Tensor:
    """Return numbers below `count` in one byte, if that suffices, else in four."""
    return numbers.to(torch.uint8 if count <= _BYTES else torch.int32)
