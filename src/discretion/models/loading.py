"""A name becomes a folder, a folder becomes weights: safetensors only, no remote code, nothing fetched when offline.

What cannot be used is refused here with one line: what was asked, what was found, what to do. Digests are of files.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from discretion.errors import ModelError
from discretion.models import testbed

if TYPE_CHECKING:
    import torch

TOKENIZER = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model", "tekken.json")
DIGESTED = (
    *("*.safetensors", "*.safetensors.index.json", "config.json", "generation_config.json", "adapter_config.json"),
    *("tokenizer*.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt"),
    *("tekken.json", "chat_template.json", "*.model", "*.jinja"),
)
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")
FLOATS = ("F64", "F32", "F16", "BF16")
"""Kinds of numbers, as safetensors calls them, that loading turns into the dtype asked for."""
ADAPTERS = ("LORA", "ADALORA", "IA3", "LOHA", "LOKR")
"""PEFT kinds that can be switched off exactly, leaving the base."""
CONVERT = (
    "loading a pickle file can run code; convert it where you trust it: "
    "AutoModelForCausalLM.from_pretrained(DIR).save_pretrained(NEW) writes safetensors"
)


@dataclass(frozen=True, slots=True)
class Source:
    """A model or an adapter on disk, before any weight is read."""

    name: str
    """As the user named it."""
    folder: Path
    kind: Literal["checkpoint", "adapter"]
    digest: str
    """SHA-256 over the digests of its files."""

    @property
    def has_tokenizer(self) -> bool:
        return any((self.folder / name).is_file() for name in TOKENIZER)


def find(name: str, *, offline: bool) -> Source:
    """The folder of a local path or a hub id, checked to be usable.

    Raises `ModelError`: not there, no config, no tokenizer, no weights, weights in pickle files only.
    """
    folder = _folder(name, offline=offline)
    if (folder / "adapter_config.json").is_file():
        _need_weights(name, folder, "adapter_model*.safetensors")
        return Source(name, folder, "adapter", folder_digest(folder))
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"model {name}: {folder} has neither config.json nor adapter_config.json; name the folder that has one"
        )
    _need_weights(name, folder, "*.safetensors")
    source = Source(name, folder, "checkpoint", folder_digest(folder))
    if not source.has_tokenizer:
        raise ModelError(
            f"model {name}: no tokenizer in {folder}; save it there: AutoTokenizer.from_pretrained(ORIGINAL)"
            f".save_pretrained({str(folder)!r})"
        )
    return source


def _folder(name: str, *, offline: bool) -> Path:
    if name == testbed.NAME:
        return testbed.path()
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    if path.exists():
        raise ModelError(f"model {name}: this is a file; name the folder it lies in")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name) or name.startswith("."):
        raise ModelError(f"model {name}: no such folder, and not a hub id (OWNER/NAME); check the path")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(name, allow_patterns=list(DIGESTED), local_files_only=offline))
    except LocalEntryNotFoundError:
        if offline:
            raise ModelError(
                f"model {name}: no such folder, not in the hub cache either; download it first, or drop --offline"
            ) from None
        raise ModelError(
            f"model {name}: no such folder, and the hub cannot be reached; check the path or the connection"
        ) from None
    except (HfHubHTTPError, HFValidationError, OSError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(f"model {name}: no such folder, and the hub answers: {reason}") from None


def _need_weights(name: str, folder: Path, pattern: str) -> None:
    if any(folder.glob(pattern)):
        return
    pickled = sorted(path.name for kind in PICKLED for path in folder.glob(kind))
    if pickled:
        raise ModelError(f"model {name}: its weights are a pickle file ({pickled[0]}), which is not read: {CONVERT}")
    raise ModelError(f"model {name}: no weights in {folder} ({pattern}); save the model there as safetensors")


def folder_digest(folder: Path) -> str:
    """SHA-256 over name and digest of each file of weights, configuration and tokenizer, sorted by name.

    Files the hub cache keeps under their SHA-256 are not read again.
    """
    whole = hashlib.sha256()
    names = {path for pattern in DIGESTED for path in folder.glob(pattern)}
    for path in sorted(names, key=lambda path: path.name):
        blob = path.resolve().name
        if path.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", blob):
            found = blob
        else:
            with path.open("rb") as file:
                found = hashlib.file_digest(file, "sha256").hexdigest()
        whole.update(f"{path.name}\0{found}\n".encode())
    return whole.hexdigest()


def joined(*digests: str) -> str:
    """One digest of several."""
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def sits_on(name: str, *, offline: bool) -> str:
    """The model itself, or the base that an adapter names. Raises `ModelError` as `find`, and where it names none."""
    source = find(name, offline=offline)
    if source.kind == "checkpoint":
        return name
    base = read_json(source.folder / "adapter_config.json").get("base_model_name_or_path")
    if not base:
        raise ModelError(f"adapter {name}: names no model that it sits on; merge it, or give the tuned checkpoint")
    return str(base)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object; `ModelError` with file and line when it is broken."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ModelError(
            f"{path}:{error.lineno}: broken JSON ({error.msg}); repair or download the file again"
        ) from None
    if not isinstance(value, dict):
        raise ModelError(f"{path}: a JSON object was expected, found {type(value).__name__}; download the file again")
    return value


def load_tokenizer(source: Source) -> Any:
    """The tokenizer in the folder of a source."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(source.folder, trust_remote_code=False, local_files_only=True)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise ModelError(f"model {source.name}: its tokenizer cannot be loaded ({_line(error)})") from None


def pick_device(asked: str) -> str:
    """`auto` is CUDA, else MPS, else the CPU."""
    import torch

    if asked == "auto":
        return "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        torch.empty(0, device=asked)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {asked!r} cannot be used here ({_line(error)}); use --device auto or cpu") from None
    return asked


def pick_dtype(asked: str, device: str) -> torch.dtype:
    """`auto` is bfloat16 on CUDA that has it, else float32."""
    import torch

    known = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
    known |= {str(dtype).removeprefix("torch."): dtype for dtype in known.values()}
    if asked == "auto":
        bf16 = device.startswith("cuda") and torch.cuda.is_bf16_supported()
        return torch.bfloat16 if bf16 else torch.float32
    if asked not in known:
        raise ModelError(f"dtype {asked!r} is not known; use auto, {', '.join(sorted(known))}")
    return known[asked]


def weights_size(source: Source, dtype: torch.dtype) -> int:
    """Bytes of a checkpoint's weights once loaded, from the headers of its files; what is quantised stays as it is."""
    from safetensors import safe_open

    index = source.folder / "model.safetensors.index.json"
    if index.is_file():
        files = {source.folder / name for name in read_json(index)["weight_map"].values()}
    else:
        single = source.folder / "model.safetensors"
        files = {single} if single.is_file() else set(source.folder.glob("*.safetensors"))
    size = 0
    for file in files:
        with safe_open(file, framework="np") as weights:
            for name in weights.keys():  # noqa: SIM118 - no mapping
                part = weights.get_slice(name)
                size += math.prod(part.get_shape()) * (dtype.itemsize if part.get_dtype() in FLOATS else 1)
    return size


def memory_of(device: str) -> int | None:
    """Bytes of memory that a device has in all; None where the system does not tell."""
    import torch

    if device.startswith("cuda"):
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device == "mps":
        return int(torch.mps.recommended_max_memory())
    if "SC_PHYS_PAGES" not in getattr(os, "sysconf_names", {}):
        return None
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def load_checkpoint(source: Source, device: str, dtype: torch.dtype) -> Any:
    """The causal language model in a folder, in evaluation mode.

    Raises `ModelError` also when the file leaves weights out, which transformers would fill with random numbers.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    try:
        causal, found = AutoModelForCausalLM.from_pretrained(
            source.folder,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(f"model {source.name}: cannot be loaded as a causal language model ({_line(error)})") from None
    missing = sorted(found["missing_keys"])
    if missing:
        raise ModelError(
            f"model {source.name}: {len(missing)} weights are missing (first: {missing[0]}); save it again, whole"
        )
    return causal.eval().to(device)


def check_adapter(source: Source) -> dict[str, Any]:
    """The adapter's configuration, when it is of a kind that can be switched off exactly; else `ModelError`."""
    config = read_json(source.folder / "adapter_config.json")
    kind = str(config.get("peft_type"))
    if kind not in ADAPTERS:
        raise ModelError(
            f"adapter {source.name}: kind {kind} is not supported (known: {', '.join(ADAPTERS)}); "
            "merge it into a full checkpoint if it can be, and pass that"
        )
    if config.get("bias", "none") != "none":
        raise ModelError(
            f"adapter {source.name}: it was trained with bias={config['bias']!r}, which changes the base itself; "
            "merge it into a full checkpoint and pass that"
        )
    return config


def load_adapter(causal: Any, base: Source, source: Source) -> Any:
    """Put an adapter on a loaded base, unmerged; every one of its weights must find its place, and none be left out."""
    from peft import PeftConfig, PeftModel
    from safetensors import SafetensorError

    check_adapter(source)
    advice = "pass the base it was trained on"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = PeftConfig.from_pretrained(str(source.folder))
            config.inference_mode = True
            peft = PeftModel(causal, config, adapter_name="tuned")
            found = peft.load_adapter(str(source.folder), "tuned", torch_device=str(causal.device))
    except (RuntimeError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise ModelError(f"adapter {source.name} does not fit base {base.name} ({_line(error)}); {advice}") from None
    for what, keys in (
        ("it has no weights for", found.missing_keys),
        ("the base has no place for", found.unexpected_keys),
    ):
        if keys:
            raise ModelError(
                f"adapter {source.name} does not fit base {base.name}: {what} {len(keys)} tensors "
                f"(first: {sorted(keys)[0]}); {advice}"
            )
    return peft.eval()


def _line(error: BaseException) -> str:
    """An error of a library in one short line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = lines[1] if len(lines) > 1 and lines[0].endswith(":") else lines[0]
    return line if len(line) <= 200 else line[:197] + "..."
