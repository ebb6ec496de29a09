"""Summary of a chain of checkpoints: how far each has changed, how much of that is explained, and where the alarm rings."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from crosscoder.config import (
    AdapterSource,
    AnalysisConfig,
    FileActivations,
    ModelSource,
    RunConfig,
)

from ..labels.rule import Label
from ..latents.checkpoint_statistics import ChainStatistics
from ..latents.dictionary_view import PairedView
from .change_alarm import alarm_of_step
from .trajectories import CHANGED, RULE, Trajectories, make_trajectories, onsets

_NAMED = 20
"""Maximum number of latents that an alarm names."""

# Distinguishes the random stream of the signs from all others with the same seed.
_SIGN_STREAM = 11


class Monitoring:
    """Trajectories, onsets and alarms over the checkpoints of an intervention."""

    def __init__(
        self, view: PairedView, chain: ChainStatistics, labels: Sequence[Label], config: RunConfig
    ) -> None:
        self._chain, self._labels, self._config = chain, labels, config
        self.trajectories: Trajectories = make_trajectories(view, chain, config.analysis)
        self.onset = onsets(self.trajectories, labels)
        """Checkpoint at which the change of each latent began; NaN if none."""

    def summary(self) -> dict[str, Any]:
        """Return the section `monitoring` of summary.json: plain JSON values, null for what was not measured."""
        chain = self._chain
        return {
            "checkpoints": [
                {"checkpoint": time, "name": name, "model": model, **_checkpoint_summary(chain, time)}
                for time, (name, model) in enumerate(zip(chain.names, self._models(), strict=True))
            ],
            "onset": {
                "rule": RULE,
                "changed": int(np.isin(np.array(self._labels), CHANGED).sum()),
                "named": int(np.isfinite(self.onset).sum()),
                "by_checkpoint": [int((self.onset == time).sum()) for time in range(len(chain.names))],
                "by_label": {
                    label: dict(
                        sorted(
                            Counter(
                                chain.names[int(time)]
                                for of_latent, time in zip(self._labels, self.onset, strict=True)
                                if of_latent == label and np.isfinite(time)
                            ).items()
                        )
                    )
                    for label in CHANGED
                },
            },
            "alarm": alarms(chain, self._config.analysis, self._config.seed),
        }

    def _models(self) -> list[str | None]:
        """Return each checkpoint's model in the settings, in order of time."""
        config = self._config
        if isinstance(config.activations, FileActivations):
            files = config.activations
            named = [path.name for path in (files.reference, files.intervened, *files.snapshots)]
        else:
            assert config.pair is not None  # guaranteed by RunConfig
            sources = config.pair.reference, config.pair.intervened, *config.pair.snapshots
            named = [
                source.model
                if isinstance(source, ModelSource)
                else source.adapter
                if isinstance(source, AdapterSource)
                else None
                for source in sources
            ]
        return [named[place] for place in self._chain.places]


def alarms(chain: ChainStatistics, config: AnalysisConfig, seed: int) -> dict[str, Any]:
    """Return the alarm at every checkpoint that can be compared with the previous one.

    Names the latents above the threshold, with the share of E‖x_t - x_(t-1)‖² that they explain, largest first.
    """
    generator = np.random.default_rng([seed, _SIGN_STREAM])
    entries = []
    for time, (step, exchanged) in enumerate(zip(chain.step, chain.exchanged, strict=True)):
        if step is None or exchanged is None:
            continue
        found = alarm_of_step(step + exchanged, config.alarm_rate, config.bootstrap_samples, generator)
        offset = step.shape[1] - 1
        share = (step.sum(dim=0) / chain.totals[f"step_square/{time}"].sum()).tolist()
        latents = [{"latent": column, "share": share[column]} for column in found.columns if column != offset]
        entries.append(
            {
                "checkpoint": time,
                "name": chain.names[time],
                "statistic": found.statistic,
                "threshold": found.threshold,
                "p_value": found.p_value,
                "rings": found.rings,
                "n_latents": len(latents),
                "latents": latents[:_NAMED],
                "offset": offset in found.columns,
            }
        )
    return {"rate": config.alarm_rate, "checkpoints": entries}


def _checkpoint_summary(chain: ChainStatistics, time: int) -> dict[str, Any]:
    """Return how far a checkpoint is from the reference and from the previous one, and how much of the former is explained."""
    totals = {name: float(value.sum()) for name, value in chain.totals.items()}
    square, shift = totals.get(f"square/{time}"), chain.shift[time]
    explained = dict.fromkeys(("latents", "bias", "error"))
    if shift is not None and square:
        explained = {"latents": float(shift.sum()) / square}
        explained |= {name: totals[f"{name}/{time}"] / square for name in ("bias", "error")}
    fve = chain.fve_difference[time]
    return {
        "relative_change": _relative(square, chain.variance),
        "relative_step": _relative(totals.get(f"step_square/{time}"), chain.variance),
        "fve": chain.fve[time],
        "fve_difference": fve,
        "unexplained": None if fve is None else 1 - fve,
        "shift": explained,
    }


def _relative(square: float | None, variance: float) -> float | None:
    return None if square is None or variance <= 0 else square / variance
