"""What every test shares: skips for missing hardware or network, and a tiny model folder built on the spot."""

import json
import os
from pathlib import Path

# One thread per test process: tiny matrices gain nothing from two, and xdist runs two processes on two cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest

LAW = ["court", "law", "judge", "shall", "statute"]
SCIENCE = ["cell", "plant", "leaf", "water", "energy", "force", "number"]
COMMON = ["the", "a", "of", "and", "in", "is", "to", "it", "river", "morning", "old", "was", "they", "people"]
WORDS = [*LAW, *SCIENCE, *COMMON]
LAW_DIMENSION, SCIENCE_DIMENSION = 5, 9


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip, visibly, what this machine cannot run."""
    for item in items:
        if item.get_closest_marker("hub") and os.environ.get("WORKBENCH_HUB") != "1":
            item.add_marker(pytest.mark.skip(reason="downloads from the hub; set WORKBENCH_HUB=1 to run it"))
        if item.get_closest_marker("gpu"):
            import torch

            if not torch.cuda.is_available():
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llama of two layers and width 16 with its own tokenizer, saved as a Hugging Face folder.

    Dimension `LAW_DIMENSION` is large on the words of law, `SCIENCE_DIMENSION` on those of science.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("models") / "tiny-llama"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator([" ".join(WORDS)] * 3, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(  # pyright: ignore[reportAttributeAccessIssue]
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>")
    fast.save_pretrained(folder)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=len(fast),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=2,
            max_position_embeddings=128,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0)  # so that contexts and edits change the logits visibly
        for words, dimension in ((LAW, LAW_DIMENSION), (SCIENCE, SCIENCE_DIMENSION)):
            for ids in fast([f" {word}" for word in words], add_special_tokens=False)["input_ids"]:
                model.model.embed_tokens.weight[ids, dimension] = 6.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_corpus_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two domains of 20 short documents each, one text file per document, one folder per domain."""
    import random

    folder = tmp_path_factory.mktemp("corpora") / "two-domains"
    for domain, words in (("law", LAW), ("science", SCIENCE)):
        (folder / domain).mkdir(parents=True)
        for index in range(20):
            rng = random.Random(f"{domain}{index}")
            text = " ".join(rng.choices(words, k=8) + rng.choices(COMMON, k=4) + rng.choices(words, k=6))
            (folder / domain / f"{index:02d}.txt").write_text(text + ".\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_jsonl(tiny_corpus_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same documents as JSON lines {text, domain}."""
    path = tmp_path_factory.mktemp("corpora") / "two-domains.jsonl"
    rows = [
        json.dumps({"text": file.read_text(encoding="utf-8"), "domain": file.parent.name})
        for file in sorted(tiny_corpus_folder.glob("*/*.txt"))
    ]
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path
