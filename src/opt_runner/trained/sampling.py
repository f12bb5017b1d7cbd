"""Text that a trained network writes."""

import torch
from torch import Tensor

from opt_runner.datasets.text import BUILT_IN, TextFile, scale_of, tokenizer_of
from opt_runner.errors import UserError
from opt_runner.trained.network import Trained


@torch.no_grad()
def sample(
    trained: Trained,
    prompt: str,
    length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
) -> str:
    """Return the prompt and `length` tokens after it, drawn one by one on the CPU.

    temperature: divides the logits; 0 takes the most likely token. top_k: only so many tokens, the
    most likely ones, can be drawn. The network sees the last tokens that fit into its context.
    Raises UserError if the run was no run on text, or the prompt has unknown characters.
    """
    alphabet = Alphabet(trained)
    tokens = alphabet.encode(prompt)
    generator = torch.Generator().manual_seed(seed)
    context = trained.interface.shape[0]
    for _ in range(length):
        logits = trained.network(tokens[None, -context:])[0, -1].double()
        if top_k is not None and top_k < len(logits):
            logits[logits < logits.topk(top_k).values[-1]] = -torch.inf
        if temperature == 0:
            token = logits.argmax(keepdim=True)
        else:
            chances = ((logits - logits.max()) / temperature).softmax(-1)
            token = torch.multinomial(chances, 1, generator=generator)
        tokens = torch.cat([tokens, token])
    return alphabet.decode(tokens.tolist())


class Alphabet:
    """The tokens of a network: characters, bytes, or those of a tokenizer's file."""

    def __init__(self, trained: Trained) -> None:
        dataset = trained.config.dataset
        path = f"{TextFile.__module__}.{TextFile.__qualname__}"
        if dataset.target not in ("opt_runner.datasets.TextFile", path):
            raise UserError(
                f"{trained.record.directory} is of dataset={dataset.name}: only runs on "
                "dataset=text write text"
            )
        self.characters = trained.interface.classes
        tokens = str(dataset.options.get("tokens", "characters"))
        self.tokenizer = None if tokens in BUILT_IN else tokenizer_of(tokens)
        if self.tokenizer and scale_of(tokens) != trained.interface.scale:
            raise UserError(
                f"{tokens} is not the tokenizer that the network was trained with: put back the "
                "file of that time"
            )

    def encode(self, text: str) -> Tensor:
        """Return the tokens of a text, at least one.

        A line break stands for an empty text, or the first character of a text that has none.
        """
        if not text:
            text = self.characters[0] if self.characters and "\n" not in self.characters else "\n"
        if self.tokenizer is not None:
            ids = self.tokenizer.encode(text, add_special_tokens=False).ids
            return torch.tensor(ids or [0])
        if not self.characters:
            return torch.tensor(list(text.encode(errors="surrogateescape")))
        if unknown := [character for character in text if character not in self.characters]:
            raise UserError(
                f"--prompt: {unknown[0]!r} is not among the {len(self.characters)} characters of "
                f"the text: {''.join(filter(str.isprintable, self.characters))}"
            )
        return torch.tensor([self.characters.index(character) for character in text])

    def decode(self, tokens: list[int]) -> str:
        """Return the text of tokens; bytes that are no UTF-8 become U+FFFD."""
        if self.tokenizer is not None:
            return str(self.tokenizer.decode(tokens))
        if not self.characters:
            return bytes(tokens).decode(errors="replace")
        return "".join(self.characters[token] for token in tokens)
