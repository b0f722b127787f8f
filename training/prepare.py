"""Train the tokenizer and turn text into token files: `python -m training.prepare --corpora FOLDER --out FOLDER`.

`--corpora` holds one folder per domain with `train.txt` and `valid.txt` (plain or .xz), documents separated by a line
`<|endoftext|>`. The output folder receives `tokenizer.json`, one `<source>.<split>.npy` of token ids per source and a
`manifest.json` with the hash of every input.
"""

import argparse
import hashlib
import itertools
import json
import lzma
import random
import re
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from training.generator import DOMAINS, generate, single_token_words

SPECIAL_TOKENS = ("<|bos|>", "<|eos|>", "<|pad|>", "<|system|>", "<|user|>", "<|assistant|>")
VOCABULARY_SIZE = 6144
SEPARATOR = "<|endoftext|>"
N_GENERATED_TRAIN = 400_000
N_GENERATED_VALID = 4_000
SAMPLE_PER_SOURCE = 2_500_000  # characters of each source that the tokenizer learns from
MARKER = re.compile(r"<\|(?:eos|system|user|assistant)\|>")


def read_text(folder: Path, split: str) -> str:
    """The text of one split of one domain, from `split.txt.xz` or `split.txt`."""
    packed, plain = folder / f"{split}.txt.xz", folder / f"{split}.txt"
    if packed.exists():
        return lzma.open(packed, "rt", encoding="utf-8").read()
    if plain.exists():
        return plain.read_text(encoding="utf-8")
    raise ValueError(f"expected {plain.name} or {packed.name} in {folder}")


def documents_of(text: str) -> list[str]:
    return [document.strip() for document in text.split(SEPARATOR) if document.strip()]


def train_tokenizer(samples: list[str]) -> Tokenizer:
    """Byte-level BPE with single digits; words that methods need as one token are repeated until they become one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    words = single_token_words()
    forced = [f" {word} {word}\n{word}\n{word[:1].upper()}{word[1:]}\n" * 4000 for word in words]
    tokenizer.train_from_iterator(itertools.chain(samples, forced), trainer)
    # Every text starts with the BOS marker; chat markers are part of the text.
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<|bos|> $A", pair="<|bos|> $A $B", special_tokens=[("<|bos|>", 0)]
    )
    return tokenizer


def encode(tokenizer: Tokenizer, documents: list[str], end: int | None) -> np.ndarray:
    """All documents as one row of token ids, each closed by `end` if given."""
    pieces = []
    for start in range(0, len(documents), 2000):
        for encoding in tokenizer.encode_batch(documents[start : start + 2000], add_special_tokens=False):
            pieces.append(np.array(encoding.ids + ([] if end is None else [end]), dtype=np.uint16))
    return np.concatenate(pieces)


def tokenizer_samples(documents: dict[tuple[str, str], list[str]], draw: random.Random) -> list[str]:
    """Pieces of every source, of equal length in all, that the tokenizer learns from."""
    samples = []
    for source in (*DOMAINS, "generated"):
        pool = documents[source, "train"]
        size = 0
        while size < SAMPLE_PER_SOURCE:
            document = draw.choice(pool)
            begin = draw.randrange(max(1, len(document) - 20_000))
            samples.append(MARKER.sub("\n", document[begin : begin + 20_000]))
            size += len(samples[-1])
    return samples


def prepare(corpora: Path, out: Path, seed: int, tokenizer_file: Path | None = None) -> None:
    """Write tokenizer, token files and manifest; a given tokenizer is kept, so that training can go on."""
    out.mkdir(parents=True, exist_ok=True)
    draw = random.Random(seed)
    hashes, documents = {}, {}
    for domain in DOMAINS:
        for split in ("train", "valid"):
            text = read_text(corpora / domain, split)
            hashes[f"{domain}.{split}"] = hashlib.sha256(text.encode()).hexdigest()
            documents[domain, split] = documents_of(text)
    documents["generated", "train"] = list(generate(N_GENERATED_TRAIN, seed))
    documents["generated", "valid"] = list(generate(N_GENERATED_VALID, seed + 1))

    if tokenizer_file is None:
        tokenizer = train_tokenizer(tokenizer_samples(documents, draw))
    else:
        tokenizer = Tokenizer.from_file(str(tokenizer_file))
    tokenizer.save(str(out / "tokenizer.json"))

    counts = {}
    for (source, split), pool in documents.items():
        ids = encode(tokenizer, pool, end=None if source == "generated" else 1)
        np.save(out / f"{source}.{split}.npy", ids)
        counts[f"{source}.{split}"] = len(ids)
        print(f"{source}.{split}: {len(ids):,} tokens")
    manifest = {"seed": seed, "vocabulary": VOCABULARY_SIZE, "text_sha256": hashes, "tokens": counts}
    (out / "manifest.json").write_text(json.dumps(manifest, indent=1))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--corpora", type=Path, required=True, help="folder with one folder of text per domain")
    parser.add_argument("--out", type=Path, default=Path("runs/training"), help="where token files go")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tokenizer", type=Path, help="keep this tokenizer instead of training one")
    arguments = parser.parse_args()
    prepare(arguments.corpora, arguments.out, arguments.seed, arguments.tokenizer)
