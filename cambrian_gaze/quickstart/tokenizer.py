"""The tokenizer of preset "tiny": byte-level BPE with Qwen's special tokens, trained on an embedded text.

Every UTF-8 string round-trips, because all 256 bytes are in the vocabulary. A cell address with its space (" B3") and
a digit with its space (" 7") are one token each. `python -m cambrian_gaze.quickstart.tokenizer FOLDER` writes the
folder that ships as `cambrian_gaze/assets/tiny`; the same text gives the same files.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from cambrian_gaze.quickstart.task import draw_question

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

VOCABULARY_SIZE = 512
SPECIAL_TOKENS = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
"""Qwen's names. They take the last ids of the vocabulary, in this order."""

SPLIT_PATTERN = (
    r" ?\p{Lu}\p{N}(?!\p{N})"  # an address such as B3
    r"| ?\p{N}"  # digits one by one, each with the space before it
    r"|(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""Qwen's pre-tokenisation with two alternatives in front."""

ENGLISH = """
A picture is cut into small patches, and every patch becomes a vector that the language model can read.
The words of the question look at the picture, and each word decides for itself which parts of it are worth looking at.
What is in the image? Describe the image in a few words. Answer the question using a single word or phrase.
Which of these is the largest? Where is the cup, and what colour is it? How many people are there in this photo?
The answer is in the upper left corner of the page. There is a number in each of the cells, and some are hard to read.
Yes, there is one. No, there are none. I can see two dogs and a cat on the grass near the old red house.
The first thing that we do is to find the row and the column; then we look at the cell and write down what we see.
Read the text in the image from left to right and from top to bottom, then say what it means.
The time is short and the list is long, so the model keeps only the regions that matter for the next token.
You are a helpful assistant. The user asks and the assistant answers.
Give the answer with the letter of the correct choice. Count the objects in the scene and report the total.
"""


def training_text(seed: int = 0, questions: int = 2000) -> Iterator[str]:
    """Yield the English lines, the names of the roles, and `questions` questions and answers of the task."""
    for line in ENGLISH.strip().splitlines():
        yield from (line, "\n", "system", "user", "assistant")
    rng = random.Random(seed)
    for _ in range(questions):
        digits = [rng.randrange(10) for _ in range(16)]
        question = draw_question(digits, rng.choice(("read", "count")), 16, rng)
        yield question.prompt
        yield question.answer


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Train the tokenizer: ids 0..503 are bytes and merges, 504..511 the special tokens."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE - len(SPECIAL_TOKENS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_text(), trainer)
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS])
    if tokenizer.get_vocab_size() != VOCABULARY_SIZE:
        raise ValueError(
            f"the training text gives {tokenizer.get_vocab_size()} tokens, not {VOCABULARY_SIZE}; it is too short"
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        clean_up_tokenization_spaces=False,
        model_max_length=4096,
    )


def main(arguments: list[str]) -> None:
    """Write the tokenizer's files to the folder named by the one argument."""
    if len(arguments) != 1:
        raise SystemExit("usage: python -m cambrian_gaze.quickstart.tokenizer FOLDER")
    folder = Path(arguments[0])
    folder.mkdir(parents=True, exist_ok=True)
    build_tokenizer().save_pretrained(folder)
    print(f"wrote {VOCABULARY_SIZE} tokens to {folder}")


if __name__ == "__main__":
    main(sys.argv[1:])
