"""Text and token ids: what stands first, where a prompt ends, what a continuation adds, and quoted control tokens."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from tests.tiny import tiny_model, tiny_tokenizer
from workbench.models import ModelError, load_model
from workbench.models.text import TextCodec

PIECES = ["<unk>", "<s>", "</s>", "▁", "o", "n", "c", "e", "▁once", "on", "▁on", "ce", "once", "▁o", "▁once▁on", "[g]"]
MERGES = [("o", "n"), ("c", "e"), ("on", "ce"), ("▁", "on"), ("▁", "once"), ("▁", "o")]


def _sentencepiece(first: str = "<s>") -> Any:
    """A tokenizer in the manner of Llama 2: a blank is put in front of a text, and dropped when it is decoded."""
    vocabulary = {piece: index for index, piece in enumerate(PIECES)}
    tokenizer = Tokenizer(models.BPE(vocabulary, MERGES, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")  # pyright: ignore[reportAttributeAccessIssue]
    names = first.split()
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single=f"{first} $A", special_tokens=[(name, vocabulary[name]) for name in names]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", extra_special_tokens=["[g]"]
    )


def test_the_bos_rule_does_what_the_tokenizer_does_unless_told() -> None:
    adding, silent = tiny_tokenizer(), tiny_tokenizer()
    silent.backend_tokenizer.post_processor = processors.TemplateProcessing(single="$A", special_tokens=[])  # pyright: ignore
    firsts = [TextCodec(tokenizer, 99, rule).encode("the court")[:-2] for tokenizer in (adding, silent)
              for rule in ("auto", "always", "never")]  # fmt: skip
    assert firsts == [[1], [1], [], [], [1], []]
    assert TextCodec(_sentencepiece("[g] <s>"), 99).prefix == (15, 1)  # GLM puts two tokens there
    with pytest.raises(ModelError, match="has no BOS token"):
        TextCodec(tiny_tokenizer(bos=False), 99, "always")
    with pytest.raises(ModelError, match="unknown BOS rule 'sometimes'"):
        TextCodec(adding, 99, "sometimes")


def test_a_text_that_is_written_with_its_prefix_has_it_once() -> None:
    codec = TextCodec(tiny_tokenizer(), 99)
    assert codec.encode("<s> the court") == codec.encode("the court") == [1, 4, 5]
    assert TextCodec(tiny_tokenizer(), 99, "never").encode("<s> the court") == [1, 4, 5]  # as written


def test_load_model_takes_the_rule(tiny_model_folder: Path) -> None:
    assert load_model(str(tiny_model_folder)).tokenize(["the court"]).ids[0, 0] == 0
    never = load_model(str(tiny_model_folder), bos="never")
    assert never.tokenize(["the court"]).ids[0, 0] != 0
    assert not never.has_bos


def test_prompt_and_text_are_tokenised_as_one_and_cut_after_the_prompt() -> None:
    codec = TextCodec(_sentencepiece(), 99)
    names = codec.tokenizer.convert_ids_to_tokens
    head, tail = codec.split("once", " on")
    assert (names(head), names(tail)) == (["<s>", "▁once"], ["▁on"])
    head, tail = codec.split("once", "on")  # apart it would be "▁on", which writes "once on"
    assert (names(head), names(tail)) == (["<s>", "▁once"], ["on"])
    head, tail = codec.split("once ", "on")  # the blank at the end belongs to the next token
    assert (names(head), names(tail)) == (["<s>", "▁once"], ["▁on"])
    head, tail = codec.split("o", "n")  # merged over the cut: the token counts to the text
    assert (names(head), names(tail)) == (["<s>"], ["▁on"])
    with pytest.raises(ModelError, match="has no tokens"):
        codec.split("once", "")


def test_a_continuation_is_decoded_with_its_prompt() -> None:
    codec = TextCodec(_sentencepiece(), 99)
    head, tail = codec.split("once", " on")
    assert codec.decode(tail) == "on"
    assert codec.decode_after(head, tail) == " on"
    assert codec.decode_after(*codec.split("once", "on")) == "on"


def test_half_a_character_at_the_end_of_a_prompt_is_mended_by_what_follows() -> None:
    model = load_model()
    ids = model.text.ids("∂")
    assert len(ids) > 1
    assert model.decode(ids[1:], after=ids[:1]) == "∂"


def test_control_tokens_that_a_document_quotes_are_plain_text() -> None:
    model = load_model()
    end = model.tokenizer.eos_token_id
    text = "It writes <|eos|> at the end."
    assert end in model.tokenize([text]).ids[0]
    literal = model.tokenize([text], literal=True).ids[0].tolist()
    assert end not in literal
    assert literal[0] == model.tokenizer.bos_token_id
    assert model.decode(literal[1:]) == text
    assert model.text.count_control_tokens(text) == 1
    assert model.tokenize(["It writes."], literal=True).ids.tolist() == model.tokenize(["It writes."]).ids.tolist()
    assert model.tokenize(["<|bos|>A"], literal=True).ids[0, 0] == model.tokenizer.bos_token_id
    assert model.tokenize(["<|bos|>A"], literal=True).ids.shape[1] > model.tokenize(["<|bos|>A"]).ids.shape[1]


@pytest.mark.parametrize("bos", [True, False])
def test_tiny_models_say_which_token_is_first(bos: bool) -> None:
    model = tiny_model("llama", bos=bos)
    assert model.has_bos is bos
    assert model.token_texts(model.text.prefix) == (["<s>"] if bos else [])


def test_a_chat_template_is_not_given_a_second_bos(tiny_model_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_model_folder, tmp_path / "chat"))
    config = json.loads((folder / "tokenizer_config.json").read_text())
    template = "<s>{% for message in messages %}{{ message['content'] }}{% endfor %}"
    (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
    model = load_model(str(folder))
    ids = model.tokenize([model.tokenize_chat("the court")]).ids[0].tolist()
    assert ids.count(0) == 1
