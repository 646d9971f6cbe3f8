"""The host's shell around the pure run: `fit`, what it prints, and what it writes."""

from funcnet.host.evaluation import evaluate_in_parts
from funcnet.host.logs import log_csv, log_jsonl
from funcnet.host.loop import Fitted, fit
from funcnet.host.progress import Progress, progress_line

__all__ = [
    "Fitted",
    "Progress",
    "evaluate_in_parts",
    "fit",
    "log_csv",
    "log_jsonl",
    "progress_line",
]
