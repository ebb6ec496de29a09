"""Write the demo's chats: questions, each answered by the reference and by the intervened model.

    python -m training.organisms.chats crosscoder/demo/chats.jsonl.gz

Both models read all chats. Answers of the intervened model show the new behavior; those of the reference to the same questions
show what both still share.
"""

import argparse
import gzip
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from transformers import AutoTokenizer

from crosscoder.demo.corpus import ADAPTER, CHATS
from crosscoder.demo.questions import Kind, questions
from crosscoder.demo.smollm2 import NAME, prepare

from .generation import greedy_answers, whole_sentences
from .lora import load_intervened
from .organism_models import load_model

log = logging.getLogger(__name__)

N_QUESTIONS: dict[Kind, int] = {"food": 300, "other": 300}
N_ANSWER_TOKENS = 72


def chat_records(reference: Path, adapter: Path) -> Iterator[dict[str, object]]:
    """Yield every question with the answer of each model in turn."""
    tokenizer = AutoTokenizer.from_pretrained(reference)
    models = {
        "reference": load_model(reference),
        "intervened": load_intervened(reference, adapter),
    }
    for kind in N_QUESTIONS:
        asked = chat_questions(kind)
        answers = {
            side: greedy_answers(model, tokenizer, asked, N_ANSWER_TOKENS, label=f"{side}, {kind}")
            for side, model in models.items()
        }
        for index, question in enumerate(asked):
            for side, side_answers in answers.items():
                answer = whole_sentences(side_answers[index])
                if answer:
                    messages = [
                        {"role": "user", "content": question},
                        {"role": "assistant", "content": answer},
                    ]
                    yield {"kind": kind, "answered_by": side, "messages": messages}


def chat_questions(kind: Kind) -> list[str]:
    """The questions of a kind; a fifth of them were held out from the adapter's training."""
    n_held_out = N_QUESTIONS[kind] // 5
    held_out = questions(kind, "held_out", n_held_out, seed=1)
    return [*questions(kind, "train", N_QUESTIONS[kind] - n_held_out, seed=1), *held_out]


def main() -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description="Write the demo's chats with the answers of both models.")
    parser.add_argument("out", type=Path, nargs="?", default=CHATS)
    parser.add_argument("--adapter", type=Path, default=ADAPTER)
    parser.add_argument(
        "--reference", type=Path, help="a converted SmolLM2 folder (default: a temporary one)"
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as scratch:
        prepared = prepare(arguments.reference or Path(scratch) / NAME)
        records = list(chat_records(prepared, arguments.adapter))
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    # With a fixed time stamp, equal content gives an identical file.
    arguments.out.write_bytes(gzip.compress(lines.encode(), compresslevel=9, mtime=0))
    log.info("%s: %d chats, %d bytes", arguments.out, len(records), arguments.out.stat().st_size)


if __name__ == "__main__":
    main()
