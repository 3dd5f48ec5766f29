"""The small tokenizer that the tiny presets share (made by ``tools/make_tiny_tokenizer.py``)."""

from collections.abc import Sequence
from pathlib import Path

from tokenizers import AddedToken, Tokenizer
from transformers import PreTrainedTokenizerFast

_FILE = Path(__file__).parent / "tiny" / "tokenizer.json"


def tiny_tokenizer(special: Sequence[str], pad: str, eos: str) -> PreTrainedTokenizerFast:
    """Byte-level BPE of about 1000 tokens with a family's special tokens appended in the given order."""
    tokenizer = Tokenizer.from_file(str(_FILE))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=pad, eos_token=eos)
