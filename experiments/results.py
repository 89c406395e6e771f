"""Where the measurements are kept: files/results/, one JSON file a script."""

import json
import os
from datetime import date
from pathlib import Path
from typing import Any

import torch

FOLDER = Path(__file__).parent.parent / "files" / "results"


def write(path: Path, command: str, compact: bool = False, **content: Any) -> None:
    """The command, date, torch and threads, then `content`; all of it or nothing: a complete file replaces the old."""
    header = {
        "command": command,
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
    }
    text = json.dumps(header | content, indent=None if compact else 1, separators=(",", ":") if compact else None)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(f".{os.getpid()}")  # of its own, where two processes share the work
    unfinished.write_text(text + "\n", encoding="utf-8")
    unfinished.replace(path)
